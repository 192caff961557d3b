//! `Member`: who belongs to the cooperative, and how it is heard from here.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{self, ConditionType, Reason, Verdict};
use koinon_api::member::{Member, MemberKeys, MemberSpec, MemberState, MemberStatus};
use koinon_api::time;
use koinon_core::policy::{self, MemberStanding};

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
        let state = match member.standing {
            MemberStanding::Active
            | MemberStanding::Probationary
            | MemberStanding::Dormant
            | MemberStanding::Leaving => MemberState::Active,
            MemberStanding::Left => MemberState::Left,
            MemberStanding::Expelled => MemberState::Expelled,
        };
        let peer = peers.members.get(id);
        let status = status(view, member, state, peer, moment, stored(&name).as_deref());
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
    state: MemberState,
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
        conditions: before.conditions,
        ..describe(&member.member)
    };
    let mut note = |type_, verdict| set(&mut status.conditions, type_, verdict, generation, moment);
    let reachable = reachable(peer);
    note(ConditionType::Reachable, reachable.clone());
    let log = log_intact(view, member);
    note(ConditionType::LogIntact, log.clone());
    let usable = if state == MemberState::Left {
        Verdict::no(Reason::Left, "it has left the cooperative")
    } else if state == MemberState::Expelled {
        Verdict::no(Reason::Expelled, "the others have expelled it")
    } else if log.status != conditions::ConditionStatus::True {
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
                "two entries with number {seq} are proved: nothing new is placed with it, its later entries do not count"
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
