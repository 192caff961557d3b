//! What the cooperative decides about challenges: by which computation members test what others say of their GPUs, how
//! often, and how long an answer may take. A part of the placement rules; without it nobody is challenged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::norms::NormError;
use crate::challenge::{Size, Window, Windows};
use crate::ids::{Digest, EngineName, GpuClass, ManifestDigest, Seconds};

/// How members test each other's GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Challenges {
    /// The engine of the catalogue that computes the answer.
    pub engine: EngineName,
    /// The release under which the job is placed, as every job is; its one file is small.
    pub model: ManifestDigest,
    /// The least time between two challenges of one host's class by one member under these rules.
    pub every_seconds: Seconds,
    /// How many other owners must have measured a class before it counts as Challenged, or before it counts for less.
    pub challengers: u32,
    /// How long a measurement counts.
    pub fresh_seconds: Seconds,
    /// How long one challenge may hold GPUs, from the host's grant on.
    pub most_seconds: Seconds,
    /// What is asked of each class; others are not challenged.
    pub classes: BTreeMap<GpuClass, ClassChallenge>,
}

/// What is asked of the GPUs of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClassChallenge {
    /// How much each device computes: [`Size::filling`] fills the memory of one.
    pub size: Size,
    /// How long computing may take, in milliseconds.
    pub compute: Window,
    /// How long hashing what was computed may take, in milliseconds.
    pub recall: Window,
}

impl ClassChallenge {
    /// Both windows.
    #[must_use]
    pub fn windows(&self) -> Windows {
        Windows { compute: self.compute, recall: self.recall }
    }
}

/// Most owners whose measurements can be asked for: each measures up to [`MOST_DRAWN`] classes.
pub const MOST_CHALLENGERS: u32 = 4;
/// Members that are asked for beyond those needed, so that one that is away or lies is not missed.
pub const SPARE_CHALLENGERS: u32 = 1;
/// Most classes of hosts that one member is drawn for at a time.
pub const MOST_DRAWN: usize = 5;
/// A measurement counts for a day at most: <https://ai-infrastructure.net/remote-gpu-verification/> and
/// `gpu_reliability.md`, section 7.
const MOST_FRESH: i64 = 86_400;
/// What has not come after ten minutes says nothing about GPUs.
const MOST_SECONDS: i64 = 600;
/// At most one part in so many of a GPU's time goes to challenges (`gpu_reliability.md`, section 7).
const SHARE_OF_TIME: i64 = 100;
/// Most classes: a proposal has to fit into 32 KiB.
const MAX_CLASSES: usize = 32;
impl Challenges {
    /// Checks what the types alone cannot say.
    ///
    /// # Errors
    /// Names the number that is out of its bounds, and the bounds.
    pub fn validate(&self) -> Result<(), NormError> {
        let count = |seen: usize| i64::try_from(seen).unwrap_or(i64::MAX);
        let within = |what, seen: i64, least: i64, most: i64| {
            let out = NormError::Bounds { what, seen, least, most };
            if (least..=most).contains(&seen) { Ok(()) } else { Err(out) }
        };
        within("challenges.challengers", self.challengers.into(), 1, MOST_CHALLENGERS.into())?;
        within("challenges.freshSeconds", self.fresh_seconds.0, 60, MOST_FRESH)?;
        within("challenges.mostSeconds", self.most_seconds.0, 1, MOST_SECONDS)?;
        within("challenges.everySeconds", self.every_seconds.0, self.least_every(), MOST_FRESH)?;
        let (seen, most) = (self.every_seconds, Seconds(self.fresh_seconds.0 / 10 * 9));
        if seen > most {
            return Err(NormError::NeverRenewed { seen, most });
        }
        within("the number of challenges.classes", count(self.classes.len()), 1, count(MAX_CLASSES))?;
        for (class, asked) in &self.classes {
            let unfit = |source| NormError::Windows { class: class.clone(), source };
            asked.windows().validate().map_err(unfit)?;
            let (both, most) = (asked.compute.most.saturating_add(asked.recall.most), self.most_seconds);
            if u64::from(both) > u64::try_from(most.0).unwrap_or(0).saturating_mul(1000) {
                return Err(NormError::TooLong { class: class.clone(), both });
            }
        }
        Ok(())
    }

    /// The least `everySeconds` with which challenges take at most one part in [`SHARE_OF_TIME`] of a GPU's time: those who
    /// are drawn for a class measure it once in that time, and for a while beside those who were drawn before them.
    pub fn least_every(&self) -> i64 {
        let at_once = 2 * (i64::from(self.challengers) + i64::from(SPARE_CHALLENGERS));
        SHARE_OF_TIME.saturating_mul(at_once).saturating_mul(self.most_seconds.0)
    }

    /// What names these rules: a measurement counts under those rules only under which it was made.
    pub fn digest(&self) -> Digest {
        // Maps are sorted and there are no floats, so the same rules are the same bytes everywhere.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Challenges {
        Challenges {
            engine: "koinon-challenge".parse().unwrap(),
            model: ManifestDigest(Digest::of(b"nothing")),
            every_seconds: Seconds(36_000),
            challengers: 2,
            fresh_seconds: Seconds(86_400),
            most_seconds: Seconds(60),
            classes: [("h100-80".parse().unwrap(), class())].into(),
        }
    }

    fn class() -> ClassChallenge {
        let window = |least, most| Window { least, most };
        ClassChallenge {
            size: Size::new(134_144, 32_768).unwrap(),
            compute: window(20_000, 45_000),
            recall: window(200, 450),
        }
    }

    /// What is wrong with these rules once `change` was made.
    fn fault(change: impl FnOnce(&mut Challenges)) -> String {
        let mut changed = rules();
        change(&mut changed);
        changed.validate().unwrap_err().to_string()
    }

    fn of_class(change: impl Fn(&mut ClassChallenge)) -> String {
        fault(|rules| rules.classes.values_mut().for_each(&change))
    }

    #[test]
    fn challenges_take_one_part_in_a_hundred_of_a_gpu_s_time_at_most() {
        assert_eq!(rules().validate(), Ok(()));
        let told = fault(|rules| rules.every_seconds = Seconds(35_999));
        assert_eq!(told, "challenges.everySeconds is 35999: between 36000 and 86400 is allowed");
        // Two times three members a minute each in ten hours.
        assert_eq!(rules().least_every(), 100 * 6 * 60);
        fault(|rules| rules.challengers = 3);
        fault(|rules| rules.most_seconds = Seconds(61));
    }

    #[test]
    fn what_counts_for_a_time_can_be_measured_anew_in_that_time() {
        let told = fault(|rules| rules.fresh_seconds = Seconds(39_990));
        assert!(told.contains("at most 35991") && told.contains("freshSeconds"), "{told}");
        fault(|rules| rules.fresh_seconds = Seconds(86_401));
    }

    #[test]
    fn windows_leave_no_time_to_compute_again_and_end_before_the_challenge_does() {
        let told = of_class(|class| class.recall.most = 5001);
        assert!(told.starts_with("challenges.classes.h100-80: recalling may take up to 5001 ms"), "{told}");
        let told = of_class(|class| class.compute.most = 60_000);
        assert!(told.contains("60450 ms") && told.contains("mostSeconds to 61"), "{told}");
        assert!(fault(|rules| rules.classes.clear()).contains("challenges.classes is 0"));
        fault(|rules| rules.challengers = 0);
        fault(|rules| rules.challengers = 5);
    }

    #[test]
    fn rules_are_named_by_all_that_they_say() {
        let mut other = rules();
        assert_eq!(other.digest(), rules().digest());
        other.classes.values_mut().for_each(|class| class.compute.least += 1);
        assert_ne!(other.digest(), rules().digest());
    }
}
