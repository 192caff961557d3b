//! A5 to A7, A13, A15, A26, A27, A30: what travels, what is kept, and what is counted.

use std::collections::BTreeSet;

use koinon_core::audit::{audit, canonical, export};
use koinon_core::body::charter::{Class, Fraction, Preset};
use koinon_core::body::entry::{Basis, LogResume, Outcome, Slot};
use koinon_core::body::proposal::{Choice, Scope};
use koinon_core::body::{Body, CloseSeal, EnactSeal};
use koinon_core::dsse::Envelope;
use koinon_core::ids::{BoxRoot, Digest, PolicyHash, Seq, StatementId};
use koinon_core::log::{Inserted, Limits, Refused};
use koinon_core::policy::{Commons, Offence, Verdict};
use koinon_core::presets;
use koinon_core::statement::{Position, Statement};
use koinon_core::tally::{Counts, tally};
use koinon_core::testkit::{T0, Writer, person};

use crate::kit::{FOUR, World, approve, vote};

#[test]
fn a05_a_member_that_hides_another_one_s_votes_hides_nothing() {
    let mut world = World::new(&FOUR);
    // The first member shows nobody anything of the last one's log, and the last one reaches nobody else but the second.
    for author in [1, 3] {
        world.hides.insert((0, author));
    }
    world.hides.extend([(2, 3), (2, 1)]);
    let proposal = world.propose(0, approve("qwen"));
    let hidden = world.vote(3, proposal, Choice::No).unwrap();
    world.votes(&[0, 1], proposal, Choice::Yes);
    world.decide();
    for who in 0..4 {
        assert_eq!(world.verdict(who, hidden), Verdict::Counted);
        assert_eq!(world.count(who, proposal), (2, 1));
    }
    // What is lacked is known: an entry behind a gap names what it follows.
    let newest = world.entries(3).into_iter().rfind(|entry| *entry.author() == world.id(3)).unwrap();
    let mut reader = Commons::new(world.founding(), Limits::default());
    assert_eq!(reader.insert(newest), Ok(Inserted::Waiting));
    assert!(!reader.replica().missing().is_empty());
}

#[test]
fn a06_entries_in_any_order_and_any_number_of_times_make_the_same_outcome_byte_by_byte() {
    let mut world = World::with(&["aarhus", "bilbao"], Preset::Trial, |_| ());
    let proposal = world.propose(0, approve("qwen"));
    world.votes(&[0, 1], proposal, Choice::Yes);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 2]);
    let mut entries = world.entries(0);
    let told = |commons: &Commons| {
        let lines = export(commons, T0).flat_map(|line| [line.to_json(), b"\n".to_vec()].concat());
        canonical(&audit(&lines.collect::<Vec<u8>>()).unwrap())
    };
    let expected = told(&world.commons[0]);
    let mut turn = 1_u64;
    for order in 0..10_000 {
        for at in (1..entries.len()).rev() {
            // A generator as simple as that gives every order its chance.
            turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            entries.swap(at, (turn >> 33) as usize % (at + 1));
        }
        let again = entries[order % entries.len()].clone();
        let loaded = Commons::load(world.founding(), Limits::default(), entries.iter().cloned().chain([again]));
        assert!(loaded.1.is_empty() && loaded.0.state() == world.commons[0].state());
        if order % 100 == 0 {
            assert_eq!(told(&loaded.0), expected);
        }
    }
}

fn slot(world: &World) -> Slot {
    Slot { scope: Scope::Releases, parent: world.state(0).head(Scope::Releases), term: 0 }
}

fn enact(world: &World, name: &str) -> Body {
    let (proposal, root) = (StatementId(Digest::of(name.as_bytes())), BoxRoot(Digest::of(name.as_bytes())));
    let version = PolicyHash(Digest::of(name.as_bytes()));
    Body::EnactSeal(EnactSeal { slot: slot(world), proposal, root, version })
}

fn close(world: &World, name: &str) -> Body {
    Body::CloseSeal(CloseSeal {
        proposal: StatementId(Digest::of(b"one")),
        round: 1,
        root: BoxRoot(Digest::of(name.as_bytes())),
        count: 1,
        membership_head: world.state(0).head(Scope::Membership),
        outcome: Outcome::Passed,
        closed_at: T0,
        basis: Some(Basis { slot: slot(world), offers: BTreeSet::new() }),
    })
}

#[test]
fn a07_who_seals_two_roots_or_two_children_is_quarantined_by_all_as_soon_as_both_have_travelled() {
    type Make = fn(&World, &str) -> Body;
    for make in [close as Make, enact as Make] {
        let mut world = World::new(&FOUR);
        // Each half on a branch of its own, shown to one member each.
        let position = world.commons[3].replica().next_position(&world.log(3));
        for (who, name) in [(0, "one"), (1, "two")] {
            let body = make(&world, name);
            let entry = world.entry(3, position.clone(), body);
            world.commons[who].insert(entry).unwrap();
        }
        assert_eq!(world.may_work(3), [true; 4]);
        world.cut.insert(3);
        world.sync();
        for who in 0..3 {
            let reports = world.state(who).unreported_seals(world.commons[who].replica(), &world.log(who));
            reports.into_iter().for_each(|report| drop(world.append(who, Body::SealEvidence(Box::new(report)))));
        }
        world.cut.clear();
        world.sync();
        assert_eq!(world.may_work(3), [false; 4]);
        // The two seals are a proof by themselves, beside the fork that they make.
        let proofs = world.state(2).quarantined(&world.id(3)).unwrap();
        assert!(proofs.values().any(|proof| !matches!(proof.offence, Offence::Fork { .. })));
        assert!((0..3).all(|of| world.may_work(of) == [true; 4]));
        assert!(
            (0..4).all(|who| world.state(who).quarantined(&world.id(3)) == world.state(0).quarantined(&world.id(3)))
        );
    }
}

#[test]
fn a13_an_older_past_rolls_nobody_back_and_whoever_lost_everything_learns_it_again_before_it_acts() {
    let mut world = World::with(&FOUR, Preset::Trial, |_| ());
    let first = world.propose(0, approve("qwen"));
    world.votes(&[0, 1, 2, 3], first, Choice::Yes);
    world.settle();
    let old = world.commons.clone();
    let second = world.propose(0, approve("llama"));
    world.votes(&[0, 1, 2, 3], second, Choice::Yes);
    world.settle();
    let head = world.state(0).head(Scope::Releases);
    assert_ne!(old[1].state().head(Scope::Releases), head);
    // A member that serves its past offers nothing that is wanted, and what it pushes is known.
    let newest = world.commons[0].clone();
    assert!(newest.replica().wants(&old[1].replica().heads()).is_empty());
    let logs = [0, 1, 2, 3].map(|who| world.log(who));
    for log in logs {
        for entry in old[1].replica().range(&log, Seq(0), 10_000) {
            assert_eq!(world.commons[0].insert((*entry).clone()), Ok(Inserted::Known));
        }
    }
    assert_eq!(world.state(0).head(Scope::Releases), head);
    // An operator whose volume is gone: until a quorum has told it its own head it signs nothing.
    world.commons[2] = Commons::new(world.founding(), Limits::default());
    let members: Vec<_> = (0..4).map(|who| world.id(who)).collect();
    let mut recovery = koinon_core::recovery::Recovery::new(world.id(2), world.log(2));
    let gate = |world: &World, recovery: &koinon_core::recovery::Recovery| {
        recovery.gate(world.commons[2].replica(), &members, world.state(2).quorum())
    };
    let own_head = world.commons[0].replica().head(&world.log(2));
    for who in [0, 1, 3] {
        assert!(!matches!(gate(&world, &recovery), koinon_core::recovery::Gate::Ready), "too few have told it");
        recovery.told(world.id(who), own_head);
    }
    assert!(!matches!(gate(&world, &recovery), koinon_core::recovery::Gate::Ready), "it lacks its own entries");
    world.sync();
    assert!(matches!(gate(&world, &recovery), koinon_core::recovery::Gate::Ready));
    assert_eq!(world.state(2).head(Scope::Releases), head);
}

#[test]
fn a15_numbers_far_ahead_are_refused_and_overflow_nothing() {
    let mut world = World::new(&FOUR);
    let log = world.log(3);
    for (seq, prev) in [(u64::MAX >> 1, Digest::of(b"any")), (1_000, world.coop().0), (1, world.coop().0)] {
        let entry = world.entry(3, Position::Log { seq: Seq(seq), prev }, resume(&world, 3));
        assert!(matches!(world.commons[0].insert(entry), Ok(Inserted::Waiting) | Err(Refused::TooFarAhead { .. })));
    }
    // Nothing waits for what cannot come, beyond a bound.
    assert_eq!((world.commons[0].replica().next_seq(&log), world.commons[0].replica().waiting()), (Seq(0), 3));
    let payload = serde_json::json!({ "coop": world.coop(), "author": world.id(3), "site": "main", "key": log,
        "kind": "log-resume", "rules": 1, "issuedAt": i64::MAX, "body": { "oldLog": log }, "log": log,
        "seq": u64::MAX, "prev": Digest::of(b"any") });
    let bytes = serde_json::to_vec(&payload).unwrap();
    let envelope = Envelope::sign("application/vnd.koinon.log-resume.v1+json", &bytes, &world.people[3].operator);
    assert!(Statement::verify(envelope).is_err(), "no number is above 2^63 - 1");
    // A vote with the highest number, and a proposal of the highest term: both end at their bounds.
    let proposal = world.propose(0, approve("qwen"));
    let high = world.signed(1, vote(proposal, Choice::Yes, u32::MAX), &[&world.people[1].governance]);
    world.force(1, &high);
    world.sync();
    assert_eq!(world.verdict(0, high.id()), Verdict::TooManyVotes);
    let mut draft = world.state(0).draft_proposal(approve("l"), "l".parse().unwrap(), Default::default(), T0).unwrap();
    draft.term = u32::MAX;
    assert!(world.say(0, Body::Proposal(Box::new(draft))).is_err());
}

fn resume(world: &World, who: usize) -> Body {
    Body::LogResume(LogResume { old_log: world.log(who), old_head: None })
}

#[test]
fn a26_who_writes_without_end_stops_itself_alone() {
    let mut world = World::with(&FOUR, Preset::Standard, |charter| {
        charter.parameters.budgets.entries_per_day = 200;
    });
    let cap = 256 * 1024;
    let limits = Limits { stored_bytes: cap, ..Limits::default() };
    let mut reader = Commons::new(world.founding(), limits);
    let flooder = person("delft");
    let mut writer = Writer::new(&flooder, world.coop());
    let mut refused = 0;
    let garbage: Vec<Statement> = (0..3_000).map(|note| writer.note(T0, note)).collect();
    refused += reader.insert_all(garbage).len();
    let log = world.log(3);
    assert!(refused > 1_000 && reader.replica().capped(&log));
    assert!(reader.replica().stored_bytes(&log) <= cap);
    assert_eq!(reader.replica().effective(&log).count(), 200, "what is beyond the day's budget has no effect anywhere");
    // The others go on, and a vote is decided where the flood was taken.
    let proposal = world.propose(0, approve("qwen"));
    world.votes(&[0, 1, 2], proposal, Choice::Yes);
    world.cut.insert(3);
    world.decide();
    assert!(reader.insert_all(world.entries(0)).is_empty());
    let taken = &reader.state().proposals()[&proposal];
    assert_eq!(reader.state().phase(taken, world.now).name(), "Enacted");
    // Three open proposals, and no fourth.
    let made = (0..4).map(|n| {
        let draft = world.state(1).draft_proposal(approve("n"), "n".parse().unwrap(), Default::default(), world.now);
        let draft = koinon_core::body::Proposal { title: n.to_string().parse().unwrap(), ..draft.unwrap() };
        let draft = Body::Proposal(Box::new(draft));
        let statement = world.signed(1, draft, &[&world.people[1].governance]);
        world.force(1, &statement);
        statement.id()
    });
    let made: Vec<StatementId> = made.collect();
    let named = |id: &StatementId| world.state(1).proposals()[id].invalid.as_ref().map(|invalid| invalid.category());
    assert_eq!(made.iter().map(named).collect::<Vec<_>>(), [None, None, None, Some("TooManyOpen")]);
}

#[test]
fn a27_any_numbers_have_an_outcome() {
    let edges = [0, 1, 2, 3, 4, u32::MAX - 1, u32::MAX];
    let shares = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 3), (u32::MAX, 1), (u32::MAX, u32::MAX), (1, u32::MAX)];
    let mut judged = 0;
    for class in Class::ALL {
        for (num, den) in shares {
            let mut rules = presets::classes(Preset::Standard)[&class];
            rules.turnout = Fraction { num, den };
            rules.veto = Some(Fraction { num, den });
            for electors in edges {
                for (yes, veto) in edges.into_iter().flat_map(|yes| edges.map(|veto| (yes, veto))) {
                    for counts in
                        [Counts { yes, no: veto, abstain: yes, veto }, Counts { yes, veto, ..Counts::default() }]
                    {
                        let told = tally(counts, electors, &rules);
                        // Who has no yes has passed nothing, and where nobody decides nothing passes.
                        assert!(told.outcome != Outcome::Passed || counts.yes > 0 || told.min_yes == 0);
                        judged += 1;
                    }
                }
            }
        }
    }
    assert_eq!(judged, 8 * 8 * 7 * 49 * 2);
    // A member alone, and two of them, decide by the same functions.
    for names in [&["aarhus"][..], &["aarhus", "bilbao"]] {
        let mut world = World::with(names, Preset::Trial, |_| ());
        let proposal = world.propose(0, approve("qwen"));
        let all: Vec<usize> = (0..names.len()).collect();
        world.votes(&all, proposal, Choice::Yes);
        world.settle();
        assert_eq!(world.phase(0, proposal).name(), "Enacted");
    }
}

#[test]
fn a30_whoever_deletes_its_own_copy_of_the_votes_changes_nothing() {
    let mut world = World::new(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.votes(&[0, 1, 2], proposal, Choice::Yes);
    let own = world.vote(3, proposal, Choice::No).unwrap();
    world.sync();
    // At one member every entry that anchors a vote is gone; what follows it waits.
    let is_vote = |entry: &Statement| entry.nested().is_some_and(|inner| matches!(inner.body(), Body::Vote(_)));
    let kept: Vec<Statement> = world.entries(3).into_iter().filter(|entry| !is_vote(entry)).collect();
    world.commons[3] = Commons::load(world.founding(), Limits::default(), kept).0;
    assert!(world.state(3).vote(&own).is_none());
    world.sync();
    assert_eq!(world.state(3), world.state(0));
    world.decide();
    assert_eq!((world.phases(proposal), world.count(3, proposal)), (vec!["Enacted"; 4], (3, 1)));
}
