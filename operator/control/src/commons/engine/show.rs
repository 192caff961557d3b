//! What the engine shows: verdicts on what people applied, the commons, who is heard.

use std::collections::BTreeMap;
use std::sync::Arc;

use koinon_api::conditions::Reason;
use koinon_core::ids::{MemberId, PublicKey};

use super::super::candidate::{Candidate, Refusal, Source};
use super::super::people::{self, Verdict};
use super::super::view::{CommonsView, LogFacts, Signing};
use super::{Engine, Signed, signed};
use crate::peers::PeersSnapshot;

impl Engine {
    /// The verdict on a candidate that is known to be anchored.
    pub(super) fn settled(&self, candidate: &Candidate) -> Option<&Verdict> {
        let statement = candidate.statement.as_ref().ok()?;
        let (known, verdict) = self.settled.get(&candidate.source)?;
        (*known == signed(statement)).then_some(verdict)
    }

    /// Says of everything that people applied where it stands.
    pub(super) fn judge_people(&mut self) {
        let (me, log, now) = (&self.parts.author.me, self.parts.author.log(), self.parts.author.clock.unix());
        let waits = |signing: &Signing| match signing {
            Signing::Yes => Verdict::Waiting(Refusal::new(Reason::AwaitingAnchor, "the operator anchors it next")),
            Signing::No(why) => Verdict::Waiting(Refusal::new(
                Reason::AwaitingAnchor,
                format!("the operator does not sign at present: {}", why.message),
            )),
        };
        let signing = match (&self.over_budget, &self.trouble) {
            (Some(message), _) | (None, Some(message)) => Signing::no(Reason::AwaitingAnchor, message.clone()),
            (None, None) => Signing::Yes,
        };
        let judged: Vec<(Source, Option<Signed>, Option<Verdict>)> = self.parts.shelf.read(|commons| {
            let judge = |candidate: &Candidate| {
                let known = self.settled(candidate).cloned();
                let verdict = known.or_else(|| people::judge(candidate, commons, me, &log, now));
                (candidate.source.clone(), candidate.statement.as_ref().ok().map(signed), verdict)
            };
            self.people.iter().map(judge).collect()
        });
        let anchored = judged.iter().filter_map(|(source, signed, verdict)| match (signed, verdict) {
            (Some(signed), Some(verdict @ Verdict::Anchored { .. })) => {
                Some((source.clone(), (*signed, verdict.clone())))
            }
            _ => None,
        });
        self.settled = anchored.collect();
        let gate = self.signing();
        let signing = if gate == Signing::Yes { signing } else { gate };
        let verdicts: BTreeMap<Source, Verdict> = judged
            .into_iter()
            .map(|(source, _, verdict)| (source, verdict.unwrap_or_else(|| waits(&signing))))
            .collect();
        if *self.verdicts != verdicts {
            self.verdicts = Arc::new(verdicts);
        }
    }

    /// What is heard now.
    pub fn peers(&mut self) -> PeersSnapshot {
        self.hearing.snapshot(self.parts.publisher.own_offer())
    }

    /// Everything that others act on.
    pub fn view(&mut self) -> CommonsView {
        let (standing, signing, in_tolerance) = (self.standing(), self.signing(), self.clock_in_tolerance());
        let signing = match (&self.over_budget, signing) {
            (Some(message), Signing::Yes) => Signing::no(Reason::OverBudget, message.clone()),
            (_, signing) => signing,
        };
        self.parts.shelf.read(|commons| CommonsView {
            me: self.parts.author.me.clone(),
            coop: commons.replica().coop(),
            charter: self.charter.clone(),
            state: commons.state().clone(),
            standing,
            signing,
            verdicts: self.verdicts.clone(),
            logs: Arc::new(self.logs(commons)),
            store_trouble: self.trouble.clone(),
            clock_in_tolerance: in_tolerance,
            resumed: self.resumed,
            late: self.arrivals.late().clone(),
        })
    }

    fn logs(&self, commons: &koinon_core::policy::Commons) -> BTreeMap<MemberId, LogFacts> {
        let replica = commons.replica();
        let mut missing: BTreeMap<PublicKey, u64> = BTreeMap::new();
        for heads in self.heads.values() {
            for range in replica.wants(heads) {
                let count = range.to.0.saturating_sub(range.from.0).saturating_add(1);
                let known = missing.entry(range.log).or_default();
                *known = (*known).max(count);
            }
        }
        let facts = replica.logs().map(|(log, owner)| {
            let facts = LogFacts {
                bytes: replica.stored_bytes(log),
                entries: replica.next_seq(log).0,
                missing: missing.get(log).copied().unwrap_or(0),
                capped: replica.capped(log),
                forked_at: replica.fork(log).map(|fork| fork.seq),
            };
            (owner.clone(), facts)
        });
        facts.collect()
    }
}
