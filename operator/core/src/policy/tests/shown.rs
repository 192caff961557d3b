//! What people are shown follows from the same functions as what is decided.

use super::hearing::expel;
use super::*;
use crate::body::Class;
use crate::body::proposal::{Delegation, Recusal};
use crate::presets;

fn quick(names: &[&str]) -> World {
    World::with(names, Preset::Trial, |charter| charter.parameters.deliberation = Some(presets::deliberation()))
}

fn fates(world: &World, proposal: StatementId) -> Vec<(String, DelegationFate)> {
    let held = &world.state(0).proposals()[&proposal].held;
    let mut fates: Vec<_> = held.stand_ins.iter().map(|s| (format!("{} to {}", s.from, s.to), s.fate)).collect();
    fates.sort();
    fates
}

#[test]
fn a_delegation_waits_for_the_other_then_counts_and_gives_way_to_a_vote_of_its_author() {
    let mut world = quick(&["aarhus", "bilbao", "cork", "delft"]);
    let not_after = world.now.plus(Seconds(86_400));
    for (from, to) in [(1, 0), (2, 3)] {
        let to = Some(world.people[to].id());
        let delegation = Delegation { to, classes: BTreeSet::from([Class::Routine]), vseq: 0, not_after };
        world.say(from, Body::Delegation(delegation)).unwrap();
    }
    let proposal = world.propose(0, approve("qwen"));
    world.sync();
    let (bilbao, cork) = ("bilbao to aarhus".to_owned(), "cork to delft".to_owned());
    let waits = vec![(bilbao.clone(), DelegationFate::Waits), (cork.clone(), DelegationFate::Waits)];
    assert_eq!(fates(&world, proposal), waits);

    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.say(3, Body::Recusal(Recusal { proposal })).unwrap();
    world.sync();
    let counts = vec![(bilbao.clone(), DelegationFate::Counts), (cork.clone(), DelegationFate::OtherRecused)];
    assert_eq!(fates(&world, proposal), counts);
    let counted = &world.state(0).proposals()[&proposal].held.counted;
    let through = |who: &str| counted.get(&who.parse().unwrap()).map(|c| (c.choice, c.through.clone()));
    assert_eq!(through("bilbao"), Some((Choice::Yes, Through::Delegate(world.people[0].id()))));
    assert_eq!(through("delft"), Some((Choice::Abstain, Through::Recusal)));
    assert_eq!(through("cork"), None);

    let own = world.vote(1, proposal, Choice::No, 0).unwrap();
    world.sync();
    assert_eq!(fates(&world, proposal)[0], (bilbao, DelegationFate::Own));
    let counted = &world.state(0).proposals()[&proposal].held.counted;
    assert_eq!(counted[&"bilbao".parse().unwrap()], Heard { choice: Choice::No, through: Through::Vote(own) });
}

#[test]
fn what_is_shown_before_a_vote_is_in_force_after_it() {
    let mut world = quick(&["aarhus", "bilbao", "cork", "delft"]);
    for action in [approve("qwen"), withdraw("qwen"), expel(&world.people[3].id())] {
        let body = world.state(0).draft_proposal(action.clone(), "t".parse().unwrap(), Default::default(), world.now);
        let id = StatementId(Digest::of(b"not signed yet"));
        let shown = world.state(0).preview(id, &body.unwrap());
        let proposal = world.propose(0, action.clone());
        world.sync();
        let electors = world.state(0).electorate(&world.state(0).proposals()[&proposal].proposal).unwrap().electors;
        assert_eq!(electors.len(), if matches!(action, Action::Expel(_)) { 3 } else { 4 });
        for who in 0..electors.len() {
            world.vote(who, proposal, Choice::Yes, 0).unwrap();
        }
        world.settle();
        assert_eq!(world.phases(proposal)[0], "Enacted");
        let is = world.state(0);
        let digest = release("qwen").manifest_digest;
        assert_eq!(shown.release(&digest), is.release(&digest));
        let standings = |state: &State| -> Vec<_> { state.members().values().map(|m| m.standing).collect() };
        assert_eq!(standings(&shown), standings(is));
        assert_eq!(shown.active().count(), is.active().count());
    }
}
