//! Who takes part, as the fold says: whom we hear, who is told what, who may read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_core::body::entry::Head;
use koinon_core::ids::{MemberId, PublicKey, Seq, UnixSeconds};
use koinon_core::policy::{Commons, MemberStanding, MemberState, State};
use koinon_net::commons::{Access, Heads};

use super::super::hearing::Membership;
use super::super::publisher::Halted;
use super::super::view::Standing;
use super::Engine;

/// How far those who were expelled may read. Finding it means reading every log, so it is kept until something was decided.
#[derive(Debug, Default)]
pub(super) struct Farewells {
    of: Option<Arc<State>>,
    until: BTreeMap<MemberId, Heads>,
}

impl Farewells {
    fn look(&mut self, commons: &Commons) -> &BTreeMap<MemberId, Heads> {
        if self.of.as_ref().is_none_or(|of| !Arc::ptr_eq(of, commons.state())) {
            let members = commons.state().members().values();
            let expelled = members.filter(|member| member.standing == MemberStanding::Expelled);
            self.until =
                expelled.map(|member| (member.member.id.clone(), last_words(commons, &member.member.id))).collect();
            self.of = Some(commons.state().clone());
        }
        &self.until
    }
}

/// The last entry of each log that an expelled member may read.
pub(in crate::commons) fn last_words(commons: &Commons, member: &MemberId) -> Heads {
    let first_hidden = commons.farewell(member).unwrap_or_default();
    let last = |(log, hidden): (PublicKey, Seq)| {
        let seq = Seq(hidden.0.checked_sub(1)?);
        let replica = commons.replica();
        let held = replica.range(&log, seq, 1).pop().filter(|entry| entry.log_seq() == Some(seq));
        let past = || replica.past(&log, seq).next().filter(|past| past.seq == seq);
        let id = held.map(|entry| entry.id()).or_else(|| past().map(|past| past.id))?;
        Some((log, Head { seq, id }))
    };
    first_hidden.into_iter().filter_map(last).collect()
}

impl Engine {
    /// Follows what the fold says about who takes part: whom we hear, who is told what, who may read. Orders hold until
    /// their time, so this is not only for when something was decided.
    pub(super) fn follow_membership(&mut self) {
        let (log, me) = (self.parts.author.log(), self.parts.author.me.clone());
        let now = self.parts.author.clock.unix();
        let (farewells, controls) = (&mut self.farewells, &self.controls);
        let (membership, access) = self.parts.shelf.read(|commons| {
            let state = commons.state();
            let mut access = BTreeMap::new();
            for key in &controls.applicants {
                access.insert(*key, Access::Applicant);
            }
            for (applicant, _) in state.applicants(now) {
                access.insert(applicant.keys.operator, Access::Applicant);
            }
            let farewells = farewells.look(commons);
            for (_, key, _) in state.awaited_keys(now) {
                access.insert(key, Access::Applicant);
            }
            for (key, began) in state.logs() {
                access.extend(state.member(&began.owner).map(|member| (*key, may_read(member, key, farewells))));
            }
            access.remove(&log);
            (membership(state, now), access)
        });
        let halted = Halted { own: membership.halted.contains(&me), others: membership.halted.clone() };
        // An applicant is read by nobody and hears nobody but its sponsor: it must not conclude that the others are lost.
        let takes_part = self.standing() == Standing::Member;
        let quorum = membership.quorum;
        let membership = if takes_part { membership } else { Membership { quorum, ..Membership::default() } };
        self.hearing.set_members(membership);
        self.parts.publisher.halt(halted);
        self.parts.shelf.set_access(access);
    }
}

/// What the holder of `key`, which is or was that member's, may read.
pub(in crate::commons) fn may_read(
    member: &MemberState,
    key: &PublicKey,
    farewells: &BTreeMap<MemberId, Heads>,
) -> Access {
    let id = member.member.id.clone();
    match member.standing {
        MemberStanding::Expelled => Access::Expelled { until: farewells.get(&id).cloned().unwrap_or_default() },
        // Whoever left may still learn that, and how, it left; nothing is addressed to it any more.
        MemberStanding::Left => Access::FormerPin(id),
        MemberStanding::Active | MemberStanding::Probationary | MemberStanding::Dormant | MemberStanding::Leaving => {
            // Whoever may not work still speaks, and hears what is said: only what would be addressed to it waits.
            if member.member.keys.operator == *key { Access::Member(id) } else { Access::FormerPin(id) }
        }
    }
}

fn membership(state: &State, now: UnixSeconds) -> Membership {
    let present: BTreeMap<MemberId, PublicKey> =
        state.present().map(|member| (member.id.clone(), member.keys.operator)).collect();
    let silenced = |member: &&MemberId| state.halted(member, now).is_some_and(|halted| halted.ends_what_runs());
    let halted: BTreeSet<MemberId> = present.keys().filter(silenced).cloned().collect();
    let counted = state.active().map(|member| member.id.clone()).collect();
    Membership { members: present, counted, halted, quorum: state.quorum() }
}
