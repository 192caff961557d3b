//! A1 to A4, A8 to A11: who votes, how often and when.

use std::collections::BTreeSet;

use koinon_core::body::charter::Preset;
use koinon_core::body::entry::BoxOffer;
use koinon_core::body::proposal::{Choice, Scope};
use koinon_core::body::{Body, Cause, CoSignature, EmergencyOrder, Stop};
use koinon_core::dsse::{Envelope, Signer as _};
use koinon_core::ids::{Seconds, StatementId};
use koinon_core::kind::Kind;
use koinon_core::log::ForkProof;
use koinon_core::policy::{NotAnchored, Verdict};
use koinon_core::statement::Statement;
use koinon_core::testkit::expel;

use crate::kit::{FOUR, HOUR, World, approve, vote};

#[test]
fn a01_no_byte_of_a_vote_can_be_changed_and_an_operator_key_cannot_vote() {
    let mut world = World::new(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    let good = world.people[1].human(world.coop(), world.now, vote(proposal, Choice::Yes, 0));
    let envelope = good.envelope();
    let bytes = envelope.to_json();
    assert!(Statement::verify(Envelope::from_json(&bytes).unwrap()).is_ok());
    let mut tried = 0;
    for at in 0..bytes.len() {
        for bit in [1, 2, 32] {
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            let passed = Envelope::from_json(&changed).ok().and_then(|envelope| Statement::verify(envelope).ok());
            assert!(passed.is_none_or(|passed| passed.id() == good.id() && changed == bytes), "bit {bit} of byte {at}");
            tried += 1;
        }
    }
    assert!(tried > 1_000);
    let by_operator = world.signed(1, vote(proposal, Choice::Yes, 0), &[&world.people[1].operator]);
    assert!(matches!(
        world.state(1).may_anchor(&world.id(1), &by_operator, world.now),
        Err(NotAnchored::WrongKeyRole(_))
    ));
    world.force(1, &by_operator);
    world.sync();
    assert_eq!(world.verdict(0, by_operator.id()), Verdict::WrongKeyRole);
    assert_eq!(world.count(0, proposal), (0, 0));
}

#[test]
fn a02_a_vote_counts_under_no_other_name_and_in_no_other_cooperative() {
    let mut world = World::new(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    let good = world.people[1].human(world.coop(), world.now, vote(proposal, Choice::Yes, 0));
    let json = String::from_utf8(good.envelope().to_json()).unwrap();
    for kind in [Kind::Delegation, Kind::Withdrawal, Kind::Leave, Kind::CoSignature] {
        let relabelled = json.replace(&Kind::Vote.payload_type(), &kind.payload_type());
        let envelope = Envelope::from_json(relabelled.as_bytes()).unwrap();
        let refused = Statement::verify(envelope).unwrap_err();
        assert!(["BadSignature", "KindMismatch"].contains(&refused.category()), "{refused}");
    }
    let mut other = World::with(&FOUR, Preset::Trial, |_| ());
    assert_ne!(other.coop(), world.coop());
    let refused = other.state(1).may_anchor(&other.id(1), &good, other.now);
    assert_eq!(refused, Err(NotAnchored::OtherCooperative));
    other.force(1, &good);
    assert!(other.state(1).stray_votes().is_empty() && other.state(1).vote(&good.id()).is_none());
}

#[test]
fn a03_an_old_vote_that_is_said_again_changes_nothing_in_whatever_order() {
    let mut world = World::new(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    let [first, second] = [(Choice::Yes, 0), (Choice::No, 1)]
        .map(|(choice, vseq)| world.people[1].human(world.coop(), world.now, vote(proposal, choice, vseq)));
    let mut seen = 0;
    // Its own operator anchors the two, the first one again and the second one again, in every order.
    for order in permutations(&[&first, &first, &second, &second]) {
        let mut world = World::new(&FOUR);
        assert_eq!(world.propose(0, approve("qwen")), proposal);
        for statement in order {
            world.force(1, statement);
        }
        world.sync();
        assert_eq!(world.count(0, proposal), (0, 1));
        assert_eq!(world.verdict(0, first.id()), Verdict::Superseded);
        assert_eq!(world.verdict(0, second.id()), Verdict::Counted);
        seen += 1;
    }
    assert_eq!(seen, 24);
}

fn permutations<'a>(items: &[&'a Statement]) -> Vec<Vec<&'a Statement>> {
    if items.is_empty() {
        return vec![vec![]];
    }
    let without = |at: usize| [&items[..at], &items[at + 1..]].concat();
    let each = (0..items.len()).map(|at| (items[at], permutations(&without(at))));
    each.flat_map(|(first, rest)| rest.into_iter().map(move |rest| [vec![first], rest].concat())).collect()
}

#[test]
fn a04_who_says_yes_here_and_no_there_has_no_vote_anywhere_and_the_proof_stands_alone() {
    let mut world = World::new(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    // Two choices under one number.
    for choice in [Choice::Yes, Choice::No] {
        let statement = world.signed(2, vote(proposal, choice, 0), &[&world.people[2].governance]);
        world.force(2, &statement);
    }
    // Two entries of one position, each shown to one half.
    let position = world.commons[3].replica().next_position(&world.log(3));
    let two = [Choice::Yes, Choice::No].map(|choice| {
        let said = world.signed(3, vote(proposal, choice, 0), &[&world.people[3].governance]);
        let anchor = koinon_core::body::Anchor { statement: said.envelope().clone() };
        world.entry(3, position.clone(), Body::Anchor(Box::new(anchor)))
    });
    for (halves, entry) in [[0, 1], [2, 3]].into_iter().zip(&two) {
        halves.iter().for_each(|who| drop(world.commons[*who].insert(entry.clone()).unwrap()));
    }
    for who in 0..4 {
        for proof in world.commons[who].replica().unreported_forks() {
            world.append(who, Body::Evidence(Box::new(proof.to_evidence())));
        }
    }
    // Whoever holds both publishes the proof; one half is cut off until then.
    let proof = ForkProof::of(&two[0], &two[1]).unwrap();
    world.append(0, Body::Evidence(Box::new(proof.to_evidence())));
    world.votes(&[0, 1], proposal, Choice::Yes);
    world.sync();
    for who in 0..4 {
        assert_eq!(world.count(who, proposal), (2, 0));
        let said = world.state(who).proposals()[&proposal].votes.iter().filter(|v| v.author == world.id(2));
        assert!(said.map(|vote| vote.verdict).all(|verdict| verdict == Verdict::Equivocation));
        assert_eq!(world.commons[who].replica().fork(&world.log(3)).unwrap().seq, proof.seq);
    }
    assert_eq!(world.may_work(3), [false; 4]);
    // With nothing but its two envelopes and the cooperative's id.
    assert_eq!(ForkProof::of_evidence(&proof.to_evidence(), world.coop()), Some(proof.clone()));
    assert_eq!(ForkProof::of_evidence(&proof.to_evidence(), World::with(&FOUR, Preset::Trial, |_| ()).coop()), None);
    world.decide();
    assert!(world.phases(proposal).windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a08_removing_an_opponent_after_it_has_voted_changes_no_open_vote() {
    let mut world = World::new(&["aarhus", "bilbao", "cork", "delft", "espoo"]);
    // One that stays open for as long as the expulsion takes.
    let mut draft =
        world.state(0).draft_proposal(approve("qwen"), "q".parse().unwrap(), Default::default(), world.now).unwrap();
    let longer = Seconds(30 * 24 * HOUR);
    (draft.closes_at, draft.eta) = (draft.closes_at.plus(longer), draft.eta.plus(longer));
    draft.expires_at = draft.expires_at.plus(longer);
    let closes_at = draft.closes_at;
    let open = world.say(0, Body::Proposal(Box::new(draft))).unwrap();
    world.sync();
    world.votes(&[3, 4], open, Choice::No);
    world.votes(&[0, 1], open, Choice::Yes);
    let out = world.propose(0, expel(world.id(4)));
    world.votes(&[0, 1, 2, 3], out, Choice::Yes);
    world.wait(&[0, 85, 84, 1, 72]);
    assert_eq!(world.phase(0, out).name(), "Enacted");
    assert_eq!((world.state(0).active().count(), world.state(0).proposals()[&open].sealers.len()), (4, 5));
    assert_eq!(world.count(0, open), (2, 2));
    world.now = closes_at;
    world.wait(&[1, 1, 25]);
    let state = &world.state(0).proposals()[&open];
    assert_eq!((state.ballot.tally.electors, world.count(0, open)), (5, (2, 2)), "N and every vote stay");
    assert_eq!(world.phase(0, open).name(), "Rejected");
}

fn order(world: &World, stop: Stop) -> Body {
    let (membership, charter) = (world.state(0).head(Scope::Membership), world.state(0).head(Scope::Charter));
    let order = EmergencyOrder { stop, cause: Cause::Fraud, membership, charter, text: Default::default() };
    Body::EmergencyOrder(Box::new(order))
}

#[test]
fn a09_an_emergency_touches_no_vote_ends_by_itself_and_does_not_follow_itself() {
    let mut world = World::new(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    let stop = Stop::Member(world.id(3));
    let first = world.say(0, order(&world, stop.clone())).unwrap();
    world.sync();
    world.say(1, Body::CoSignature(CoSignature { order: first })).unwrap();
    world.sync();
    assert_eq!(world.may_work(3), [false; 4]);
    // It votes and counts all the same.
    world.votes(&[3], proposal, Choice::No);
    world.votes(&[0, 1], proposal, Choice::Yes);
    world.sync();
    assert_eq!((world.count(0, proposal), world.state(0).quorum()), ((2, 1), 3));
    world.wait(&[72]);
    assert_eq!(world.may_work(3), [true; 4]);
    // The same cause again bars nobody from working, however many sign, and whether or not an operator asks.
    let again = world.signed(0, order(&world, stop), &[&world.people[0].governance]);
    assert!(world.state(0).may_anchor(&world.id(0), &again, world.now).is_err());
    world.force(0, &again);
    for who in 1..3 {
        let behind = Body::CoSignature(CoSignature { order: again.id() });
        let behind = world.signed(who, behind, &[&world.people[who].governance]);
        world.force(who, &behind);
    }
    world.sync();
    assert_eq!(world.state(2).emergencies()[&again.id()].barred_by, Some(first));
    assert_eq!(world.may_work(3), [true; 4]);
    // There is no way to say that it should touch a vote.
    let mut payload = order(&world, Stop::Member(world.id(3))).to_json().unwrap();
    payload["stop"] = serde_json::json!({ "voteWeight": "delft" });
    let header = serde_json::json!({ "coop": world.coop(), "author": world.id(0), "site": "main",
        "key": world.people[0].governance.public_key(), "kind": "emergency-order", "rules": 2, "issuedAt": world.now,
        "body": payload });
    let bytes = serde_json::to_vec(&header).unwrap();
    let envelope = Envelope::sign(&Kind::EmergencyOrder.payload_type(), &bytes, &world.people[0].governance);
    let statement = Statement::verify(envelope).unwrap();
    assert!(matches!(statement.body(), Body::Opaque(_)), "it is invalid");
}

#[test]
fn a10_five_shells_of_one_owner_have_one_vote() {
    let names = ["aarhus", "bilbao", "cork", "delft", "shell1", "shell2", "shell3", "shell4", "shell5"];
    let mut world = World::with(&names, Preset::Standard, |charter| {
        for shell in &mut charter.founders[4..] {
            shell.control_group = "one-owner".parse().unwrap();
        }
    });
    let proposal = world.propose(4, approve("qwen"));
    world.votes(&[4, 5, 6, 7, 8], proposal, Choice::Yes);
    world.votes(&[0, 1], proposal, Choice::No);
    world.sync();
    assert_eq!(world.state(0).proposals()[&proposal].ballot.tally.electors, 5);
    assert_eq!(world.count(0, proposal), (1, 2));
    // Nor do they stand behind an order as more than one.
    let stop = Stop::Member(world.id(0));
    let id = world.say(4, order(&world, stop)).unwrap();
    world.sync();
    for who in 5..9 {
        world.say(who, Body::CoSignature(CoSignature { order: id })).unwrap();
    }
    world.sync();
    assert_eq!((world.state(0).emergencies()[&id].owners, world.may_work(0)), (1, vec![true; 9]));
}

#[test]
fn a11_a_vote_that_was_shown_after_the_close_counts_nowhere_although_a_liar_vouches_for_it() {
    let mut world = World::new(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.votes(&[0, 1], proposal, Choice::Yes);
    world.votes(&[2], proposal, Choice::No);
    world.sync();
    let voted_at = world.now;
    let closes_at = world.state(0).proposals()[&proposal].proposal.closes_at;
    // The close and its grace pass; the honest ones offer what they held.
    world.cut.insert(3);
    world.now = closes_at.plus(Seconds(HOUR));
    world.settle();
    world.now = world.now.plus(Seconds(1));
    // The liar dates its vote back, in the statement and in its log, and offers a box with it.
    let late = world.dated(3, voted_at, vote(proposal, Choice::Veto, 0), &[&world.people[3].governance]);
    world.clocks[3] = voted_at.0 - world.now.0;
    let anchor = world.force(3, &late);
    world.clocks[3] = 0;
    let mut entries: BTreeSet<StatementId> = world.state(3).proposals()[&proposal].entries.clone();
    entries.insert(anchor.id());
    world.append(3, Body::BoxOffer(BoxOffer { proposal, entries }));
    world.cut.clear();
    world.wait(&[0, 1]);
    for who in 0..4 {
        assert_eq!(world.verdict(who, late.id()), Verdict::NotInBox);
        assert_eq!(world.count(who, proposal), (2, 1));
    }
    world.wait(&[24]);
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
}
