//! The founding charter: members, classes of decisions, parameters, first releases and engines.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::catalogue::{CatalogueError, Engine, ModelRelease};
use super::member::{Member, MemberError};
use crate::ids::{Line, MemberId, PublicKey, Seconds};

/// Most members under `rules: 1`, whose seals tolerate a dead operator but no lying one.
pub const MAX_MEMBERS: usize = 3;
/// Most members under rules 2: what a box offer of 64 KiB can hold with room to spare.
pub const MAX_MEMBERS_COMPLETE: usize = 100;

/// What the cooperative is founded on; signed by every founder. Its id is the cooperative's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Charter {
    /// What people call it.
    pub name: Line,
    /// Where the numbers came from; only the numbers count.
    pub preset: Preset,
    /// The first members.
    pub founders: Vec<Member>,
    /// The periods and limits.
    pub parameters: Parameters,
    /// How each class of decision is made.
    pub classes: BTreeMap<Class, ClassRules>,
    /// Models that are approved from the start.
    #[serde(default)]
    pub releases: Vec<ModelRelease>,
    /// Engines that are in the catalogue from the start.
    #[serde(default)]
    pub engines: Vec<Engine>,
}

/// Where a charter's numbers came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Preset {
    /// Minutes, for trying it out.
    Trial,
    /// Days, for real owners.
    Standard,
    /// Edited by hand.
    Custom,
}

/// A class of decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Model catalogue, engines, quotas.
    Routine,
    /// Money and shares.
    Economic,
    /// New members.
    Admit,
    /// The charter itself.
    Charter,
    /// Removal of a member for cause.
    Expel,
    /// Removal from an office.
    Recall,
    /// Stopping a queued proposal.
    Cancel,
    /// Suspension by co-signature.
    Emergency,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 8] = [
        Self::Routine,
        Self::Economic,
        Self::Admit,
        Self::Charter,
        Self::Expel,
        Self::Recall,
        Self::Cancel,
        Self::Emergency,
    ];
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// A fraction of small numbers: outcomes know no floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    /// Above the line.
    pub num: u32,
    /// Below the line.
    pub den: u32,
}

/// The share of yes among yes, no and veto that a class asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Threshold {
    /// Strictly more than the fraction.
    MoreThan(Fraction),
    /// The fraction or more.
    AtLeast(Fraction),
}

/// The least number of yes, as a function of the number of electors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum MinYes {
    /// The fraction of the electors, rounded up.
    Ceil(Fraction),
    /// The fraction of the electors, rounded down, and one.
    FloorPlusOne(Fraction),
}

/// How decisions of one class are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClassRules {
    /// From proposal to the opening of the vote, at least.
    pub delay_seconds: Seconds,
    /// From opening to closing, at least.
    pub period_seconds: Seconds,
    /// The share of electors that must take part.
    pub turnout: Fraction,
    /// The share of yes.
    pub threshold: Threshold,
    /// The least number of yes.
    pub min_yes: MinYes,
    /// The share of the turnout whose veto blocks; absent if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veto: Option<Fraction>,
    /// From the close to the effect.
    pub timelock_seconds: Seconds,
    /// Whether votes may be delegated (no effect under `rules: 1`).
    pub delegation: bool,
}

/// How much an author may add to its log in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budgets {
    /// Payload bytes.
    pub bytes_per_day: u64,
    /// Entries.
    pub entries_per_day: u64,
}

/// The cooperative's periods and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Parameters {
    /// After the close, for votes still on their way.
    pub grace_seconds: Seconds,
    /// Before the effect, by when a box should be sealed.
    pub seal_by_seconds: Seconds,
    /// How far clocks may differ.
    pub clock_tolerance_seconds: Seconds,
    /// From `eta`, for how long a proposal may still be enacted.
    pub enact_window_seconds: Seconds,
    /// Between two beacons.
    pub beacon_seconds: Seconds,
    /// Up to this age of the last beacon a member is Fresh.
    pub fresh_seconds: Seconds,
    /// From this age on a member is Lost.
    pub lost_seconds: Seconds,
    /// How long a placement may run on without renewal.
    pub lease_seconds: Seconds,
    /// What the home waits beyond a lease.
    pub lease_margin_seconds: Seconds,
    /// The longest that a placement with `KeepServing` may run on without renewal.
    pub keep_serving_max_seconds: Seconds,
    /// What an author may add to its log.
    pub budgets: Budgets,
    /// How long an invite is good.
    pub invite_hours: u32,
    /// How many members must sign an Admit proposal, at most as many as there are.
    pub sponsors: u32,
    /// How long a new member has no vote.
    pub probation_seconds: Seconds,
    /// Proposals of one author that may be open at once.
    pub max_open_proposals: u32,
    /// Whether the box closes when every elector has voted; makes votes final.
    pub close_when_all_voted: bool,
    /// What rules 2 ask for beyond that; absent under rules 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliberation: Option<Deliberation>,
}

/// The numbers that rules 2 add to a charter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deliberation {
    /// The longest that a delegation may be good for.
    pub delegation_max_seconds: Seconds,
    /// The share of the electors that may vote through one member, rounded down; one may always.
    pub delegation_cap: Fraction,
    /// For how long after a refusal the same needs two thirds of all electors; zero for not at all.
    #[serde(default = "cool_down")]
    pub cool_down_seconds: Seconds,
    /// Periods of what is decided about single members.
    #[serde(default)]
    pub members: MemberPeriods,
}

fn cool_down() -> Seconds {
    Seconds(14 * DAY)
}

/// Periods of what is decided about single members (rules 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MemberPeriods {
    /// For how long a member's log must have been silent before a vote may take it out of the count.
    pub dormant_after_seconds: Seconds,
    /// How long an operator tries to reach a member that is to be expelled.
    pub notice_seconds: Seconds,
    /// How long an emergency order holds.
    pub emergency_seconds: Seconds,
    /// For how long after it nobody may order the same for the same cause.
    pub emergency_again_seconds: Seconds,
}

impl Default for MemberPeriods {
    fn default() -> Self {
        Self {
            dormant_after_seconds: Seconds(30 * DAY),
            notice_seconds: Seconds(3 * DAY),
            emergency_seconds: Seconds(3 * DAY),
            emergency_again_seconds: Seconds(30 * DAY),
        }
    }
}

/// Why a charter cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CharterError {
    /// No founder, or more than rules 1 can seal for.
    #[error(
        "the charter names {0} founders: between 1 and {MAX_MEMBERS} are allowed under rules 1, {MAX_MEMBERS_COMPLETE} under rules 2"
    )]
    FounderCount(usize),
    /// Two founders with one id.
    #[error("the charter names founder {0} twice")]
    FounderTwice(MemberId),
    /// Two founders with one key.
    #[error("the charter names key {0} for two founders")]
    KeyTwice(PublicKey),
    /// A founder's description is wrong.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// A class is missing.
    #[error("the charter has no rules for class {0}")]
    MissingClass(Class),
    /// A fraction that is none, or above one.
    #[error("the {what} of class {class} must be a fraction between 0 and 1 with a denominator of 1 to 1000")]
    Fraction {
        /// Which class.
        class: Class,
        /// Which number of it.
        what: &'static str,
    },
    /// A number outside its bounds.
    #[error("parameter {name} is {seen}: between {least} and {most} is allowed")]
    Bounds {
        /// The parameter.
        name: &'static str,
        /// Its value.
        seen: i64,
        /// At least.
        least: i64,
        /// At most.
        most: i64,
    },
    /// Two numbers that do not fit each other.
    #[error("parameter {0}")]
    Order(&'static str),
    /// A first release or engine is wrong.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Two first releases or engines of one name.
    #[error("the charter lists {0} twice")]
    ListedTwice(String),
}

const DAY: i64 = 86_400;

impl Charter {
    /// Checks what the types alone cannot say.
    pub fn validate(&self) -> Result<(), CharterError> {
        let most = if self.parameters.deliberation.is_some() { MAX_MEMBERS_COMPLETE } else { MAX_MEMBERS };
        if self.founders.is_empty() || self.founders.len() > most {
            return Err(CharterError::FounderCount(self.founders.len()));
        }
        let (mut ids, mut keys) = (BTreeSet::new(), BTreeSet::new());
        for founder in &self.founders {
            founder.validate()?;
            if !ids.insert(&founder.id) {
                return Err(CharterError::FounderTwice(founder.id.clone()));
            }
            for key in founder.keys.all() {
                if !keys.insert(key) {
                    return Err(CharterError::KeyTwice(key));
                }
            }
        }
        validate_numbers(&self.parameters, &self.classes)?;
        let mut listed = BTreeSet::new();
        for engine in &self.engines {
            engine.validate()?;
            if !listed.insert(engine.name.to_string()) {
                return Err(CharterError::ListedTwice(engine.name.to_string()));
            }
        }
        for release in &self.releases {
            if !listed.insert(release.manifest_digest.to_string()) {
                return Err(CharterError::ListedTwice(release.manifest_digest.to_string()));
            }
        }
        Ok(())
    }
}

/// Checks the periods, limits and classes of a charter.
pub fn validate_numbers(parameters: &Parameters, classes: &BTreeMap<Class, ClassRules>) -> Result<(), CharterError> {
    for class in Class::ALL {
        classes.get(&class).ok_or(CharterError::MissingClass(class))?.validate(class)?;
    }
    parameters.validate()
}

impl ClassRules {
    fn validate(&self, class: Class) -> Result<(), CharterError> {
        bounds("delaySeconds", self.delay_seconds.0, 0, 90 * DAY)?;
        bounds("periodSeconds", self.period_seconds.0, 1, 90 * DAY)?;
        bounds("timelockSeconds", self.timelock_seconds.0, 0, 90 * DAY)?;
        let threshold = match self.threshold {
            Threshold::MoreThan(f) | Threshold::AtLeast(f) => f,
        };
        let min_yes = match self.min_yes {
            MinYes::Ceil(f) | MinYes::FloorPlusOne(f) => f,
        };
        let veto = self.veto.unwrap_or(Fraction { num: 1, den: 1 });
        for (what, fraction) in
            [("turnout", self.turnout), ("threshold", threshold), ("minYes", min_yes), ("veto", veto)]
        {
            if fraction.den == 0 || fraction.den > 1000 || fraction.num > fraction.den {
                return Err(CharterError::Fraction { class, what });
            }
        }
        Ok(())
    }
}

fn bounds(name: &'static str, seen: i64, least: i64, most: i64) -> Result<(), CharterError> {
    if (least..=most).contains(&seen) { Ok(()) } else { Err(CharterError::Bounds { name, seen, least, most }) }
}

impl Parameters {
    fn validate(&self) -> Result<(), CharterError> {
        let wide = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        bounds("graceSeconds", self.grace_seconds.0, 0, 7 * DAY)?;
        bounds("sealBySeconds", self.seal_by_seconds.0, 0, 7 * DAY)?;
        bounds("clockToleranceSeconds", self.clock_tolerance_seconds.0, 1, 3600)?;
        bounds("enactWindowSeconds", self.enact_window_seconds.0, 60, 90 * DAY)?;
        bounds("beaconSeconds", self.beacon_seconds.0, 1, 3600)?;
        bounds("freshSeconds", self.fresh_seconds.0, 2, DAY)?;
        bounds("lostSeconds", self.lost_seconds.0, 5, 7 * DAY)?;
        bounds("leaseSeconds", self.lease_seconds.0, 5, 7 * DAY)?;
        bounds("leaseMarginSeconds", self.lease_margin_seconds.0, 1, DAY)?;
        bounds("keepServingMaxSeconds", self.keep_serving_max_seconds.0, 60, 365 * DAY)?;
        bounds("budgets.bytesPerDay", wide(self.budgets.bytes_per_day), 64 * 1024, 1 << 30)?;
        bounds("budgets.entriesPerDay", wide(self.budgets.entries_per_day), 16, 100_000)?;
        bounds("inviteHours", self.invite_hours.into(), 1, 720)?;
        bounds("sponsors", self.sponsors.into(), 1, 3)?;
        // Probation needs a confirming vote, which rules 1 does not have.
        let longest = if self.deliberation.is_some() { 365 * DAY } else { 0 };
        bounds("probationSeconds", self.probation_seconds.0, 0, longest)?;
        bounds("maxOpenProposals", self.max_open_proposals.into(), 1, 100)?;
        if self.beacon_seconds >= self.fresh_seconds {
            return Err(CharterError::Order("freshSeconds must be greater than beaconSeconds"));
        }
        if self.fresh_seconds >= self.lost_seconds {
            return Err(CharterError::Order("lostSeconds must be greater than freshSeconds"));
        }
        if self.keep_serving_max_seconds < self.lease_seconds {
            return Err(CharterError::Order("keepServingMaxSeconds must not be less than leaseSeconds"));
        }
        self.deliberation.map_or(Ok(()), |deliberation| deliberation.validate())
    }
}

impl Deliberation {
    /// Checks what the types alone cannot say.
    pub fn validate(&self) -> Result<(), CharterError> {
        let MemberPeriods { dormant_after_seconds, notice_seconds, emergency_seconds, emergency_again_seconds } =
            self.members;
        bounds("dormantAfterSeconds", dormant_after_seconds.0, 60, 365 * DAY)?;
        bounds("noticeSeconds", notice_seconds.0, 0, 30 * DAY)?;
        bounds("emergencySeconds", emergency_seconds.0, 1, 30 * DAY)?;
        // An order that may follow itself would never end.
        bounds("emergencyAgainSeconds", emergency_again_seconds.0, emergency_seconds.0.saturating_mul(2), 365 * DAY)?;
        bounds("coolDownSeconds", self.cool_down_seconds.0, 0, 90 * DAY)?;
        bounds("delegationMaxSeconds", self.delegation_max_seconds.0, 0, 365 * DAY)?;
        let Fraction { num, den } = self.delegation_cap;
        bounds("delegationCap.den", den.into(), 1, 1000)?;
        // More than half through one member would make it the cooperative.
        bounds("delegationCap.num", num.into(), 0, i64::from(den) / 2)
    }
}
