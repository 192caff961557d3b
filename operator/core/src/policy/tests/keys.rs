//! Keys change in the middle of everything.

use super::complete::{FOUR, HOUR, complete};
use super::*;
use crate::body::proposal::Withdrawal;
use crate::body::{KeyRevocation, KeyUpdate};
use crate::dsse::{SeedSigner, Signer};
use crate::policy::KeyProblem;

pub(super) fn key(name: &str) -> SeedSigner {
    SeedSigner::from_seed(&Digest::of(name.as_bytes()).0)
}

fn recovery(name: &str) -> SeedSigner {
    key(&format!("{name}/recovery"))
}

/// `who` signs `body` with `signers`, the first one's key in the header.
pub(super) fn signed(world: &World, who: usize, body: Body, signers: &[&dyn Signer]) -> Statement {
    let draft = Draft { issued_at: world.now, ..world.people[who].draft_for_tests(world.coop(), body) };
    draft.sign(signers[0], &signers[1..]).unwrap()
}

fn update(number: u32, keys: &[&SeedSigner]) -> Body {
    Body::KeyUpdate(KeyUpdate { number, governance: keys.iter().map(|key| key.public_key()).collect() })
}

fn revoke(key: &dyn Signer, log: PublicKey, since_seq: u64) -> Body {
    Body::KeyRevocation(KeyRevocation { key: key.public_key(), log, since_seq: Seq(since_seq) })
}

fn vote_with(
    world: &mut World,
    who: usize,
    proposal: StatementId,
    choice: Choice,
    vseq: u32,
    key: &dyn Signer,
) -> StatementId {
    let vote = signed(world, who, Body::Vote(Vote { proposal, choice, vseq, ground: None, reason: None }), &[key]);
    world.anchor(who, &vote);
    vote.id()
}

fn may_anchor(world: &World, who: usize, statement: &Statement) -> Result<(), NotAnchored> {
    world.state(who).may_anchor(&world.people[who].id(), statement, world.now)
}

fn close(world: &mut World) {
    for hours in [73, 1] {
        world.wait(hours * HOUR);
        world.settle();
    }
}

#[test]
fn a_rotation_in_the_middle_of_a_vote_harms_no_vote_and_the_next_key_may_change_it() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    for who in 0..4 {
        world.vote(who, proposal, Choice::No, 0).unwrap();
    }
    let (old, new) = (person("bilbao").governance, key("next"));
    let rotation = signed(&world, 1, update(1, &[&new]), &[&old, &new]);
    assert_eq!(may_anchor(&world, 1, &rotation), Ok(()));
    world.anchor(1, &rotation);
    let changed = vote_with(&mut world, 1, proposal, Choice::Yes, 1, &new);
    let too_late = vote_with(&mut world, 1, proposal, Choice::Yes, 2, &old);
    world.settle();
    close(&mut world);
    for who in 0..4 {
        let counts = world.state(who).proposals()[&proposal].ballot.tally.counts;
        assert_eq!((counts.yes, counts.no), (1, 3));
        assert_eq!(world.verdict(who, changed), Verdict::Counted);
        assert_eq!(world.verdict(who, too_late), Verdict::WrongKeyRole);
        let member = world.state(who).member(&world.people[1].id()).unwrap();
        assert_eq!(member.member.keys.governance, vec![new.public_key()]);
    }
    assert_eq!(world.phases(proposal), ["Rejected"; 4]);
    // What the new key proposes holds, what the old one proposes does not.
    let draft = world.state(1).draft_proposal(approve("llama"), "l".parse().unwrap(), Default::default(), world.now);
    let draft = Body::Proposal(Box::new(draft.unwrap()));
    let (by_old, by_new) = (signed(&world, 1, draft.clone(), &[&old]), signed(&world, 1, draft, &[&new]));
    assert_eq!(may_anchor(&world, 1, &by_old), Err(NotAnchored::KeyReplaced(old.public_key())));
    assert_eq!(may_anchor(&world, 1, &by_new), Ok(()));
    world.anchor(1, &by_old);
    world.anchor(1, &by_new);
    let invalid = |world: &World, id| world.state(1).proposals()[&id].invalid.clone();
    assert_eq!(invalid(&world, by_old.id()), Some(Invalid::WrongKey(old.public_key())));
    assert_eq!(invalid(&world, by_new.id()), None);
}

#[test]
fn a_set_of_keys_follows_only_if_the_old_and_every_new_key_agree_and_none_was_used_before() {
    let mut world = complete(&FOUR);
    let (old, new, other) = (person("bilbao").governance, key("next"), key("other"));
    let cork = person("cork");
    let refused = |world: &World, body: Body, signers: &[&dyn Signer]| match may_anchor(
        world,
        1,
        &signed(world, 1, body, signers),
    ) {
        Err(NotAnchored::Keys(problem)) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&world, update(1, &[&new]), &[&new]), KeyProblem::NotAllowed);
    assert_eq!(refused(&world, update(1, &[&new]), &[&person("bilbao").operator, &new]), KeyProblem::NotAllowed);
    assert_eq!(refused(&world, update(1, &[&new]), &[&old]), KeyProblem::NotProved(new.public_key()));
    assert_eq!(refused(&world, update(1, &[&new, &other]), &[&old, &new]), KeyProblem::NotProved(other.public_key()));
    let expected = KeyProblem::NotNext { seen: 2, expected: 1 };
    assert_eq!(refused(&world, update(2, &[&new]), &[&old, &new]), expected);
    assert_eq!(refused(&world, update(1, &[]), &[&old]), KeyProblem::KeyCount);
    assert_eq!(refused(&world, update(1, &[&new, &new]), &[&old, &new]), KeyProblem::KeyCount);
    let used = [&cork.governance, &cork.operator, &person("bilbao").operator];
    for used in used {
        assert_eq!(refused(&world, update(1, &[used]), &[&old, used]), KeyProblem::Used(used.public_key()));
    }
    // Anchored by a careless operator it has no effect either.
    for body in [update(1, &[&new]), update(2, &[&new])] {
        let statement = signed(&world, 1, body, &[&new]);
        world.anchor(1, &statement);
    }
    assert_eq!(world.state(1).key_set(&world.people[1].id()).unwrap().number, 0);
    // A set may keep a key and add one; the one that was left out never comes back.
    for (number, keys, signers) in [(1, vec![&old, &new], vec![&old, &new]), (2, vec![&new], vec![&new])] {
        let signers: Vec<&dyn Signer> = signers.into_iter().map(|key| key as &dyn Signer).collect();
        let statement = signed(&world, 1, update(number, &keys), &signers);
        assert_eq!(may_anchor(&world, 1, &statement), Ok(()));
        world.anchor(1, &statement);
    }
    let back = signed(&world, 1, update(3, &[&old]), &[&new, &old]);
    world.anchor(1, &back);
    let set = world.state(1).key_set(&world.people[1].id()).unwrap();
    assert_eq!((set.number, &set.governance), (2, &BTreeSet::from([new.public_key()])));
    assert_eq!(refused(&world, update(3, &[&old]), &[&new, &old]), KeyProblem::Used(old.public_key()));
}

#[test]
fn votes_of_a_stolen_key_are_void_in_a_box_that_holds_the_revocation() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    let stolen = person("delft").governance;
    let honest = world.vote(3, proposal, Choice::No, 0).unwrap();
    let since = world.commons[3].replica().next_seq(&world.log(3)).0;
    let forged = world.vote(3, proposal, Choice::Yes, 1).unwrap();
    for who in 0..2 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    let log = world.log(3);
    // Neither the thief nor another member's recovery key takes a key back.
    for signer in [&stolen, &recovery("cork")] {
        let refused = may_anchor(&world, 3, &signed(&world, 3, revoke(&stolen, log, since), &[signer]));
        assert_eq!(refused, Err(NotAnchored::Keys(KeyProblem::NotAllowed)));
    }
    let statement = signed(&world, 3, revoke(&stolen, log, since), &[&recovery("delft")]);
    assert_eq!(may_anchor(&world, 3, &statement), Ok(()));
    world.anchor(3, &statement);
    let after = vote_with(&mut world, 3, proposal, Choice::Yes, 2, &stolen);
    // The recovery key puts another one in its place, with which its owner votes anew.
    let next = key("delft/next");
    let replacement = signed(&world, 3, update(1, &[&next]), &[&recovery("delft"), &next]);
    assert_eq!(may_anchor(&world, 3, &replacement), Ok(()));
    world.anchor(3, &replacement);
    let again = vote_with(&mut world, 3, proposal, Choice::Veto, 3, &next);
    let no_ground = Verdict::VetoWithoutGround;
    close(&mut world);
    for who in 0..4 {
        let verdicts = [honest, forged, after, again].map(|vote| world.verdict(who, vote));
        assert_eq!(verdicts, [Verdict::Counted, Verdict::Revoked, Verdict::WrongKeyRole, no_ground]);
        let counts = world.state(who).proposals()[&proposal].certificates.len();
        assert_eq!(counts, 1);
    }
    let counts = world.state(0).proposals()[&proposal].ballot.tally.counts;
    assert_eq!((counts.yes, counts.no), (2, 1));
}

#[test]
fn a_revocation_after_the_close_reopens_nothing_and_is_in_no_later_box() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    for who in 0..3 {
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    let no = world.vote(3, proposal, Choice::No, 0).unwrap();
    close(&mut world);
    let before = world.state(0).proposals()[&proposal].certificates.clone();
    assert_eq!(before.len(), 1);
    let statement = signed(&world, 3, revoke(&person("delft").governance, world.log(3), 0), &[&recovery("delft")]);
    let entry = world.anchor(3, &statement);
    world.wait(24 * HOUR);
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    assert_eq!(world.state(0).proposals()[&proposal].certificates, before);
    assert_eq!(world.verdict(0, no), Verdict::Counted);
    let next = world.propose(1, approve("llama"));
    world.settle();
    assert!(!world.state(0).proposals()[&next].entries.contains(&entry.id()));
}

#[test]
fn a_revoked_key_takes_no_proposal_back() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.say(0, Body::Withdrawal(Withdrawal { proposal })).unwrap();
    for who in 0..4 {
        world.settle();
        world.vote(who, proposal, Choice::Yes, 0).unwrap();
    }
    // Its votes from before are void as well: they were anchored after the position from which it was stolen.
    let statement = signed(&world, 0, revoke(&person("aarhus").governance, world.log(0), 1), &[&recovery("aarhus")]);
    world.anchor(0, &statement);
    close(&mut world);
    assert_eq!(world.phases(proposal), ["Queued"; 4]);
    assert_eq!(world.state(2).proposals()[&proposal].ballot.tally.counts.yes, 3);
}

#[test]
fn more_than_half_of_several_recovery_keys_are_needed() {
    let several = ["one", "two", "three"].map(key);
    let keys = several.each_ref().map(|key| key.public_key());
    let mut world = World::with(&FOUR, Preset::Standard, |charter| {
        charter.parameters.deliberation = Some(crate::presets::deliberation());
        charter.founders[3].keys.recovery = keys.to_vec();
    });
    let body = || revoke(&person("delft").governance, person("delft").member.keys.operator, 0);
    let one = signed(&world, 3, body(), &[&several[0]]);
    assert_eq!(may_anchor(&world, 3, &one), Err(NotAnchored::Keys(KeyProblem::NotAllowed)));
    let two = signed(&world, 3, body(), &[&several[0], &several[2]]);
    assert_eq!(may_anchor(&world, 3, &two), Ok(()));
    world.anchor(3, &one);
    assert_eq!(world.state(3).key_set(&world.people[3].id()).unwrap().governance.len(), 1);
    world.anchor(3, &two);
    assert_eq!(world.state(3).key_set(&world.people[3].id()).unwrap().governance.len(), 0);
}

#[test]
fn under_the_first_rules_keys_do_not_change() {
    let mut world = World::new(&THREE, Preset::Trial);
    let (old, new) = (person("bilbao").governance, key("next"));
    let rotation = signed(&world, 1, update(1, &[&new]), &[&old, &new]);
    assert!(may_anchor(&world, 1, &rotation).is_err());
    world.anchor(1, &rotation);
    let proposal = world.propose(0, approve("qwen"));
    world.sync();
    let by_old = vote_with(&mut world, 1, proposal, Choice::Yes, 0, &old);
    let by_new = vote_with(&mut world, 1, proposal, Choice::No, 1, &new);
    assert_eq!([by_old, by_new].map(|vote| world.verdict(1, vote)), [Verdict::Counted, Verdict::WrongKeyRole]);
}

#[test]
fn a_sponsor_may_sign_with_the_key_that_it_has_now() {
    let mut world = World::with(&FOUR, Preset::Standard, |charter| {
        charter.parameters.deliberation = Some(crate::presets::deliberation());
    });
    let (old, new) = (person("bilbao").governance, key("next"));
    let rotation = signed(&world, 1, update(1, &[&new]), &[&old, &new]);
    world.anchor(1, &rotation);
    let application = person("espoo").application(world.coop(), world.now).envelope().clone();
    let action = Action::Admit(crate::body::proposal::Admit { application });
    let draft = world.state(0).draft_proposal(action, "e".parse().unwrap(), Default::default(), world.now).unwrap();
    let aarhus = person("aarhus").governance;
    let proposal = signed(&world, 0, Body::Proposal(Box::new(draft)), &[&aarhus, &new]);
    let too_few = Invalid::Sponsors { seen: 1, needed: 2 };
    assert_eq!(world.state(0).check_proposal(&proposal), Err(too_few), "its rotation is not known there yet");
    world.sync();
    assert_eq!(world.state(0).check_proposal(&proposal), Ok(()));
}

#[test]
fn whatever_comes_first_all_conclude_the_same_about_keys() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    let (old, new) = (person("bilbao").governance, key("next"));
    world.vote(1, proposal, Choice::Yes, 0).unwrap();
    let rotation = signed(&world, 1, update(1, &[&new]), &[&old, &new]);
    world.anchor(1, &rotation);
    vote_with(&mut world, 1, proposal, Choice::No, 1, &new);
    let statement = signed(&world, 1, revoke(&new, world.log(1), 0), &[&recovery("bilbao")]);
    world.anchor(1, &statement);
    close(&mut world);
    let replica = world.commons[0].replica();
    let mut entries: Vec<Statement> =
        replica.logs().flat_map(|(log, _)| replica.range(log, Seq(0), 1000)).map(|e| (*e).clone()).collect();
    for turn in 0..entries.len() {
        entries.rotate_left(turn);
        entries.swap(0, turn);
        let (loaded, refused) = Commons::load(world.founding(), Limits::default(), entries.clone());
        assert!(refused.is_empty());
        assert_eq!(loaded.state(), world.commons[0].state());
    }
}
