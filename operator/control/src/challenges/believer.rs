//! Keeps [`Beliefs`] up to date: checks what others show, and counts what holds.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use koinon_core::body::ChallengeReport;
use koinon_core::body::challenge_report::Outcome;
use koinon_core::body::latest::EvidenceLevel;
use koinon_core::challenge::Transcript;
use koinon_core::ids::MemberId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::beliefs::Beliefs;
use super::checker::{self, Checked, Fingerprint};
use super::metrics::ChallengeMetrics;
use crate::context::{Context, CooperativeView};
use crate::peers::PeersSnapshot;

/// Ages change without an event.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The keeper.
#[derive(Debug)]
pub struct Believer {
    ctx: Context,
    own: watch::Receiver<Arc<Vec<ChallengeReport>>>,
    metrics: ChallengeMetrics,
    checked: Checked,
    /// When each author had its last turn, as a count of turns: who shows something new all the time must not keep the others
    /// from being checked.
    turns: BTreeMap<MemberId, u64>,
    /// Chooses the rows that this member computes again. Nobody else knows it.
    choice: [u8; 32],
}

impl Believer {
    /// A keeper that adds what this member measured itself. `choice` is random and kept to itself.
    #[must_use]
    pub fn new(
        ctx: Context,
        own: watch::Receiver<Arc<Vec<ChallengeReport>>>,
        metrics: ChallengeMetrics,
        choice: [u8; 32],
    ) -> Self {
        Self { ctx, own, metrics, checked: Checked::default(), turns: BTreeMap::new(), choice }
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// Never.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut peers = self.ctx.peers.clone();
        loop {
            let rest = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                rest = self.look() => rest,
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // Only what it still has to do may be put off: what changed is counted soon.
                () = tokio::time::sleep(rest) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = peers.changed() => {}
                Ok(()) = self.own.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Counts what is known, and checks one more transcript. Says for how long it has to rest.
    async fn look(&mut self) -> Duration {
        let Some(view) = self.ctx.cooperative.borrow().clone() else { return Duration::ZERO };
        let peers = self.ctx.peers.borrow().clone();
        let shown = shown(&view, &peers);
        self.checked.retain(&shown.keys().cloned().collect::<BTreeSet<_>>());
        self.count(&view, &peers);
        self.turns.retain(|author, _| peers.members.contains_key(author));
        let new = shown.into_iter().filter(|(which, _)| self.checked.is_new(which));
        let next = new.min_by_key(|(_, (author, _))| self.turns.get(author).copied().unwrap_or(0));
        let Some((which, (author, transcript))) = next else { return Duration::ZERO };
        let turn = self.turns.values().max().copied().unwrap_or(0) + 1;
        self.turns.insert(author.clone(), turn);
        let looked = checker::look(*transcript, view.coop, self.choice).await;
        if let Some(fault) = &looked.fault {
            tracing::warn!(%author, fault, "a challenge that this member shows does not hold; it counts for nothing");
        }
        self.checked.note(which, looked.fault.is_none());
        self.metrics.checked(looked.fault.is_none());
        self.count(&view, &peers);
        looked.rest
    }

    fn count(&self, view: &CooperativeView, peers: &PeersSnapshot) {
        let beliefs = Beliefs::of_peers(&view.me, &view.state, peers, &self.own.borrow(), &self.checked);
        let now = self.ctx.clock.micros();
        let (mut levels, mut failing) = (BTreeMap::new(), BTreeMap::new());
        for (host, peer) in &peers.members {
            for class in peer.offer.iter().flat_map(|offer| &offer.body.classes) {
                let belief = beliefs.of(host, &class.class, class.evidence, now);
                *levels.entry(belief.level).or_insert(0) += 1;
                if belief.level == EvidenceLevel::Claimed && !belief.failing.is_empty() {
                    *failing.entry(host.clone()).or_insert(0) += 1;
                }
            }
        }
        self.metrics.believed(&levels, &failing);
        self.ctx.beliefs.send_if_modified(|held| {
            let news = **held != beliefs;
            if news {
                *held = Arc::new(beliefs);
            }
            news
        });
    }
}

/// The transcripts that count if they hold: of the rules in force, and of nobody's own.
fn shown(view: &CooperativeView, peers: &PeersSnapshot) -> BTreeMap<Fingerprint, (MemberId, Box<Transcript>)> {
    let Some(rules) = &view.state.norms().placement.challenges else { return BTreeMap::new() };
    let others = peers.members.iter().filter(|(author, _)| **author != view.me);
    let reports = others.flat_map(|(author, peer)| peer.challenges.values().map(move |heard| (author, &heard.body)));
    reports
        .filter(|(author, report)| report.shows(author, rules).is_some())
        .filter_map(|(author, report)| match &report.outcome {
            Outcome::Answered(transcript) => {
                Some((Fingerprint::of(author, transcript), (author.clone(), transcript.clone())))
            }
            Outcome::Refuted { .. } | Outcome::Unanswered { .. } => None,
        })
        .collect()
}
