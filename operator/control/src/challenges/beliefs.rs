//! What was measured of each class of each host, as this member may count it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use koinon_core::belief::draw::Target;
use koinon_core::belief::{Belief, Finding, Measured, Subject, believe};
use koinon_core::body::ChallengeReport;
use koinon_core::body::challenge_report::Outcome;
use koinon_core::body::challenges::Challenges;
use koinon_core::body::latest::EvidenceLevel;
use koinon_core::ids::{ControlGroup, GpuClass, MemberId, UnixMicros};
use koinon_core::policy::State;

use super::checker::{Checked, Fingerprint};
use crate::peers::PeersSnapshot;

/// A measurement, and how to say it to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The measurement.
    pub measured: Measured,
    /// Its numbers, or why it has none.
    pub message: String,
}

/// Everything that is believed of the others' figures. By default nobody measured anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beliefs {
    /// This member; `None` while this cluster belongs to no cooperative.
    me: Option<MemberId>,
    rules: Option<Arc<Challenges>>,
    groups: BTreeMap<MemberId, ControlGroup>,
    entries: BTreeMap<Target, Vec<Entry>>,
}

impl Beliefs {
    /// From what members say now. `own` is what this member measured itself; of the others only transcripts count that
    /// `checked` found right.
    #[must_use]
    pub fn of_peers(
        me: &MemberId,
        state: &State,
        peers: &PeersSnapshot,
        own: &[ChallengeReport],
        checked: &Checked,
    ) -> Self {
        let rules = state.norms().placement.challenges.clone().map(Arc::new);
        let there = state.members().iter().filter(|(_, member)| !member.standing.is_gone());
        let groups = there.map(|(id, member)| (id.clone(), member.member.control_group.clone())).collect();
        let mut beliefs = Self { me: Some(me.clone()), rules, groups, entries: BTreeMap::new() };
        beliefs.count(me, peers, own, checked);
        beliefs
    }

    fn count(&mut self, me: &MemberId, peers: &PeersSnapshot, own: &[ChallengeReport], checked: &Checked) {
        own.iter().for_each(|report| self.add(me, report, 0));
        for (author, peer) in peers.members.iter().filter(|(author, _)| *author != me) {
            // Ages are by its author's clock, which is as far from ours as its last beacon showed.
            let offset = peer.clock_offset_micros.unwrap_or(0);
            for heard in peer.challenges.values() {
                let holds = match &heard.body.outcome {
                    Outcome::Answered(transcript) => checked.holds(&Fingerprint::of(author, transcript)),
                    Outcome::Refuted { .. } | Outcome::Unanswered { .. } => true,
                };
                if holds {
                    self.add(author, &heard.body, offset);
                }
            }
        }
    }

    fn add(&mut self, author: &MemberId, report: &ChallengeReport, offset: i64) {
        let (Some(rules), Some(group)) = (&self.rules, self.groups.get(author)) else { return };
        let Some(finding) = report.shows(author, rules) else { return };
        let ours = |at: UnixMicros| UnixMicros(at.0.saturating_sub(offset));
        let (began, ended) = (ours(report.began), ours(report.ended));
        let measured =
            Measured { by: author.clone(), group: group.clone(), finding, devices: report.devices, began, ended };
        let message = match (&report.outcome, finding.timing()) {
            (Outcome::Refuted { why } | Outcome::Unanswered { why }, _) => line(why),
            (Outcome::Answered(_), Some(timing)) => {
                format!("computed in {} ms, recalled in {} ms", timing.compute_millis, timing.recall_millis)
            }
            (Outcome::Answered(_), None) => String::new(),
        };
        let target = Target { host: report.host.clone(), class: report.class.clone() };
        let of_target = self.entries.entry(target).or_default();
        // One author's newest of a target counts, in however many subjects it says it.
        match of_target.iter_mut().find(|entry| entry.measured.by == *author) {
            Some(entry) if entry.measured.ended < ended => *entry = Entry { measured, message },
            Some(_) => {}
            None => of_target.push(Entry { measured, message }),
        }
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Option<&Arc<Challenges>> {
        self.rules.as_ref()
    }

    /// How far the figures of `host` for `class` are believed, of which it says `said` itself.
    #[must_use]
    pub fn of(&self, host: &MemberId, class: &GpuClass, said: EvidenceLevel, now: UnixMicros) -> Belief {
        let (Some(rules), Some(viewer), Some(group)) = (&self.rules, &self.me, self.groups.get(host)) else {
            return Belief::unmeasured(said);
        };
        let measured: Vec<Measured> = self.entries(host, class).map(|entry| entry.measured.clone()).collect();
        believe(Subject { host, group, said, viewer, now }, rules, &measured)
    }

    /// What was measured of `host`'s `class`.
    pub fn entries(&self, host: &MemberId, class: &GpuClass) -> impl Iterator<Item = &Entry> {
        let target = Target { host: host.clone(), class: class.clone() };
        self.entries.get(&target).into_iter().flatten()
    }

    /// Whether members are to challenge `class`.
    #[must_use]
    pub fn asks(&self, class: &GpuClass) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.classes.contains_key(class))
    }

    /// What members found of `host`'s `class` that counts at `now`.
    #[must_use]
    pub fn failing(&self, host: &MemberId, class: &GpuClass, now: UnixMicros) -> BTreeMap<MemberId, Finding> {
        self.of(host, class, EvidenceLevel::SchedulerConsistent, now).failing
    }
}

/// Foreign words on one short line.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect()
}

#[cfg(test)]
#[path = "beliefs_tests.rs"]
mod tests;
