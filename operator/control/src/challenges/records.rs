//! What this member measured, as it remembers and says it: the newest of each target, in as many numbered subjects as one
//! member may have. It outlives the process in a ConfigMap, or a restart would be a reason to measure everything anew.

use std::collections::{BTreeMap, VecDeque};

use k8s_openapi::api::core::v1::ConfigMap;
use koinon_core::belief::draw::{Last, Target};
use koinon_core::body::ChallengeReport;
use koinon_core::body::challenge_report::{MOST_REPORTS, Outcome};
use koinon_core::body::challenges::Challenges;
use koinon_core::ids::{Seconds, UnixSeconds};
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The ConfigMap in the release namespace.
pub const CONFIG_MAP: &str = "koinon-challenges";

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// What is said of it.
    pub report: ChallengeReport,
    /// Whether the host had granted it GPUs.
    pub granted: bool,
    /// The annotation by which a person asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
}

impl Record {
    /// What was measured.
    #[must_use]
    pub fn target(&self) -> Target {
        Target { host: self.report.host.clone(), class: self.report.class.clone() }
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> UnixSeconds {
        self.report.began.seconds()
    }

    /// For how long it still counts.
    #[must_use]
    pub fn left(&self, rules: &Challenges, now: UnixSeconds) -> Option<Seconds> {
        let ends = self.report.ended.seconds().plus(rules.fresh_seconds);
        Some(ends.since(now)).filter(|left| left.0 > 0 && self.report.rules == rules.digest())
    }
}

/// All of them, by the number of their subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    kept: BTreeMap<usize, Record>,
    /// Wishes of people that were not granted, the newest last. A new process tells them once more.
    refused: VecDeque<String>,
}

/// Wishes that are remembered: one for each member that there may be.
const MOST_REFUSED: usize = 100;

impl Records {
    /// As they were kept. What cannot be read is measured anew.
    #[must_use]
    pub fn read(map: &ConfigMap) -> Self {
        let data = map.data.iter().flatten();
        let read = data.filter_map(|(number, text)| {
            let number = number.parse().ok().filter(|number| *number < MOST_REPORTS)?;
            Some((number, serde_json::from_str(text).ok()?))
        });
        Self { kept: read.collect(), refused: VecDeque::new() }
    }

    /// As they are kept.
    #[must_use]
    pub fn written(&self) -> ConfigMap {
        let entry =
            |(number, record): (&usize, &Record)| Some((number.to_string(), serde_json::to_string(record).ok()?));
        ConfigMap {
            metadata: ObjectMeta { name: Some(CONFIG_MAP.to_owned()), ..ObjectMeta::default() },
            data: Some(self.kept.iter().filter_map(entry).collect()),
            ..ConfigMap::default()
        }
    }

    /// Keeps a measurement instead of the last one of its target, or of the one that is longest ago.
    pub fn note(&mut self, record: Record) {
        let same = self.kept.iter().find(|(_, other)| other.target() == record.target()).map(|(number, _)| *number);
        let free = || (0..MOST_REPORTS).find(|number| !self.kept.contains_key(number));
        let oldest = || self.kept.iter().min_by_key(|(_, other)| other.report.ended).map(|(number, _)| *number);
        let number = same.or_else(free).or_else(oldest).unwrap_or(0);
        self.kept.insert(number, record);
    }

    /// The last measurement of a target.
    #[must_use]
    pub fn of(&self, target: &Target) -> Option<&Record> {
        self.kept.values().find(|record| record.target() == *target)
    }

    /// What is to be remembered of it when the next one is planned.
    #[must_use]
    pub fn last(&self, target: &Target, rules: &Challenges) -> Option<Last> {
        let record = self.of(target)?;
        let shows = !matches!(record.report.outcome, Outcome::Unanswered { .. });
        // After a vote on other rules nothing counts that was measured before, and nothing could be placed that must be
        // Challenged until it is measured again; that once a vote of all spends more than the share of time that one does.
        let same = record.report.rules == rules.digest();
        Some(Last { at: record.began(), granted: record.granted && same, counts: shows && same })
    }

    /// Whether what a person asks for by this annotation was done, or refused.
    #[must_use]
    pub fn knows(&self, asked: &str) -> bool {
        let done = self.kept.values().any(|record| record.asked.as_deref() == Some(asked));
        done || self.refused.iter().any(|refused| refused == asked)
    }

    /// Remembers that it was refused.
    pub fn refuse(&mut self, asked: String) {
        self.refused.push_back(asked);
        if self.refused.len() > MOST_REFUSED {
            self.refused.pop_front();
        }
    }

    /// All of them, by the number of their subject.
    pub fn all(&self) -> impl Iterator<Item = (usize, &Record)> {
        self.kept.iter().map(|(number, record)| (*number, record))
    }
}

#[cfg(test)]
mod tests {
    use koinon_core::ids::{Digest, UnixMicros};

    use super::*;

    fn record(host: &str, at: i64) -> Record {
        let report = ChallengeReport {
            host: host.parse().unwrap(),
            class: "h100-80".parse().unwrap(),
            rules: Digest::of(b"rules"),
            devices: 8,
            began: UnixMicros(at * 1_000_000),
            ended: UnixMicros((at + 30) * 1_000_000),
            outcome: Outcome::Unanswered { why: "it is full".to_owned() },
        };
        Record { report, granted: false, asked: None }
    }

    #[test]
    fn each_target_has_one_subject_and_the_oldest_gives_way() {
        let mut records = Records::default();
        for at in 0..MOST_REPORTS {
            records.note(record(&format!("host-{at}"), 1000 + i64::try_from(at).unwrap()));
        }
        records.note(record("host-3", 2000));
        assert_eq!(records.all().find(|(_, record)| record.began().0 == 2000).map(|(number, _)| number), Some(3));
        records.note(record("newcomer", 3000));
        assert_eq!(records.all().find(|(_, record)| record.began().0 == 3000).map(|(number, _)| number), Some(0));
        assert_eq!(records.all().count(), MOST_REPORTS);
    }

    #[test]
    fn what_is_remembered_survives_the_process_and_what_cannot_be_read_is_forgotten() {
        let mut records = Records::default();
        records.note(record("bilbao", 1000));
        records.note(record("cork", 2000));
        let mut kept = records.written();
        assert_eq!(Records::read(&kept), records);
        let data = kept.data.as_mut().unwrap();
        data.insert("0".to_owned(), "{".to_owned());
        data.insert("99".to_owned(), data["1"].clone());
        assert_eq!(Records::read(&kept).all().count(), 1);
    }
}
