//! What the cooperative can decide about one member (rules 2).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::member::MemberKeys;
use crate::ids::{Digest, MemberId};

/// See [`Action::ResetKeys`](super::Action::ResetKeys). The proposal is signed by the new operator key and by one of the new
/// governance keys too, which proves that they are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResetKeys {
    /// Whose.
    pub member: MemberId,
    /// All its keys from then on; none of them was ever used.
    pub keys: MemberKeys,
}

/// See [`Action::Confirm`](super::Action::Confirm).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Confirm {
    /// Which member.
    pub member: MemberId,
}

/// See [`Action::MarkDormant`](super::Action::MarkDormant).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MarkDormant {
    /// Which member.
    pub member: MemberId,
}

/// See [`Action::Reactivate`](super::Action::Reactivate).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reactivate {
    /// Which member.
    pub member: MemberId,
}

/// See [`Action::LiftQuarantine`](super::Action::LiftQuarantine).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LiftQuarantine {
    /// Of which member.
    pub member: MemberId,
    /// The proofs that were weighed; a later one quarantines it again.
    pub proofs: BTreeSet<Digest>,
}

/// See [`Action::Suspend`](super::Action::Suspend).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Suspend {
    /// Which member.
    pub member: MemberId,
}

/// See [`Action::Reinstate`](super::Action::Reinstate).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reinstate {
    /// Which member.
    pub member: MemberId,
}
