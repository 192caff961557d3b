//! `Member`: who belongs to the cooperative, and how it is heard from here.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{self, ConditionType, Reason, Verdict};
use koinon_api::member::{Member, MemberKeys, MemberSpec, MemberState, MemberStatus, Proof as ShownProof};
use koinon_api::{names, time};
use koinon_core::ids::Digest;
use koinon_core::policy::{self, Halted, MemberStanding, Offence, Proof, Why};

use crate::context::CooperativeView;
use crate::kinds::projections::{Moment, Projected, set};
use crate::peers::{Liveness, PeerView, PeersSnapshot};

impl Projected for Member {
    type Status = MemberStatus;

    fn bare(name: &str) -> Self {
        Member::new(name, MemberSpec::default())
    }

    fn status(&self) -> Option<&MemberStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: MemberStatus) {
        self.status = Some(status);
    }

    fn conditions(status: &MemberStatus) -> &[Condition] {
        &status.conditions
    }

    fn seen_at(status: &MemberStatus) -> Option<i64> {
        status.last_seen_time.as_ref().map(time::to_unix)
    }
}

/// The status of every member, present and past, and of whoever has applied.
pub(crate) fn statuses(
    view: &CooperativeView,
    peers: &PeersSnapshot,
    moment: &Moment,
    stored: impl Fn(&str) -> Option<Arc<Member>>,
) -> BTreeMap<String, MemberStatus> {
    let mut statuses = BTreeMap::new();
    for (id, member) in view.state.members() {
        let name = id.to_string();
        let halted = view.state.halted(id, moment.now);
        let state = state(member.standing, halted);
        let peer = peers.members.get(id);
        let status = status(view, member, (state, halted), peer, moment, stored(&name).as_deref());
        statuses.insert(name, status);
    }
    for (applicant, _) in view.state.applicants(moment.now) {
        let name = applicant.id.to_string();
        if statuses.contains_key(&name) {
            continue;
        }
        let mut status = describe(applicant);
        status.state = Some(MemberState::Applying);
        statuses.insert(name, status);
    }
    statuses
}

/// What a member is, in one word. What stops its work comes first.
fn state(standing: MemberStanding, halted: Option<Halted>) -> MemberState {
    match (halted, standing) {
        (Some(Halted::Suspended { .. } | Halted::Ordered { .. } | Halted::KeyBlocked { .. }), _) => {
            MemberState::Suspended
        }
        (Some(Halted::Quarantined { .. }), _) => MemberState::Quarantined,
        (_, MemberStanding::Active) => MemberState::Active,
        (_, MemberStanding::Probationary) => MemberState::Probationary,
        (_, MemberStanding::Dormant) => MemberState::Dormant,
        (_, MemberStanding::Leaving) => MemberState::Leaving,
        (_, MemberStanding::Left) => MemberState::Left,
        (_, MemberStanding::Expelled) => MemberState::Expelled,
    }
}

/// Whether the cooperative lets a member work with others. Gateways read it too.
pub(crate) fn may_work(member: &str, standing: MemberStanding, halted: Option<Halted>) -> Verdict {
    match (halted, standing) {
        (Some(halted), _) if halted != Halted::Leaving => Verdict::no(halted.into(), format!("{member} {halted}")),
        (_, MemberStanding::Leaving) => {
            Verdict::yes(Reason::Leaving, format!("{member} is leaving: it gets nothing new, and what runs goes on"))
        }
        (_, MemberStanding::Probationary) => Verdict::yes(
            Reason::OnProbation,
            format!("{member} is on probation: others use a quarter of what it offers, and it has no vote"),
        ),
        (_, MemberStanding::Dormant) => Verdict::yes(
            Reason::Dormant,
            format!(
                "{member} had fallen silent: it works while it is heard, and has no vote until a vote counts it again"
            ),
        ),
        _ => Verdict::yes(Reason::Active, format!("{member} may work")),
    }
}

/// What the member says of itself.
fn describe(member: &koinon_core::body::Member) -> MemberStatus {
    MemberStatus {
        owner: Some(member.owner.to_string()),
        control_group: Some(member.control_group.to_string()),
        site: (&member.site).try_into().ok(),
        keys: Some(MemberKeys {
            recovery: member.keys.recovery.iter().map(ToString::to_string).collect(),
            governance: member.keys.governance.iter().map(ToString::to_string).collect(),
            operator: member.keys.operator.to_string(),
        }),
        endpoints: (&member.endpoints).try_into().ok(),
        ..MemberStatus::default()
    }
}

fn status(
    view: &CooperativeView,
    member: &policy::MemberState,
    (state, halted): (MemberState, Option<Halted>),
    peer: Option<&PeerView>,
    moment: &Moment,
    stored: Option<&Member>,
) -> MemberStatus {
    let before = stored.and_then(|stored| stored.status.clone()).unwrap_or_default();
    let generation = stored.and_then(|stored| stored.metadata.generation);
    let cordoned = stored.is_some_and(|stored| stored.spec.cordoned);
    let last_seen = peer.and_then(|peer| peer.last_heard_unix).and_then(|seen| time::from_unix(seen.0));
    let own = member.member.id == view.me;
    let mut status = MemberStatus {
        observed_generation: generation,
        state: Some(state),
        liveness: peer.map(|peer| peer.liveness.into()),
        last_seen_time: if own { Some(moment.time.clone()) } else { last_seen.or(before.last_seen_time) },
        membership_version: Some(member.since.to_string()),
        key_set: view.state.key_set(&member.member.id).map(|set| set.number.into()),
        proofs: member.quarantine.iter().take(MAX_PROOFS).map(|(name, proof)| proved(name, proof)).collect(),
        conditions: before.conditions,
        ..describe(&member.member)
    };
    match view.state.membership().and_then(|now| now.aside.get(&member.member.id)).map(|aside| aside.why) {
        Some(Why::Probation { until }) => status.probation_ends_time = time::from_unix(until.0),
        Some(Why::Dormant { since }) => status.dormant_since_time = time::from_unix(since.0),
        None => {}
    }
    let mut note = |type_, verdict| set(&mut status.conditions, type_, verdict, generation, moment);
    let reachable = reachable(peer);
    note(ConditionType::Reachable, reachable.clone());
    let log = log_intact(view, member);
    note(ConditionType::LogIntact, log.clone());
    let may_work = may_work(member.member.id.as_str(), member.standing, halted);
    note(ConditionType::MayWork, may_work.clone());
    // A fork that a vote has forgiven stays one, and stops nothing any more.
    let stored_whole = log.status == conditions::ConditionStatus::True || log.reason == Reason::LogForked;
    let usable = if may_work.status != conditions::ConditionStatus::True || may_work.reason == Reason::Leaving {
        Verdict::no(may_work.reason, may_work.message)
    } else if !stored_whole {
        log
    } else if cordoned {
        Verdict::no(Reason::Cordoned, "cordoned by this cluster's owner; lift it with kubectl koinon uncordon")
    } else if reachable.status == conditions::ConditionStatus::True {
        Verdict::yes(Reason::Active, "new work may be placed with it")
    } else {
        reachable
    };
    note(ConditionType::Usable, usable.clone());
    note(ConditionType::Ready, usable);
    status
}

/// Proofs that a status names, as many as one vote can lift.
const MAX_PROOFS: usize = 64;

fn proved(name: &Digest, proof: &Proof) -> ShownProof {
    let offence = match proof.offence {
        Offence::Fork { seq } => format!("two entries at position {seq} of its log"),
        Offence::TwoInRound { proposal, round } => {
            format!("two boxes in round {round} of {}", names::proposal(&proposal.to_string()))
        }
        Offence::TwoPassed { slot } => {
            format!("two proposals sealed as passed in term {} of {}", slot.term, slot.scope)
        }
        Offence::TwoEnacted { slot } => format!("two enactments signed in term {} of {}", slot.term, slot.scope),
    };
    ShownProof { proof: name.to_string(), offence, entries: proof.entries.map(|entry| entry.to_string()).into() }
}

fn reachable(peer: Option<&PeerView>) -> Verdict {
    let Some(peer) = peer else {
        return Verdict::unknown(Reason::NeverHeard, "it is not heard: this replica may have just begun to listen");
    };
    match (peer.liveness, peer.last_heard_unix) {
        (Liveness::Own, _) => Verdict::yes(Reason::Fresh, "it is this member"),
        (Liveness::Fresh, _) => Verdict::yes(Reason::Fresh, "heard directly, within the charter's freshSeconds"),
        (Liveness::Suspect, None) => Verdict::no(
            Reason::NeverHeard,
            "never heard since this operator leads: check its endpoints, and whether port 7443 is open to here",
        ),
        // The number of seconds would make every look a change; who needs it has lastSeenTime.
        (Liveness::Suspect, Some(_)) => {
            Verdict::no(Reason::Suspect, "silent for longer than freshSeconds: it keeps its work and gets nothing new")
        }
        (Liveness::Lost, _) => {
            Verdict::no(Reason::Lost, "silent for longer than lostSeconds: its work is placed elsewhere")
        }
    }
}

fn log_intact(view: &CooperativeView, member: &policy::MemberState) -> Verdict {
    if let Some(seq) = member.forked_at {
        return Verdict::no(
            Reason::LogForked,
            format!(
                "two entries with number {seq} are proved: it does no work until a vote lifts that, and its later entries do not count"
            ),
        );
    }
    match view.logs.get(&member.member.id) {
        Some(log) if log.capped => Verdict::no(
            Reason::OverBudget,
            format!(
                "its log fills this cluster's local cap with {} bytes: raise --author-cap-bytes to store more",
                log.bytes
            ),
        ),
        // Whether entries are missing for a moment or for long shows in koinon_log_gaps; here it would only flicker.
        _ => Verdict::yes(Reason::LogWhole, "one gapless log"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use koinon_core::body::charter::Preset;
    use koinon_core::body::{Body, Leave, Stop};
    use koinon_core::log::Limits;
    use koinon_core::policy::Commons;
    use koinon_core::testkit::{self, T0};

    use super::*;
    use crate::placement::fixture::rules_stopping;

    #[test]
    fn a_suspended_member_says_so_by_which_order_and_works_again_when_that_lapses() {
        let rules = rules_stopping("aarhus", Stop::Member("cork".parse().unwrap()));
        let order = *rules.view().state.emergencies().keys().next().unwrap();
        let shown = |after: i64| {
            let now = T0.plus(koinon_core::ids::Seconds(after));
            let moment = Moment { now, time: time::from_unix(now.0).unwrap(), monotonic: Duration::ZERO };
            let mut peers = PeersSnapshot::default();
            peers.members.insert("cork".parse().unwrap(), PeerView::silent(Liveness::Fresh, Duration::ZERO));
            let status = statuses(rules.view(), &peers, &moment, |_| None).remove("cork").unwrap();
            let said = |type_| {
                let condition = conditions::find(&status.conditions, type_).unwrap();
                (condition.status.clone(), condition.reason.clone(), condition.message.clone())
            };
            (status.state.unwrap(), said(ConditionType::MayWork), said(ConditionType::Usable))
        };
        let (state, (status, reason, message), usable) = shown(1);
        assert_eq!((state, status.as_str(), reason.as_str()), (MemberState::Suspended, "False", "Suspended"));
        assert!(message.starts_with(&format!("cork is suspended by order {order} until 20")), "{message}");
        assert_eq!((usable.0.as_str(), usable.1.as_str()), ("False", "Suspended"));
        let (state, may_work, usable) = shown(73 * 3600);
        assert_eq!((state, may_work.0.as_str(), usable.0.as_str()), (MemberState::Active, "True", "True"));
    }

    #[test]
    fn a_proof_against_a_member_is_shown_by_its_name_until_a_vote_lifts_it() {
        let people = ["aarhus", "bilbao", "cork"].map(testkit::person);
        let everybody: Vec<&testkit::Person> = people.iter().collect();
        let mut charter = testkit::charter(&everybody, Preset::Trial);
        charter.parameters.deliberation = Some(koinon_core::presets::deliberation());
        let mut commons = Commons::new(testkit::found(&everybody, charter), Limits::default());
        let mut view = crate::placement::fixture::view("aarhus", vec![], vec![]);
        (view.coop, view.state) = (commons.founding().coop(), commons.state().clone());
        let moment = Moment { now: T0, time: time::from_unix(T0.0).unwrap(), monotonic: Duration::ZERO };
        let shown = |view: &CooperativeView| {
            statuses(view, &PeersSnapshot::default(), &moment, |_| None).remove("cork").unwrap()
        };
        let status = shown(&view);
        assert_eq!((status.state, status.key_set, status.proofs.len()), (Some(MemberState::Active), Some(0), 0));
        for reason in ["one", "two"] {
            let leave = Leave { reason: Some(reason.parse().unwrap()) };
            let said = people[2].human(view.coop, T0, Body::Leave(leave));
            let entry = testkit::Writer::new(&people[2], view.coop).anchor(T0, &said);
            assert!(commons.insert_all([entry]).is_empty());
        }
        view.state = commons.state().clone();
        let status = shown(&view);
        assert_eq!(status.state, Some(MemberState::Quarantined));
        let proof = status.proofs.first().unwrap();
        assert_eq!((proof.offence.as_str(), proof.entries.len()), ("two entries at position 0 of its log", 2));
        let usable = conditions::find(&status.conditions, ConditionType::Usable).unwrap();
        assert!(usable.reason == "Quarantined" && usable.message.contains(&proof.proof), "{}", usable.message);
    }

    #[test]
    fn each_standing_has_its_own_word() {
        let version = koinon_core::ids::PolicyHash(koinon_core::ids::Digest([7; 32]));
        let suspended = Some(Halted::Suspended { version });
        let word = |standing, halted| {
            let verdict = may_work("cork", standing, halted);
            (state(standing, halted), verdict.status.as_str(), verdict.reason)
        };
        assert_eq!(word(MemberStanding::Active, None), (MemberState::Active, "True", Reason::Active));
        assert_eq!(word(MemberStanding::Probationary, None), (MemberState::Probationary, "True", Reason::OnProbation));
        assert_eq!(word(MemberStanding::Probationary, suspended), (MemberState::Suspended, "False", Reason::Suspended));
        assert_eq!(word(MemberStanding::Dormant, None), (MemberState::Dormant, "True", Reason::Dormant));
        assert_eq!(
            word(MemberStanding::Leaving, Some(Halted::Leaving)),
            (MemberState::Leaving, "True", Reason::Leaving)
        );
        assert_eq!(
            word(MemberStanding::Expelled, Some(Halted::Expelled { version: None })),
            (MemberState::Expelled, "False", Reason::Expelled)
        );
    }
}
