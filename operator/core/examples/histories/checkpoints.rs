//! What members settle, rightly or not, and who writes its past anew afterwards.

use std::collections::BTreeMap;

use koinon_core::body::entry::{Basis, CloseSeal, Head, Outcome};
use koinon_core::body::{Action, Body, Checkpoint, Scope};
use koinon_core::ids::{Digest, PublicKey, Seconds, StatementId};
use koinon_core::policy::MemberStanding;

use crate::seals;
use crate::stories::{agree, pass_time, propose, until_queued};
use crate::world::World;

/// What lies behind is settled, or something else is said to be; and somebody forks what was settled, or what was not.
pub fn settle(world: &mut World) {
    let who = author(world);
    let Some(mut claimed) = claim(world, who).filter(|claimed| !claimed.logs.is_empty()) else { return };
    match world.random.below(12) {
        0..=2 => claimed.state = Digest::of(b"another state"),
        3 => drop(claimed.logs.pop_first()),
        4 => claimed.logs.clear(),
        _ => {}
    }
    let Some(proposal) = propose(world, who, Action::Checkpoint(claimed), &[]) else { return };
    agree(world, proposal);
    let honest = !world.random.once_in(2);
    for _ in 0..4 {
        until_queued(world, proposal);
        if honest {
            break;
        }
        collude(world, proposal);
    }
    pass_time(world);
    for _ in 0..world.random.below(3) {
        seals::fork(world);
    }
}

/// Somebody whose proposals are worth something, if that is found soon.
fn author(world: &mut World) -> usize {
    let mut who = world.anybody();
    for _ in 0..4 {
        let active = world.state(who).member(&world.id(who)).is_some_and(|m| m.standing == MemberStanding::Active);
        if active && !world.forked.contains(&who) {
            break;
        }
        who = world.anybody();
    }
    who
}

fn claim(world: &mut World, who: usize) -> Option<Checkpoint> {
    if world.random.once_in(2) {
        let back = world.random.between(0, 1_000);
        return world.commons(who).draft_checkpoint(world.now.minus(Seconds(back))).ok();
    }
    // Logs end anywhere: what is needed of them hangs on where they do.
    let replica = world.commons(who).replica();
    let all: Vec<(PublicKey, Vec<Head>)> = replica
        .logs()
        .map(|(log, _)| (*log, replica.entries(log).map(|e| Head { seq: e.seq(), id: e.id() }).collect()))
        .collect();
    let mut logs = BTreeMap::new();
    for (log, heads) in all {
        let early = if world.random.once_in(3) { world.random.below(heads.len()) } else { 0 };
        if let Some(head) = heads.iter().rev().nth(early).filter(|_| !world.random.once_in(8)) {
            logs.insert(log, *head);
        }
    }
    world.commons(who).checkpoint_at(logs).ok()
}

/// More members than may lie seal a checkpoint that is not what remains of what they hold.
fn collude(world: &mut World, proposal: StatementId) {
    let state = world.state(0);
    let Some(known) = state.proposals().get(&proposal) else { return };
    let passes = known.box_complete && known.box_outcome == Outcome::Passed;
    if !passes || !known.certificates.is_empty() || state.settles_rightly(known) {
        return;
    }
    let seal = CloseSeal {
        proposal,
        round: 1,
        root: known.ballot.root,
        count: known.ballot.ids.len() as u32,
        membership_head: state.head(Scope::Membership),
        outcome: Outcome::Passed,
        closed_at: known.ballot.closed_at,
        basis: Some(Basis { slot: known.slot(), offers: known.offers.iter().map(|offer| offer.id).collect() }),
    };
    for who in 0..world.people.len() {
        world.append(who, Body::CloseSeal(seal.clone()));
    }
}
