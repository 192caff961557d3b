//! The charter's numbers, written as the wire writes them.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rules to be decided by from here on.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetRules {
    /// The next version of the rules.
    #[schemars(range(min = 2, max = 1000))]
    pub rules: i32,
    /// What they ask the charter for beyond its earlier numbers.
    pub deliberation: Deliberation,
}

/// The charter's numbers as they are to be. All of them, so that what is signed says what will be in force.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeCharter {
    /// Periods and limits.
    pub parameters: Parameters,
    /// How each class decides.
    #[schemars(extend("maxProperties" = 16))]
    pub classes: BTreeMap<String, ClassRules>,
}

/// A proposal to be stopped.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CancelProposal {
    /// Its id.
    #[schemars(schema_with = "crate::schema::digest")]
    pub proposal: String,
}

/// A fraction of small numbers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fraction {
    /// Above the line.
    #[schemars(range(min = 0, max = 1000))]
    pub num: i32,
    /// Below the line.
    #[schemars(range(min = 1, max = 1000))]
    pub den: i32,
}

/// What rules 2 add to a charter.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deliberation {
    /// The longest that a delegation may be good for.
    #[schemars(range(min = 0))]
    pub delegation_max_seconds: i64,
    /// The share of the electors that may vote through one member.
    pub delegation_cap: Fraction,
    /// For how long after a refusal the same needs two thirds of all electors; zero for not at all.
    #[serde(default = "cool_down")]
    #[schemars(range(min = 0))]
    pub cool_down_seconds: i64,
    /// Periods of what is decided about single members.
    #[serde(default)]
    pub members: MemberPeriods,
}

/// As the wire reads a charter that does not say.
fn cool_down() -> i64 {
    14 * 86_400
}

/// Periods of what is decided about single members; the bounds between which each may lie are the charter's own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberPeriods {
    /// For how long a member's log must have been silent before a vote may take it out of the count.
    pub dormant_after_seconds: i64,
    /// How long an operator tries to reach a member that is to be expelled.
    pub notice_seconds: i64,
    /// How long an emergency order holds.
    pub emergency_seconds: i64,
    /// For how long after it nobody may order the same for the same cause.
    pub emergency_again_seconds: i64,
}

impl Default for MemberPeriods {
    /// As the wire reads a charter that does not say: what is shown must be what is signed.
    fn default() -> Self {
        const DAY: i64 = 86_400;
        Self {
            dormant_after_seconds: 30 * DAY,
            notice_seconds: 3 * DAY,
            emergency_seconds: 3 * DAY,
            emergency_again_seconds: 30 * DAY,
        }
    }
}

/// How much an author may add to its log in a day.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Budgets {
    /// Payload bytes.
    #[schemars(range(min = 65536))]
    pub bytes_per_day: i64,
    /// Entries.
    #[schemars(range(min = 16, max = 100_000))]
    pub entries_per_day: i64,
}

/// Periods and limits; the bounds between which each may lie are the charter's own.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameters {
    /// After the close, for votes still on their way.
    pub grace_seconds: i64,
    /// Before the effect, by when a box should be sealed.
    pub seal_by_seconds: i64,
    /// How far clocks may differ.
    pub clock_tolerance_seconds: i64,
    /// How long a proposal may be enacted.
    pub enact_window_seconds: i64,
    /// Between two beacons.
    pub beacon_seconds: i64,
    /// Up to this age of the last beacon a member is Fresh.
    pub fresh_seconds: i64,
    /// From this age on a member is Lost.
    pub lost_seconds: i64,
    /// How long a placement may run on without renewal.
    pub lease_seconds: i64,
    /// What the home waits beyond a lease.
    pub lease_margin_seconds: i64,
    /// The longest that a placement with KeepServing may run on without renewal.
    pub keep_serving_max_seconds: i64,
    /// What an author may add to its log.
    pub budgets: Budgets,
    /// How long an invite is good.
    #[schemars(range(min = 1, max = 720))]
    pub invite_hours: i32,
    /// How many members must sign the admission of another.
    #[schemars(range(min = 1, max = 3))]
    pub sponsors: i32,
    /// How long a new member has no vote.
    pub probation_seconds: i64,
    /// Proposals of one author that may be open at once.
    #[schemars(range(min = 1, max = 100))]
    pub max_open_proposals: i32,
    /// Whether the box closes when everybody has voted; makes votes final.
    pub close_when_all_voted: bool,
    /// What rules 2 add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliberation: Option<Deliberation>,
}

/// How one class decides.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassRules {
    /// From proposal to the opening of the vote, at least.
    pub delay_seconds: i64,
    /// From opening to closing, at least.
    pub period_seconds: i64,
    /// The share of electors that must take part.
    pub turnout: Fraction,
    /// The share of yes among yes, no and veto.
    pub threshold: Threshold,
    /// The least number of yes.
    pub min_yes: MinYes,
    /// The share of the turnout whose veto blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veto: Option<Fraction>,
    /// From the close to the effect.
    pub timelock_seconds: i64,
    /// Whether votes may be delegated.
    pub delegation: bool,
}

/// The share of yes that a class asks for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Threshold {
    /// Strictly more than the fraction.
    MoreThan(Fraction),
    /// The fraction or more.
    AtLeast(Fraction),
}

/// The least number of yes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MinYes {
    /// The fraction of the electors, rounded up.
    Ceil(Fraction),
    /// The fraction of the electors, rounded down, and one.
    FloorPlusOne(Fraction),
}
