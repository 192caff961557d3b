//! Order of arrival, forks and hostile logs.

use proptest::prelude::*;

use super::*;
use crate::body::proposal::{Admit, Leave};
use crate::log::{Entry, Refused};
use crate::statement::Position;

/// Every entry that anybody holds.
fn everything(world: &World) -> Vec<Statement> {
    let mut entries: BTreeMap<StatementId, Statement> = BTreeMap::new();
    for commons in &world.commons {
        let replica = commons.replica();
        for (log, _) in replica.logs() {
            entries.extend(replica.range(log, Seq(0), usize::MAX).into_iter().map(|e| (e.id(), (*e).clone())));
        }
    }
    entries.into_values().collect()
}

#[derive(Clone, Debug)]
enum Step {
    Propose(usize, u8),
    Withdraw(usize, u8),
    Admit(usize),
    Leave(usize),
    Vote(usize, usize, Choice),
    EverybodyApproves(usize),
    Seal(usize),
    Wait(i64),
    Cut(usize),
    Mend,
    Sync,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let choice =
        prop_oneof![6 => Just(Choice::Yes), 2 => Just(Choice::No), 1 => Just(Choice::Abstain), 1 => Just(Choice::Veto)];
    let (who, pick) = (0usize..3, 0usize..4);
    prop_oneof![
        4 => (who.clone(), 0u8..6).prop_map(|(who, model)| Step::Propose(who, model)),
        1 => (who.clone(), 0u8..6).prop_map(|(who, model)| Step::Withdraw(who, model)),
        2 => who.clone().prop_map(Step::Admit),
        1 => who.clone().prop_map(Step::Leave),
        6 => (who.clone(), pick.clone(), choice).prop_map(|(who, pick, choice)| Step::Vote(who, pick, choice)),
        6 => pick.prop_map(Step::EverybodyApproves),
        4 => who.clone().prop_map(Step::Seal),
        2 => (1i64..150).prop_map(Step::Wait),
        2 => who.prop_map(Step::Cut),
        3 => Just(Step::Mend),
        3 => Just(Step::Sync),
        4 => Just(Step::Settle),
    ]
}

/// Runs a history in which proposals, votes, cuts and delays meet as the script says.
fn history(script: &[Step]) -> World {
    let mut world = World::new(&["aarhus", "bilbao"], Preset::Trial);
    let mut proposals: Vec<StatementId> = vec![];
    for step in script {
        let people = world.people.len();
        // The newest ones are the ones that people talk about.
        let picked = |pick: usize| proposals.iter().rev().nth(pick).copied();
        match *step {
            Step::Propose(who, model) => {
                proposals.extend(world.try_propose(who % people, approve(&format!("m{model}"))))
            }
            Step::Withdraw(who, model) => {
                proposals.extend(world.try_propose(who % people, withdraw(&format!("m{model}"))))
            }
            Step::Admit(who) => {
                let application = person("cork").application(world.coop(), world.now).envelope().clone();
                proposals.extend(world.try_propose(who % people, Action::Admit(Admit { application })));
            }
            Step::Leave(who) => drop(world.say(who % people, Body::Leave(Leave::default()))),
            Step::Vote(who, pick, choice) => {
                picked(pick).and_then(|proposal| world.vote_if_known(who % people, proposal, choice));
            }
            Step::EverybodyApproves(pick) => {
                world.sync();
                for who in 0..people {
                    picked(pick).and_then(|proposal| world.vote_if_known(who, proposal, Choice::Yes));
                }
            }
            Step::Seal(who) => drop(world.seal(who % people)),
            Step::Wait(seconds) => world.wait(seconds),
            Step::Cut(who) => world.cut = BTreeSet::from([who % people]),
            Step::Mend => world.cut.clear(),
            Step::Sync => world.sync(),
            Step::Settle => world.settle(),
        }
        let admitted = world.state(0).member(&person("cork").id()).is_some();
        if admitted && people < 3 {
            let founding = world.founding();
            world.people.push(person("cork"));
            world.commons.push(Commons::new(founding, Limits::default()));
        }
    }
    world
}

impl World {
    fn try_propose(&mut self, who: usize, action: Action) -> Option<StatementId> {
        let title = "A change".parse().unwrap();
        let proposal = self.state(who).draft_proposal(action, title, Default::default(), self.now)?;
        self.say(who, Body::Proposal(Box::new(proposal))).ok()
    }

    fn vote_if_known(&mut self, who: usize, proposal: StatementId, choice: Choice) -> Option<StatementId> {
        if !self.state(who).proposals().contains_key(&proposal) {
            return None;
        }
        self.vote(who, proposal, choice, 0).ok()
    }
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_same_entries_in_any_order_make_the_same_state(script in script(), seed in any::<u64>()) {
        let world = history(&script);
        let entries = everything(&world);
        let (straight, _) = Commons::load(world.founding(), Limits::default(), entries.clone());
        // A shuffle that the seed names.
        let mut shuffled = entries.clone();
        shuffled.sort_by_key(|e| Digest::of(&[&e.id().0.0[..], &seed.to_le_bytes()[..]].concat()));
        let (batch, refused) = Commons::load(world.founding(), Limits::default(), shuffled.clone());
        prop_assert!(refused.is_empty(), "{refused:?}");
        prop_assert_eq!(batch.state(), straight.state());
        // One by one, those of members that are not known yet offered again, as peers would.
        let mut single = Commons::new(world.founding(), Limits::default());
        let mut left = shuffled;
        while !left.is_empty() {
            let before = left.len();
            left.retain(|e| matches!(single.insert(e.clone()), Err(Refused::UnknownLog(_))));
            prop_assert!(left.len() < before);
        }
        prop_assert_eq!(single.state(), straight.state());
        for commons in &world.commons {
            for (scope, versions) in Scope::ALL.map(|s| (s, commons.state().chain(s))) {
                // Whoever knows less knows a beginning of the same chain, perhaps with fewer seals under it.
                let hashes = |versions: &[Version]| versions.iter().map(|v| v.hash).collect::<Vec<_>>();
                prop_assert!(hashes(straight.state().chain(scope)).starts_with(&hashes(versions)));
            }
            prop_assert!(commons.state().faults().is_empty(), "{:?}", commons.state().faults());
        }
    }

    #[test]
    fn after_the_wires_are_mended_everybody_agrees(script in script()) {
        let mut world = history(&script);
        world.cut.clear();
        world.settle();
        world.wait(130);
        world.settle();
        for who in 1..world.people.len() {
            prop_assert_eq!(world.state(who), world.state(0));
        }
        // Nobody is left waiting for ever on something that could be decided now.
        let state = world.state(0);
        for proposal in state.proposals().values() {
            let phase = state.phase(proposal, world.now);
            let undecided = matches!(phase, Phase::Open { .. } | Phase::Pending { .. });
            prop_assert!(!undecided, "{phase:?}");
        }
    }
}

/// The log of `who`, once more from position `from` on, with another entry there.
fn fork(world: &World, who: usize, from: u64) -> Statement {
    let log = world.log(who);
    let prev = world.commons[who].replica().entries(&log).nth(from as usize - 1).map(Entry::id);
    let prev = prev.map_or(world.coop().0, |id| id.0);
    let body = Body::LogResume(crate::body::LogResume { old_log: log, old_head: None });
    world.people[who].entry(world.coop(), world.now, from, prev, body)
}

#[test]
fn a_fork_voids_votes_but_never_un_enacts() {
    let mut world = World::new(&THREE, Preset::Trial);
    let done = world.propose(0, approve("one"));
    world.sync();
    world.all_yes(done);
    world.settle();
    let open = world.propose(0, approve("two"));
    world.sync();
    let vote = world.vote(2, open, Choice::Yes, 0).unwrap();
    world.sync();
    assert_eq!(world.verdict(0, vote), Verdict::Counted);
    // 2 rewrites its past from its second entry on.
    let forged = fork(&world, 2, 1);
    world.commons[0].insert(forged).unwrap();
    let state = world.state(0);
    assert_eq!(world.phase(0, done).name(), "Enacted");
    assert!(state.release(&release("one").manifest_digest).is_some());
    assert_eq!(world.verdict(0, vote), Verdict::LogForked);
    assert_eq!(state.proposals()[&open].ballot.tally.counts.turnout(), 0);
    let member = state.member(&world.people[2].id()).unwrap();
    assert_eq!((member.forked_at, member.may_work()), (Some(Seq(1)), false));
    // The proof travels in an entry of whoever found it: the others have seen one branch only.
    let [proof] = &world.commons[0].replica().unreported_forks()[..] else { panic!("there is one fork") };
    let evidence = Body::Evidence(Box::new(proof.to_evidence()));
    world.append(0, evidence);
    assert!(world.commons[0].replica().unreported_forks().is_empty());
    world.cut.insert(2);
    world.sync();
    assert_eq!(world.verdict(1, vote), Verdict::LogForked);
    // The other members decide without it.
    world.vote(0, open, Choice::Yes, 0).unwrap();
    world.vote(1, open, Choice::Yes, 0).unwrap();
    world.wait(120);
    world.settle();
    assert_eq!(world.phases(open)[..2], ["Enacted"; 2]);
    assert_eq!(world.state(0), world.state(1));
}

#[test]
fn two_seals_for_one_slot_are_shown_as_a_fault() {
    let mut world = World::new(&THREE, Preset::Trial);
    let (one, two) = (world.propose(0, approve("one")), world.propose(1, approve("two")));
    world.sync();
    let root = crate::merkle::root(&BTreeSet::new());
    for proposal in [one, two] {
        let slot = world.state(2).proposals()[&proposal].slot();
        let version = version_hash(slot.scope, slot.parent, proposal, root);
        world.append(2, Body::EnactSeal(EnactSeal { slot, proposal, root, version }));
        let close = CloseSeal {
            proposal: one,
            round: 7,
            root,
            count: world.now.0 as u32,
            membership_head: slot.parent,
            outcome: Outcome::Passed,
            closed_at: world.now,
            basis: None,
        };
        world.append(2, Body::CloseSeal(close));
        world.wait(1);
    }
    world.sync();
    let faults = world.state(0).faults();
    assert!(faults.iter().any(|f| matches!(f, Fault::TwoEnactSeals { member, .. } if *member == world.people[2].id())));
    assert!(faults.iter().any(|f| matches!(f, Fault::TwoCloseSeals { member, .. } if *member == world.people[2].id())));
}

#[test]
fn an_entry_over_the_budget_gives_no_vote_anywhere() {
    let mut world = World::with(&["aarhus", "bilbao"], Preset::Trial, |c| c.parameters.budgets.entries_per_day = 16);
    let proposal = world.propose(0, approve("qwen"));
    world.sync();
    let log = world.log(1);
    for _ in 0..16 {
        world.append(1, Body::LogResume(crate::body::LogResume { old_log: log, old_head: None }));
    }
    let vote = world.vote(1, proposal, Choice::No, 0).unwrap();
    world.sync();
    assert_eq!((world.verdict(0, vote), world.verdict(1, vote)), (Verdict::OverBudget, Verdict::OverBudget));
    assert_eq!(world.state(0), world.state(1));
}

#[test]
fn entries_that_come_in_with_a_proof_are_news_like_any_others() {
    let mut world = World::new(&THREE, Preset::Trial);
    let position = world.commons[0].replica().next_position(&world.log(0));
    let Position::Log { seq, prev } = position else { panic!("it is a log") };
    let branch = |name: &str| {
        let leave = Body::Leave(Leave { reason: Some(name.parse().unwrap()) });
        let said = world.people[0].human(world.coop(), world.now, leave);
        let anchor = Body::Anchor(Box::new(Anchor { statement: said.envelope().clone() }));
        world.people[0].entry(world.coop(), world.now, seq.0, prev, anchor)
    };
    let both = [branch("one"), branch("two")];
    assert!(world.commons[1].insert_all(both.clone()).is_empty());
    let fork = world.commons[1].replica().unreported_forks().remove(0);
    let report = world.append(1, Body::Evidence(Box::new(fork.to_evidence())));
    let taken = world.commons[2].take_all([report.clone()]);
    let news: BTreeSet<StatementId> = taken.stored.into_iter().collect();
    assert_eq!(news, BTreeSet::from([report.id(), both[0].id(), both[1].id()]));
}
