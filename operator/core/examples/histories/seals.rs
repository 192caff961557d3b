//! What operators sign that they should not, and what they leave out.

use koinon_core::body::entry::{BoxOffer, CloseSeal, EnactSeal, LogResume, Outcome, Slot, SlotStatus};
use koinon_core::body::proposal::{Choice, Vote};
use koinon_core::body::{Body, Scope};
use koinon_core::dsse::Signer as _;
use koinon_core::ids::{BoxRoot, Digest, Seconds, Seq, StatementId};
use koinon_core::log::ForkProof;
use koinon_core::merkle;
use koinon_core::policy::version_hash;
use koinon_core::sealing::{Promise, Promises};
use koinon_core::statement::{Position, Statement};

use crate::world::World;

/// Only some operators seal what is due, and the others not yet.
pub fn some_seal(world: &mut World) {
    for who in 0..world.people.len() {
        if world.random.once_in(2) {
            world.seal(who);
        }
    }
}

/// One operator signs what an honest one would not.
pub fn lie(world: &mut World) {
    let who = world.anybody();
    if world.random.once_in(3) {
        if let Some(promise) = world.random.pick(&Promise::ALL).copied() {
            for body in world.next_seals(who, Promises::all_but(promise)).into_iter().take(3) {
                world.append(who, body);
            }
        }
        return;
    }
    let honest = world.next_seals(who, Promises::KEPT).into_iter().next();
    if let Some(honest) = honest.clone().filter(|_| world.random.once_in(2)) {
        // It signs what it should, and then what it should not.
        world.append(who, honest);
    }
    let body = match honest {
        Some(body) if !world.random.once_in(3) => bend(world, body),
        _ => made_up(world, who),
    };
    if let Some(body) = body {
        world.append(who, body);
    }
}

/// Somebody seals once more what it sealed, a little otherwise.
pub fn twice(world: &mut World) {
    let sealed: Vec<_> = world.state(0).close_seals().iter().filter(|s| s.seal.basis.is_some()).cloned().collect();
    let Some(known) = world.random.pick(&sealed).cloned() else { return };
    let seat = |person: &koinon_core::testkit::Person| person.operator.public_key() == known.log;
    let Some(who) = world.people.iter().position(seat) else { return };
    for _ in 0..1 + world.random.below(3) {
        let mut seal = known.seal.clone();
        let another = world.random.pick(&world.proposals).copied();
        let Some(basis) = &mut seal.basis else { return };
        match world.random.below(6) {
            0 => basis.slot.term += 1,
            1 => drop(basis.offers.pop_first()),
            2 => seal.outcome = other(seal.outcome),
            3 => seal.proposal = another.unwrap_or(seal.proposal),
            4 => (seal.proposal, seal.outcome) = (another.unwrap_or(seal.proposal), other(seal.outcome)),
            _ => seal.count += 1,
        }
        world.append(who, Body::CloseSeal(seal));
    }
}

fn bend(world: &mut World, body: Body) -> Option<Body> {
    let random = &mut world.random;
    Some(match body {
        Body::CloseSeal(mut seal) => {
            let another = random.pick(&world.proposals).copied();
            match random.below(8) {
                7 => seal.proposal = another?,
                0 => seal.outcome = other(seal.outcome),
                1 => seal.count += 1,
                2 => seal.closed_at = seal.closed_at.plus(Seconds(random.between(-2, 2))),
                3 => seal.root = merkle::root(&Default::default()),
                4 => seal.membership_head = koinon_core::ids::PolicyHash(Digest::of(b"nowhere")),
                5 => seal.basis.as_mut()?.slot.term += 1,
                _ => {
                    seal.basis.as_mut()?.offers.pop_first();
                }
            }
            Body::CloseSeal(seal)
        }
        Body::EnactSeal(mut seal) => {
            match random.below(4) {
                3 => seal.proposal = random.pick(&world.proposals).copied()?,
                0 => seal.slot.term += 1,
                1 => seal.version = koinon_core::ids::PolicyHash(Digest::of(b"nowhere")),
                _ => seal.root = BoxRoot(Digest::of(b"no box")),
            }
            Body::EnactSeal(seal)
        }
        Body::BoxOffer(mut offer) => {
            offer.entries.pop_first();
            Body::BoxOffer(offer)
        }
        Body::SlotStatus(mut status) => {
            status.signed = world.proposals.last().copied();
            Body::SlotStatus(status)
        }
        other => other,
    })
}

fn other(outcome: Outcome) -> Outcome {
    if outcome == Outcome::Passed { Outcome::Rejected } else { Outcome::Passed }
}

fn made_up(world: &mut World, who: usize) -> Option<Body> {
    let newest: Vec<StatementId> = world.proposals.iter().rev().take(3).copied().collect();
    let proposal = *world.random.pick(&newest)?;
    let (own, parent) = {
        let known = world.state(who).proposals().get(&proposal);
        (known.map(|p| (p.slot(), p.ballot.clone())), world.state(who).head(Scope::Membership))
    };
    let (slot, ballot) = own?;
    let slot = Slot { term: slot.term + world.random.below(2) as u32, ..slot };
    Some(match world.random.below(5) {
        0 => Body::CloseSeal(CloseSeal {
            proposal,
            round: world.random.between(1, 3) as u32,
            root: ballot.root,
            count: ballot.ids.len() as u32,
            membership_head: parent,
            outcome: Outcome::Passed,
            closed_at: ballot.closed_at,
            basis: None,
        }),
        1..=2 => {
            let version = version_hash(slot.scope, slot.parent, proposal, ballot.root);
            Body::EnactSeal(EnactSeal { slot, proposal, root: ballot.root, version })
        }
        3 => Body::BoxOffer(BoxOffer { proposal, entries: ballot.ids }),
        _ => Body::SlotStatus(SlotStatus { slot, signed: world.random.once_in(2).then_some(proposal) }),
    })
}

/// A member writes a position of its log anew, and perhaps a little more behind it; somebody may publish the proof.
pub fn fork(world: &mut World) {
    let who = world.anybody();
    let log = world.people[who].operator.public_key();
    if world.forked.contains(&who) {
        return;
    }
    let entries: Vec<Statement> = world.commons(who).replica().entries(&log).map(|e| (*e.statement).clone()).collect();
    let at = world.random.below(entries.len());
    let Some(original) = entries.get(at).cloned() else { return };
    let coop = world.commons(who).founding().coop();
    let mut prev = if at == 0 { coop.0 } else { entries[at - 1].id().0 };
    world.forked.push(who);
    let mut first = None;
    for step in 0..1 + world.random.below(3) {
        let body = match (world.random.below(3), world.proposals.last().copied()) {
            (0, Some(proposal)) => {
                let vote = Vote { proposal, choice: Choice::No, vseq: 0, ground: None, reason: None };
                let draft = world.draft(who, Position::Human, Body::Vote(vote));
                let Ok(vote) = draft.sign(&world.people[who].governance, &[]) else { return };
                Body::Anchor(Box::new(koinon_core::body::Anchor { statement: vote.envelope().clone() }))
            }
            (1, Some(_)) => made_up(world, who).unwrap_or(Body::LogResume(LogResume { old_log: log, old_head: None })),
            _ => Body::LogResume(LogResume { old_log: log, old_head: None }),
        };
        let position = Position::Log { seq: Seq((at + step) as u64), prev };
        let Ok(entry) = world.draft(who, position, body).sign(&world.people[who].operator, &[]) else { return };
        prev = entry.id().0;
        first.get_or_insert_with(|| entry.clone());
        // Now and then only the proof tells of the other branch.
        if step > 0 || !world.random.once_in(3) {
            world.take(who, entry);
        }
    }
    let proof = first.and_then(|first| ForkProof::of(&original, &first));
    let reporter = world.anybody();
    if let (Some(proof), true) = (proof, world.random.once_in(2)) {
        world.append(reporter, Body::Evidence(Box::new(proof.to_evidence())));
    }
}
