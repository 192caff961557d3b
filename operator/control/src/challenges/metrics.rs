//! Metrics of challenges.

use std::collections::BTreeMap;
use std::time::Duration;

use koinon_core::belief::Finding;
use koinon_core::body::latest::EvidenceLevel;
use koinon_core::ids::MemberId;
use koinon_telemetry::Registrar;
use prometheus::{Histogram, IntCounterVec, IntGaugeVec};

/// What challenges show on `/metrics`.
#[derive(Clone, Debug)]
pub struct ChallengeMetrics {
    made: IntCounterVec,
    held: Histogram,
    refuted: IntCounterVec,
    failing: IntGaugeVec,
    levels: IntGaugeVec,
}

/// What became of another member's transcript.
const CHECKS: [&str; 2] = ["holds", "refuted"];

impl ChallengeMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn register(new: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            made: new.counters(
                "koinon_challenges_total",
                "Challenges that this member made of others' GPUs, by what they show.",
                &["result"],
            )?,
            held: new.histogram(
                "koinon_challenge_held_seconds",
                "For how long a challenge held GPUs of another member.",
                vec![1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0],
            )?,
            refuted: new.counters(
                "koinon_challenge_checks_total",
                "Transcripts of other members' challenges that were checked here, by outcome.",
                &["outcome"],
            )?,
            failing: new.gauges(
                "koinon_member_challenge_failing_classes",
                "GPU classes of a member that fail the challenges of as many members as the vote asks for.",
                &["member"],
            )?,
            levels: new.gauges(
                "koinon_offered_classes",
                "GPU classes that members offer, by how far this member believes them.",
                &["level"],
            )?,
        };
        for result in Finding::NAMES {
            metrics.made.with_label_values(&[result]).inc_by(0);
        }
        for outcome in CHECKS {
            metrics.refuted.with_label_values(&[outcome]).inc_by(0);
        }
        metrics.believed(&BTreeMap::new(), &BTreeMap::new());
        Ok(metrics)
    }

    /// One more challenge, and for how long it held GPUs.
    pub fn made(&self, result: &'static str, held: Option<Duration>) {
        self.made.with_label_values(&[result]).inc();
        if let Some(held) = held {
            self.held.observe(held.as_secs_f64());
        }
    }

    /// One more transcript was checked.
    pub fn checked(&self, holds: bool) {
        self.refuted.with_label_values(&[CHECKS[usize::from(!holds)]]).inc();
    }

    /// How far all offered classes are believed, and which members' fail.
    pub fn believed(&self, levels: &BTreeMap<EvidenceLevel, i64>, failing: &BTreeMap<MemberId, i64>) {
        for level in EvidenceLevel::ALL {
            self.levels.with_label_values(&[level.as_str()]).set(levels.get(level).copied().unwrap_or(0));
        }
        self.failing.reset();
        for (member, classes) in failing {
            self.failing.with_label_values(&[member.as_str()]).set(*classes);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn what_was_not_seen_yet_is_zero_and_a_member_that_no_longer_fails_goes() {
        let registry = Registry::new();
        let metrics = ChallengeMetrics::register(&Registrar::new(&registry)).unwrap();
        metrics.made("Fits", Some(Duration::from_secs(12)));
        metrics.checked(false);
        let count =
            |name: &str| registry.gather().iter().find(|f| f.name() == name).map_or(0, |f| f.get_metric().len());
        assert_eq!((count("koinon_challenges_total"), count("koinon_offered_classes")), (5, 4));
        metrics.believed(&BTreeMap::new(), &BTreeMap::from([("cork".parse().unwrap(), 1)]));
        assert_eq!(count("koinon_member_challenge_failing_classes"), 1);
        metrics.believed(&BTreeMap::new(), &BTreeMap::new());
        assert_eq!(count("koinon_member_challenge_failing_classes"), 0);
    }
}
