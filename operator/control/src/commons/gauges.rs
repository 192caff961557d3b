//! The commons in figures.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::ids::{MemberId, UnixSeconds};
use koinon_core::policy::Phase;
use koinon_net::metrics::{NetMetrics, NetSnapshot};

use super::view::CommonsView;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::peers::{Liveness, PeersSnapshot};

/// The names of all phases, so that a state without proposals shows as zero.
const PHASES: [&str; 12] = [
    "Invalid",
    "Pending",
    "Open",
    "Closing",
    "Queued",
    "Enacted",
    "Rejected",
    "QuorumNotMet",
    "Vetoed",
    "Stale",
    "Superseded",
    "Expired",
];

/// Keeps the metrics in step, and takes out members that are gone.
#[derive(Debug)]
pub struct Gauges {
    metrics: Metrics,
    shown: BTreeSet<MemberId>,
    forked: BTreeSet<MemberId>,
    /// What the endpoint had counted when it was last looked at; another endpoint begins at zero again.
    counted: NetSnapshot,
}

impl Gauges {
    /// Figures that show nothing yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Gauges { metrics, shown: BTreeSet::new(), forked: BTreeSet::new(), counted: NetSnapshot::default() }
    }

    /// Shows what is known now.
    pub fn show(&mut self, view: &CommonsView, peers: &PeersSnapshot, net: &NetMetrics, clock: &dyn Clock) {
        let snapshot = net.snapshot();
        let up: BTreeMap<MemberId, bool> = view
            .state
            .members()
            .values()
            .map(|member| {
                let peer = snapshot.peers.get(&member.member.keys.operator);
                (member.member.id.clone(), peer.is_some_and(|peer| peer.up))
            })
            .collect();
        let present: BTreeSet<MemberId> = view.logs.keys().chain(peers.members.keys()).cloned().collect();
        for gone in self.shown.difference(&present).cloned().collect::<Vec<_>>() {
            self.remove(&gone);
        }
        for (member, log) in view.logs.iter() {
            let label = &[member.as_str()];
            self.metrics.log_bytes.with_label_values(label).set(whole(log.bytes as u64));
            self.metrics.log_gaps.with_label_values(label).set(whole(log.missing));
            let forks = self.metrics.forks.with_label_values(label);
            if log.forked_at.is_some() && self.forked.insert(member.clone()) {
                forks.inc();
            }
        }
        for (member, peer) in &peers.members {
            self.show_peer(member, peer, up.get(member).copied().unwrap_or(false), clock);
        }
        self.show_proposals(view, clock.unix());
        self.count(snapshot);
        self.shown = present;
    }

    fn count(&mut self, now: NetSnapshot) {
        let before = std::mem::replace(&mut self.counted, now);
        let (now, metrics) = (&self.counted, &self.metrics);
        let grown = |now: u64, before: u64| if now >= before { now - before } else { now };
        for (reason, count) in &now.handshake_failures {
            let known = before.handshake_failures.get(reason).copied().unwrap_or(0);
            metrics.peer_handshake_failures.with_label_values(&[*reason]).inc_by(grown(*count, known));
        }
        for (limit, count) in &now.limits {
            let known = before.limits.get(limit).copied().unwrap_or(0);
            metrics.peer_limits.with_label_values(&[*limit]).inc_by(grown(*count, known));
        }
        metrics.peer_requests.inc_by(grown(now.requests, before.requests));
    }

    fn show_peer(&self, member: &MemberId, peer: &crate::peers::PeerView, up: bool, clock: &dyn Clock) {
        let (metrics, label) = (&self.metrics, &[member.as_str()]);
        for liveness in Liveness::ALL {
            let value = i64::from(liveness == peer.liveness);
            metrics.member_state.with_label_values(&[member.as_str(), liveness.as_str()]).set(value);
        }
        if let Some(offer) = &peer.offer {
            let age = clock.monotonic().saturating_sub(offer.heard_at).as_secs_f64();
            metrics.offer_age.with_label_values(label).set(age);
        }
        if peer.liveness == Liveness::Own {
            return;
        }
        metrics.peer_up.with_label_values(label).set(i64::from(up));
        if let Some(seen) = peer.last_heard_unix {
            // Metrics are floats by nature; nothing is decided by them.
            metrics.peer_last_seen.with_label_values(label).set(seen.0 as f64);
        }
        if let Some(offset) = peer.clock_offset_micros {
            metrics.clock_offset.with_label_values(label).set(offset as f64 / 1e6);
        }
    }

    fn show_proposals(&self, view: &CommonsView, now: UnixSeconds) {
        let mut counts: BTreeMap<&str, i64> = PHASES.into_iter().map(|phase| (phase, 0)).collect();
        for proposal in view.state.proposals().values() {
            let phase: Phase = view.state.phase(proposal, now);
            *counts.entry(phase.name()).or_default() += 1;
        }
        for (phase, count) in counts {
            self.metrics.proposals.with_label_values(&[phase]).set(count);
        }
    }

    fn remove(&self, member: &MemberId) {
        let (metrics, label) = (&self.metrics, &[member.as_str()]);
        // One that was never shown is not there to be removed.
        let _ = metrics.peer_up.remove_label_values(label);
        let _ = metrics.peer_last_seen.remove_label_values(label);
        let _ = metrics.log_bytes.remove_label_values(label);
        let _ = metrics.log_gaps.remove_label_values(label);
        let _ = metrics.clock_offset.remove_label_values(label);
        let _ = metrics.offer_age.remove_label_values(label);
        for liveness in Liveness::ALL {
            let _ = metrics.member_state.remove_label_values(&[member.as_str(), liveness.as_str()]);
        }
    }

    /// Takes everything out, when this replica no longer leads.
    pub fn clear(&mut self) {
        for member in std::mem::take(&mut self.shown) {
            self.remove(&member);
        }
        self.metrics.proposals.reset();
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
