//! What the cooperative decides about all work: where it may run, who may hold how much, what it costs, how much of it is
//! checked, and by which release (rules 2). Each replaces the one before it as a whole, so that nobody has to add up votes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::challenges::Challenges;
use super::charter::Fraction;
use super::entry::Head;
use super::latest::EvidenceLevel;
use crate::challenge::{ATTESTED_NOT_AVAILABLE, WindowError};
use crate::gpu::xid::policy::{XidPolicyError, XidRow};
use crate::ids::{Digest, GpuClass, Jurisdiction, Line, ManifestDigest, PublicKey, Seconds};

/// Where work for other members may run, and on which devices. By default anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PlacementRules {
    /// Only in these jurisdictions; none means any.
    pub jurisdictions: BTreeSet<Jurisdiction>,
    /// Models that may be served in fewer still.
    pub residency: BTreeMap<ManifestDigest, BTreeSet<Jurisdiction>>,
    /// The weakest evidence of capacity that counts.
    #[serde(with = "evidence")]
    pub min_evidence: EvidenceLevel,
    /// Most replicas of one job at one member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas_per_member: Option<u32>,
    /// What errors of GPUs mean beyond the table of each release, in the order of their codes. No device is judged better for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<XidRow>,
    /// How members test each other's GPUs; absent where nobody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenges: Option<Challenges>,
}

/// How much of the others' GPUs one member may hold. By default no less than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shares {
    /// The part of what a host offers that one home may hold there, rounded down; one GPU it always may.
    pub host_share: Fraction,
    /// The most GPUs that one home may hold at one host, however many that offers; absent where that is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_gpus: Option<u32>,
}

impl Default for Shares {
    fn default() -> Self {
        Self { host_share: Fraction { num: 1, den: 1 }, most_gpus: None }
    }
}

/// What one GPU costs for a second, in millionths of a compute unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prices {
    /// By class; a class that is not here costs nothing.
    pub gpu_second_micros: BTreeMap<GpuClass, u64>,
}

/// How much of what is served is computed once more by another member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditRate {
    /// Of ten thousand requests.
    pub per_ten_thousand: u32,
}

/// The release of the operator that members are asked to run. It is advice: each owner upgrades its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorRelease {
    /// Its version, such as 1.4.0.
    pub version: Line,
    /// The digest of its image.
    pub image: Digest,
}

/// Everything up to here is settled: each log's position, and what it all amounts to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// The last entry of each log that is settled.
    pub logs: BTreeMap<PublicKey, Head>,
    /// The digest of what remains of them.
    pub state: Digest,
}

/// Why a norm cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NormError {
    /// A list is empty or too long.
    #[error("{what} has {seen} entries: between {least} and {most} are allowed")]
    Count {
        /// Which list.
        what: &'static str,
        /// How many.
        seen: usize,
        /// At least.
        least: usize,
        /// At most.
        most: usize,
    },
    /// A number leaves its bounds.
    #[error("{what} is {seen}: at most {most} is allowed")]
    TooMuch {
        /// Which number.
        what: &'static str,
        /// What it is.
        seen: u64,
        /// At most.
        most: u64,
    },
    /// Rows that are no table of errors.
    #[error("xids: {0}")]
    Xids(#[from] XidPolicyError),
    /// A number leaves its bounds on either side.
    #[error("{what} is {seen}: between {least} and {most} is allowed")]
    Bounds {
        /// Which number.
        what: &'static str,
        /// What it is.
        seen: i64,
        /// At least.
        least: i64,
        /// At most.
        most: i64,
    },
    /// What was measured would count no more before it may be measured anew.
    #[error(
        "challenges.everySeconds is {seen}: at most {most}, nine tenths of freshSeconds, or what was measured ends before \
         it may be measured anew"
    )]
    NeverRenewed {
        /// What it is.
        seen: Seconds,
        /// At most.
        most: Seconds,
    },
    /// The windows of a class show nothing.
    #[error("challenges.classes.{class}: {source}")]
    Windows {
        /// Of which class.
        class: GpuClass,
        /// Why.
        source: WindowError,
    },
    /// An answer may come later than a challenge ends.
    #[error("challenges.classes.{class}: both answers may take {both} ms, raise mostSeconds to {} or more", .both.div_ceil(1000))]
    TooLong {
        /// Of which class.
        class: GpuClass,
        /// How long both may take, in milliseconds.
        both: u32,
    },
    /// A level that nobody can reach.
    #[error("minEvidence: {ATTESTED_NOT_AVAILABLE}; ask for Challenged")]
    NotAvailable,
    /// A fraction that is none, or above one.
    #[error("hostShare must be a fraction above 0 and up to 1 with a denominator of 1 to 1000")]
    Share,
}

/// Most entries of one list: a proposal has to fit into 32 KiB.
const MAX_LISTED: usize = 128;
/// A thousand compute units for one second: more is a slip of the pen.
const MAX_PRICE: u64 = 1_000_000_000;

fn counted(what: &'static str, seen: usize, least: usize) -> Result<(), NormError> {
    let most = MAX_LISTED;
    if (least..=most).contains(&seen) { Ok(()) } else { Err(NormError::Count { what, seen, least, most }) }
}

impl PlacementRules {
    /// Checks what the types alone cannot say.
    pub fn validate(&self) -> Result<(), NormError> {
        counted("jurisdictions", self.jurisdictions.len(), 0)?;
        counted("residency", self.residency.len(), 0)?;
        if self.min_evidence > EvidenceLevel::MOST_AVAILABLE {
            return Err(NormError::NotAvailable);
        }
        self.challenges.as_ref().map_or(Ok(()), Challenges::validate)?;
        // A model that may be served nowhere is withdrawn, which drains what runs.
        self.residency.values().try_for_each(|of_model| counted("a model's residency", of_model.len(), 1))?;
        Ok(crate::gpu::xid::policy::check(&self.xids)?)
    }

    /// Whether a copy of `model` may run in `jurisdiction`.
    pub fn allow(&self, model: &ManifestDigest, jurisdiction: &Jurisdiction) -> bool {
        let listed = |allowed: &BTreeSet<Jurisdiction>| allowed.is_empty() || allowed.contains(jurisdiction);
        listed(&self.jurisdictions) && self.residency.get(model).is_none_or(listed)
    }
}

impl Shares {
    /// Checks what the types alone cannot say.
    pub fn validate(&self) -> Result<(), NormError> {
        let Fraction { num, den } = self.host_share;
        if (1..=1000).contains(&den) && (1..=den).contains(&num) { Ok(()) } else { Err(NormError::Share) }
    }

    /// The most GPUs that one home may hold at a host that offers `offered` in all, what is held included.
    pub fn most(&self, offered: u64) -> u64 {
        let Fraction { num, den } = self.host_share;
        let share = (offered.saturating_mul(num.into()) / u64::from(den.max(1))).max(offered.min(1));
        self.most_gpus.map_or(share, |most| share.min(most.into()))
    }
}

impl Prices {
    /// Checks what the types alone cannot say.
    pub fn validate(&self) -> Result<(), NormError> {
        counted("gpuSecondMicros", self.gpu_second_micros.len(), 0)?;
        match self.gpu_second_micros.values().find(|price| **price > MAX_PRICE) {
            Some(price) => Err(NormError::TooMuch { what: "a price", seen: *price, most: MAX_PRICE }),
            None => Ok(()),
        }
    }
}

impl AuditRate {
    /// Checks what the types alone cannot say.
    pub fn validate(&self) -> Result<(), NormError> {
        let (seen, most) = (self.per_ten_thousand.into(), 10_000);
        if seen <= most { Ok(()) } else { Err(NormError::TooMuch { what: "perTenThousand", seen, most }) }
    }
}

impl Checkpoint {
    /// Checks what the types alone cannot say.
    pub fn validate(&self) -> Result<(), NormError> {
        counted("logs", self.logs.len(), 1)
    }
}

/// A level of evidence in a closed body: a word that is not known is no level.
mod evidence {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use super::EvidenceLevel;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
    pub fn serialize<S: Serializer>(level: &EvidenceLevel, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(level.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EvidenceLevel, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = EvidenceLevel::ALL.iter().copied().find(|level| level.as_str() == text);
        known.ok_or_else(|| de::Error::custom(format_args!("{text} is no level of evidence")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_residency_rule_narrows_what_the_cooperative_allows() {
        let (dk, de, se): (Jurisdiction, Jurisdiction, Jurisdiction) =
            ("DK".parse().unwrap(), "DE".parse().unwrap(), "SE".parse().unwrap());
        let (model, other) = (ManifestDigest(Digest::of(b"a")), ManifestDigest(Digest::of(b"b")));
        assert!(PlacementRules::default().allow(&model, &se));
        let rules = PlacementRules {
            jurisdictions: BTreeSet::from([dk, de.clone()]),
            residency: BTreeMap::from([(model, BTreeSet::from([de, se.clone()]))]),
            ..PlacementRules::default()
        };
        let allowed = |model| ["DE", "DK", "SE"].map(|j| rules.allow(model, &j.parse().unwrap()));
        assert_eq!((allowed(&model), allowed(&other)), ([true, false, false], [true, true, false]));
    }

    #[test]
    fn rules_without_a_table_of_errors_are_written_as_they_always_were() {
        let text = r#"{"jurisdictions":[],"residency":{},"minEvidence":"Claimed"}"#;
        assert_eq!(serde_json::to_string(&PlacementRules::default()).unwrap(), text);
        assert_eq!(serde_json::from_str::<PlacementRules>(text).unwrap(), PlacementRules::default());
    }

    #[test]
    fn a_table_of_errors_is_checked_with_the_rules_that_hold_it() {
        let row = |code: u32| {
            serde_json::json!({"code": code, "class": "reset", "state": "Unhealthy", "reason": "VotedReason",
                "action": "ResetGPU", "offer": "Nothing", "work": "Drain"})
        };
        let rules = |rows: Vec<serde_json::Value>| -> PlacementRules {
            serde_json::from_value(serde_json::json!({ "xids": rows })).unwrap()
        };
        assert!(rules(vec![row(94), row(200)]).validate().is_ok());
        // Milder than what this release says is no contradiction: another release may say something else.
        let mut mild = row(79);
        mild["state"] = "Degraded".into();
        mild["holdSeconds"] = 3600.into();
        assert!(rules(vec![mild]).validate().is_ok());
        for bad in [vec![row(200), row(94)], vec![row(94), row(94)], vec![row(0)], (1..=65).map(row).collect()] {
            assert!(matches!(rules(bad).validate(), Err(NormError::Xids(_))));
        }
    }

    #[test]
    fn a_share_leaves_one_gpu_and_is_bounded_by_the_most() {
        let shares = |num, most_gpus| Shares { host_share: Fraction { num, den: 4 }, most_gpus };
        assert_eq!([0, 1, 3, 4, 9].map(|offered| shares(1, None).most(offered)), [0, 1, 1, 1, 2]);
        assert_eq!([0, 4, 8, 80].map(|offered| shares(2, Some(3)).most(offered)), [0, 2, 3, 3]);
        assert_eq!(Shares::default().most(8), 8);
        assert_eq!(shares(4, None).most(u64::MAX), u64::MAX / 4);
        let bad =
            [shares(0, None), shares(5, None), Shares { host_share: Fraction { num: 1, den: 0 }, most_gpus: None }];
        assert!(bad.iter().all(|shares| shares.validate().is_err()) && shares(4, None).validate().is_ok());
    }

    #[test]
    fn a_word_that_is_no_level_of_evidence_is_refused() {
        let read = |level: &str| serde_json::from_value::<PlacementRules>(serde_json::json!({"minEvidence": level}));
        assert_eq!(read("Challenged").unwrap().min_evidence, EvidenceLevel::Challenged);
        assert!(read("Sworn").is_err());
    }
}
