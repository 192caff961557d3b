//! What one member measured of another's GPUs: a Latest statement to everybody, with an open body.
//!
//! A member says so in one of a few numbered subjects, each the newest of one host's class, so that readers keep no more of it
//! than those. That it is signed shows who says it, and nothing else: the answer is checked by each reader, and the times and
//! the failures are its author's word.

use serde::{Deserialize, Serialize};

use crate::belief::Finding;
use crate::body::challenges::Challenges;
use crate::challenge::Transcript;
use crate::ids::{Digest, GpuClass, MemberId, UnixMicros};

/// Most subjects in which one member says what it measured.
pub const MOST_REPORTS: usize = 10;

/// What came of a challenge, as its author says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// An answer came whose rows its author found right. Whether the times fit the class is for each reader to say.
    Answered(Box<Transcript>),
    /// An answer came that is not right.
    Refuted {
        /// What is wrong with it, for people.
        why: String,
    },
    /// No answer came, for whatever reason: that proves nothing.
    Unanswered {
        /// Why, for people.
        why: String,
    },
}

/// One member's newest measurement of a host's class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChallengeReport {
    /// Whose GPUs.
    pub host: MemberId,
    /// Of which class.
    pub class: GpuClass,
    /// The digest of the rules by which it was made: see [`Challenges::digest`].
    pub rules: Digest,
    /// How many GPUs were asked at once.
    pub devices: u8,
    /// When it began, by the author's clock.
    pub began: UnixMicros,
    /// When it ended, by the author's clock.
    pub ended: UnixMicros,
    /// What came of it.
    pub outcome: Outcome,
}

impl ChallengeReport {
    /// What it shows by `rules`, were its transcript right; `None` where it was made by other rules, or by `author` it cannot
    /// have been made.
    #[must_use]
    pub fn shows(&self, author: &MemberId, rules: &Challenges) -> Option<Finding> {
        let asked = rules.classes.get(&self.class).filter(|_| self.rules == rules.digest())?;
        match &self.outcome {
            Outcome::Refuted { .. } => Some(Finding::Refuted),
            Outcome::Unanswered { .. } => Some(Finding::Nothing),
            Outcome::Answered(transcript) => {
                let occasion = &transcript.occasion;
                let is_this = (&occasion.challenger, &occasion.host, &occasion.class)
                    == (author, &self.host, &self.class)
                    && transcript.size == asked.size
                    && transcript.devices.len() == usize::from(self.devices);
                is_this.then(|| Finding::of(transcript.timing, asked))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::challenges::ClassChallenge;
    use crate::challenge::{Answer, Nonce, Occasion, Secret, Size, Timing, Window};
    use crate::ids::{CoopId, ManifestDigest, Seconds, StatementId};

    fn rules() -> Challenges {
        let window = |least, most| Window { least, most };
        let size = Size::new(128, 64).unwrap();
        let asked = ClassChallenge { size, compute: window(2000, 4000), recall: window(200, 450) };
        Challenges {
            engine: "koinon-challenge".parse().unwrap(),
            model: ManifestDigest(Digest::of(b"nothing")),
            every_seconds: Seconds(36_000),
            challengers: 2,
            fresh_seconds: Seconds(86_400),
            most_seconds: Seconds(60),
            classes: [("h100-80".parse().unwrap(), asked)].into(),
        }
    }

    fn transcript() -> Transcript {
        let occasion = Occasion {
            coop: CoopId(Digest::of(b"coop")),
            challenger: "aarhus".parse().unwrap(),
            host: "porto".parse().unwrap(),
            class: "h100-80".parse().unwrap(),
            after: StatementId(Digest::of(b"entry")),
            nonce: Nonce([1; 32]),
        };
        let devices = vec![Answer { root: "01".repeat(16).parse().unwrap(), paths: vec![] }; 8];
        let timing = Timing { compute_millis: 3000, recall_millis: 300 };
        Transcript { occasion, size: Size::new(128, 64).unwrap(), secret: Secret([2; 32]), timing, devices }
    }

    fn report(outcome: Outcome) -> ChallengeReport {
        ChallengeReport {
            host: "porto".parse().unwrap(),
            class: "h100-80".parse().unwrap(),
            rules: rules().digest(),
            devices: 8,
            began: UnixMicros(1),
            ended: UnixMicros(2),
            outcome,
        }
    }

    fn shown(report: &ChallengeReport, by: &str) -> Option<&'static str> {
        report.shows(&by.parse().unwrap(), &rules()).map(Finding::name)
    }

    #[test]
    fn a_report_is_about_its_own_challenge_or_about_nothing() {
        let good = report(Outcome::Answered(Box::new(transcript())));
        assert_eq!((shown(&good, "aarhus"), shown(&good, "bilbao")), (Some("Fits"), None), "another's is none");
        let of = |change: fn(&mut Transcript)| {
            let mut other = transcript();
            change(&mut other);
            shown(&report(Outcome::Answered(Box::new(other))), "aarhus")
        };
        assert_eq!(of(|t| t.timing.recall_millis = 451), Some("TooSlow"));
        assert_eq!(of(|t| t.occasion.host = "cork".parse().unwrap()), None);
        assert_eq!(of(|t| t.occasion.class = "a100-40".parse().unwrap()), None);
        assert_eq!(of(|t| t.size = Size::new(128, 128).unwrap()), None, "less work than was voted");
        assert_eq!(of(|t| t.devices.truncate(7)), None);
        assert_eq!(shown(&ChallengeReport { rules: Digest::of(b"other rules"), ..good }, "aarhus"), None);
        let why = || "the reason".to_owned();
        assert_eq!(shown(&report(Outcome::Refuted { why: why() }), "aarhus"), Some("Refuted"));
        assert_eq!(shown(&report(Outcome::Unanswered { why: why() }), "aarhus"), Some("Nothing"));
    }

    #[test]
    fn a_report_is_read_as_it_was_written_and_a_later_version_may_say_more() {
        for outcome in [Outcome::Answered(Box::new(transcript())), Outcome::Unanswered { why: "it is full".to_owned() }]
        {
            let report = report(outcome);
            let mut said = serde_json::to_value(&report).unwrap();
            said["weather"] = "fine".into();
            assert_eq!(serde_json::from_value::<ChallengeReport>(said).unwrap(), report);
        }
    }
}
