//! Figures of decisions: who takes part, who seals, what proves a lie, and in how few hands things are.

use std::collections::BTreeMap;

use koinon_api::conditions::Reason;
use koinon_core::body::Stop;
use koinon_core::concentration::Concentration;
use koinon_core::ids::{ControlGroup, MemberId, UnixSeconds};
use koinon_core::policy::{Fault, Halted, MemberStanding, ProposalState, State};

use super::{Gauges, whole};
use crate::commons::view::CommonsView;
use crate::peers::PeersSnapshot;

/// What can be proved against a member, so that what was not shows as zero.
const EVIDENCE: [&str; 3] = ["fork", "two_close_seals", "two_enact_seals"];

/// What a member can be to others that would work with it.
const WORK: [Reason; 7] = [
    Reason::Active,
    Reason::OnProbation,
    Reason::Dormant,
    Reason::Leaving,
    Reason::Suspended,
    Reason::KeyBlocked,
    Reason::Quarantined,
];

/// What an order can stop.
const STOPS: [&str; 3] = ["member", "release", "key"];

fn works(standing: MemberStanding, halted: Option<Halted>) -> Reason {
    match (halted, standing) {
        (Some(halted), _) => halted.into(),
        (None, MemberStanding::Probationary) => Reason::OnProbation,
        (None, MemberStanding::Dormant) => Reason::Dormant,
        (None, _) => Reason::Active,
    }
}

impl Gauges {
    /// Shows what was decided, by how many, and what of it holds at `now`.
    pub(super) fn show_governance(&self, view: &CommonsView, peers: &PeersSnapshot, now: UnixSeconds) {
        self.show_work(&view.state, now);
        let metrics = &self.metrics;
        metrics.isolated.set(i64::from(peers.isolated));
        if let Some(turnout) = last_turnout(&view.state) {
            metrics.turnout.set(turnout);
        }
        for (member, at) in last_seals(&view.state) {
            if view.state.member(member).is_some_and(|member| !member.standing.is_gone()) {
                // Metrics are floats by nature; nothing is decided by them.
                metrics.last_seal.with_label_values(&[member.as_str()]).set(at.0 as f64);
            }
        }
        for (kind, count) in evidence(&view.state) {
            metrics.evidence.with_label_values(&[kind]).set(count);
        }
        for (what, concentration) in [("members", seats(&view.state)), ("offered_gpus", offered(&view.state, peers))] {
            let Concentration { nakamoto_third, nakamoto_half, hhi, gini } = concentration;
            for (part, owners) in [("third", nakamoto_third), ("half", nakamoto_half)] {
                metrics.nakamoto.with_label_values(&[what, part]).set(owners.into());
            }
            for (measure, thousandths) in [("hhi", hhi), ("gini", gini)] {
                metrics.concentration.with_label_values(&[what, measure]).set(thousandths.into());
            }
        }
    }

    /// Shows who may work, and what stops the others.
    fn show_work(&self, state: &State, now: UnixSeconds) {
        let metrics = &self.metrics;
        for (id, member) in state.members() {
            let holds = works(member.standing, state.halted(id, now));
            for state in WORK {
                let labels = [id.as_str(), state.as_str()];
                if member.standing.is_gone() {
                    // Whoever is gone has no figure any more, and most never had one here.
                    let _ = metrics.member_work.remove_label_values(&labels);
                } else {
                    metrics.member_work.with_label_values(&labels).set(i64::from(state == holds));
                }
            }
        }
        let mut orders: BTreeMap<&str, i64> = STOPS.map(|stops| (stops, 0)).into();
        for order in state.emergencies().values().filter(|order| order.holds(now)) {
            let stops = match order.stop {
                Stop::Member(_) => "member",
                Stop::Release(_) => "release",
                Stop::Key(_) => "key",
            };
            *orders.entry(stops).or_default() += 1;
        }
        for (stops, count) in orders {
            metrics.orders.with_label_values(&[stops]).set(count);
        }
    }

    pub(super) fn clear_governance(&self) {
        let metrics = &self.metrics;
        metrics.member_work.reset();
        metrics.orders.reset();
        metrics.isolated.set(0);
        metrics.last_seal.reset();
        metrics.evidence.reset();
        metrics.nakamoto.reset();
        metrics.concentration.reset();
    }
}

/// How many of its electors took part in what was decided last, in thousandths.
fn last_turnout(state: &State) -> Option<i64> {
    let decided = |proposal: &&ProposalState| Some((proposal.certificates.first()?.closed_at, proposal.id));
    let counted = state.proposals().values().filter(|p| !p.certificates.is_empty() && !p.lacks_its_box());
    let last = counted.max_by_key(decided)?;
    let tally = last.ballot.tally;
    let part = u64::from(tally.counts.turnout()) * 1000;
    part.checked_div(tally.electors.into()).map(whole)
}

/// When each member last sealed anything.
fn last_seals(state: &State) -> BTreeMap<&MemberId, UnixSeconds> {
    let offers = state.box_offers().iter().map(|s| (&s.by, s.at));
    let closes = state.close_seals().iter().map(|s| (&s.by, s.at));
    let enacts = state.enact_seals().iter().map(|s| (&s.by, s.at));
    let mut last = BTreeMap::new();
    for (member, at) in offers.chain(closes).chain(enacts) {
        let known = last.entry(member).or_insert(at);
        *known = (*known).max(at);
    }
    last
}

fn evidence(state: &State) -> BTreeMap<&'static str, i64> {
    let mut counts: BTreeMap<&str, i64> = EVIDENCE.map(|kind| (kind, 0)).into();
    let forks = state.members().values().filter(|member| member.forked_at.is_some()).map(|_| "fork");
    let seals = state.faults().iter().map(|fault| match fault {
        Fault::TwoCloseSeals { .. } => "two_close_seals",
        Fault::TwoEnactSeals { .. } => "two_enact_seals",
    });
    for kind in forks.chain(seals) {
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

/// How the seats are spread over owners.
fn seats(state: &State) -> Concentration {
    by_owner(state, |_| 1)
}

/// How the GPUs that are on offer now are spread over owners, those included that offer none.
fn offered(state: &State, peers: &PeersSnapshot) -> Concentration {
    by_owner(state, |member| {
        let offer = peers.members.get(member).and_then(|peer| peer.offer.as_ref());
        offer.map_or(0, |offer| offer.body.classes.iter().map(|class| u64::from(class.offered)).sum())
    })
}

fn by_owner(state: &State, holds: impl Fn(&MemberId) -> u64) -> Concentration {
    let mut owners: BTreeMap<&ControlGroup, u64> = BTreeMap::new();
    for member in state.active() {
        let held = owners.entry(&member.control_group).or_default();
        *held = held.saturating_add(holds(&member.id));
    }
    Concentration::of(owners.into_values())
}

#[cfg(test)]
mod tests {
    use koinon_core::testkit::T0;
    use prometheus::{Registry, TextEncoder};

    use super::*;
    use crate::metrics::Metrics;
    use crate::placement::fixture::rules_stopping;

    #[test]
    fn who_may_work_is_told_for_each_member_and_orders_while_they_hold() {
        let registry = Registry::new();
        let gauges = Gauges::new(Metrics::register(&registry).unwrap());
        let rules = rules_stopping("aarhus", Stop::Member("cork".parse().unwrap()));
        let shown = |now: UnixSeconds| {
            gauges.show_work(&rules.view().state, now);
            let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            let ours =
                text.lines().filter(|line| line.starts_with("koinon_member_work") || line.starts_with("koinon_orders"));
            let held = ours.filter_map(|line| line.strip_suffix(" 1")).map(ToOwned::to_owned);
            held.collect::<Vec<_>>()
        };
        let work = |member: &str, state: &str| format!("koinon_member_work{{member=\"{member}\",state=\"{state}\"}}");
        let order = "koinon_orders_in_force{stops=\"member\"}".to_owned();
        let held = vec![work("aarhus", "Active"), work("bilbao", "Active"), work("cork", "Suspended"), order];
        assert_eq!(shown(T0), held);
        let until = rules.view().state.next_lapse(T0).unwrap();
        assert_eq!(shown(until), [work("aarhus", "Active"), work("bilbao", "Active"), work("cork", "Active")]);
    }

    #[test]
    fn every_reason_that_can_stop_a_member_has_a_figure() {
        let order = koinon_core::ids::StatementId(koinon_core::ids::Digest([1; 32]));
        let version = koinon_core::ids::PolicyHash(koinon_core::ids::Digest([2; 32]));
        let proof = koinon_core::ids::Digest([3; 32]);
        for halted in [
            None,
            Some(Halted::Suspended { version }),
            Some(Halted::Ordered { order, until: T0 }),
            Some(Halted::KeyBlocked { order, until: T0 }),
            Some(Halted::Quarantined { proof, proofs: 1 }),
            Some(Halted::Leaving),
        ] {
            for standing in [MemberStanding::Active, MemberStanding::Probationary, MemberStanding::Dormant] {
                assert!(WORK.contains(&works(standing, halted)), "{halted:?} {standing:?}");
            }
        }
    }
}
