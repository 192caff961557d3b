//! A proposal as people read it.

use std::fmt::Write as _;

use koinon_core::body::entry::Outcome;
use koinon_core::ids::{MemberId, UnixSeconds};

use super::hearing;
use super::steps::Signed;
use super::thresholds::{Bar, Thresholds};
use super::view::{Ballot, Source, View};
use crate::output::{one_line, table};
use crate::prospect::{listed, verb, word};

/// `view` at `now`.
pub fn text(view: &View, now: UnixSeconds) -> String {
    let mut out = String::new();
    head(&mut out, view, now);
    tally(&mut out, view);
    voices(&mut out, view);
    uncounted(&mut out, view);
    out.push_str(&view.hearing.as_ref().map(hearing::text).unwrap_or_default());
    ways(&mut out, view);
    seals(&mut out, view);
    if !view.next.is_empty() {
        out.push_str("\nNext:\n");
        for step in &view.next {
            line(&mut out, &format!("{}, {}: {}", step.at, step.at.distance(now), step.what));
        }
    }
    out
}

fn line(out: &mut String, text: &str) {
    // A String takes whatever is written into it.
    let _ = writeln!(out, "  {text}");
}

fn head(out: &mut String, view: &View, now: UnixSeconds) {
    let View { id, title, text, author, signed, action, class, scope, parent, term, rules, .. } = view;
    let _ = writeln!(out, "{}", one_line(title));
    line(out, &format!("id      {id}"));
    line(out, &format!("by      {author}, signed {signed}, {}", signed.distance(now)));
    line(out, &format!("would   {action}, decided by class {class} and rules {rules}"));
    line(out, &format!("after   version {parent} of {scope}, term {term}"));
    for paragraph in text.lines() {
        line(out, &format!("| {paragraph}"));
    }
    let _ = writeln!(out, "\n{}: {}", view.state, view.meaning);
    if let Some(version) = &view.version {
        let number = version.number.map(|number| format!("{number}, ")).unwrap_or_default();
        line(out, &format!("it made version {number}{} of {scope}", version.hash));
    }
}

fn tally(out: &mut String, view: &View) {
    let Some(bars) = &view.thresholds else {
        out.push_str("\nNo tally: the members or the charter version that it names are not known here yet.\n");
        return;
    };
    if view.ballot.source == Source::Archived {
        let _ = writeln!(out, "\nNo tally of {}", source(&view.ballot));
        return;
    }
    let _ = writeln!(out, "\nTally of {}:", source(&view.ballot));
    let Thresholds { electors, yes, no, abstain, veto, turnout, share, least_yes, block } = bars;
    line(out, &format!("{yes} yes, {no} no, {abstain} abstain, {veto} veto, of {electors} with a vote"));
    let reached = |bar: &Bar| if bar.reached { "reached" } else { "not reached" };
    let bar = |bar: &Bar| format!("{} of {}, {}: {}", bar.seen, bar.needed, reached(bar), bar.rule);
    line(out, &format!("taking part   {}", bar(turnout)));
    line(out, &format!("yes           {}", bar(share)));
    line(out, &format!("yes at least  {}", bar(least_yes)));
    match block {
        Some(block) => {
            let blocks = if block.reached { "blocked" } else { "not blocked" };
            line(out, &format!("vetoes        {} of {}, {blocks}: {}", block.seen, block.needed, block.rule));
        }
        None => line(out, "vetoes        count as no: nothing blocks this class"),
    }
    line(out, &format!("as it stands, that {}", verb(view.as_it_stands)));
}

fn source(ballot: &Ballot) -> String {
    let Ballot { source, root, entries, sealed_otherwise } = ballot;
    let told = match source {
        Source::Sealed => format!("the sealed box {root} ({})", many(*entries)),
        Source::Offered => format!("the box that enough operators offer, not sealed yet ({})", many(*entries)),
        Source::Held => {
            format!("what this cluster holds ({}); others may hold more until the box is sealed", many(*entries))
        }
        Source::Archived => {
            "what a checkpoint has settled: its votes are in an archive; see: kubectl koinon audit FILE".to_owned()
        }
    };
    match sealed_otherwise {
        Some(root) => format!("{told}; what counts is another box, {root}, which is sealed already"),
        None => told,
    }
}

fn many(entries: usize) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}

fn voices(out: &mut String, view: &View) {
    let rows: Vec<Vec<String>> = view
        .members
        .iter()
        .map(|voice| {
            let vote = view.votes.iter().rev().find(|vote| vote.member == voice.member && vote.counts());
            let choice = voice.choice.map_or("-", word);
            let when = vote.map_or_else(|| "-".to_owned(), |vote| vote.signed.to_string());
            vec![voice.member.to_string(), choice.to_owned(), when, voice.how.clone()]
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    out.push('\n');
    out.push_str(&table(&["MEMBER", "COUNTS AS", "SIGNED", "HOW"], &rows));
    for delegated in &view.delegations {
        line(out, &format!("the delegation of {} to {} {}", delegated.from, delegated.to, delegated.fate));
    }
    if !view.recusals.is_empty() {
        line(out, &format!("{} declared an interest and abstains", names(&view.recusals)));
    }
}

fn uncounted(out: &mut String, view: &View) {
    let mut rest = view.votes.iter().filter(|vote| !vote.counts()).peekable();
    if rest.peek().is_none() {
        return;
    }
    out.push_str("\nVotes that do not count:\n");
    for vote in rest {
        let (member, choice, signed) = (&vote.member, word(vote.choice), &vote.signed);
        line(out, &format!("{member}, {choice}, signed {signed} (vote/{})", short(&vote.id.to_string())));
        line(out, &format!("  {}: {}", vote.verdict, vote.why));
        if let Some(advice) = vote.advice {
            line(out, &format!("  what to do: {advice}"));
        }
    }
}

fn ways(out: &mut String, view: &View) {
    if !matches!(view.state, "Open" | "Pending") {
        return;
    }
    out.push_str("\nWhat would change the result:\n");
    for way in &view.ways {
        line(out, &way.to_string());
    }
    if view.ways.is_empty() {
        line(out, "nothing: whoever has a vote left, however it is used");
    }
    if view.rules >= 2 {
        line(out, &format!("{} takes it back: kubectl koinon withdraw", view.author));
    }
}

fn seals(out: &mut String, view: &View) {
    let seals = &view.seals;
    if matches!(view.state, "Open" | "Pending" | "Invalid") {
        return;
    }
    let _ = writeln!(out, "\nSeals of the operators of {}:", names(&seals.sealers));
    let signed = |Signed { by, missing }: &Signed| {
        let missing = if missing.is_empty() { String::new() } else { format!("; missing: {}", names(missing)) };
        format!("{}{missing}", names(by))
    };
    if let Some(offers) = &seals.offers {
        line(out, &format!("offers       {}", signed(offers)));
    }
    for sealed in &seals.boxes {
        let (root, outcome, entries) = (sealed.root, sealed.outcome, sealed.entries as usize);
        let agree = format!("{} of {}", sealed.by.len(), seals.needed);
        let does = outcome_word(outcome);
        line(out, &format!("box          {root} ({}, {does}): {agree}, {}", many(entries), names(&sealed.by)));
    }
    if !seals.not_closed.is_empty() {
        line(out, &format!("no box yet   {}", names(&seals.not_closed)));
    }
    if view.as_it_stands == Outcome::Passed {
        let enact = &seals.enact;
        line(out, &format!("enactment    {} of {}: {}", enact.by.len(), seals.needed_to_enact, signed(enact)));
    }
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Rejected => "rejected",
        Outcome::QuorumNotMet => "too few took part",
        Outcome::Vetoed => "vetoed",
        Outcome::Stale => "stale",
        Outcome::Withdrawn => "withdrawn",
        Outcome::Refuted => "refuted by the member that it is about",
        Outcome::Unheard => "without effect: the member that it is about was not heard",
        Outcome::CoolDown => "without effect: the same was refused not long ago",
    }
}

fn names<'a>(members: impl IntoIterator<Item = &'a MemberId>) -> String {
    listed(&members.into_iter().map(MemberId::as_str).collect::<Vec<_>>(), "and")
}

/// The beginning of an id, as the commands take it.
pub fn short(id: &str) -> String {
    id.chars().take("sha256:".len() + 12).collect()
}
