//! Proofs stop work and nothing else, and cannot be made of nothing.

use super::complete::{FOUR, HOUR, complete, quick};
use super::*;
use crate::body::entry::Basis;
use crate::body::proposal::{Leave, RemoveEngine};
use crate::body::{CloseSeal, EnactSeal, LiftQuarantine, Outcome, SealEvidence};
use crate::statement::Position;

fn slot(world: &World) -> Slot {
    Slot { scope: Scope::Releases, parent: world.state(0).head(Scope::Releases), term: 0 }
}

fn enact(world: &World, name: &str) -> Body {
    let proposal = StatementId(Digest::of(name.as_bytes()));
    let root = BoxRoot(Digest::of(name.as_bytes()));
    let version = PolicyHash(Digest::of(name.as_bytes()));
    Body::EnactSeal(EnactSeal { slot: slot(world), proposal, root, version })
}

fn close(world: &World, name: &str, round: u32, outcome: Outcome) -> CloseSeal {
    CloseSeal {
        proposal: StatementId(Digest::of(name.as_bytes())),
        round,
        root: BoxRoot(Digest::of(name.as_bytes())),
        count: 1,
        membership_head: world.state(0).head(Scope::Membership),
        outcome,
        closed_at: T0,
        basis: Some(Basis { slot: slot(world), offers: BTreeSet::new() }),
    }
}

fn offences(world: &World, who: usize, of: usize) -> Vec<Offence> {
    let proofs = world.state(who).quarantined(&world.people[of].id());
    proofs.into_iter().flatten().map(|(_, proof)| proof.offence).collect()
}

fn may_work(world: &World, of: usize) -> Vec<bool> {
    (0..4).map(|who| world.state(who).member(&world.people[of].id()).unwrap().may_work()).collect()
}

#[test]
fn two_enact_seals_for_one_slot_stop_new_work_everywhere_and_not_speech() {
    let mut world = quick(&FOUR);
    for name in ["one", "two"] {
        let body = enact(&world, name);
        world.append(3, body);
    }
    world.sync();
    for who in 0..4 {
        assert_eq!(offences(&world, who, 3), [Offence::TwoEnacted { slot: slot(&world) }]);
    }
    assert_eq!(may_work(&world, 3), [false; 4]);
    assert_eq!(may_work(&world, 0), [true; 4]);
    // It still votes and seals: one of the others is cut off.
    let proposal = world.propose(0, Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() }));
    world.sync();
    world.all_yes(proposal);
    world.sync();
    world.cut.insert(2);
    world.settle();
    assert_eq!(world.phase(3, proposal).name(), "Enacted");
    assert_eq!(world.state(3).proposals()[&proposal].ballot.tally.counts.yes, 4);
}

#[test]
fn close_seals_prove_something_only_where_an_honest_operator_signs_one() {
    let good = |a: CloseSeal, b: CloseSeal| {
        let mut world = quick(&FOUR);
        world.append(3, Body::CloseSeal(a));
        world.append(3, Body::CloseSeal(b));
        offences(&world, 3, 3)
    };
    let world = quick(&FOUR);
    let seal = |name: &str, round: u32, outcome| close(&world, name, round, outcome);
    let (slot, proposal) = (slot(&world), StatementId(Digest::of(b"one")));
    let passed = Outcome::Passed;
    let in_round = Offence::TwoInRound { proposal, round: 1 };
    assert_eq!(good(seal("one", 1, passed), seal("one", 1, Outcome::Rejected)), [in_round]);
    assert_eq!(good(seal("one", 1, passed), seal("two", 1, passed)), [Offence::TwoPassed { slot }]);
    // A box that grew, another proposal that failed, the same box by other offers, another term: all of them honest.
    let offers = BTreeSet::from([proposal]);
    let by_other_offers = CloseSeal { basis: Some(Basis { slot, offers }), ..seal("one", 1, passed) };
    let later = Slot { term: 1, ..slot };
    let in_later_term =
        CloseSeal { basis: Some(Basis { slot: later, offers: BTreeSet::new() }), ..seal("two", 1, passed) };
    for honest in [seal("one", 2, passed), seal("two", 1, Outcome::Rejected), by_other_offers, in_later_term] {
        assert_eq!(good(seal("one", 1, passed), honest), []);
    }
}

#[test]
fn a_quarantine_ends_by_a_vote_that_names_what_was_weighed_and_begins_anew_with_the_next_proof() {
    let mut world = quick(&FOUR);
    for name in ["one", "two"] {
        let body = enact(&world, name);
        world.append(3, body);
    }
    world.sync();
    let member = world.people[3].id();
    let proofs: BTreeSet<Digest> = world.state(0).quarantined(&member).unwrap().keys().copied().collect();
    let lift = Action::LiftQuarantine(LiftQuarantine { member: member.clone(), proofs });
    let proposal = world.propose(0, lift);
    world.sync();
    assert_eq!(world.vote(3, proposal, Choice::Yes, 0), Err(NotAnchored::Vote(Verdict::NotElector)));
    for who in 0..3 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    assert_eq!((may_work(&world, 3), world.state(0).quarantined(&member)), (vec![true; 4], None));
    for outcome in [Outcome::Passed, Outcome::Rejected] {
        let seal = close(&world, "three", 1, outcome);
        world.append(3, Body::CloseSeal(seal));
    }
    world.sync();
    assert_eq!(may_work(&world, 3), [false; 4]);
    assert_eq!(world.state(0).quarantined(&member).unwrap().len(), 1);
}

/// Another entry at the position `seq` of `who`'s log.
fn fork(world: &World, who: usize, seq: u64) -> Statement {
    let log = world.log(who);
    let held = world.commons[who].replica().range(&log, Seq(seq), 1).remove(0);
    let Position::Log { prev, .. } = *held.position() else { panic!("an entry") };
    let leave = world.people[who].human(world.coop(), T0, Body::Leave(Leave { reason: Some("x".parse().unwrap()) }));
    let body = Body::Anchor(Box::new(Anchor { statement: leave.envelope().clone() }));
    world.people[who].entry(world.coop(), T0, seq, prev, body)
}

#[test]
fn a_fork_quarantines_and_undoes_nothing_that_was_decided_before() {
    let mut world = quick(&FOUR);
    let proposal = world.propose(3, approve("qwen"));
    world.sync();
    world.all_yes(proposal);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    let head = world.state(0).head(Scope::Releases);
    // Its author forks the log at the very entry that anchors it.
    let other = fork(&world, 3, 0);
    for who in 0..4 {
        world.commons[who].insert(other.clone()).unwrap();
    }
    assert_eq!(offences(&world, 0, 3), [Offence::Fork { seq: Seq(0) }]);
    assert_eq!(may_work(&world, 3), [false; 4]);
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    assert_eq!(world.state(2).head(Scope::Releases), head);
}

#[test]
fn who_left_cannot_undo_it_by_a_fork() {
    let mut world = quick(&FOUR);
    world.say(3, Body::Leave(Leave::default())).unwrap();
    world.settle();
    assert_eq!(world.state(0).active().count(), 3);
    let other = fork(&world, 3, 0);
    world.commons[0].insert(other).unwrap();
    assert_eq!(world.state(0).active().count(), 3);
}

#[test]
fn whoever_was_shown_one_half_learns_of_both_by_the_evidence_of_another() {
    let mut world = quick(&FOUR);
    for name in ["one", "two"] {
        let body = enact(&world, name);
        world.append(3, body);
    }
    // Only aarhus holds its log.
    world.cut = BTreeSet::from([1, 2]);
    world.sync();
    let found = world.commons[0].state().unreported_seals(world.commons[0].replica(), &world.log(0));
    assert_eq!(found.len(), 1);
    let found = found[0].clone();
    world.append(0, Body::SealEvidence(Box::new(found)));
    assert!(world.state(0).unreported_seals(world.commons[0].replica(), &world.log(0)).is_empty());
    world.cut = BTreeSet::from([3]);
    let log = world.log(0);
    let entries = world.commons[0].replica().range(&log, Seq(0), 10);
    world.commons[1].insert_all(entries.iter().map(|e| (**e).clone()));
    assert_eq!(offences(&world, 1, 3), [Offence::TwoEnacted { slot: slot(&world) }]);
    world.cut.clear();
    world.sync();
    assert!((1..4).all(|who| world.state(who) == world.state(0)));
}

#[test]
fn a_report_that_proves_nothing_harms_neither_side() {
    let mut world = quick(&FOUR);
    let body = enact(&world, "one");
    let honest = world.append(3, body);
    let body = enact(&world, "two");
    let own = world.append(2, body);
    let twice = |entry: &Statement| (entry.envelope().clone(), entry.envelope().clone());
    // Cork signs in delft's name with its own key, and shows that.
    let forged = {
        let position = Position::Log { seq: Seq(1), prev: Digest(honest.id().0.0) };
        let draft = Draft {
            coop: Some(world.coop()),
            author: world.people[3].id(),
            site: "main".parse().unwrap(),
            issued_at: T0,
            position,
            body: enact(&world, "three"),
        };
        draft.sign(&world.people[2].operator, &[]).unwrap()
    };
    let forged_too = Draft {
        coop: Some(world.coop()),
        author: world.people[3].id(),
        site: "main".parse().unwrap(),
        issued_at: T0,
        position: Position::Log { seq: Seq(2), prev: Digest(forged.id().0.0) },
        body: enact(&world, "four"),
    };
    let forged_too = forged_too.sign(&world.people[2].operator, &[]).unwrap();
    let reports = [
        twice(&honest),
        (honest.envelope().clone(), own.envelope().clone()),
        (honest.envelope().clone(), forged.envelope().clone()),
        (forged.envelope().clone(), forged_too.envelope().clone()),
    ];
    for (first, second) in reports {
        world.append(2, Body::SealEvidence(Box::new(SealEvidence { first, second })));
    }
    world.sync();
    for of in 0..4 {
        assert_eq!((offences(&world, 0, of), may_work(&world, of)), (vec![], vec![true; 4]));
    }
    assert_eq!(world.commons[0].replica().effective(&world.log(2)).count(), 5);
}

#[test]
fn what_is_written_in_a_log_that_was_replaced_proves_nothing_against_its_member() {
    let mut world = quick(&FOUR);
    for name in ["one", "two"] {
        let body = enact(&world, name);
        world.append(3, body);
    }
    world.sync();
    assert_eq!(may_work(&world, 3), [false; 4]);
    super::recall::give(&mut world, 3, &super::recall::Fresh::of("delft"));
    world.settle();
    assert_eq!(may_work(&world, 3), [true; 4]);
    let body = enact(&world, "three");
    super::recall::by_the_thief(&mut world, 3, body);
    world.wait(HOUR);
    world.settle();
    assert_eq!((offences(&world, 0, 3), may_work(&world, 3)), (vec![], vec![true; 4]));
}

#[test]
fn the_use_of_a_revoked_key_is_ignored_and_not_punished() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    let log = world.log(3);
    let key = world.people[3].member.keys.governance[0];
    let revocation = Body::KeyRevocation(crate::body::KeyRevocation { key, log, since_seq: Seq(0) });
    let recovery = super::keys::key("delft/recovery");
    let revocation = super::keys::signed(&world, 3, revocation, &[&recovery]);
    world.anchor(3, &revocation);
    let vote = Vote { proposal, choice: Choice::No, vseq: 0, ground: None, reason: None };
    let vote = world.people[3].human(world.coop(), world.now, Body::Vote(vote));
    world.anchor(3, &vote);
    world.sync();
    assert_eq!(world.verdict(0, vote.id()), Verdict::WrongKeyRole);
    assert_eq!(may_work(&world, 3), [true; 4]);
}
