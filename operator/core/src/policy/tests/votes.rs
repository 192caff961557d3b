//! Which votes count, and what is said of those that do not.

use super::*;
use crate::dsse::Signer;
use crate::statement::Position;

/// A vote signed by whatever key and anchored by `who`'s operator without asking, as a careless or hostile one might.
fn force(
    world: &mut World,
    who: usize,
    author: usize,
    signer: &dyn Signer,
    vote: Vote,
    issued_at: UnixSeconds,
) -> StatementId {
    let draft = Draft {
        coop: Some(world.coop()),
        author: world.people[author].id(),
        site: "main".parse().unwrap(),
        issued_at,
        position: Position::Human,
        body: Body::Vote(vote),
    };
    let statement = draft.sign(signer, &[]).unwrap();
    world.anchor(who, &statement);
    statement.id()
}

fn yes(proposal: StatementId) -> Vote {
    Vote { proposal, choice: Choice::Yes, vseq: 0, ground: None, reason: None }
}

#[test]
fn an_operator_key_cannot_vote() {
    let mut world = World::new(&THREE, Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    let operator = person("aarhus").operator;
    let now = world.now;
    let vote = force(&mut world, 0, 0, &operator, yes(proposal), now);
    assert_eq!(world.verdict(0, vote), Verdict::WrongKeyRole);
    assert_eq!(world.state(0).proposals()[&proposal].ballot.tally.counts.turnout(), 0);
    // An honest operator does not even give it a place.
    let draft = Draft { issued_at: now, ..world.people[0].draft_for_tests(world.coop(), Body::Vote(yes(proposal))) };
    let statement = draft.sign(&operator, &[]).unwrap();
    let refused = world.state(0).may_anchor(&world.people[0].id(), &statement, now).unwrap_err();
    assert!(matches!(refused, NotAnchored::WrongKeyRole(_)), "{refused}");
}

#[test]
fn somebody_else_s_key_or_log_gives_no_vote() {
    let mut world = World::new(&THREE, Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    let now = world.now;
    // 0 signs in the name of 1: the key is not 1's, and 0's log is not 1's seat.
    let stolen = force(&mut world, 0, 1, &person("aarhus").governance, yes(proposal), now);
    assert_eq!(world.state(0).vote(&stolen), None);
    world.sync();
    let in_own_log = force(&mut world, 1, 1, &person("aarhus").governance, yes(proposal), now);
    assert_eq!(world.verdict(1, in_own_log), Verdict::WrongKeyRole);
}

#[test]
fn a_member_outside_the_electorate_has_no_vote_on_what_was_pinned_before() {
    use crate::body::proposal::{Admit, Leave};
    let mut world = World::new(&["aarhus", "bilbao"], Preset::Trial);
    // Pinned to the two members, and still open when the third has come.
    let old = world.propose(0, approve("qwen"));
    let newcomer = person("cork");
    let application = newcomer.application(world.coop(), world.now).envelope().clone();
    let admit = world.propose(0, Action::Admit(Admit { application }));
    world.sync();
    world.all_yes(admit);
    world.settle();
    let founding = world.founding();
    world.people.push(newcomer);
    world.commons.push(Commons::new(founding, Limits::default()));
    world.sync();
    let refused = world.vote(2, old, Choice::No, 0).unwrap_err();
    assert_eq!(refused, NotAnchored::Vote(Verdict::NotElector));
    let (key, now) = (person("cork").governance, world.now);
    let vote = force(&mut world, 2, 2, &key, Vote { choice: Choice::No, ..yes(old) }, now);
    world.sync();
    assert_eq!(world.verdict(0, vote), Verdict::NotElector);
    assert_eq!(world.state(0).proposals()[&old].ballot.tally.electors, 2);
    // Nor does the electorate shrink when somebody leaves: its votes stay, and the number stays.
    world.vote(1, old, Choice::Yes, 0).unwrap();
    world.say(1, Body::Leave(Leave::default())).unwrap();
    world.wait(1);
    world.vote(0, old, Choice::Yes, 0).unwrap();
    world.sync();
    let tally = world.state(0).proposals()[&old].ballot.tally;
    assert_eq!((tally.electors, tally.counts.yes, tally.outcome), (2, 2, Outcome::Passed));
}

#[test]
fn votes_outside_their_time_are_named_as_such() {
    let mut world = World::with(&["aarhus"], Preset::Standard, |c| c.parameters.sponsors = 1);
    let key = person("aarhus").governance;
    let proposal = world.propose(0, approve("qwen"));
    let Proposal { opens_at, closes_at, .. } = world.state(0).proposals()[&proposal].proposal.clone();
    let tolerance = Seconds(120);
    let cast = |world: &mut World, at: UnixSeconds, anchored: UnixSeconds, vseq| {
        world.now = anchored;
        let vote = force(world, 0, 0, &key, Vote { vseq, ..yes(proposal) }, at);
        world.verdict(0, vote)
    };
    assert_eq!(cast(&mut world, opens_at.minus(Seconds(121)), opens_at, 0), Verdict::TooEarly);
    assert_eq!(cast(&mut world, opens_at.minus(tolerance), opens_at, 1), Verdict::Counted);
    assert_eq!(cast(&mut world, closes_at, closes_at, 2), Verdict::Counted);
    assert_eq!(cast(&mut world, closes_at.plus(Seconds(1)), closes_at, 3), Verdict::TooLate);
    // Backdating gains nothing once the operators' own time is over.
    let late = closes_at.plus(Seconds(3600 + 121));
    assert_eq!(cast(&mut world, closes_at, late, 4), Verdict::AnchoredTooLate);
    assert_eq!(world.state(0).proposals()[&proposal].ballot.tally.counts.turnout(), 1);
}

#[test]
fn a_mind_may_change_where_votes_are_not_final() {
    let mut world = World::with(&["aarhus", "bilbao"], Preset::Standard, |c| c.parameters.sponsors = 1);
    let proposal = world.propose(0, approve("qwen"));
    world.sync();
    world.wait(3600);
    let first = world.vote(0, proposal, Choice::No, 0).unwrap();
    let second = world.vote(0, proposal, Choice::Yes, 1).unwrap();
    assert_eq!((world.verdict(0, first), world.verdict(0, second)), (Verdict::Superseded, Verdict::Counted));
    // Two choices under one number are a lie, and void them all.
    let lie = world.vote(0, proposal, Choice::Abstain, 1).unwrap();
    assert_eq!(world.verdict(0, lie), Verdict::Equivocation);
    assert_eq!(world.verdict(0, first), Verdict::Equivocation);
    let ballot = &world.state(0).proposals()[&proposal].ballot;
    assert_eq!((ballot.tally.counts.turnout(), ballot.ids.len()), (0, 3));
}

#[test]
fn where_votes_are_final_the_first_one_stays() {
    let mut world = World::new(&THREE, Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    world.sync();
    let first = world.vote(0, proposal, Choice::Yes, 0).unwrap();
    let key = person("aarhus").governance;
    let now = world.now;
    let changed = force(&mut world, 0, 0, &key, Vote { choice: Choice::No, vseq: 5, ..yes(proposal) }, now);
    assert_eq!((world.verdict(0, first), world.verdict(0, changed)), (Verdict::Counted, Verdict::AlreadyFinal));
    world.vote(1, proposal, Choice::Yes, 0).unwrap();
    world.vote(2, proposal, Choice::No, 0).unwrap();
    world.settle();
    assert_eq!(world.phases(proposal), ["Enacted"; 3]);
}

#[test]
fn a_veto_says_why() {
    let mut world = World::new(&["aarhus"], Preset::Trial);
    let proposal = world.propose(0, approve("qwen"));
    let key = person("aarhus").governance;
    let now = world.now;
    let vote = force(&mut world, 0, 0, &key, Vote { choice: Choice::Veto, ..yes(proposal) }, now);
    assert_eq!(world.verdict(0, vote), Verdict::VetoWithoutGround);
}

#[test]
fn one_owner_with_two_members_has_one_vote() {
    let mut world = World::with(&THREE, Preset::Trial, |c| {
        c.founders[1].control_group = c.founders[0].control_group.clone();
    });
    let proposal = world.propose(0, approve("qwen"));
    world.sync();
    world.vote(0, proposal, Choice::Yes, 0).unwrap();
    world.vote(1, proposal, Choice::Yes, 0).unwrap();
    world.vote(2, proposal, Choice::No, 0).unwrap();
    world.settle();
    let tally = world.state(0).proposals()[&proposal].ballot.tally;
    assert_eq!((tally.electors, tally.counts.yes, tally.counts.no), (2, 1, 1));
    assert_eq!(world.phases(proposal), ["Rejected"; 3]);
}

#[test]
fn a_vote_on_nothing_is_kept_and_explained() {
    let mut world = World::new(&["aarhus"], Preset::Trial);
    let nothing = StatementId(Digest::of(b"nothing"));
    let (key, now) = (person("aarhus").governance, world.now);
    let vote = force(&mut world, 0, 0, &key, yes(nothing), now);
    assert_eq!(world.verdict(0, vote), Verdict::NoProposal);
    let statement = world.people[0].human(world.coop(), now, Body::Vote(yes(nothing)));
    let (me, log) = (world.people[0].id(), world.log(0));
    assert!(matches!(world.commons[0].anchoring(&me, &log, &statement, now), Anchoring::Already { .. }));
    let other = world.people[0].human(world.coop(), now, Body::Vote(Vote { vseq: 1, ..yes(nothing) }));
    assert_eq!(world.commons[0].anchoring(&me, &log, &other, now), Anchoring::Wait);
}

#[test]
fn proposals_that_break_their_class_are_named_as_such() {
    let mut world = World::new(&["aarhus"], Preset::Trial);
    let good = world.state(0).draft_proposal(approve("qwen"), "d".parse().unwrap(), Default::default(), T0).unwrap();
    type Edit = fn(&mut Proposal);
    let edits: [(&str, Edit); 9] = [
        ("WrongClass", |p| p.class = Class::Admit),
        ("WrongScope", |p| p.scope = Scope::Engines),
        ("UnknownParent", |p| p.parent = PolicyHash(Digest::of(b"x"))),
        ("UnknownMembership", |p| p.membership = PolicyHash(Digest::of(b"x"))),
        ("WrongTime", |p| p.closes_at = p.closes_at.minus(Seconds(1))),
        ("WrongTime", |p| p.eta = p.eta.minus(Seconds(1))),
        ("WrongTime", |p| p.expires_at = p.expires_at.plus(Seconds(1))),
        ("WrongSubject", |p| p.subject = Some("aarhus".parse().unwrap())),
        ("WrongTerm", |p| p.term = 5000),
    ];
    for (expected, edit) in edits {
        let mut proposal = good.clone();
        edit(&mut proposal);
        let statement = world.people[0].human(world.coop(), T0, Body::Proposal(Box::new(proposal)));
        assert_eq!(world.state(0).check_proposal(&statement).unwrap_err().category(), expected);
        // Also where an operator anchored it all the same.
        world.anchor(0, &statement);
        assert_eq!(world.phase(0, statement.id()).name(), "Invalid");
    }
}

#[test]
fn an_author_has_a_bounded_number_of_proposals_open() {
    let mut world = World::with(&["aarhus"], Preset::Trial, |c| c.parameters.max_open_proposals = 2);
    let mut ids = vec![];
    for name in ["one", "two", "three"] {
        ids.push(world.propose(0, approve(name)));
    }
    assert_eq!(world.phase(0, ids[1]).name(), "Open");
    assert_eq!(world.phase(0, ids[2]), Phase::Invalid(Invalid::TooManyOpen { open: 2, allowed: 2 }));
    world.wait(121);
    let later = world.propose(0, approve("four"));
    assert_eq!(world.phase(0, later).name(), "Open");
}

/// Whoever proposes would otherwise choose who votes on it.
#[test]
fn an_interest_takes_a_vote_away_only_from_who_has_signed_that_it_has_one() {
    let mut world = super::complete::complete(&super::complete::FOUR);
    let signed = |world: &World, named: &[usize], by: &[usize]| {
        let title = "A change".parse().unwrap();
        let mut proposal =
            world.state(0).draft_proposal(approve("qwen"), title, Default::default(), world.now).unwrap();
        proposal.interested = named.iter().map(|who| world.people[*who].id()).collect();
        let draft = world.people[0].draft_for_tests(world.coop(), Body::Proposal(Box::new(proposal)));
        let others: Vec<&dyn Signer> = by.iter().map(|who| &world.people[*who].governance as &dyn Signer).collect();
        Draft { issued_at: world.now, ..draft }.sign(&world.people[0].governance, &others).unwrap()
    };
    let alone = signed(&world, &[1, 2, 3], &[1]);
    let forged = world.state(0).check_proposal(&alone).unwrap_err();
    assert_eq!(forged, Invalid::Interest(world.people[2].id()));
    // An operator that gives it a place nevertheless decides nothing alone.
    world.anchor(0, &alone);
    world.settle();
    let vote = world.people[0].human(
        world.coop(),
        world.now,
        Body::Vote(Vote { proposal: alone.id(), choice: Choice::Yes, vseq: 0, ground: None, reason: None }),
    );
    world.anchor(0, &vote);
    world.wait(80 * 3600);
    world.settle();
    assert!((0..4).all(|who| world.phase(who, alone.id()) == Phase::Invalid(forged.clone())));
    assert!((0..4).all(|who| world.state(who).close_seals().iter().next().is_none()));
    let agreed = signed(&world, &[1], &[1]);
    assert_eq!(world.state(0).check_proposal(&agreed), Ok(()));
    let electors = |statement: &Statement| match statement.body() {
        Body::Proposal(proposal) => world.state(0).electorate(proposal).unwrap().electors.len(),
        _ => 0,
    };
    assert_eq!(electors(&agreed), 3);
}
