//! A12, A14, A31: clocks, isolation, and operators that forget.

use std::collections::BTreeMap;

use koinon_core::body::proposal::Choice;
use koinon_core::ids::{PublicKey, Seq, StatementId};
use koinon_core::liveness::{Instant, LivenessTimes, Roster};
use koinon_core::recovery::{Gate, Recovery};
use koinon_core::sealing;
use koinon_sim::simulation::{self, Class, Options};

use crate::kit::{FOUR, World, approve};

#[test]
fn a12_clocks_that_are_off_change_no_outcome_and_seal_nothing() {
    let off = [-600, 600, 24 * 3600, -24 * 3600];
    let mut roots = Vec::new();
    for offset in std::iter::once(0).chain(off) {
        let mut world = World::new(&FOUR);
        world.clocks[3] = offset;
        let proposal = world.propose(0, approve("qwen"));
        for who in 0..3 {
            world.vote(who, proposal, Choice::Yes).unwrap();
        }
        world.decide();
        world.wait(&[1]);
        assert_eq!(world.phases(proposal), ["Enacted"; 4], "{offset}");
        let state = &world.state(0).proposals()[&proposal];
        let by_skewed = state.offers.iter().filter(|offer| offer.by == world.id(3)).count();
        assert_eq!(by_skewed, usize::from(offset == 0), "{offset}");
        roots.push(state.enacted.as_ref().map(|enacted| (enacted.version, enacted.root)));
    }
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]), "the same version whoever's clock is off");
    // Within the tolerance it seals.
    let mut world = World::new(&FOUR);
    world.clocks = vec![120, -120, 60, 0];
    let proposal = world.propose(3, approve("qwen"));
    for who in 0..4 {
        world.vote(who, proposal, Choice::Yes).unwrap();
    }
    world.decide();
    world.wait(&[1]);
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    // Many members with clocks up to ten minutes off, from seeds.
    for seed in 0..6 {
        let run = simulation::run(seed, &Options { class: Some(Class::Clocks), ..Options::default() });
        assert!(run.violations.is_empty(), "seed {seed}: {:?}", run.violations);
    }
}

#[test]
fn a14_a_member_that_is_shown_nothing_new_notices_and_seals_nothing() {
    let mut world = World::new(&FOUR);
    let parameters = world.state(3).parameters();
    let [fresh, lost] = [parameters.fresh_seconds, parameters.lost_seconds].map(|s| s.0.unsigned_abs() * 1_000);
    let times = LivenessTimes { fresh_millis: fresh, lost_millis: lost };
    let mut roster = Roster::new(times);
    let peers: Vec<_> = (0..3).map(|who| world.id(who)).collect();
    roster.set_peers(&peers, Instant(0));
    peers.iter().for_each(|peer| drop(roster.heard(peer, Instant(0))));
    let quorum = world.state(3).quorum();
    assert!(!roster.isolated(quorum));
    // Two of three no longer tell it anything: within fifteen minutes it knows.
    let within = 15 * 60 * 1_000;
    for now in (0..=within).step_by(10_000) {
        roster.heard(&peers[0], Instant(now));
        roster.step(Instant(now), quorum);
    }
    assert!(roster.isolated(quorum));
    assert!(
        peers.iter().all(|peer| roster.liveness(peer) != Some(koinon_core::liveness::Liveness::Lost)),
        "what runs stays"
    );
    // Isolated it says what it holds, and seals nothing.
    let proposal = world.propose(0, approve("qwen"));
    for who in 0..4 {
        world.vote(who, proposal, Choice::Yes).unwrap();
    }
    world.sync();
    world.cut.insert(3);
    world.wait(&[73, 1]);
    let mut circumstances = world.circumstances(3);
    circumstances.isolated = true;
    let next = sealing::next(world.state(3), &world.id(3), &circumstances);
    assert!(next.iter().all(|body| matches!(body, koinon_core::body::Body::BoxOffer(_))), "{next:?}");
}

#[test]
fn a31_whoever_was_restored_from_a_backup_signs_nothing_before_it_knows_its_own_head() {
    let mut world = World::new(&FOUR);
    let proposal = world.propose(3, approve("qwen"));
    let backup = world.commons[3].clone();
    for who in 0..4 {
        world.vote(who, proposal, Choice::Yes).unwrap();
    }
    world.wait(&[0, 73]);
    let head = world.commons[3].replica().head(&world.log(3));
    world.commons[3] = backup;
    let members: Vec<_> = (0..4).map(|who| world.id(who)).collect();
    let mut recovery = Recovery::new(world.id(3), world.log(3));
    for who in 0..3 {
        recovery.told(world.id(who), head);
    }
    let gate = |world: &World| recovery.gate(world.commons[3].replica(), &members, world.state(3).quorum());
    assert!(matches!(gate(&world), Gate::TakeBack { .. }), "peers hold what it forgot");
    world.sync();
    assert!(matches!(gate(&world), Gate::Ready));
    assert_eq!(world.commons[3].replica().head(&world.log(3)), head);
    world.wait(&[1, 24]);
    assert_eq!(world.phases(proposal), ["Enacted"; 4]);
    let mut by_place: BTreeMap<(PublicKey, Seq), StatementId> = BTreeMap::new();
    for entry in world.entries(0) {
        let place = (entry.header().key, entry.log_seq().unwrap());
        assert_eq!(by_place.insert(place, entry.id()), None, "one entry at one position");
    }
    // Many that stop between signing and storing, or come back older than they were, from seeds.
    for class in [Class::Crash, Class::Backup] {
        for seed in 0..6 {
            let run = simulation::run(seed, &Options { class: Some(class), ..Options::default() });
            assert!(run.violations.is_empty(), "{class:?} {seed}: {:?}", run.violations);
        }
    }
}
