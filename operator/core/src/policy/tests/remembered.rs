//! What a fold remembers of the one before it makes no difference.
//!
//! In this crate's tests every state that a commons makes is also held against one from scratch, see `Commons::refold`; here
//! the entries come in orders that no honest wire would bring.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::checkpoint::{checkpoint, forgetful, lived};
use super::*;
use crate::body::LogResume;
use crate::log::Refused;
use crate::policy::gather::Forked;
use crate::policy::gathering::Gathering;

/// A history with votes, a delegation, a rotated key, a suspension, a checkpoint in force, seals that contradict each other, and a
/// log that forked.
fn past() -> &'static (Founding, Vec<Statement>) {
    static PAST: OnceLock<(Founding, Vec<Statement>)> = OnceLock::new();
    PAST.get_or_init(|| {
        let mut world = forgetful();
        let open = lived(&mut world);
        checkpoint(&mut world, 0);
        let seal =
            world.state(2).close_seals().iter().find(|seal| seal.by == world.people[2].id()).unwrap().seal.clone();
        world.append(2, Body::CloseSeal(CloseSeal { count: seal.count + 1, ..seal }));
        world.sync();
        // Two entries of one position, each with something behind it.
        let at = world.commons[1].replica().next_position(&world.log(1));
        let crate::statement::Position::Log { seq, prev } = at else { panic!("it is a log") };
        let resume = Body::LogResume(LogResume { old_log: world.log(0), old_head: None });
        let other = world.people[1].entry(world.coop(), world.now, seq.0, prev, resume.clone());
        let behind = world.people[1].entry(world.coop(), world.now, seq.0 + 1, other.id().0, resume);
        world.vote(1, open, Choice::Yes, 3).ok();
        world.sync();
        world.commons[0].insert_all([other, behind]);
        world.settle();
        let replica = world.commons[0].replica();
        let all = replica.logs().flat_map(|(log, _)| replica.all(log));
        (world.founding(), all.map(|entry| (*entry.statement).clone()).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn in_whatever_order_entries_come_the_state_is_the_one_from_scratch(seed in any::<u64>(), most in 1usize..12) {
        let (founding, entries) = past();
        let mut left = entries.clone();
        // A shuffle that the seed names, of entries that are often near their place.
        let place = |at: usize, id: StatementId| {
            let draw = Digest::of(&[&id.0.0[..], &seed.to_le_bytes()[..]].concat()).0;
            at + usize::from(draw[0]) * (seed as usize % 3)
        };
        let places: BTreeMap<StatementId, usize> =
            entries.iter().map(|e| (e.id(), place(e.log_seq().unwrap().0 as usize, e.id()))).collect();
        left.sort_by_key(|entry| (places[&entry.id()], entry.id()));
        let mut commons = Commons::new(founding.clone(), Limits::default());
        let mut gathering = Gathering::of(commons.replica(), Forked::Void);
        let (mut followed, mut anew) = (0, 0);
        while !left.is_empty() {
            let before = left.len();
            for batch in std::mem::take(&mut left).chunks(most) {
                let refused = commons.insert_all(batch.to_vec());
                prop_assert_eq!(&**commons.state(), &settleable(State::fold(founding, commons.replica()), &commons));
                let fresh = Gathering::of(commons.replica(), Forked::Void);
                match gathering.follow(commons.replica()) {
                    Some(_) => {
                        followed += 1;
                        prop_assert_eq!(format!("{:?}", gathering.gathered), format!("{:?}", fresh.gathered));
                    }
                    None => {
                        anew += 1;
                        gathering = fresh;
                    }
                }
                let unknown = |(id, why): (StatementId, Refused)| matches!(why, Refused::UnknownLog(_)).then_some(id);
                let unknown: BTreeSet<StatementId> = refused.into_iter().filter_map(unknown).collect();
                left.extend(batch.iter().filter(|entry| unknown.contains(&entry.id())).cloned());
            }
            prop_assert!(left.len() < before);
        }
        let (straight, _) = Commons::load(founding.clone(), Limits::default(), entries.clone());
        prop_assert_eq!(commons.state(), straight.state());
        prop_assert!(followed > anew, "{followed} times only what was new was read, {anew} times everything");
        prop_assert!(!straight.state().faults().is_empty());
        prop_assert!(straight.replica().forks().count() > 0);
    }
}

/// `state` with what is found beside a fold.
fn settleable(state: State, commons: &Commons) -> State {
    State { settleable_proposals: commons.state().settleable_proposals.clone(), ..state }
}

#[test]
fn a_box_is_read_anew_when_something_comes_that_its_offers_name_and_that_is_about_something_else() {
    let mut world = forgetful();
    let [one, other] = ["one", "other"].map(|name| world.propose(0, approve(name)));
    world.sync();
    world.cut.insert(3);
    world.vote(3, other, Choice::Yes, 0).unwrap();
    let elsewhere = world.commons[3].replica().head(&world.log(3)).unwrap().id;
    for who in 0..3 {
        world.append(who, Body::BoxOffer(BoxOffer { proposal: one, entries: BTreeSet::from([elsewhere]) }));
    }
    world.sync();
    assert!(!world.state(0).proposals()[&one].box_complete);
    world.cut.clear();
    world.sync();
    assert!(world.state(0).proposals()[&one].box_complete);
}
