//! A16 and A17: keys in wrong hands.

use koinon_core::body::entry::LogResume;
use koinon_core::body::member::MemberKeys;
use koinon_core::body::proposal::{Action, CancelProposal, Choice, Delegation, Leave, Withdrawal};
use koinon_core::body::{Body, KeyRevocation, KeyUpdate, ResetKeys};
use koinon_core::dsse::Signer;
use koinon_core::ids::Seq;
use koinon_core::policy::Verdict;
use koinon_core::testkit::person;

use crate::kit::{FOUR, World, approve, key, vote};

#[test]
fn a16_whoever_steals_an_operator_key_decides_nothing_with_it() {
    let mut world = World::new(&FOUR);
    let proposal = world.propose(3, approve("qwen"));
    // It can write whatever it likes into the log; as people's words nothing of it counts.
    let stolen = person("delft").operator;
    let not_after = world.now.plus(koinon_core::ids::Seconds(1_000_000));
    let classes = koinon_core::body::Class::ALL.into_iter().collect();
    let to = Some(world.id(0));
    let draft = world.state(3).draft_proposal(approve("other"), "o".parse().unwrap(), Default::default(), world.now);
    let forged = [
        vote(proposal, Choice::Yes, 0),
        Body::Withdrawal(Withdrawal { proposal }),
        Body::Leave(Leave::default()),
        Body::Delegation(Delegation { to, classes, vseq: 0, not_after }),
        Body::Proposal(Box::new(draft.unwrap())),
        Body::KeyUpdate(KeyUpdate { number: 1, governance: vec![stolen.public_key()] }),
    ];
    for body in forged {
        let statement = world.signed(3, body, &[&stolen]);
        world.force(3, &statement);
    }
    world.votes(&[0, 1, 2], proposal, Choice::No);
    world.decide();
    assert_eq!(world.phases(proposal), ["Rejected"; 4]);
    assert_eq!((world.count(0, proposal), world.state(0).active().count()), ((0, 3), 4));
    let invalid = |p: &koinon_core::policy::ProposalState| p.invalid.as_ref().map(|invalid| invalid.category());
    assert_eq!(world.state(0).proposals().values().filter_map(invalid).collect::<Vec<_>>(), ["WrongKeyRole"]);
    assert_eq!(world.state(0).key_set(&world.id(3)).unwrap().number, 0);
    // The others give the member other keys, and the stolen one is nobody's.
    let (governance, operator) = (key("new governance"), key("new operator"));
    let keys =
        MemberKeys { recovery: vec![], governance: vec![governance.public_key()], operator: operator.public_key() };
    let reset = Action::ResetKeys(ResetKeys { member: world.id(3), keys });
    let draft = world.state(0).draft_proposal(reset, "r".parse().unwrap(), Default::default(), world.now).unwrap();
    let aarhus = person("aarhus").governance;
    let reset = world.signed(0, Body::Proposal(Box::new(draft)), &[&aarhus, &operator, &governance]);
    world.force(0, &reset);
    world.sync();
    world.votes(&[0, 1, 2], reset.id(), Choice::Yes);
    world.wait(&[0, 169, 1, 24]);
    assert_eq!(world.phase(0, reset.id()).name(), "Enacted");
    assert!(world.state(0).member_by_operator(&stolen.public_key()).is_none());
    let own = world.append(3, Body::LogResume(LogResume { old_log: stolen.public_key(), old_head: None }));
    assert!(!world.state(3).membership().unwrap().is_log_of(&own.header().key, &world.id(3)));
}

#[test]
fn a17_a_stolen_governance_key_is_taken_back_before_the_close_and_stopped_after_it() {
    let stolen = person("delft").governance;
    let recovery = key("delft/recovery");
    let revocation = |world: &World, since: u64| {
        let revoked = KeyRevocation { key: stolen.public_key(), log: world.log(3), since_seq: Seq(since) };
        world.signed(3, Body::KeyRevocation(revoked), &[&recovery])
    };
    // Before the close: the vote is void in the box, and the owner votes with its next key.
    let mut world = World::new(&FOUR);
    let proposal = world.propose(0, approve("qwen"));
    let forged = world.vote(3, proposal, Choice::Yes).unwrap();
    let taken_back = revocation(&world, 0);
    world.force(3, &taken_back);
    let next = key("delft/next");
    let update = Body::KeyUpdate(KeyUpdate { number: 1, governance: vec![next.public_key()] });
    let update = world.signed(3, update, &[&recovery, &next]);
    world.force(3, &update);
    let own = world.signed(3, vote(proposal, Choice::No, 1), &[&next]);
    world.force(3, &own);
    world.votes(&[0, 1], proposal, Choice::Yes);
    world.decide();
    for who in 0..4 {
        assert_eq!([forged, own.id()].map(|id| world.verdict(who, id)), [Verdict::Revoked, Verdict::Counted]);
        assert_eq!(world.count(who, proposal), (2, 1));
    }
    // After the close: what was certified stands, and a cancellation stops it before it takes effect.
    let mut world = World::new(&FOUR);
    let proposal = world.propose(3, approve("qwen"));
    let forged = world.vote(3, proposal, Choice::Yes).unwrap();
    world.votes(&[0, 1], proposal, Choice::Yes);
    world.wait(&[0, 73, 1]);
    assert_eq!(world.phases(proposal), ["Queued"; 4]);
    let taken_back = revocation(&world, 0);
    world.force(3, &taken_back);
    world.settle();
    assert_eq!((world.verdict(0, forged), world.phases(proposal)), (Verdict::Counted, vec!["Queued"; 4]));
    let cancel = world.propose(0, Action::CancelProposal(CancelProposal { proposal }));
    world.votes(&[0, 1, 2], cancel, Choice::Yes);
    world.wait(&[0, 13, 1, 24]);
    assert_eq!(world.phases(proposal), ["Cancelled"; 4]);
    assert!(world.state(0).releases().is_empty());
}
