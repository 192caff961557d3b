//! The commons in figures.

mod governance;

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::ids::{MemberId, UnixSeconds};
use koinon_core::policy::{Phase, Verdict};
use koinon_net::metrics::{NetMetrics, NetSnapshot};

use super::view::CommonsView;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::peers::{Liveness, PeersSnapshot};

/// The names of all phases, so that a state without proposals shows as zero.
const PHASES: [&str; 20] = [
    "Invalid",
    "Pending",
    "Open",
    "Closing",
    "Queued",
    "AwaitingSlot",
    "Enacted",
    "Rejected",
    "QuorumNotMet",
    "Vetoed",
    "Withdrawn",
    "Refuted",
    "Unheard",
    "CoolDown",
    "Appealed",
    "Cancelled",
    "Stalled",
    "Stale",
    "Superseded",
    "Expired",
];

/// What can become of a vote, so that what became of none shows as zero.
const VERDICTS: [Verdict; 17] = [
    Verdict::Counted,
    Verdict::Superseded,
    Verdict::Equivocation,
    Verdict::AlreadyFinal,
    Verdict::NotElector,
    Verdict::WrongKeyRole,
    Verdict::Revoked,
    Verdict::TooEarly,
    Verdict::TooLate,
    Verdict::AnchoredTooLate,
    Verdict::VetoWithoutGround,
    Verdict::Recused,
    Verdict::NotInBox,
    Verdict::TooManyVotes,
    Verdict::LogForked,
    Verdict::OverBudget,
    Verdict::NoProposal,
];

/// Keeps the metrics in step, and takes out members that are gone.
#[derive(Debug)]
pub struct Gauges {
    metrics: Metrics,
    shown: BTreeSet<MemberId>,
    forked: BTreeSet<MemberId>,
    /// The phases and verdicts that have a figure: one that nothing is in any more goes back to zero.
    phases: BTreeSet<&'static str>,
    verdicts: BTreeSet<&'static str>,
    /// What the endpoint had counted when it was last looked at; another endpoint begins at zero again.
    counted: NetSnapshot,
}

impl Gauges {
    /// Figures that show nothing yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Gauges {
            metrics,
            shown: BTreeSet::new(),
            forked: BTreeSet::new(),
            phases: PHASES.into(),
            verdicts: VERDICTS.map(Verdict::name).into(),
            counted: NetSnapshot::default(),
        }
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
        self.show_votes(view);
        self.show_governance(view, peers, clock.unix());
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

    fn show_proposals(&mut self, view: &CommonsView, now: UnixSeconds) {
        let mut counts: BTreeMap<&str, i64> = self.phases.iter().map(|phase| (*phase, 0)).collect();
        for proposal in view.state.proposals().values().filter(|proposal| !proposal.is_settled()) {
            let phase: Phase = view.state.phase(proposal, now);
            *counts.entry(phase.name()).or_default() += 1;
        }
        self.phases.extend(counts.keys());
        for (phase, count) in counts {
            self.metrics.proposals.with_label_values(&[phase]).set(count);
        }
    }

    fn show_votes(&mut self, view: &CommonsView) {
        let mut counts: BTreeMap<&str, i64> = self.verdicts.iter().map(|verdict| (*verdict, 0)).collect();
        let on_proposals = view.state.proposals().values().flat_map(|proposal| &proposal.votes);
        for vote in on_proposals.chain(view.state.stray_votes().iter().map(|(_, vote)| vote)) {
            *counts.entry(vote.verdict.name()).or_default() += 1;
        }
        self.verdicts.extend(counts.keys());
        for (verdict, count) in counts {
            self.metrics.votes.with_label_values(&[verdict]).set(count);
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
        let _ = metrics.last_seal.remove_label_values(label);
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
        self.metrics.votes.reset();
        self.clear_governance();
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use koinon_core::body::charter::Preset;
    use koinon_core::body::latest::{EvidenceLevel, GuestsMode, NetworkPolicyState, Offer, OfferedClass};
    use koinon_core::body::proposal::Choice;
    use koinon_core::body::{Action, Body, ModelRelease, Vote};
    use koinon_core::ids::{Bytes, Digest, ManifestDigest, Seq, StatementId};
    use koinon_core::log::Limits;
    use koinon_core::policy::Commons;
    use koinon_core::testkit::{self, Person, T0, Writer};
    use prometheus::Registry;

    use super::*;
    use crate::clock::ManualClock;
    use crate::commons::view::{LogFacts, Signing, Standing};
    use crate::peers::{Heard, PeerView};

    fn release() -> Action {
        Action::AddModelRelease(ModelRelease {
            uri: "hf://example/tiny".parse().unwrap(),
            revision: "main".parse().unwrap(),
            manifest_digest: ManifestDigest(Digest::of(b"tiny")),
            quantization: "q4-k-m".parse().unwrap(),
            license: "Apache-2.0".parse().unwrap(),
            engines: vec![],
            memory_bytes: None,
        })
    }

    /// Aarhus proposes and votes, bilbao votes twice, where votes are final, and once on a proposal that nobody made.
    fn view() -> CommonsView {
        let people: Vec<Person> = ["aarhus", "bilbao", "cork"].map(testkit::person).into();
        let everybody: Vec<&Person> = people.iter().collect();
        let founding = testkit::found(&everybody, testkit::charter(&everybody, Preset::Trial));
        let coop = founding.coop();
        let mut commons = Commons::new(founding, Limits::default());
        let (title, why) = ("Serve tiny".parse().unwrap(), "It is small.".parse().unwrap());
        let proposal = commons.state().draft_proposal(release(), title, why, T0).unwrap();
        let proposal = people[0].human(coop, T0, Body::Proposal(Box::new(proposal)));
        let vote = |person: &Person, on, choice, vseq| {
            person.human(coop, T0, Body::Vote(Vote { proposal: on, choice, vseq, ground: None, reason: None }))
        };
        let nothing = StatementId(Digest::of(b"no proposal"));
        let (mut aarhus, mut bilbao) = (Writer::new(&people[0], coop), Writer::new(&people[1], coop));
        let entries = [
            aarhus.anchor(T0, &proposal),
            aarhus.anchor(T0, &vote(&people[0], proposal.id(), Choice::Yes, 0)),
            bilbao.anchor(T0, &vote(&people[1], proposal.id(), Choice::No, 0)),
            bilbao.anchor(T0, &vote(&people[1], proposal.id(), Choice::Yes, 1)),
            bilbao.anchor(T0, &vote(&people[1], nothing, Choice::Yes, 0)),
        ];
        assert!(commons.insert_all(entries).is_empty());
        CommonsView {
            me: people[2].id(),
            coop,
            charter: Arc::new(commons.founding().charter().clone()),
            state: commons.state().clone(),
            standing: Standing::Member,
            signing: Signing::Yes,
            verdicts: Arc::default(),
            logs: Arc::default(),
            store_trouble: None,
            clock_in_tolerance: true,
            resumed: false,
            late: Default::default(),
        }
    }

    /// The samples of one metric, by the values of its labels.
    fn samples(registry: &Registry, name: &str) -> BTreeMap<String, f64> {
        let families = registry.gather();
        let of_name = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        of_name
            .map(|metric| {
                let labels: Vec<&str> = metric.get_label().iter().map(prometheus::proto::LabelPair::value).collect();
                // Whichever of the two it is not, is zero.
                (labels.join(" "), metric.get_gauge().get_value() + metric.get_counter().get_value())
            })
            .collect()
    }

    fn gauges() -> (Registry, Gauges) {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        (registry, Gauges::new(metrics))
    }

    fn heard(liveness: Liveness) -> PeerView {
        PeerView {
            last_heard_unix: Some(T0),
            clock_offset_micros: Some(-1_500_000),
            ..PeerView::silent(liveness, Duration::ZERO)
        }
    }

    #[test]
    fn votes_are_told_by_what_became_of_them() {
        let (registry, mut gauges) = gauges();
        gauges.show(&view(), &PeersSnapshot::default(), &NetMetrics::default(), &ManualClock::at(T0));
        let votes = samples(&registry, "koinon_votes");
        assert_eq!(votes.len(), VERDICTS.len(), "each verdict has a figure, also one that nobody met: {votes:?}");
        let met: BTreeMap<&str, f64> = votes.iter().filter(|(_, n)| **n > 0.0).map(|(v, n)| (v.as_str(), *n)).collect();
        assert_eq!(met, BTreeMap::from([("Counted", 2.0), ("AlreadyFinal", 1.0), ("NoProposal", 1.0)]));
        assert_eq!(samples(&registry, "koinon_proposals").get("Open"), Some(&1.0));
        gauges.clear();
        assert!(samples(&registry, "koinon_votes").is_empty(), "a replica that does not lead knows nothing");
    }

    #[test]
    fn a_figure_that_nothing_stands_behind_any_more_goes_back_to_zero() {
        let (registry, mut gauges) = gauges();
        (gauges.phases, gauges.verdicts) = (BTreeSet::new(), BTreeSet::new());
        let voted = view();
        let people: Vec<Person> = ["aarhus", "bilbao", "cork"].map(testkit::person).into();
        let everybody: Vec<&Person> = people.iter().collect();
        let founding = testkit::found(&everybody, testkit::charter(&everybody, Preset::Trial));
        let before = CommonsView { state: Commons::new(founding, Limits::default()).state().clone(), ..voted.clone() };
        for (view, count) in [(voted, 1.0), (before, 0.0)] {
            gauges.show(&view, &PeersSnapshot::default(), &NetMetrics::default(), &ManualClock::at(T0));
            assert_eq!(samples(&registry, "koinon_proposals"), BTreeMap::from([("Open".to_owned(), count)]));
            assert_eq!(samples(&registry, "koinon_votes").get("NoProposal"), Some(&count));
        }
    }

    fn offer(offered: u32) -> Heard<Offer> {
        let class = OfferedClass {
            class: "h100-80".parse().unwrap(),
            product: "NVIDIA H100".parse().unwrap(),
            memory_bytes: Bytes(80 << 30),
            offered,
            largest_block: offered,
            largest_node: None,
            evidence: EvidenceLevel::Claimed,
        };
        let body = Offer {
            classes: vec![class],
            guests: GuestsMode::Accept,
            network_policy: NetworkPolicyState::Enforced,
            weights: vec![],
            gateway: vec![],
            jurisdiction: "ES".parse().unwrap(),
        };
        Heard {
            id: StatementId(Digest::of(b"an offer")),
            seq: Seq(0),
            issued_at: T0,
            not_after: T0,
            body: Arc::new(body),
            heard_at: Duration::ZERO,
        }
    }

    /// Four members that have decided something; two of them offer GPUs.
    fn decided() -> (CommonsView, PeersSnapshot) {
        let past = testkit::history::history(4, 17, testkit::history::Until::Enacted);
        let (commons, refused) = Commons::load(past.founding, Limits::default(), past.entries);
        assert!(refused.is_empty());
        let mut view = view();
        (view.me, view.state) = ("member-000".parse().unwrap(), commons.state().clone());
        let mut peers = PeersSnapshot { isolated: true, ..PeersSnapshot::default() };
        for (name, offered) in [("member-000", 6), ("member-001", 2)] {
            let mut peer = PeerView::silent(Liveness::Fresh, Duration::ZERO);
            peer.offer = Some(offer(offered));
            peers.members.insert(name.parse().unwrap(), peer);
        }
        (view, peers)
    }

    #[test]
    fn decisions_are_told_by_turnout_and_seals_and_things_by_the_hands_they_are_in() {
        let (registry, mut gauges) = gauges();
        let (view, peers) = decided();
        gauges.show(&view, &peers, &NetMetrics::default(), &ManualClock::at(T0));
        let only = |name: &str| samples(&registry, name).into_values().next().unwrap();
        assert_eq!((only("koinon_turnout_thousandths"), only("koinon_isolated")), (1000.0, 1.0));
        let seals = samples(&registry, "koinon_last_seal_timestamp_seconds");
        assert_eq!(seals.len(), 4);
        let last = view.state.enact_seals().iter().map(|seal| seal.at.0).max().unwrap();
        assert!(seals.values().all(|at| *at == last as f64));
        let figures = samples(&registry, "koinon_concentration_thousandths");
        assert_eq!((figures["hhi members"], figures["gini members"]), (0.0, 0.0));
        // Six, two, none and none: six tenths and more in one hand.
        assert_eq!((figures["hhi offered_gpus"], figures["gini offered_gpus"]), (500.0, 625.0));
        let owners = samples(&registry, "koinon_nakamoto_owners");
        assert_eq!((owners["members third"], owners["members half"]), (2.0, 3.0));
        assert_eq!((owners["offered_gpus third"], owners["offered_gpus half"]), (1.0, 1.0));
        let evidence = samples(&registry, "koinon_evidence");
        assert_eq!(evidence.values().collect::<Vec<_>>(), [&0.0, &0.0, &0.0], "what is not proved shows as zero");
        gauges.clear();
        assert!(samples(&registry, "koinon_last_seal_timestamp_seconds").is_empty());
    }

    #[test]
    fn a_member_is_told_by_its_liveness_and_taken_out_when_it_is_gone() {
        let (registry, mut gauges) = gauges();
        let (view, clock, net) = (view(), ManualClock::at(T0), NetMetrics::default());
        let mut peers = PeersSnapshot::default();
        peers.members.insert("cork".parse().unwrap(), heard(Liveness::Own));
        peers.members.insert("bilbao".parse().unwrap(), heard(Liveness::Suspect));
        gauges.show(&view, &peers, &net, &clock);
        let states = samples(&registry, "koinon_member_state");
        let held: Vec<&str> = states.iter().filter(|(_, v)| **v == 1.0).map(|(name, _)| name.as_str()).collect();
        assert_eq!(held, ["bilbao Suspect", "cork Self"]);
        assert_eq!(states.len(), 8, "one figure for each liveness of each member: {states:?}");
        assert_eq!(samples(&registry, "koinon_clock_offset_seconds"), BTreeMap::from([("bilbao".to_owned(), -1.5)]));
        assert_eq!(
            samples(&registry, "koinon_peer_up"),
            BTreeMap::from([("bilbao".to_owned(), 0.0)]),
            "none of itself"
        );
        gauges.show(&view, &PeersSnapshot::default(), &net, &clock);
        assert!(samples(&registry, "koinon_member_state").is_empty());
        assert!(samples(&registry, "koinon_peer_up").is_empty());
    }

    #[test]
    fn a_fork_is_counted_once_however_often_it_is_shown() {
        let (registry, mut gauges) = gauges();
        let (mut view, clock, net) = (view(), ManualClock::at(T0), NetMetrics::default());
        let forks = || samples(&registry, "koinon_forks_total").remove("bilbao");
        let mut log = LogFacts { bytes: 10, missing: 2, ..LogFacts::default() };
        let logs = |log: &LogFacts| Arc::new(BTreeMap::from([("bilbao".parse().unwrap(), log.clone())]));
        view.logs = logs(&log);
        gauges.show(&view, &PeersSnapshot::default(), &net, &clock);
        assert_eq!(forks(), Some(0.0), "a counter that is not there cannot be alerted on");
        assert_eq!(samples(&registry, "koinon_log_gaps").get("bilbao"), Some(&2.0));
        log.forked_at = Some(Seq(3));
        view.logs = logs(&log);
        gauges.show(&view, &PeersSnapshot::default(), &net, &clock);
        gauges.clear();
        gauges.show(&view, &PeersSnapshot::default(), &net, &clock);
        assert_eq!(forks(), Some(1.0));
    }

    #[test]
    fn an_endpoint_that_begins_anew_takes_nothing_back() {
        let (registry, mut gauges) = gauges();
        for requests in [5, 7, 3] {
            gauges.count(NetSnapshot { requests, ..NetSnapshot::default() });
        }
        assert_eq!(samples(&registry, "koinon_peer_requests_total").values().sum::<f64>(), 10.0);
    }
}
