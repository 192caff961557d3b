//! What a few members can stop at once, for a short time (rules 2).
//!
//! The schema is the limit: an order names work that stops, and has no field for votes, members' count, credits, keys or
//! prices.

use serde::{Deserialize, Serialize};

use crate::ids::{ManifestDigest, MemberId, PolicyHash, Prose, PublicKey, StatementId};

/// Something stops as soon as enough members have signed for it, and goes on by itself after the charter's time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmergencyOrder {
    /// What stops.
    pub stop: Stop,
    /// Why: the same cannot be stopped again soon for the same cause.
    pub cause: Cause,
    /// The membership version whose members sign.
    pub membership: PolicyHash,
    /// The charter version by whose periods it holds.
    pub charter: PolicyHash,
    /// For the others to read.
    #[serde(default)]
    pub text: Prose,
}

/// What an order stops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Stop {
    /// New work of and for a member.
    Member(MemberId),
    /// New copies of a model.
    Release(ManifestDigest),
    /// Work over connections that this key identifies; what it signs in its log is not touched.
    Key(PublicKey),
}

/// Why something is stopped. A closed list, or the bar against ordering it again would end where a word is spelt anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// A key is in wrong hands.
    KeyCompromise,
    /// People or machines are in danger.
    Safety,
    /// What was reported or delivered is not what it was said to be.
    Fraud,
    /// The law, or an authority.
    Legal,
}

/// Another member stands behind an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CoSignature {
    /// Which one.
    pub order: StatementId,
}
