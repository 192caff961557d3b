//! Latest statements: beacons, offers, requests, grants. Open bodies, because a later version may add to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::catalogue::{OptionName, OptionValue};
use super::entry::Head;
use crate::ids::{
    Bytes, Endpoint, EngineName, Epoch, GpuClass, JobName, Jurisdiction, Line, ManifestDigest, ModelUri, Namespace,
    ObjectUid, PolicyHash, PublicKey, Quantization, ReplicaIndex, Revision, Seconds, ServedName, StatementId,
    UnixMicros, UnixSeconds,
};

/// An enumeration in an open body: a word of a later version is read as the `else` variant, which promises least.
macro_rules! open_enum {
    ($(#[$doc:meta])* $name:ident else $fallback:ident { $($(#[$vdoc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            /// All variants, for closed labels.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            /// The name on the wire and in resources.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }
        }
        impl Default for $name {
            fn default() -> Self { Self::$fallback }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Ok(Self::ALL.iter().copied().find(|v| v.as_str() == text).unwrap_or(Self::$fallback))
            }
        }
    };
}

/// A sign of life, to everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beacon {
    /// The last entry of every log that the author holds.
    pub heads: BTreeMap<PublicKey, Head>,
    /// The newest version of every policy chain, by its scope's name (a later version may know more scopes).
    pub policy: BTreeMap<String, PolicyHash>,
    /// The rules that its operator can decide by.
    pub rules_supported: Vec<u32>,
    /// Its clock.
    pub clock_micros: UnixMicros,
}

open_enum! {
    /// How far a figure about hardware can be believed.
    EvidenceLevel else Claimed {
        /// The owner says so; also what a level of a later version is read as.
        Claimed,
        /// The scheduler's figures agree.
        SchedulerConsistent,
        /// Another member measured it.
        Challenged,
        /// The hardware signed it.
        Attested,
    }
}

impl EvidenceLevel {
    /// The strongest level that this release can find out. [`EvidenceLevel::Attested`] keeps its name for a release that
    /// can check what hardware signs.
    pub const MOST_AVAILABLE: Self = Self::Challenged;
}

open_enum! {
    /// Whether a member takes foreign work.
    GuestsMode else Stop {
        /// Yes.
        Accept,
        /// What runs may end, nothing new.
        Drain,
        /// No; also what a mode of a later version is read as.
        Stop,
    }
}

open_enum! {
    /// Whether network policies hold where foreign work would run.
    NetworkPolicyState else Unknown {
        /// A probe showed that they do.
        Enforced,
        /// A probe showed that they do not.
        Unenforced,
        /// They do not, and the owner accepts that openly.
        AcceptedUnenforced,
        /// Not probed; also what a state of a later version is read as.
        Unknown,
    }
}

/// What a member offers, to everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// GPUs by class.
    pub classes: Vec<OfferedClass>,
    /// Whether it takes foreign work.
    pub guests: GuestsMode,
    /// Whether it can confine foreign work.
    pub network_policy: NetworkPolicyState,
    /// Models whose weights it holds.
    #[serde(default)]
    pub weights: Vec<ManifestDigest>,
    /// Its gateways.
    #[serde(default)]
    pub gateway: Vec<Endpoint>,
    /// Where it stands.
    pub jurisdiction: Jurisdiction,
}

/// GPUs of one class on offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferedClass {
    /// The class.
    pub class: GpuClass,
    /// The product as its driver names it.
    pub product: Line,
    /// The memory of one GPU.
    pub memory_bytes: Bytes,
    /// How many are free for others.
    pub offered: u32,
    /// The most that are free on one node.
    pub largest_block: u32,
    /// The most that any one node has, free or not; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest_node: Option<u32>,
    /// How far this can be believed.
    pub evidence: EvidenceLevel,
}

/// Names an `InferenceJob` of the home.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRef {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: JobName,
    /// Its UID.
    pub uid: ObjectUid,
}

/// Which model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRef {
    /// Where its weights come from.
    pub uri: ModelUri,
    /// Which revision there.
    pub revision: Revision,
    /// Its identity.
    pub manifest_digest: ManifestDigest,
    /// How its weights are quantised.
    pub quantization: Quantization,
}

/// Which engine of the catalogue, with which options.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineChoice {
    /// The entry.
    pub name: EngineName,
    /// The options.
    #[serde(default)]
    pub options: BTreeMap<OptionName, OptionValue>,
}

/// Which GPUs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuNeed {
    /// The class.
    pub class: GpuClass,
    /// How many, all on one node.
    pub count: u32,
}

open_enum! {
    /// What a host does with a placement whose home it no longer hears.
    OnPartition else StopWhenLeaseLapses {
        /// Run on, up to the charter's maximum.
        KeepServing,
        /// Stop when the lease lapses; also what a rule of a later version is read as.
        StopWhenLeaseLapses,
    }
}

/// All that a home asks of one host. What a newer list omits is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// The complete list.
    pub requests: Vec<Request>,
}

/// One placement that a home asks for or renews.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Of which job.
    pub job: JobRef,
    /// Which replica.
    pub replica: ReplicaIndex,
    /// The fencing number.
    pub epoch: Epoch,
    /// The served name.
    pub served_name: ServedName,
    /// The model.
    pub model: ModelRef,
    /// The engine.
    pub engine: EngineChoice,
    /// Longest context.
    pub max_model_len: u32,
    /// Requests at once.
    pub max_concurrency: u32,
    /// The GPUs.
    pub gpu: GpuNeed,
    /// How long the grant is to run without renewal.
    pub lease_seconds: Seconds,
    /// What to do when the home is no longer heard.
    #[serde(default)]
    pub on_partition: OnPartition,
}

/// All that a host holds for one home.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grants {
    /// The complete list.
    pub grants: Vec<Grant>,
}

open_enum! {
    /// Where a placement stands at its host.
    GrantState else Refused {
        /// GPUs are reserved.
        Granted,
        /// Weights are fetched or loaded.
        Loading,
        /// It answers.
        Ready,
        /// It ends; calls in flight may finish.
        Draining,
        /// It is gone and its GPUs are free.
        Released,
        /// It was not granted; also what a state of a later version is read as.
        Refused,
    }
}

open_enum! {
    /// Why a host refuses or ends a placement.
    RefusalReason else Other {
        /// The model is not an enacted release.
        NotApproved,
        /// The engine or its options are not of the catalogue.
        EngineNotApproved,
        /// The host takes no foreign work now.
        GuestsNotAccepted,
        /// The host cannot confine foreign work.
        NetworkPolicyUnenforced,
        /// The host's owner keeps this member or model out.
        DeniedByOwner,
        /// No node has enough free GPUs of the class.
        InsufficientGPUs,
        /// The owner's limit for one member is reached.
        MemberLimit,
        /// The host has no GPU of the class.
        UnknownClass,
        /// A higher epoch of the same replica was seen.
        StaleEpoch,
        /// The home is no member.
        HomeNotActive,
        /// The home may not work: it is suspended or quarantined, or its key is blocked.
        HomeHalted,
        /// The host may not work.
        HostHalted,
        /// An order lets no new copy of the model begin.
        ReleaseFrozen,
        /// The host is new, and no more of what it offers is used until it is confirmed.
        HostOnProbation,
        /// The cooperative's placement rules do not let it run there.
        OutsideRules,
        /// The home holds as much there as the cooperative lets one member hold.
        ShareLimit,
        /// The host is cut off from the quorum.
        HostIsolated,
        /// The weights could not be fetched.
        WeightsFailed,
        /// The weights that the source has are not those that were approved.
        DigestMismatch,
        /// The engine did not start.
        EngineFailed,
        /// The home stopped renewing.
        LeaseLapsed,
        /// The home's newer list omits it.
        NoLongerRequested,
        /// The owner takes the GPUs back.
        Reclaimed,
        /// A GPU that it runs on, or its node, must not be used any more.
        DeviceUnhealthy,
        /// The request itself is not valid.
        InvalidRequest,
        /// A reason of a later version.
        Other,
    }
}

/// An end that is announced. It may be taken back until it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// When calls in flight are the last, by the host's clock.
    pub ends_at: UnixSeconds,
    /// Why.
    pub reason: RefusalReason,
}

/// What a host says of one placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Of which job.
    pub job_uid: ObjectUid,
    /// Which replica.
    pub replica: ReplicaIndex,
    /// The fencing number.
    pub epoch: Epoch,
    /// The requests statement that it answers.
    pub request: StatementId,
    /// Where it stands.
    pub state: GrantState,
    /// Why, when refused or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RefusalReason>,
    /// When it will be ended although it runs, where that is known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// The numbers that decided, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, i64>,
    /// Bytes of weights that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_bytes: Option<Bytes>,
    /// Bytes of weights in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<Bytes>,
    /// How long it runs on without renewal.
    pub lease_seconds: Seconds,
    /// Where the home's gateway finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Endpoint>,
}
