//! The closed vocabulary in which a device's state is explained: why, what to do, and what becomes of work.
//!
//! Every word is CamelCase, because it stands in conditions, in labels of metrics and in a voted table.

use std::fmt;
use std::str::FromStr;

use crate::capacity::Health;
use crate::ids::{IdError, as_string, name_type};

/// An enum whose variants are words; it is read and written as one of them.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$entry:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$entry])* $variant,)+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl ::std::str::FromStr for $name {
            type Err = $crate::ids::IdError;
            fn from_str(text: &str) -> Result<Self, $crate::ids::IdError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::ids::IdError::new($what, "must be a word of the known list", text)),
                }
            }
        }
        $crate::ids::as_string!($name);
    };
}
pub(crate) use words;

words!(
    /// What the owner should do, the mildest first. Nothing here does it.
    Action, "an action", {
        /// Nothing.
        None = "None",
        /// Look at its figures more often.
        Watch = "Watch",
        /// Let the workload start again; the device is well.
        RestartWorkload = "RestartWorkload",
        /// Bring the pending setting into force.
        ApplyConfig = "ApplyConfig",
        /// Look at cooling and power supply.
        CheckCooling = "CheckCooling",
        /// Find out what it is.
        Investigate = "Investigate",
        /// Let work that talks to its peers end.
        DrainP2p = "DrainP2P",
        /// Reset it once nothing runs on it.
        ResetWhenIdle = "ResetWhenIdle",
        /// Restart the virtual machine that holds it.
        RestartVm = "RestartVM",
        /// Reset it.
        ResetGpu = "ResetGPU",
        /// Reboot its node.
        RebootNode = "RebootNode",
        /// Have it replaced.
        Replace = "Replace",
    }
);

words!(
    /// What becomes of foreign work that runs already, the mildest first.
    Work, "a fate of work", {
        /// It goes on.
        Keep = "Keep",
        /// What was hit starts again in place.
        RestartWorkload = "RestartWorkload",
        /// Work on this device ends with its grace.
        Drain = "Drain",
        /// Work on every device of the node ends with its grace.
        DrainNode = "DrainNode",
    }
);

words!(
    /// What new work a device may take. Work of others needs `Any`; `SingleOnly` is for the owner's own.
    Offer, "an offer", {
        /// All.
        Any = "Any",
        /// Only work of one GPU: its links to peers are not well.
        SingleOnly = "SingleOnly",
        /// None.
        Nothing = "Nothing",
    }
);

words!(
    /// Why a device is not simply healthy. Those without a comment are XIDs of the same name in the catalogue.
    #[allow(missing_docs)]
    Cause, "a reason", {
        /// The driver no longer reaches it (R6).
        GpuLost = "GPULost",
        FallenOffBus = "FallenOffBus",
        /// It does not work before a reset: the driver says so (R1, R6).
        ResetRequired = "ResetRequired",
        /// The driver asks for a reboot of the node (R1).
        RebootRequired = "RebootRequired",
        /// The driver recommends something that this release does not know (R1).
        RecoveryUnknown = "RecoveryUnknown",
        /// A row could not be remapped (R4, XID 64).
        RemapFailed = "RemapFailed",
        /// Its SRAM had more errors than its maker allows (R4).
        SramThreshold = "SramThreshold",
        /// Memory errors that were not corrected, by their counter (R2).
        UncorrectedErrors = "UncorrectedErrors",
        DoubleBitError = "DoubleBitError",
        UncontainedError = "UncontainedError",
        EccUnrecovered = "EccUnrecovered",
        GpuTimeout = "GPUTimeout",
        FatalTimeout = "FatalTimeout",
        ContextSwitchTimeout = "ContextSwitchTimeout",
        GspTimeout = "GSPTimeout",
        GspError = "GSPError",
        ControllerHalted = "ControllerHalted",
        SecurityFault = "SecurityFault",
        InitFailed = "InitFailed",
        LinkTrainingFailed = "LinkTrainingFailed",
        ResourceRetired = "ResourceRetired",
        PcieFatalTimeout = "PCIeFatalTimeout",
        KeyRotation = "KeyRotation",
        /// It reports another amount of memory than before or than its like (R12).
        CapacityMismatch = "CapacityMismatch",
        /// Too hot (R8).
        Thermal = "Thermal",
        /// It computes more slowly than its like (R14).
        Slow = "Slow",
        /// Links to peers are down (R11), or a link reported errors (XIDs 74, 144 to 150, 155).
        NvLink = "NVLink",
        /// The driver asks to end work between peers (R1).
        DrainP2p = "DrainP2P",
        /// A remapped row takes effect at the next reset (R3).
        RemapPending = "RemapPending",
        /// Many rows remapped without failure (R5).
        ManyRemaps = "ManyRemaps",
        /// Two or more devices of the node get less power than they ask for (R9).
        NodePower = "NodePower",
        /// Its host link is slower than it can be while it works (R10).
        Pcie = "PCIe",
        /// A setting waits, persistence mode is off, or confidential computing waits for its owner's word (R13).
        PendingConfig = "PendingConfig",
        /// Applications of several workloads fault on it.
        ApplicationFaults = "ApplicationFaults",
        ChannelRemoved = "ChannelRemoved",
        HighCorrectedRate = "HighCorrectedRate",
        RetirementFailed = "RetirementFailed",
        MemoryReduced = "MemoryReduced",
        PowerNotConnected = "PowerNotConnected",
        VgpuStart = "VGPUStart",
        CoherencyError = "CoherencyError",
        EncoderError = "EncoderError",
        /// An XID that names no device of this node.
        UnattributedXid = "UnattributedXID",
        /// A code that neither this release nor the voted table knows.
        UnknownXid = "UnknownXID",
        /// It changed between well and not well too often.
        Flapping = "Flapping",
        ApplicationFault = "ApplicationFault",
        Notice = "Notice",
        /// The driver changed what it recommends (XID 154); R1 says what to.
        RecoveryChanged = "RecoveryChanged",
        /// No survey came back in time, twice (R7), or there is nobody to ask.
        SurveyFailed = "SurveyFailed",
        /// An earlier survey saw it, this one did not.
        DeviceMissing = "DeviceMissing",
        /// Two devices give one id.
        DuplicateUuid = "DuplicateUUID",
        /// Something that decides about its safety could not be read.
        IncompleteReading = "IncompleteReading",
    }
);

name_type!(
    /// A reason that a voted table brought.
    ReasonName, "a reason", |text| (!camel_case(text)).then_some("must be 1 to 63 letters and digits and begin with a capital"));

fn camel_case(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Why a device is not simply healthy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A reason of this release.
    Known(Cause),
    /// One that a voted table brought.
    Voted(ReasonName),
}

impl Reason {
    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(known) => known.as_str(),
            Self::Voted(name) => name.as_str(),
        }
    }
}
impl From<Cause> for Reason {
    fn from(known: Cause) -> Self {
        Self::Known(known)
    }
}
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl FromStr for Reason {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        // One spelling has one meaning: a voted name that this release knows is its own reason.
        text.parse().map(Self::Known).or_else(|_| text.parse().map(Self::Voted))
    }
}
as_string!(Reason);

/// How bad a state is. Unknown stands above degraded, for it may be anything, and below unhealthy, which is certain.
#[must_use]
pub fn badness(state: Health) -> u8 {
    match state {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Unknown => 2,
        Health::Unhealthy => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_camel_case_and_read_back_as_itself() {
        for known in Cause::ALL {
            assert!(camel_case(known.as_str()), "{known}");
            assert_eq!(known.as_str().parse::<Reason>(), Ok(Reason::Known(*known)));
        }
        for action in Action::ALL {
            assert!(camel_case(action.as_str()) && action.as_str().parse() == Ok(*action), "{action}");
        }
        for work in Work::ALL {
            assert!(camel_case(work.as_str()) && work.as_str().parse() == Ok(*work), "{work}");
        }
    }

    #[test]
    fn a_voted_reason_is_one_word_of_at_most_63_characters() {
        let longest = format!("A{}", "b".repeat(62));
        assert_eq!(longest.parse::<Reason>().map(|reason| reason.to_string()), Ok(longest.clone()));
        for wrong in ["", "lower", "Two Words", "Späte", &format!("{longest}c"), "New\nLine"] {
            assert!(wrong.parse::<Reason>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_known_is_worse_than_degraded_and_better_than_unhealthy() {
        let order = [Health::Healthy, Health::Degraded, Health::Unknown, Health::Unhealthy];
        assert!(order.windows(2).all(|pair| badness(pair[0]) < badness(pair[1])));
    }
}
