//! Courses of events that chance alone would rarely bring together.

use koinon_core::body::Body;
use koinon_core::body::entry::Outcome;
use koinon_core::body::proposal::{Action, CancelProposal, Choice, Ground, Proposal, SetRules, Vote, Withdrawal};
use koinon_core::dsse::{SeedSigner, Signer};
use koinon_core::ids::StatementId;
use koinon_core::presets;
use koinon_core::statement::Position;

use crate::people;
use crate::world::World;

/// A proposal as it should be, with further signatures.
pub fn propose(world: &mut World, who: usize, action: Action, signers: &[&SeedSigner]) -> Option<StatementId> {
    propose_bent(world, who, action, signers, |_| {})
}

/// The same with something about it as it should not be.
pub fn propose_bent(
    world: &mut World,
    who: usize,
    action: Action,
    signers: &[&SeedSigner],
    bend: impl Fn(&mut Proposal),
) -> Option<StatementId> {
    let mut draft = world.state(who).draft_proposal(action, "A step".parse().ok()?, Default::default(), world.now)?;
    bend(&mut draft);
    let draft = world.draft(who, Position::Human, Body::Proposal(Box::new(draft)));
    let signers: Vec<&dyn Signer> = signers.iter().map(|signer| *signer as &dyn Signer).collect();
    let statement = draft.sign(&world.people[who].governance, &signers).ok()?;
    world.anchor(who, &statement);
    world.proposals.push(statement.id());
    Some(statement.id())
}

/// Everybody but a few says yes once the vote has opened.
pub fn agree(world: &mut World, proposal: StatementId) {
    until_open(world, proposal);
    for who in 0..world.people.len() {
        if !world.silent.contains(&who) && !world.random.once_in(10) {
            world.say(who, Body::Vote(Vote { proposal, choice: Choice::Yes, vseq: 0, ground: None, reason: None }));
        }
    }
}

/// Lets time pass until the vote opens.
pub fn until_open(world: &mut World, proposal: StatementId) {
    let somebody = world.anybody();
    let known = world.state(somebody).proposals().get(&proposal);
    if let Some(opens_at) = known.map(|p| p.proposal.opens_at).filter(|opens_at| *opens_at > world.now) {
        world.now = opens_at;
    }
}

/// Lets time pass until a box of `proposal` is certified as passed.
pub fn until_queued(world: &mut World, proposal: StatementId) -> bool {
    for _ in 0..8 {
        world.settle();
        let state = world.state(0);
        if state.certificates(proposal).iter().any(|c| c.outcome == Outcome::Passed) {
            return true;
        }
        let Some(next) = state.next_change(world.now) else { return false };
        world.now = next;
    }
    false
}

/// Something passes, and before it takes effect another vote stops it, or tries to.
pub fn cancel(world: &mut World) {
    let who = world.anybody();
    let Some(action) = people::release_of_any(world) else { return };
    let Some(proposal) = propose(world, who, action, &[]) else { return };
    agree(world, proposal);
    if !until_queued(world, proposal) {
        return;
    }
    let Some(cancel) = propose(world, who, Action::CancelProposal(CancelProposal { proposal }), &[]) else { return };
    agree(world, cancel);
    until_queued(world, cancel);
    if world.random.once_in(3) {
        propose(world, who, Action::CancelProposal(CancelProposal { proposal: cancel }), &[]);
    }
    pass_time(world);
}

/// Something passes, too few sign its enactment, and a later term carries it on or is free for something else.
pub fn carry(world: &mut World) {
    let who = world.anybody();
    let Some(action) = people::release_of_any(world) else { return };
    let Some(proposal) = propose(world, who, action, &[]) else { return };
    agree(world, proposal);
    if !until_queued(world, proposal) {
        return;
    }
    let known = world.state(0).proposals().get(&proposal);
    let Some((eta, expires)) = known.map(|p| (p.proposal.eta, p.proposal.expires_at)) else { return };
    world.now = world.now.max(eta);
    let few = world.random.below(world.people.len());
    for who in 0..few {
        world.seal(who);
    }
    world.now = expires;
    world.wait(200);
    world.settle();
    pass_time(world);
    if let Some(other) = people::release_of_any(world).and_then(|action| propose(world, who, action, &[])) {
        agree(world, other);
        until_queued(world, other);
        pass_time(world);
    }
}

/// Something is decided by the first rules, then the step to the complete ones, and one of those who proposed it forks its
/// past.
pub fn step(world: &mut World) {
    if world.state(0).rules() >= 2 {
        return;
    }
    let who = world.anybody();
    let Some(action) = people::release_of_any(world) else { return };
    let step = Action::SetRules(SetRules { rules: 2, deliberation: presets::deliberation() });
    for (who, action) in [(who, action), (0, step)] {
        let Some(proposal) = propose(world, who, action, &[]) else { return };
        agree(world, proposal);
        until_queued(world, proposal);
        pass_time(world);
    }
    if world.random.once_in(2) {
        carry(world);
    }
    if !world.random.once_in(3) {
        crate::seals::fork(world);
    }
}

/// Something is refused or taken back, and somebody proposes it again.
pub fn try_again(world: &mut World) {
    let who = world.anybody();
    let whom = world.anybody();
    let action = match world.random.below(4) {
        0 => people::expel(world, whom),
        1 => world.proposals.last().map(|proposal| Action::CancelProposal(CancelProposal { proposal: *proposal })),
        _ => people::release_of_any(world),
    };
    let Some(action) = action else { return };
    let Some(first) = propose(world, who, action.clone(), &[]) else { return };
    until_open(world, first);
    let back = world.random.once_in(3);
    if back {
        world.say(who, Body::Withdrawal(Withdrawal { proposal: first }));
    }
    let soon = world.random.once_in(4);
    for voter in 0..world.people.len() {
        let choice = if world.random.once_in(3) { Choice::Veto } else { Choice::No };
        let ground = (choice == Choice::Veto).then_some(Ground::Safety);
        if !world.random.once_in(4) {
            world.say(voter, Body::Vote(Vote { proposal: first, choice, vseq: 0, ground, reason: None }));
        }
    }
    if !soon {
        pass_time(world);
    }
    let again = if world.random.once_in(2) { who } else { world.anybody() };
    let Some(second) = propose(world, again, action, &[]) else { return };
    if world.random.once_in(3) {
        agree(world, second);
    } else {
        until_open(world, second);
        for voter in 0..world.people.len().div_ceil(2) {
            let yes = Vote { proposal: second, choice: Choice::Yes, vseq: 0, ground: None, reason: None };
            world.say(voter, Body::Vote(yes));
        }
    }
    pass_time(world);
}

/// The others expel a member, which may seal as well.
pub fn expel(world: &mut World) {
    let (who, whom) = (world.anybody(), world.anybody());
    let Some(proposal) = people::expel(world, whom).and_then(|action| propose(world, who, action, &[])) else { return };
    agree(world, proposal);
    until_queued(world, proposal);
    if world.random.once_in(2) {
        pass_time(world);
    }
}

pub fn pass_time(world: &mut World) {
    for _ in 0..4 {
        let Some(next) = world.state(0).next_change(world.now) else { break };
        world.now = next;
        world.settle();
    }
}
