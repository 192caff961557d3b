//! What is settled at a checkpoint may be forgotten, and nothing is decided otherwise for it.

use super::complete::FOUR;
use super::keys::{key, signed};
use super::*;
use crate::body::charter::MemberPeriods;
use crate::body::entry::{Basis, CloseSeal, Head, Outcome};
use crate::body::norms::Checkpoint;
use crate::body::proposal::{CancelProposal, Delegation, Leave};
use crate::body::{Class, KeyUpdate, LogResume, Suspend};
use crate::dsse::Signer as _;
use crate::ids::Seq;
use crate::log::Recollection;
use crate::merkle;
use crate::presets;
use crate::statement::Position;

const SHORT: Seconds = Seconds(60);

/// Four members that close as soon as everybody has voted, and forget what is older than a minute.
pub(super) fn forgetful() -> World {
    World::with(&FOUR, Preset::Trial, |charter| {
        let members = MemberPeriods { dormant_after_seconds: SHORT, ..MemberPeriods::default() };
        charter.parameters.deliberation =
            Some(crate::body::charter::Deliberation { members, ..presets::deliberation() });
        charter.parameters.max_open_proposals = 50;
    })
}

fn decide(world: &mut World, who: usize, action: Action) -> StatementId {
    let proposal = world.propose(who, action);
    world.sync();
    for voter in 0..world.people.len() {
        let about = &world.state(voter).proposals()[&proposal].proposal.subject;
        let leads = world.state(voter).member(&world.people[voter].id()).is_some_and(|m| !m.standing.is_gone());
        if leads && *about != Some(world.people[voter].id()) {
            world.vote(voter, proposal, Choice::Yes, 0).unwrap();
        }
    }
    world.settle();
    world.wait(30);
    world.settle();
    proposal
}

fn reject(world: &mut World, who: usize, action: Action) {
    let proposal = world.propose(who, action);
    world.sync();
    for voter in 0..4 {
        world.vote(voter, proposal, Choice::No, 0).unwrap();
    }
    world.settle();
    assert_eq!(world.phase(who, proposal).name(), "Rejected");
}

pub(super) fn checkpoint(world: &mut World, who: usize) -> StatementId {
    world.sync();
    let drafted = world.commons[who].draft_checkpoint(world.now).unwrap();
    decide(world, who, Action::Checkpoint(drafted))
}

/// What must be the same whether or not entries were forgotten.
fn decided(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    let versions: Vec<_> = Scope::ALL
        .into_iter()
        .flat_map(|scope| state.chain(scope).to_vec())
        .map(|version| {
            (version.hash, version.number, version.parent, version.enacted.map(|e| (e.proposal, e.settled_at)))
        })
        .collect();
    let open = state.proposals().values().filter(|p| p.proposal.parent == state.head(p.proposal.scope));
    // That it is settled is known to who forgot alone.
    let open: Vec<ProposalState> = open.map(|p| ProposalState { forgotten: false, ..p.clone() }).collect();
    let numbers = (state.rules, state.parameters, state.classes.clone(), state.norms.clone());
    let members = (state.members.clone(), state.memberships.clone(), state.logs.clone(), state.key_sets.clone());
    (versions, open, numbers, members, state.releases.clone(), state.engines.clone(), state.emergencies.clone())
}

/// What `who` signs in the place of an entry of its log.
fn in_the_place_of(held: &Statement, world: &World, who: usize) -> Statement {
    let Position::Log { seq, prev } = *held.position() else { panic!("it is an entry") };
    world.people[who].entry(world.coop(), world.now, seq.0, prev, note(world))
}

fn entries(world: &World, who: usize) -> usize {
    let replica = world.commons[who].replica();
    replica.logs().map(|(log, _)| replica.all(log).count()).sum()
}

/// A history with something of everything, the last proposal of which is open.
pub(super) fn lived(world: &mut World) -> StatementId {
    for name in ["qwen", "llama"] {
        decide(world, 0, approve(name));
    }
    reject(world, 0, approve("vicuna"));
    // Nobody takes part.
    world.propose(0, approve("orca"));
    world.wait(300);
    world.settle();
    decide(world, 0, approve("mistral"));
    decide(world, 1, withdraw("llama"));
    let delegation = Delegation {
        to: Some(world.people[0].id()),
        classes: BTreeSet::from([Class::Routine]),
        vseq: 1,
        not_after: world.now.plus(Seconds(86_400)),
    };
    world.say(3, Body::Delegation(delegation)).unwrap();
    let (old, new) = (person("cork").governance, key("next"));
    let both = KeyUpdate { number: 1, governance: vec![old.public_key(), new.public_key()] };
    let rotation = signed(world, 2, Body::KeyUpdate(both), &[&old, &new]);
    world.anchor(2, &rotation);
    decide(world, 2, Action::Suspend(Suspend { member: world.people[3].id() }));
    reject(world, 1, approve("gemma"));
    world.wait(120);
    let open = world.propose(2, approve("falcon"));
    world.sync();
    world.vote(0, open, Choice::Yes, 0).unwrap();
    world.sync();
    open
}

#[test]
fn who_forgets_what_is_settled_decides_as_who_holds_everything() {
    let mut world = forgetful();
    let open = lived(&mut world);
    let cp = checkpoint(&mut world, 0);
    assert_eq!(world.phases(cp), ["Enacted"; 4]);
    let before = entries(&world, 1);
    assert!(world.commons[1].forget_settled().is_some());
    let forgotten = before - entries(&world, 1);
    assert!(forgotten > before / 3, "{forgotten} of {before} entries were forgotten");
    assert!(world.commons[1].forget_settled().is_none());
    assert_eq!(decided(world.state(1)), decided(world.state(0)));
    // What was open goes on with the votes that it had.
    for who in 1..4 {
        world.vote(who, open, Choice::Yes, 0).unwrap();
    }
    world.settle();
    world.wait(30);
    world.settle();
    assert_eq!(world.phases(open), ["Enacted"; 4]);
    decide(&mut world, 1, approve("phi"));
    world.say(2, Body::Leave(Leave::default())).unwrap();
    world.settle();
    assert_eq!(decided(world.state(1)), decided(world.state(0)));
    let me = |world: &World, who: usize| world.people[who].id();
    for who in 0..4 {
        for later in [0, 30, 90, 1000] {
            let at = Circumstances { now: world.now.plus(Seconds(later)), ..world.circumstances(who) };
            let [full, short] = [0, 1].map(|of| sealing::next(world.state(of), &me(&world, who), &at));
            assert_eq!(full, short, "{who} after {later} s");
        }
    }
}

#[test]
fn the_next_checkpoint_is_the_same_for_those_who_forgot_and_those_who_did_not() {
    let mut world = forgetful();
    lived(&mut world);
    checkpoint(&mut world, 0);
    world.commons[1].forget_settled();
    decide(&mut world, 1, approve("phi"));
    world.wait(120);
    // Somebody speaks about what was forgotten, and seals that it was refused.
    let orca = |proposal: &&ProposalState| proposal.proposal.action == approve("orca");
    let [about, forgotten] = [0, 1].map(|who| world.state(who).proposals().values().find(orca).unwrap());
    assert!(forgotten.forgotten && forgotten.votes.is_empty() && !about.forgotten);
    let about = about.id;
    let refused = CloseSeal {
        proposal: about,
        round: 1,
        root: merkle::root(&BTreeSet::new()),
        count: 0,
        membership_head: world.state(0).head(Scope::Membership),
        outcome: Outcome::Rejected,
        closed_at: world.now,
        basis: Some(Basis { slot: world.state(0).proposals()[&about].slot(), offers: BTreeSet::new() }),
    };
    world.append(2, Body::CloseSeal(refused));
    let cancel = Action::CancelProposal(CancelProposal { proposal: about });
    let cancel = world.state(0).draft_proposal(cancel, "c".parse().unwrap(), Default::default(), world.now).unwrap();
    let vote = Vote { proposal: about, choice: Choice::No, vseq: 9, ground: None, reason: None };
    for body in [Body::Proposal(Box::new(cancel)), Body::Vote(vote)] {
        let late = world.people[2].human(world.coop(), world.now, body);
        world.anchor(2, &late);
    }
    world.wait(120);
    decide(&mut world, 3, withdraw("phi"));
    world.sync();
    let [full, short] = [0, 1].map(|who| world.commons[who].draft_checkpoint(world.now).unwrap());
    assert_eq!(full, short);
    let cp = decide(&mut world, 1, Action::Checkpoint(short));
    assert_eq!(world.phases(cp), ["Enacted"; 4]);
    let before = entries(&world, 1);
    assert!(world.commons[1].forget_settled().is_some());
    assert!(entries(&world, 1) < before);
    world.commons[2].forget_settled();
    assert_eq!(decided(world.state(1)), decided(world.state(0)));
    assert_eq!(decided(world.state(2)), decided(world.state(0)));
}

#[test]
fn nobody_seals_a_checkpoint_that_claims_something_else() {
    let mut world = forgetful();
    lived(&mut world);
    world.sync();
    let right = world.commons[0].draft_checkpoint(world.now).unwrap();
    let wrong = Checkpoint { state: Digest::of(b"something else"), ..right };
    let proposal = decide(&mut world, 0, Action::Checkpoint(wrong));
    assert!(world.phases(proposal).iter().all(|phase| *phase == "Closing"), "{:?}", world.phases(proposal));
    assert!(world.state(1).proposals()[&proposal].close_seals.is_empty());
}

#[test]
fn a_checkpoint_waits_for_the_entries_that_it_names() {
    let mut world = forgetful();
    lived(&mut world);
    world.sync();
    world.say(1, Body::Leave(Leave::default())).unwrap();
    let heard = world.commons[1].replica().entries(&world.log(1)).last().unwrap().statement.clone();
    world.commons[0].insert((*heard).clone()).unwrap();
    let drafted = world.commons[0].draft_checkpoint(world.now).unwrap();
    let proposal = world.propose(0, Action::Checkpoint(drafted));
    let entry = world.commons[0].replica().entries(&world.log(0)).last().unwrap().statement.clone();
    world.commons[2].insert((*entry).clone()).unwrap();
    assert!(!world.state(2).settles_rightly(&world.state(2).proposals()[&proposal]));
    world.sync();
    assert!(world.state(2).settles_rightly(&world.state(2).proposals()[&proposal]));
}

#[test]
fn a_conflict_below_a_checkpoint_has_no_effect_on_anybody() {
    let mut world = forgetful();
    lived(&mut world);
    checkpoint(&mut world, 0);
    world.commons[1].forget_settled();
    // Somebody finds the key of cork and an old backup: another second entry.
    let held = world.commons[0].replica().entries(&world.log(2)).nth(1).unwrap().statement.clone();
    let other = in_the_place_of(&held, &world, 2);
    for who in 0..4 {
        let _ = world.commons[who].insert(other.clone());
        let member = world.state(who).member(&world.people[2].id()).unwrap();
        assert!(member.quarantine.is_empty() && member.forked_at.is_none() && member.may_work(), "{who}");
    }
    assert_eq!(world.commons[0].false_checkpoint(), None, "nor does it make the checkpoint a false one");
    world.settle();
    assert_eq!(decided(world.state(1)), decided(world.state(0)));
    // Nor on who reads both branches before it has read the checkpoint.
    let replica = world.commons[0].replica();
    let held = replica.logs().flat_map(|(log, _)| replica.all(log)).map(|entry| (*entry.statement).clone());
    let (newcomer, _) = Commons::load(world.founding(), Limits::default(), [other.clone()].into_iter().chain(held));
    assert!(newcomer.replica().contains(&other.id()));
    assert!(newcomer.state().member(&world.people[2].id()).unwrap().may_work());
    assert_eq!(decided(newcomer.state()), decided(world.state(0)));
    // Above it a conflict is one.
    let last = world.commons[0].replica().entries(&world.log(2)).last().unwrap().statement.clone();
    let other = in_the_place_of(&last, &world, 2);
    for who in 0..4 {
        let _ = world.commons[who].insert(other.clone());
        assert!(!world.state(who).member(&world.people[2].id()).unwrap().may_work(), "{who}");
    }
}

#[test]
fn who_forks_its_log_keeps_nobody_else_from_settling() {
    let mut world = forgetful();
    lived(&mut world);
    checkpoint(&mut world, 0);
    world.commons[1].forget_settled();
    let log = world.log(3);
    let settled = world.state(0).checkpoints().last().unwrap().logs[&log];
    let last = world.commons[0].replica().entries(&log).last().unwrap().statement.clone();
    assert!(last.log_seq().unwrap() > settled.seq);
    let other = in_the_place_of(&last, &world, 3);
    world.commons[0].insert(other).unwrap();
    let proof = world.commons[0].replica().unreported_forks().remove(0).to_evidence();
    world.append(0, Body::Evidence(Box::new(proof)));
    world.settle();
    assert!(!world.state(2).member(&world.people[3].id()).unwrap().quarantine.is_empty());
    decide(&mut world, 1, approve("phi"));
    world.wait(120);
    let cp = checkpoint(&mut world, 2);
    assert_eq!(world.phase(0, cp).name(), "Enacted");
    let logs = &world.state(0).checkpoints().last().unwrap().logs;
    assert_eq!(logs[&log], settled, "its own stays where it was");
    assert!(logs[&world.log(0)].seq > settled.seq);
    assert_eq!(world.commons[0].false_checkpoint(), None);
    for who in [1, 2] {
        assert!(world.commons[who].forget_settled().is_some());
        assert_eq!(decided(world.state(who)), decided(world.state(0)));
    }
}

#[test]
fn a_fork_of_what_is_settled_makes_no_earlier_checkpoint_a_false_one() {
    let mut world = forgetful();
    lived(&mut world);
    checkpoint(&mut world, 0);
    decide(&mut world, 1, approve("phi"));
    checkpoint(&mut world, 1);
    assert_eq!(world.state(0).checkpoints().count(), 2);
    let held = world.commons[0].replica().entries(&world.log(2)).nth(1).unwrap().statement.clone();
    let other = in_the_place_of(&held, &world, 2);
    world.commons[0].insert(other).unwrap();
    assert_eq!(world.commons[0].false_checkpoint(), None);
}

#[test]
fn what_follows_a_branch_beside_what_is_settled_has_no_effect() {
    let mut world = forgetful();
    let open = lived(&mut world);
    let drafted = world.commons[0].draft_checkpoint(world.now).unwrap();
    // Nobody hears more of delft than what is settled.
    world.cut.insert(3);
    let proposal = world.propose(0, Action::Checkpoint(drafted));
    world.sync();
    for voter in 0..3 {
        world.vote(voter, proposal, Choice::Yes, 0).unwrap();
    }
    for _ in 0..4 {
        world.wait(60);
        world.settle();
    }
    let (log, replica) = (world.log(3), world.commons[0].replica());
    let settled = world.state(0).checkpoints().last().unwrap().logs[&log];
    assert_eq!(replica.head(&log), Some(settled));
    let all = replica.logs().flat_map(|(log, _)| replica.all(log));
    let held: Vec<Statement> = all.map(|entry| (*entry.statement).clone()).collect();
    let from = replica.entries(&log).nth(1).unwrap().statement.clone();
    let Position::Log { seq, mut prev } = *from.position() else { panic!("it is an entry") };
    // It takes up an old backup, and its people vote.
    let vote = Vote { proposal: open, choice: Choice::No, vseq: 0, ground: None, reason: None };
    let vote = world.people[3].human(world.coop(), world.now, Body::Vote(vote));
    let branch: Vec<Statement> = (seq.0..settled.seq.0 + 3)
        .map(|seq| {
            let anchor = Body::Anchor(Box::new(Anchor { statement: vote.envelope().clone() }));
            let body = if seq > settled.seq.0 { anchor } else { note(&world) };
            let entry = world.people[3].entry(world.coop(), world.now, seq, prev, body);
            prev = entry.id().0;
            entry
        })
        .collect();
    let load = |entries: Vec<Statement>| Commons::load(world.founding(), Limits::default(), entries).0;
    let without = load(held.clone());
    for order in [[held.clone(), branch.clone()], [branch, held]] {
        let mut with = load(order.concat());
        assert_eq!(with.replica().head(&log).unwrap().seq, Seq(settled.seq.0 + 2));
        assert!(decided(with.state()) == decided(without.state()));
        assert_eq!(with.false_checkpoint(), None);
        // Nor does it for who forgets, with what it keeps of that time.
        assert!(with.forget_settled().is_some());
        assert!(decided(with.state()) == decided(without.state()));
    }
}

#[test]
fn a_checkpoint_goes_on_from_the_one_before() {
    let mut world = forgetful();
    lived(&mut world);
    checkpoint(&mut world, 0);
    world.wait(120);
    let right = world.commons[0].draft_checkpoint(world.now).unwrap();
    let log = world.log(3);
    let earlier = world.commons[0].replica().entries(&log).nth(2).unwrap();
    let earlier = Head { seq: earlier.seq(), id: earlier.id() };
    let mut held = |logs: BTreeMap<PublicKey, Head>| {
        let proposal = world.propose(0, Action::Checkpoint(world.commons[0].checkpoint_at(logs).unwrap()));
        world.state(0).settles_rightly(&world.state(0).proposals()[&proposal])
    };
    assert!(held(right.logs.clone()));
    assert!(!held(right.logs.clone().into_iter().chain([(log, earlier)]).collect()), "one log ends earlier");
    assert!(!held(right.logs.into_iter().filter(|(other, _)| *other != log).collect()), "one log is left out");
}

#[test]
fn whoever_forgot_begins_again_with_what_remains_and_the_later_entries() {
    let mut world = forgetful();
    let open = lived(&mut world);
    checkpoint(&mut world, 0);
    let everything: Vec<Statement> = held(&world, 0);
    let settled = world.commons[1].forget_settled().unwrap();
    let begin = |kept: &[Statement]| {
        let mut recollection = Recollection::new((*settled).clone());
        let later: Vec<Statement> = kept.iter().filter_map(|entry| recollection.take(entry.clone())).collect();
        assert!(later.len() < kept.len());
        Commons::recall(world.founding(), Limits::default(), recollection, later)
    };
    let (again, refused) = begin(&everything).unwrap();
    assert_eq!(refused, []);
    assert_eq!(decided(again.state()), decided(world.state(0)));
    assert_eq!(**again.state(), *world.state(1), "as if it had never ended");
    for (log, _) in world.commons[1].replica().logs() {
        let both = [&again, &world.commons[1]].map(Commons::replica);
        let [forgot, went_on] = both.map(|replica| replica.past(log, Seq(0)).collect::<Vec<_>>());
        assert_eq!(forgot, went_on);
        assert_eq!(both[0].next_position(log), both[1].next_position(log));
        assert_eq!(both[0].budget_left(log, world.now), both[1].budget_left(log, world.now));
    }
    // It knows what it forgot, and takes nothing of it for something new.
    let past = again.replica().past(&world.log(0), Seq(0)).find(|past| past.said.is_some()).unwrap();
    assert!(again.replica().contains(&past.id) && again.replica().get(&past.id).is_none());
    assert_eq!(again.replica().past_that_says(&world.log(0), &past.said.unwrap()), Some(past));
    let mut again = again;
    assert!(again.take_all(everything.clone()).stored.is_empty());
    assert_eq!(**again.state(), *world.state(1));
    // What lies in an archive is not needed either.
    let replica = world.commons[1].replica();
    let past = replica.logs().flat_map(|(log, _)| replica.past(log, Seq(0)));
    let gone: BTreeSet<StatementId> = past.map(|past| past.id).collect();
    let without: Vec<Statement> = everything.iter().filter(|entry| !gone.contains(&entry.id())).cloned().collect();
    let (archived, _) = begin(&without).unwrap();
    assert_eq!(**archived.state(), *world.state(1));
    // Without an entry that is needed, or with another state than was sealed, it does not begin.
    let kept = *settled.kept.iter().next().unwrap();
    let less: Vec<Statement> = everything.iter().filter(|entry| entry.id() != kept).cloned().collect();
    assert_eq!(begin(&less).unwrap_err(), NotRecalled::Missing(1, kept));
    let mut other = (*settled).clone();
    other.versions.pop();
    let mut recollection = Recollection::new(other);
    let later: Vec<Statement> = everything.iter().filter_map(|entry| recollection.take(entry.clone())).collect();
    let begun = Commons::recall(world.founding(), Limits::default(), recollection, later);
    assert_eq!(begun.unwrap_err(), NotRecalled::NotSealed);
    assert!(world.state(0).proposals().contains_key(&open));
}

#[test]
fn an_archive_takes_nothing_that_the_budget_of_a_day_rests_on() {
    let mut world = forgetful();
    lived(&mut world);
    for _ in 0..2 {
        world.wait(86_400);
        decide(&mut world, 1, approve("phi"));
        decide(&mut world, 1, withdraw("phi"));
    }
    world.wait(120);
    // Not by all clocks the same day.
    decide(&mut world, 2, approve("gemma"));
    checkpoint(&mut world, 0);
    let everything = held(&world, 0);
    let settled = world.commons[1].forget_settled().unwrap();
    let replica = world.commons[1].replica();
    let moved: BTreeSet<StatementId> =
        replica.logs().flat_map(|(log, _)| replica.archivable(log)).map(|past| past.id).collect();
    let past: usize = replica.logs().map(|(log, _)| replica.past_count(log)).sum();
    assert!(moved.len() > 20 && moved.len() < past, "{} of {past}", moved.len());
    let mut recollection = Recollection::new((*settled).clone());
    let left = everything.iter().filter(|entry| !moved.contains(&entry.id()));
    let later: Vec<Statement> = left.filter_map(|entry| recollection.take(entry.clone())).collect();
    let (again, _) = Commons::recall(world.founding(), Limits::default(), recollection, later).unwrap();
    assert_eq!(**again.state(), *world.state(1));
    for (log, _) in replica.logs() {
        assert_eq!(again.replica().budget_left(log, world.now), replica.budget_left(log, world.now));
    }
}

/// Every entry that somebody holds.
fn held(world: &World, who: usize) -> Vec<Statement> {
    let replica = world.commons[who].replica();
    replica.logs().flat_map(|(log, _)| replica.all(log)).map(|entry| (*entry.statement).clone()).collect()
}

fn note(world: &World) -> Body {
    Body::LogResume(LogResume { old_log: world.log(2), old_head: None })
}
