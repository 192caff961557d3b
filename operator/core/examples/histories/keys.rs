//! Keys that people rotate, take back and are given, and whoever goes on with those that were replaced.

use koinon_core::body::member::MemberKeys;
use koinon_core::body::proposal::{Choice, Vote};
use koinon_core::body::{Action, Anchor, Body, KeyRevocation, KeyUpdate, LogResume, ResetKeys};
use koinon_core::dsse::{SeedSigner, Signer};
use koinon_core::ids::{PublicKey, Seq, StatementId};
use koinon_core::statement::{Position, Statement};
use koinon_core::testkit::{Person, person};

use crate::stories;
use crate::world::World;

fn signed(world: &World, who: usize, body: Body, signers: &[&dyn Signer]) -> Option<Statement> {
    let (first, others) = signers.split_first()?;
    world.draft(who, Position::Human, body).sign(*first, others).ok()
}

/// The next keys of a member, signed by whom they should be, or not.
pub fn rotate(world: &mut World) {
    let (who, stranger) = (world.anybody(), world.anybody());
    let (next, second) = (world.new_key(), world.new_key());
    let in_force = world.state(who).key_set(&world.id(who)).map_or(0, |set| set.number);
    let number = if world.random.once_in(8) { world.random.below(4) as u32 } else { in_force + 1 };
    let recovery = world.recovery(who);
    let retired = world.former.iter().find(|(whose, _)| *whose == who).map(|(_, key)| key);
    let me = &world.people[who];
    let current: &dyn Signer = &me.governance;
    let draw = world.random.below(16);
    let (mut keys, signers): (Vec<PublicKey>, Vec<&dyn Signer>) = match (draw, retired) {
        (0, _) => (vec![next.public_key()], vec![&next]),
        (1, _) => (vec![next.public_key()], vec![current]),
        (2, _) => (vec![next.public_key()], vec![&me.operator, &next]),
        (3, _) => (vec![next.public_key()], vec![&world.people[stranger].governance, &next]),
        (4, _) => (vec![], vec![current]),
        (5, _) => (vec![me.operator.public_key()], vec![current, &me.operator]),
        (6, _) => (vec![recovery[0].public_key()], vec![current, &recovery[0]]),
        (7, Some(retired)) => (vec![retired.public_key()], vec![current, retired]),
        (8, Some(retired)) => (vec![next.public_key()], vec![retired, &next]),
        (9, _) => (vec![next.public_key(), current.public_key()], vec![current, &next]),
        (10, _) => (vec![next.public_key()], recovery.iter().chain([&next]).map(|key| key as &dyn Signer).collect()),
        (11, _) => (vec![next.public_key(), second.public_key()], vec![current, &next]),
        _ => (vec![next.public_key()], vec![current, &next]),
    };
    if draw == 12 {
        keys.push(next.public_key());
    }
    let Some(statement) = signed(world, who, Body::KeyUpdate(KeyUpdate { number, governance: keys }), &signers) else {
        return;
    };
    let holds = world.state(who).check_keys(&statement).is_ok();
    world.anchor(who, &statement);
    if holds && !world.random.once_in(5) {
        let old = std::mem::replace(&mut world.people[who].governance, next);
        world.former.insert(0, (who, old));
    }
}

/// A key is taken back from some position on, by the recovery key or by somebody who may not; perhaps after that its owner
/// takes another one.
pub fn revoke(world: &mut World) {
    let (who, stranger) = (world.anybody(), world.anybody());
    let recovery = world.recovery(who);
    let mut key = world.people[who].governance.public_key();
    if world.random.once_in(3) {
        key = world.former.iter().find(|(whose, _)| *whose == who).map_or(key, |(_, former)| former.public_key());
    }
    if world.random.once_in(12) {
        key = world.people[stranger].governance.public_key();
    }
    let own = world.people[who].operator.public_key();
    let replaced = world.thieves.iter().find(|thief| thief.id() == world.id(who)).map(|t| t.operator.public_key());
    let log = match world.random.below(8) {
        0 => world.people[stranger].operator.public_key(),
        1..=3 => replaced.unwrap_or(own),
        _ => own,
    };
    let end = world.commons(who).replica().next_seq(&log).0;
    let mut since_seq = Seq(world.random.below(end as usize + 2) as u64);
    if world.random.once_in(2) {
        // From the very entry that anchors something of its owner's people.
        let entries = world.commons(who).replica().entries(&log);
        let anchors: Vec<Seq> = entries.filter(|entry| entry.statement.nested().is_some()).map(|e| e.seq()).collect();
        since_seq = anchors.last().copied().unwrap_or(since_seq);
    }
    let body = Body::KeyRevocation(KeyRevocation { key, log, since_seq });
    let draw = world.random.below(8);
    let signers: Vec<&dyn Signer> = match draw {
        0 => vec![&world.people[who].governance],
        1 => vec![&world.people[stranger].operator],
        _ => recovery.iter().map(|key| key as &dyn Signer).collect(),
    };
    let Some(statement) = signed(world, who, body, &signers) else { return };
    world.anchor(who, &statement);
    if world.random.once_in(2) {
        let next = world.new_key();
        let number = world.state(who).key_set(&world.id(who)).map_or(0, |set| set.number) + 1;
        let update = Body::KeyUpdate(KeyUpdate { number, governance: vec![next.public_key()] });
        let signers: Vec<&dyn Signer> = recovery.iter().chain([&next]).map(|key| key as &dyn Signer).collect();
        let Some(update) = signed(world, who, update, &signers) else { return };
        world.anchor(who, &update);
        let old = std::mem::replace(&mut world.people[who].governance, next);
        world.former.insert(0, (who, old));
    }
}

/// A vote is open, a member votes, its key changes or is taken back, and it or somebody else votes again.
pub fn change_in_a_vote(world: &mut World) {
    let who = world.anybody();
    let Some(action) = crate::people::release_of_any(world) else { return };
    let Some(proposal) = stories::propose(world, who, action, &[]) else { return };
    let voter = world.anybody();
    let vote = |choice, vseq| Body::Vote(Vote { proposal, choice, vseq, ground: None, reason: None });
    stories::until_open(world, proposal);
    world.say(voter, vote(Choice::Yes, 0));
    for turn in 1..3 {
        if world.random.once_in(2) {
            rotate(world);
        } else {
            revoke(world);
        }
        let choice = if world.random.once_in(2) { Choice::No } else { Choice::Yes };
        world.say(voter, vote(choice, turn));
        let former = world.former.iter().position(|(whose, _)| *whose == voter);
        if let Some(former) = former.filter(|_| world.random.once_in(2)) {
            let (_, old) = world.former.remove(former);
            if let Some(late) = signed(world, voter, vote(Choice::No, turn + 1), &[&old]) {
                world.anchor(voter, &late);
            }
            world.former.insert(0, (voter, old));
        }
    }
    stories::agree(world, proposal);
    if stories::until_queued(world, proposal) && world.random.once_in(2) {
        // After the close it is too late to take anything back.
        revoke(world);
    }
    stories::pass_time(world);
}

/// The others give a member keys of its own again; it goes on in a new log, and the old keys are in somebody's hands.
pub fn reset(world: &mut World) {
    let (mut who, proposer) = (world.anybody(), world.anybody());
    let before = world.thieves.last().and_then(|thief| world.people.iter().position(|known| known.id() == thief.id()));
    if world.random.once_in(2) {
        // A second time, whoever it was the first time.
        who = before.unwrap_or(who);
    }
    let old_name = world.id(who).to_string();
    let (governance, operator, recovery) = (world.new_key(), world.new_key(), world.new_key());
    let mut keys = MemberKeys {
        recovery: vec![recovery.public_key()],
        governance: vec![governance.public_key()],
        operator: operator.public_key(),
    };
    let draw = world.random.below(12);
    match draw {
        0 => keys.governance.push(world.people[proposer].governance.public_key()),
        1 => keys.operator = world.people[who].operator.public_key(),
        2 => keys.recovery.push(governance.public_key()),
        3 => keys.governance.clear(),
        _ => {}
    }
    let mut signers: Vec<&SeedSigner> = vec![&operator, &governance];
    if draw == 4 {
        signers.remove(world.random.below(2));
    }
    let action = Action::ResetKeys(ResetKeys { member: world.id(who), keys: keys.clone() });
    let Some(proposal) = stories::propose(world, proposer, action, &signers) else { return };
    stories::agree(world, proposal);
    stories::until_queued(world, proposal);
    stories::pass_time(world);
    let has_them =
        world.state(proposer).member(&world.id(who)).is_some_and(|m| m.member.keys.operator == keys.operator);
    if !has_them || keys.operator != operator.public_key() {
        return;
    }
    let mut renewed: Person = person(&old_name);
    renewed.member.keys = keys;
    (renewed.governance, renewed.operator) = (governance, operator);
    let old = std::mem::replace(&mut world.people[who], renewed);
    let old_log = old.operator.public_key();
    world.thieves.push(old);
    let old_head = world.commons(who).replica().head(&old_log);
    if !world.random.once_in(4) {
        world.append(who, Body::LogResume(LogResume { old_log, old_head }));
    }
    world.wait(1);
    if world.random.once_in(2) {
        with_its_keys(world, who);
    }
    for _ in 0..world.random.below(4) {
        thief(world);
    }
}

/// Somebody is to be given a key that another one has only since it was given others.
fn with_its_keys(world: &mut World, who: usize) {
    let (other, proposer) = (world.anybody(), world.anybody());
    let (governance, operator) = (world.new_key(), world.new_key());
    let keys = MemberKeys {
        recovery: world.people[who].member.keys.recovery.clone(),
        governance: vec![governance.public_key()],
        operator: operator.public_key(),
    };
    let action = Action::ResetKeys(ResetKeys { member: world.id(other), keys });
    stories::propose(world, proposer, action, &[&operator, &governance]);
}

/// Whoever holds replaced keys says something new with them, or anchors anew what their owner has said since.
pub fn thief(world: &mut World) {
    let thief = world.random.below(world.thieves.len());
    let Some(name) = world.thieves.get(thief).map(Person::id) else { return };
    let newest: Option<StatementId> = world.proposals.last().copied();
    let own: Vec<Statement> =
        world.spoken.iter().map(|(_, said)| said).filter(|said| *said.author() == name).cloned().collect();
    let anchor = |statement: &Statement| Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() }));
    let again = world.random.pick(&own).map(anchor);
    let said = newest.and_then(|proposal| {
        let who = world.people.iter().position(|known| known.id() == name)?;
        let vseq = world.random.below(3) as u32;
        let vote = Body::Vote(Vote { proposal, choice: Choice::No, vseq, ground: None, reason: None });
        signed(world, who, vote, &[&world.thieves[thief].governance]).map(|vote| anchor(&vote))
    });
    let honest = world
        .people
        .iter()
        .position(|known| known.id() == name)
        .and_then(|who| world.next_seals(who, koinon_core::sealing::Promises::KEPT).into_iter().next());
    let body = match world.random.below(4) {
        0 => said,
        1 => honest,
        _ => again,
    };
    if let Some(body) = body {
        world.append_as_thief(thief, body);
    }
}
