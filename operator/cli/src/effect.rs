//! What one vote does to the result, and whether this machine's clock can spoil it.

use koinon_core::body::proposal::Vote;
use koinon_core::ids::{MemberId, Seconds, StatementId};
use koinon_core::policy::{State, Verdict};
use koinon_core::tally::Counts;

use crate::prospect::{Standing, name, verb};

/// The result before and after `vote` of `me`, with the id that it is signed as; nothing if the proposal is not known here.
pub fn effect(state: &State, me: &MemberId, vote: &Vote, id: StatementId) -> Option<String> {
    let proposal = state.proposals().get(&vote.proposal)?;
    let electorate = state.electorate(&proposal.proposal)?;
    let last = proposal.parameters.close_when_all_voted;
    let standing = Standing::of(&electorate, &proposal.held, &proposal.votes, last).after(proposal.refused);
    let before = told(standing.counts, standing.electors, verb(standing.outcome()));
    let (group, members) = electorate.electors.iter().find(|(_, members)| members.contains(me))?;
    let others = proposal
        .votes
        .iter()
        .filter(|other| other.verdict == Verdict::Counted && other.author != *me && members.contains(&other.author));
    // One owner, one vote: the highest number, and among equal ones the smallest id.
    let stronger = others.into_iter().find(|other| (other.vseq, vote.vseq, id) > (vote.vseq, other.vseq, other.id));
    if let Some(other) = stronger {
        let by = &other.author;
        return Some(format!("{before}\nnow:    the same: {by}, of the same owner, voted under a higher --vseq"));
    }
    let owner = name(group, members.iter());
    let Some(elector) = standing.movable.iter().find(|elector| elector.name == owner) else {
        return Some(format!("{before}\nnow:    the same: {}", fixed(last, proposal.held.counted.contains_key(group))));
    };
    let (counts, outcome) = standing.with(vote.choice, [elector]);
    let mut text =
        format!("{before}\n{}", told(counts, standing.electors, verb(outcome)).replacen("before:", "now:   ", 1));
    if elector.carries > 0 {
        text.push_str(&format!("\n        it counts for {} more, who left their vote to this member", elector.carries));
    }
    Some(text)
}

fn fixed(last: bool, counted: bool) -> &'static str {
    match (counted, last) {
        (true, true) => "this member's first vote or its interest stands, and here votes are final",
        (true, false) => "this member has declared an interest, so it abstains",
        (false, _) => "this member has cast two votes under one number, so none of its votes counts",
    }
}

fn told(counts: Counts, electors: u32, does: &str) -> String {
    let Counts { yes, no, abstain, veto } = counts;
    format!("before: {yes} yes, {no} no, {abstain} abstain, {veto} veto, of {electors}: as it stands that {does}")
}

/// What to say of a clock that is `ahead` of the cluster's where operators tolerate `tolerance`.
pub fn clock_warning(ahead: Seconds, tolerance: Seconds) -> Option<String> {
    let away = ahead.0.saturating_abs();
    // Whole seconds are compared: two are not worth a word.
    if away <= 2 {
        return None;
    }
    let (way, what) = if ahead.0 > 0 {
        ("ahead of", "near the close a vote that is dated after it does not count")
    } else {
        ("behind", "near the opening a vote that is dated before it does not count")
    };
    let beyond =
        if away > tolerance.0 && ahead.0 > 0 { ", and the operator refuses what is dated so far ahead" } else { "" };
    let tolerance = tolerance.0;
    Some(format!(
        "warning: this machine's clock is {away} s {way} the cluster's (the charter tolerates {tolerance} s); votes carry its time: {what}{beyond}. Set the clock."
    ))
}

#[cfg(test)]
mod tests {
    use koinon_core::body::Body;
    use koinon_core::body::proposal::{Action, Choice, Delegation, Recusal, RemoveEngine};
    use koinon_core::ids::Digest;

    use super::*;
    use crate::fixture::World;

    fn change() -> Action {
        Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() })
    }

    fn said(world: &World, who: usize, proposal: StatementId, choice: Choice, vseq: u32) -> String {
        let vote = Vote { proposal, choice, vseq, ground: None, reason: None };
        let id = StatementId(Digest::of(b"a vote"));
        effect(world.state(), &world.people[who].id(), &vote, id).unwrap()
    }

    #[test]
    fn a_vote_says_what_the_result_was_and_is() {
        let mut world = World::new(&["aarhus", "bilbao", "cork", "delft"]);
        let id = world.propose(0, change());
        world.vote(0, id, Choice::Yes, 0);
        let text = said(&world, 1, id, Choice::Yes, 0);
        assert!(
            text.contains("before: 1 yes, 0 no, 0 abstain, 0 veto, of 4: as it stands that leaves too few"),
            "{text}"
        );
        assert!(text.contains("now:    2 yes, 0 no, 0 abstain, 0 veto, of 4: as it stands that passes it"), "{text}");
        // What is replaced does not count twice.
        let again = said(&world, 0, id, Choice::No, 1);
        assert!(again.contains("now:    0 yes, 1 no"), "{again}");
    }

    #[test]
    fn it_says_for_whom_else_it_counts_and_when_it_does_nothing() {
        let mut world = World::new(&["aarhus", "bilbao", "cork", "delft"]);
        let (to, classes) = (Some(world.people[0].id()), [koinon_core::body::Class::Routine].into());
        let not_after = world.now.plus(Seconds(86_400));
        world.say(3, Body::Delegation(Delegation { to, classes, vseq: 0, not_after }));
        let id = world.propose(1, change());
        let text = said(&world, 0, id, Choice::Yes, 0);
        assert!(text.contains("now:    2 yes") && text.contains("counts for 1 more"), "{text}");
        world.say(2, Body::Recusal(Recusal { proposal: id }));
        let interested = said(&world, 2, id, Choice::Yes, 0);
        assert!(interested.contains("the same: this member has declared an interest"), "{interested}");
        world.vote(1, id, Choice::Yes, 0);
        world.vote(1, id, Choice::No, 0);
        let void = said(&world, 1, id, Choice::Yes, 1);
        assert!(void.contains("the same: this member has cast two votes under one number"), "{void}");
        let mut last = World::with(&["aarhus", "bilbao"], |charter| charter.parameters.close_when_all_voted = true);
        let id = last.propose(0, change());
        last.vote(0, id, Choice::Yes, 0);
        assert!(said(&last, 0, id, Choice::No, 1).contains("here votes are final"));
    }

    #[test]
    fn two_members_of_one_owner_have_one_vote() {
        let mut world = World::with(&["aarhus", "bilbao", "cork"], |charter| {
            charter.founders[1].control_group = charter.founders[0].control_group.clone();
        });
        let id = world.propose(0, change());
        world.vote(1, id, Choice::Yes, 3);
        let text = said(&world, 0, id, Choice::No, 0);
        assert!(text.contains("the same: bilbao, of the same owner"), "{text}");
        assert!(said(&world, 0, id, Choice::No, 4).contains("now:    0 yes, 1 no"));
    }

    #[test]
    fn a_clock_that_is_off_is_named_with_what_it_spoils() {
        assert_eq!(clock_warning(Seconds(2), Seconds(30)), None);
        let ahead = clock_warning(Seconds(40), Seconds(30)).unwrap();
        assert!(ahead.contains("40 s ahead of") && ahead.contains("operator refuses"), "{ahead}");
        let behind = clock_warning(Seconds(-40), Seconds(30)).unwrap();
        assert!(behind.contains("40 s behind") && !behind.contains("refuses"), "{behind}");
    }
}
