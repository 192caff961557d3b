//! What was anchored once is anchored again where it would not hold, and what was proved is proved too early: neither
//! changes anything.

use super::complete::{FOUR, HOUR, complete, quick};
use super::keys::{key, signed};
use super::recall::{Fresh, by_the_thief, give};
use super::*;
use crate::body::entry::Basis;
use crate::body::proposal::{Admit, Leave, SetRules};
use crate::body::{
    Cause, CloseSeal, CoSignature, EmergencyOrder, EnactSeal, KeyRevocation, KeyUpdate, SealEvidence, Stop,
};
use crate::dsse::Signer as _;
use crate::log::ForkProof;
use crate::statement::Position;

fn anchor_of(statement: &Statement) -> Body {
    Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() }))
}

/// The human statement `id` as it stands in anybody's log.
fn said(world: &World, id: StatementId) -> Statement {
    let replica = world.commons[0].replica();
    let all = replica.logs().flat_map(|(log, _)| replica.all(log));
    all.filter_map(|entry| entry.statement.nested()).find(|inner| inner.id() == id).unwrap().clone()
}

#[test]
fn whoever_has_the_key_of_a_log_that_was_replaced_undoes_nothing_by_anchoring_it_there() {
    // Which of the two logs is read first is the accident of their keys: once the old one, once the new one.
    for last in ["delft", "espoo"] {
        let mut world = quick(&["aarhus", "bilbao", "cork", last]);
        let old = world.log(3);
        give(&mut world, 3, &Fresh::of(last));
        world.settle();
        assert_eq!(world.log(3) < old, last == "delft");
        let proposal = world.propose(3, approve("qwen"));
        world.sync();
        let vote = world.vote(3, proposal, Choice::Yes, 0).unwrap();
        world.sync();
        for body in [said(&world, proposal), said(&world, vote)].map(|statement| anchor_of(&statement)) {
            by_the_thief(&mut world, 3, body);
        }
        world.sync();
        for who in 0..3 {
            world.vote(who, proposal, Choice::Yes, 0).unwrap();
        }
        world.settle();
        assert_eq!(world.phases(proposal), ["Enacted"; 4]);
        assert_eq!(world.state(0).proposals()[&proposal].ballot.tally.counts.yes, 4);
        let (membership, charter) = (world.state(0).head(Scope::Membership), world.state(0).head(Scope::Charter));
        let stop = Stop::Member(world.people[0].id());
        let order = EmergencyOrder { stop, cause: Cause::Safety, membership, charter, text: Default::default() };
        let order = world.say(3, Body::EmergencyOrder(Box::new(order))).unwrap();
        world.sync();
        let behind = world.say(1, Body::CoSignature(CoSignature { order })).unwrap();
        world.sync();
        let leave = world.say(3, Body::Leave(Leave::default())).unwrap();
        world.settle();
        assert_eq!(world.state(0).active().count(), 3);
        for statement in [order, behind, leave, proposal].map(|id| said(&world, id)) {
            by_the_thief(&mut world, 3, anchor_of(&statement));
        }
        assert_eq!(world.state(0).active().count(), 3, "who left cannot come back by it");
        assert!(world.state(0).emergencies()[&order].takes_effect());
        assert_eq!(world.phase(0, proposal).name(), "Enacted");
    }
}

#[test]
fn a_member_undoes_nothing_by_forking_its_log_where_its_key_was_another() {
    let mut world = quick(&FOUR);
    let (first, next) = (person("delft").governance, key("next"));
    let update = KeyUpdate { number: 1, governance: vec![next.public_key()] };
    let update = signed(&world, 3, Body::KeyUpdate(update), &[&first, &next]);
    world.anchor(3, &update);
    let draft = world.state(3).draft_proposal(approve("qwen"), "q".parse().unwrap(), Default::default(), world.now);
    let proposal = signed(&world, 3, Body::Proposal(Box::new(draft.unwrap())), &[&next]);
    world.anchor(3, &proposal);
    world.sync();
    for who in 0..3 {
        world.vote(who, proposal.id(), Choice::Yes, 0).unwrap();
    }
    world.wait(120);
    world.settle();
    assert_eq!(world.phases(proposal.id()), ["Enacted"; 4]);
    let fork = world.people[3].entry(world.coop(), T0, 0, world.coop().0, anchor_of(&proposal));
    for who in 0..4 {
        world.commons[who].insert(fork.clone()).unwrap();
    }
    assert_eq!(world.phases(proposal.id()), ["Enacted"; 4]);
}

#[test]
fn who_proposed_the_step_to_the_complete_rules_cannot_take_it_back_by_forking_its_log() {
    // Once the step itself, and once something that was decided before it.
    for at in [0, 1] {
        let mut world = World::new(&THREE, Preset::Trial);
        let before = world.propose(at, approve("qwen"));
        world.sync();
        world.all_yes(before);
        world.settle();
        let step = SetRules { rules: 2, deliberation: crate::presets::deliberation() };
        let step = world.propose(0, Action::SetRules(step));
        world.sync();
        world.all_yes(step);
        world.settle();
        let after = world.propose(2, approve("llama"));
        world.sync();
        world.all_yes(after);
        world.settle();
        assert_eq!(world.phases(after), ["Enacted"; 3]);
        let (log, coop) = (world.log(at), world.coop());
        let body = Body::LogResume(crate::body::LogResume { old_log: log, old_head: None });
        let fork = world.people[at].entry(coop, T0, 0, coop.0, body);
        for who in 0..3 {
            world.commons[who].insert(fork.clone()).unwrap();
            assert_eq!(world.state(who).rules(), 2);
        }
        for proposal in [before, step, after] {
            assert_eq!(world.phases(proposal), ["Enacted"; 3]);
        }
    }
}

#[test]
fn a_thief_who_says_first_that_a_key_is_taken_back_does_not_keep_its_owner_from_saying_so() {
    let mut world = complete(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    world.settle();
    let stolen = person("delft").governance;
    let forged = world.vote(3, proposal, Choice::Yes, 0).unwrap();
    let revocation =
        Body::KeyRevocation(KeyRevocation { key: stolen.public_key(), log: world.log(3), since_seq: Seq(0) });
    for signer in [&stolen, &key("delft/recovery")] {
        let statement = signed(&world, 3, revocation.clone(), &[signer]);
        world.anchor(3, &statement);
    }
    world.sync();
    assert_eq!(world.verdict(0, forged), Verdict::Revoked);
}

#[test]
fn the_other_members_of_an_owner_have_no_vote_on_one_of_them_that_is_not_counted_either() {
    let mut world = World::with(&FOUR, Preset::Trial, |charter| {
        charter.parameters.deliberation = Some(crate::presets::deliberation());
        charter.parameters.probation_seconds = Seconds(24 * HOUR);
    });
    let mut newcomer = person("espoo");
    newcomer.member.control_group = world.people[3].member.control_group.clone();
    let application = newcomer.application(world.coop(), world.now).envelope().clone();
    let proposal = world.propose(0, Action::Admit(Admit { application }));
    world.sync();
    world.all_yes(proposal);
    world.settle();
    let member = newcomer.id();
    assert_eq!(world.state(0).member(&member).unwrap().standing, MemberStanding::Probationary);
    let proposal = world.propose(0, Action::Suspend(crate::body::Suspend { member }));
    world.sync();
    assert_eq!(world.vote(3, proposal, Choice::No, 0), Err(NotAnchored::Vote(Verdict::NotElector)));
    assert_eq!(world.state(0).proposals()[&proposal].ballot.tally.electors, 3);
}

fn close(world: &World, outcome: Outcome, complete: bool) -> Body {
    let slot = Slot { scope: Scope::Releases, parent: world.state(0).head(Scope::Releases), term: 0 };
    Body::CloseSeal(CloseSeal {
        proposal: StatementId(Digest::of(b"any")),
        round: 1,
        root: BoxRoot(Digest::of(b"any")),
        count: 1,
        membership_head: world.state(0).head(Scope::Membership),
        outcome,
        closed_at: T0,
        basis: complete.then(|| Basis { slot, offers: BTreeSet::new() }),
    })
}

#[test]
fn a_seal_of_the_first_rules_hides_no_conflict_behind_it() {
    let mut world = quick(&FOUR);
    for (outcome, complete) in [(Outcome::Passed, false), (Outcome::Passed, true), (Outcome::Rejected, true)] {
        let body = close(&world, outcome, complete);
        world.append(3, body);
    }
    let member = world.people[3].id();
    assert_eq!(world.state(3).quarantined(&member).map(BTreeMap::len), Some(1));
}

/// A newcomer's two contradicting entries, of which its log shows one, and the evidence in the first member's log.
fn evidence_about_a_newcomer(world: &mut World, fork: bool) -> Vec<Statement> {
    let newcomer = person("espoo");
    let application = newcomer.application(world.coop(), world.now).envelope().clone();
    let admission = world.propose(0, Action::Admit(Admit { application }));
    world.sync();
    world.all_yes(admission);
    world.settle();
    assert!(world.state(0).member(&newcomer.id()).is_some());
    let enact = |name: &[u8]| {
        let slot = Slot { scope: Scope::Releases, parent: world.state(0).head(Scope::Releases), term: 0 };
        let (proposal, root) = (StatementId(Digest::of(name)), BoxRoot(Digest::of(name)));
        Body::EnactSeal(EnactSeal { slot, proposal, root, version: PolicyHash(Digest::of(name)) })
    };
    let one = newcomer.entry(world.coop(), world.now, 0, world.coop().0, enact(b"one"));
    let (seq, prev) = if fork { (0, world.coop().0) } else { (2, Digest::of(b"nowhere")) };
    let two = newcomer.entry(world.coop(), world.now, seq, prev, enact(b"two"));
    let body = if fork {
        Body::Evidence(Box::new(ForkProof::of(&one, &two).unwrap().to_evidence()))
    } else {
        let (first, second) = (one.envelope().clone(), two.envelope().clone());
        Body::SealEvidence(Box::new(SealEvidence { first, second }))
    };
    world.append(0, body);
    let replica = world.commons[0].replica();
    replica.logs().flat_map(|(log, _)| replica.all(log)).map(|entry| (*entry.statement).clone()).collect()
}

#[test]
fn evidence_about_a_log_that_is_known_only_later_is_as_good_as_any_other() {
    for fork in [false, true] {
        let mut world = quick(&FOUR);
        let entries = evidence_about_a_newcomer(&mut world, fork);
        let member = person("espoo").id();
        // The two entries of a fork are seals of one slot as well.
        assert_eq!(world.state(0).quarantined(&member).map(BTreeMap::len), Some(1 + usize::from(fork)));
        // As after a restart: the founders' logs are read first, and only they tell whose the newcomer's log is.
        let (loaded, refused) = Commons::load(world.founding(), Limits::default(), entries);
        assert!(refused.is_empty());
        assert_eq!(loaded.state(), world.commons[0].state());
        let log = person("espoo").member.keys.operator;
        let held = |commons: &Commons| commons.replica().all(&log).count();
        assert_eq!(held(&loaded), held(&world.commons[0]));
    }
}

#[test]
fn what_was_said_in_another_cooperative_is_none_of_the_proposals_that_its_author_has_open() {
    let mut world = World::with(&FOUR, Preset::Trial, |charter| {
        charter.parameters.deliberation = Some(crate::presets::deliberation());
        charter.parameters.max_open_proposals = 1;
    });
    let elsewhere = World::new(&["aarhus"], Preset::Trial);
    let draft = elsewhere.state(0).draft_proposal(approve("qwen"), "q".parse().unwrap(), Default::default(), T0);
    let foreign = elsewhere.people[0].human(elsewhere.coop(), T0, Body::Proposal(Box::new(draft.unwrap())));
    world.append(0, anchor_of(&foreign));
    let proposal = world.propose(0, approve("qwen"));
    assert_eq!(world.state(0).proposals()[&proposal].invalid, None);
    let Position::Log { seq, .. } = *world.commons[0].replica().range(&world.log(0), Seq(1), 1)[0].position() else {
        panic!("an entry")
    };
    assert_eq!(seq, Seq(1));
}
