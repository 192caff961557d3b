//! From resources to the types of `koinon-core` and back. Strings are read here, once; nothing behind this line parses one.
//!
//! Most types are written the same on the wire and in resources, so they cross as JSON values: what one side does not know
//! of the other's shape is an error here and not a silent loss.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use koinon_core::body::catalogue::{self as core_catalogue, OptionName, OptionType, OptionValue};
use koinon_core::body::charter::Class;
use koinon_core::body::latest::{self, EngineChoice, EvidenceLevel, GrantState, GuestsMode, RefusalReason, Request};
use koinon_core::body::member as core_member;
use koinon_core::body::proposal::{self as core_proposal};
use koinon_core::dsse;
use koinon_core::ids::IdError;
use koinon_core::policy::Halted;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::catalogue::{Action, Engine, Release};
use crate::common::{Endpoints, EngineRef, Evidence, GuestMode, ModelRef, NetworkPolicyState, OnPartition, Site};
use crate::conditions::Reason;
use crate::envelope::Envelope;
use crate::member::{MemberKeys, MemberStatus};
use crate::model_release::ModelReleaseStatus;
use crate::placement::{JobRef, LeaseTerms, PlacedGpus, PlacementSpec, PlacementState, Side};
use crate::proposal::ProposalClass;
use crate::vote::{Choice, Ground};

/// A resource or a statement holds something that the other side has no word for.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The shapes differ, or a string breaks its rule.
    #[error("read {what}: {source}")]
    Shape {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A name breaks its rule.
    #[error("read {what}: {source}")]
    Name {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        source: IdError,
    },
    /// A number is beyond what the other side can hold.
    #[error("read {what}: {value} is out of range")]
    Range {
        /// What was read.
        what: &'static str,
        /// The number.
        value: String,
    },
}

fn across<A: Serialize, B: DeserializeOwned>(what: &'static str, from: &A) -> Result<B, ConvertError> {
    serde_json::to_value(from).and_then(serde_json::from_value).map_err(|source| ConvertError::Shape { what, source })
}

fn number<A, B>(what: &'static str, from: A) -> Result<B, ConvertError>
where
    A: TryInto<B> + Copy + std::fmt::Display,
{
    from.try_into().map_err(|_| ConvertError::Range { what, value: from.to_string() })
}

/// Types that are written the same on both sides.
macro_rules! same_shape {
    ($($what:literal: $api:ty, $core:ty;)*) => {$(
        impl TryFrom<&$api> for $core {
            type Error = ConvertError;
            fn try_from(from: &$api) -> Result<Self, ConvertError> {
                across($what, from)
            }
        }
        impl TryFrom<&$core> for $api {
            type Error = ConvertError;
            fn try_from(from: &$core) -> Result<Self, ConvertError> {
                across($what, from)
            }
        }
    )*};
}

same_shape! {
    "an envelope": Envelope, dsse::Envelope;
    "an action": Action, core_proposal::Action;
    "a model release": Release, core_catalogue::ModelRelease;
    "an engine": Engine, core_catalogue::Engine;
    "a site": Site, core_member::Site;
    "endpoints": Endpoints, core_member::Endpoints;
    "a member's keys": MemberKeys, core_member::MemberKeys;
    "a model": ModelRef, latest::ModelRef;
    "a job": JobRef, latest::JobRef;
    "GPUs": PlacedGpus, latest::GpuNeed;
}

/// Words that stand for each other, each exactly once on either side.
macro_rules! same_words {
    ($($api:ident = $core:path { $($a:ident = $c:ident),* $(,)? })*) => {$(
        impl From<$api> for $core {
            fn from(word: $api) -> Self {
                match word { $($api::$a => Self::$c,)* }
            }
        }
        impl From<$core> for $api {
            fn from(word: $core) -> Self {
                match word { $(<$core>::$c => Self::$a,)* }
            }
        }
    )*};
}

same_words! {
    Evidence = EvidenceLevel {
        Claimed = Claimed, SchedulerConsistent = SchedulerConsistent, Challenged = Challenged, Attested = Attested,
    }
    GuestMode = GuestsMode { Accept = Accept, Drain = Drain, Stop = Stop }
    NetworkPolicyState = latest::NetworkPolicyState {
        Enforced = Enforced, Unenforced = Unenforced, AcceptedUnenforced = AcceptedUnenforced, Unknown = Unknown,
    }
    OnPartition = latest::OnPartition { KeepServing = KeepServing, StopWhenLeaseLapses = StopWhenLeaseLapses }
    ProposalClass = Class {
        Routine = Routine, Economic = Economic, Admit = Admit, Charter = Charter, Expel = Expel, Recall = Recall,
        Cancel = Cancel, Emergency = Emergency,
    }
    Choice = core_proposal::Choice { Approve = Yes, Reject = No, Abstain = Abstain, Veto = Veto }
    Ground = core_proposal::Ground { Legal = Legal, Safety = Safety, Solvency = Solvency, Charter = Charter }
}

impl From<GrantState> for PlacementState {
    fn from(state: GrantState) -> Self {
        match state {
            GrantState::Granted => Self::Granted,
            GrantState::Loading => Self::Loading,
            GrantState::Ready => Self::Ready,
            GrantState::Draining => Self::Draining,
            GrantState::Released => Self::Released,
            GrantState::Refused => Self::Refused,
        }
    }
}

impl From<RefusalReason> for Reason {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::NotApproved => Self::ReleaseNotEnacted,
            RefusalReason::EngineNotApproved => Self::EngineNotAllowed,
            RefusalReason::GuestsNotAccepted => Self::GuestsNotAccepted,
            RefusalReason::NetworkPolicyUnenforced => Self::NetworkPolicyUnenforced,
            RefusalReason::DeniedByOwner => Self::DeniedByOwner,
            RefusalReason::InsufficientGPUs => Self::NoCapacity,
            RefusalReason::MemberLimit => Self::MemberLimit,
            RefusalReason::UnknownClass => Self::ClassUnknown,
            RefusalReason::StaleEpoch => Self::StaleEpoch,
            RefusalReason::HomeNotActive => Self::HomeNotActive,
            RefusalReason::HomeHalted => Self::HomeHalted,
            RefusalReason::HostHalted => Self::HostHalted,
            RefusalReason::ReleaseFrozen => Self::ReleaseFrozen,
            RefusalReason::HostOnProbation => Self::OnProbation,
            RefusalReason::OutsideRules => Self::OutsideRules,
            RefusalReason::ShareLimit => Self::ShareLimit,
            RefusalReason::HostIsolated => Self::Isolated,
            RefusalReason::WeightsFailed => Self::WeightsFailed,
            RefusalReason::DigestMismatch => Self::DigestMismatch,
            RefusalReason::EngineFailed => Self::EngineFailed,
            RefusalReason::LeaseLapsed => Self::LeaseLapsed,
            RefusalReason::NoLongerRequested => Self::NoLongerRequested,
            RefusalReason::Reclaimed => Self::Reclaimed,
            RefusalReason::DeviceUnhealthy => Self::DeviceUnhealthy,
            RefusalReason::InvalidRequest => Self::InvalidRequest,
            RefusalReason::Other => Self::Other,
        }
    }
}

impl From<Halted> for Reason {
    fn from(halted: Halted) -> Self {
        match halted {
            Halted::NoMember => Self::MemberNotUsable,
            Halted::Left { .. } => Self::Left,
            Halted::Expelled { .. } => Self::Expelled,
            Halted::Suspended { .. } | Halted::Ordered { .. } => Self::Suspended,
            Halted::KeyBlocked { .. } => Self::KeyBlocked,
            Halted::Quarantined { .. } => Self::Quarantined,
            Halted::Leaving => Self::Leaving,
        }
    }
}

/// What a job asks of an engine, read by the catalogue's entry where there is one: only the entry can tell the word `4`
/// from the number. An option that the entry lacks is passed on as it looks, to be refused with the entry's own words.
///
/// # Errors
/// Fails if a name or a word breaks its rule.
pub fn engine_choice(engine: &EngineRef, entry: Option<&core_catalogue::Engine>) -> Result<EngineChoice, ConvertError> {
    let name = |source| ConvertError::Name { what: "an engine's name", source };
    let mut options = std::collections::BTreeMap::new();
    for (option, value) in &engine.options {
        let option: OptionName =
            option.parse().map_err(|source| ConvertError::Name { what: "an engine option's name", source })?;
        let kind = entry.and_then(|e| e.options.get(&option)).map(|spec| spec.kind);
        options.insert(option, option_value(value, kind)?);
    }
    Ok(EngineChoice { name: engine.name.parse().map_err(name)?, options })
}

fn option_value(value: &IntOrString, kind: Option<OptionType>) -> Result<OptionValue, ConvertError> {
    let text = match value {
        IntOrString::Int(n) => n.to_string(),
        IntOrString::String(s) => s.clone(),
    };
    let is_enum = kind == Some(OptionType::Enum);
    if !is_enum && let Ok(n) = text.parse::<i64>() {
        return Ok(OptionValue::Integer(n));
    }
    if !is_enum && let Ok(b) = text.parse::<bool>() {
        return Ok(OptionValue::Boolean(b));
    }
    text.parse().map(OptionValue::Word).map_err(|source| ConvertError::Name { what: "an engine option", source })
}

impl From<&EngineChoice> for EngineRef {
    fn from(choice: &EngineChoice) -> Self {
        let shown = |value: &OptionValue| match value {
            OptionValue::Integer(n) => {
                i32::try_from(*n).map_or_else(|_| IntOrString::String(n.to_string()), IntOrString::Int)
            }
            other => IntOrString::String(other.to_string()),
        };
        Self {
            name: choice.name.to_string(),
            options: choice.options.iter().map(|(name, value)| (name.to_string(), shown(value))).collect(),
        }
    }
}

impl PlacementSpec {
    /// The Placement of a request, without a template.
    ///
    /// # Errors
    /// Fails if a number is beyond what Kubernetes can hold.
    pub fn of(request: &Request, side: Side, home: &str, host: &str) -> Result<Self, ConvertError> {
        Ok(Self {
            side,
            home: home.to_owned(),
            host: host.to_owned(),
            job: (&request.job).try_into()?,
            replica: number("a replica", request.replica.0)?,
            epoch: number("an epoch", request.epoch.0)?,
            request: None,
            served_name: request.served_name.to_string(),
            model: (&request.model).try_into()?,
            engine: (&request.engine).into(),
            gpu: (&request.gpu).try_into()?,
            max_model_len: number("maxModelLen", request.max_model_len)?,
            max_concurrency: number("maxConcurrency", request.max_concurrency)?,
            lease: LeaseTerms {
                seconds: number("a lease", request.lease_seconds.0)?,
                on_partition: request.on_partition.into(),
            },
            template: None,
            claim: None,
        })
    }

    /// The request that this Placement stands for.
    ///
    /// # Errors
    /// Fails if a string breaks its rule or a number is negative, which the API server lets nobody store.
    pub fn to_request(&self, entry: Option<&core_catalogue::Engine>) -> Result<Request, ConvertError> {
        Ok(Request {
            job: (&self.job).try_into()?,
            replica: koinon_core::ids::ReplicaIndex(number("a replica", self.replica)?),
            epoch: koinon_core::ids::Epoch(number("an epoch", self.epoch)?),
            served_name: self
                .served_name
                .parse()
                .map_err(|source| ConvertError::Name { what: "a served name", source })?,
            model: (&self.model).try_into()?,
            engine: engine_choice(&self.engine, entry)?,
            max_model_len: number("maxModelLen", self.max_model_len)?,
            max_concurrency: number("maxConcurrency", self.max_concurrency)?,
            gpu: (&self.gpu).try_into()?,
            lease_seconds: koinon_core::ids::Seconds(self.lease.seconds.into()),
            on_partition: self.lease.on_partition.into(),
        })
    }
}

impl TryFrom<&core_member::Member> for MemberStatus {
    type Error = ConvertError;

    /// The facts of a member's own description; state, liveness and conditions are the caller's.
    fn try_from(member: &core_member::Member) -> Result<Self, ConvertError> {
        Ok(Self {
            owner: Some(member.owner.to_string()),
            control_group: Some(member.control_group.to_string()),
            site: Some((&member.site).try_into()?),
            keys: Some((&member.keys).try_into()?),
            endpoints: Some((&member.endpoints).try_into()?),
            ..Self::default()
        })
    }
}

impl TryFrom<&core_catalogue::ModelRelease> for ModelReleaseStatus {
    type Error = ConvertError;

    /// The facts of a release; its state, version and conditions are the caller's.
    fn try_from(release: &core_catalogue::ModelRelease) -> Result<Self, ConvertError> {
        let release: Release = release.try_into()?;
        Ok(Self {
            uri: Some(release.uri),
            revision: Some(release.revision),
            manifest_digest: Some(release.manifest_digest),
            quantization: Some(release.quantization),
            license: Some(release.license),
            engines: release.engines,
            memory_bytes: release.memory_bytes,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests;
