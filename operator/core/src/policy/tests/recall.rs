//! A member that lost its keys gets others, and whoever has the old ones gets nothing.

use super::complete::{FOUR, HOUR, complete, quick};
use super::keys::{key, signed};
use super::*;
use crate::body::member::MemberKeys;
use crate::body::{EnactSeal, LogResume, ResetKeys};
use crate::dsse::{SeedSigner, Signer};

/// The keys that a member would get.
pub(super) struct Fresh {
    governance: SeedSigner,
    operator: SeedSigner,
}

impl Fresh {
    pub(super) fn of(name: &str) -> Self {
        Self { governance: key(&format!("{name}/governance/2")), operator: key(&format!("{name}/operator/2")) }
    }

    fn keys(&self) -> MemberKeys {
        let recovery = vec![key("recovery/2").public_key()];
        MemberKeys { recovery, governance: vec![self.governance.public_key()], operator: self.operator.public_key() }
    }
}

fn reset(world: &World, member: usize, keys: MemberKeys) -> Body {
    let action = Action::ResetKeys(ResetKeys { member: world.people[member].id(), keys });
    let title = "Other keys".parse().unwrap();
    Body::Proposal(Box::new(world.state(0).draft_proposal(action, title, Default::default(), world.now).unwrap()))
}

/// The others give `member` the keys, and its operator goes on with them.
pub(super) fn give(world: &mut World, member: usize, fresh: &Fresh) {
    let aarhus = person("aarhus").governance;
    let proposal = reset(world, member, fresh.keys());
    let proposal = signed(world, 0, proposal, &[&aarhus, &fresh.operator, &fresh.governance]);
    world.state(0).check_proposal(&proposal).unwrap();
    world.anchor(0, &proposal);
    assert_eq!(world.state(0).awaited_keys(world.now)[0].1, fresh.operator.public_key());
    world.sync();
    for who in (0..world.people.len()).filter(|who| *who != member) {
        world.vote(who, proposal.id(), Choice::Yes, 0).unwrap();
    }
    for hours in [0, 169, 1, 24] {
        world.wait(hours * HOUR);
        world.settle();
    }
    assert_eq!(world.phase(0, proposal.id()).name(), "Enacted");
    world.cut.clear();
    world.settle();
    let old_log = world.log(member);
    let old_head = world.commons[0].replica().head(&old_log);
    let mut renewed = person(world.people[member].member.id.as_str());
    renewed.member.keys = fresh.keys();
    let Fresh { governance, operator } = Fresh::of(world.people[member].member.id.as_str());
    (renewed.governance, renewed.operator) = (governance, operator);
    world.people[member] = renewed;
    world.append(member, Body::LogResume(LogResume { old_log, old_head }));
    // It seals nothing that is not newer than that.
    world.wait(1);
}

/// An entry in the old log, by whoever holds its key.
pub(super) fn by_the_thief(world: &mut World, member: usize, body: Body) {
    let thief = person(world.people[member].member.id.as_str());
    let position = world.commons[0].replica().next_position(&thief.operator.public_key());
    let draft = Draft {
        coop: Some(world.coop()),
        author: thief.id(),
        site: "main".parse().unwrap(),
        issued_at: world.now,
        position,
        body,
    };
    let entry = draft.sign(&thief.operator, &[]).unwrap();
    world.commons[0].insert(entry).unwrap();
}

#[test]
fn a_member_with_new_keys_votes_and_seals_in_a_new_log() {
    let mut world = quick(&FOUR);
    world.cut.insert(3);
    give(&mut world, 3, &Fresh::of("delft"));
    world.settle();
    let member = world.state(3).member(&world.people[3].id()).unwrap();
    assert_eq!((member.member.keys.operator, member.standing), (world.log(3), MemberStanding::Active));
    assert_eq!(world.state(1).member_by_operator(&person("delft").operator.public_key()), None);
    world.cut.insert(2);
    let proposal = world.propose(3, approve("qwen"));
    world.sync();
    for who in [0, 1, 3] {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    world.wait(120);
    world.settle();
    // Three of four must seal, and one is cut off: the new operator's seals count.
    assert_eq!(world.phase(0, proposal).name(), "Enacted");
    let (loaded, refused) = load(&world);
    assert!(refused.is_empty());
    assert_eq!(loaded.state(), world.commons[0].state(), "a newcomer finds both logs");
}

fn load(world: &World) -> (Commons, Vec<(StatementId, crate::log::Refused)>) {
    let replica = world.commons[0].replica();
    let entries = replica.logs().flat_map(|(log, _)| replica.range(log, Seq(0), 1000)).map(|e| (*e).clone());
    Commons::load(world.founding(), Limits::default(), entries.collect::<Vec<_>>().into_iter().rev())
}

#[test]
fn whoever_holds_the_old_keys_neither_votes_nor_seals_any_more() {
    let mut world = quick(&FOUR);
    give(&mut world, 3, &Fresh::of("delft"));
    world.settle();
    let proposal = world.propose(0, approve("qwen"));
    let thief = person("delft");
    let vote = Vote { proposal, choice: Choice::No, vseq: 3, ground: None, reason: None };
    let vote = thief.human(world.coop(), world.now, Body::Vote(vote));
    let anchor = Anchor { statement: vote.envelope().clone() };
    by_the_thief(&mut world, 3, Body::Anchor(Box::new(anchor)));
    let slot = world.state(0).proposals()[&proposal].slot();
    let root = BoxRoot(Digest::of(b"any"));
    let version = version_hash(slot.scope, slot.parent, proposal, root);
    by_the_thief(&mut world, 3, Body::EnactSeal(EnactSeal { slot, proposal, root, version }));
    assert_eq!(world.verdict(0, vote.id()), Verdict::WrongKeyRole);
    assert!(world.state(0).proposals()[&proposal].enact_seals.is_empty());
    world.settle();
    world.all_yes(proposal);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    assert_eq!(world.state(0).proposals()[&proposal].ballot.tally.counts.no, 0);
}

#[test]
fn in_a_vote_that_was_open_the_new_log_is_heard() {
    let mut world = complete(&FOUR);
    let mut open =
        world.state(1).draft_proposal(approve("qwen"), "q".parse().unwrap(), Default::default(), world.now).unwrap();
    let longer = Seconds(20 * 24 * HOUR);
    (open.closes_at, open.eta) = (open.closes_at.plus(longer), open.eta.plus(longer));
    open.expires_at = open.expires_at.plus(longer);
    let closes_at = open.closes_at;
    let open = world.say(1, Body::Proposal(Box::new(open))).unwrap();
    world.sync();
    let forged = world.vote(3, open, Choice::Yes, 15).unwrap();
    give(&mut world, 3, &Fresh::of("delft"));
    world.settle();
    let vote = Vote { proposal: open, choice: Choice::No, vseq: 0, ground: None, reason: None };
    let vote = signed(&world, 3, Body::Vote(vote), &[&Fresh::of("delft").governance]);
    world.anchor(3, &vote);
    for who in 0..3 {
        world.vote(who, open, Choice::No, 0).unwrap();
    }
    world.settle();
    world.now = closes_at.plus(Seconds(HOUR));
    world.settle();
    world.wait(HOUR);
    world.settle();
    for who in 0..4 {
        assert_eq!(world.verdict(who, vote.id()), Verdict::Counted);
        assert_eq!(world.verdict(who, forged), Verdict::Superseded);
        assert_eq!(world.phase(who, open).name(), "Rejected");
    }
}

#[test]
fn keys_are_reset_by_others_who_prove_that_they_are_there_and_new() {
    let world = quick(&FOUR);
    let (fresh, aarhus) = (Fresh::of("delft"), person("aarhus").governance);
    let check = |keys: MemberKeys, signers: &[&dyn Signer]| {
        world.state(0).check_proposal(&signed(&world, 0, reset(&world, 3, keys), signers))
    };
    let all: [&dyn Signer; 3] = [&aarhus, &fresh.operator, &fresh.governance];
    assert_eq!(check(fresh.keys(), &all), Ok(()));
    let (operator, governance) = (fresh.operator.public_key(), fresh.governance.public_key());
    assert_eq!(check(fresh.keys(), &all[..1]), Err(Invalid::KeyNotProved(operator)));
    assert_eq!(check(fresh.keys(), &all[..2]), Err(Invalid::KeyNotProved(governance)));
    let cork = person("cork");
    let used = MemberKeys { governance: vec![cork.governance.public_key()], ..fresh.keys() };
    assert_eq!(check(used, &[&aarhus, &fresh.operator, &cork.governance]), Err(Invalid::IdOrKeyUsed));
    let kept = MemberKeys { operator: person("delft").operator.public_key(), ..fresh.keys() };
    assert_eq!(check(kept, &[&aarhus, &person("delft").operator, &fresh.governance]), Err(Invalid::IdOrKeyUsed));
    let twice = MemberKeys { recovery: vec![governance], ..fresh.keys() };
    assert!(matches!(check(twice, &all), Err(Invalid::Keys(_))));
    // It is about the member, which therefore does not vote; and nothing else may be about it.
    let Body::Proposal(mut proposal) = reset(&world, 3, fresh.keys()) else { panic!("a proposal") };
    proposal.subject = None;
    let nobody = signed(&world, 0, Body::Proposal(proposal), &all);
    assert_eq!(world.state(0).check_proposal(&nobody), Err(Invalid::Subject));
    let two = quick(&FOUR[..2]);
    let body = reset(&two, 1, fresh.keys());
    assert_eq!(two.state(0).check_proposal(&signed(&two, 0, body, &all)), Err(Invalid::TooFewMembers(2)));
}
