//! What a proposal would change: the policy as YAML, before and after, line by line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use koinon_core::body::proposal::{Action, Proposal};
use koinon_core::body::{Class, Scope};
use koinon_core::ids::{Digest, MemberId, StatementId};
use koinon_core::policy::{Phase, State};
use serde_json::{Value, json};

use crate::cluster::now;
use crate::moment::{Moment, here};
use crate::output::one_line;
use crate::proposal::thresholds::thresholds;
use crate::proposal::view::refusal;
use crate::prospect::{listed, name};
use koinon_core::tally::{Counts, tally};

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;

/// Everything that is in force, by the name that people know it by.
pub fn policy(state: &State) -> BTreeMap<String, Value> {
    let mut policy = BTreeMap::from([("rules".to_owned(), json!({"rules": state.rules()}))]);
    let mut put = |name: String, value: serde_json::Result<Value>| {
        // What cannot be written as JSON has no form that a vote could be about.
        policy.insert(name, value.unwrap_or_default());
    };
    put("charter/parameters".to_owned(), serde_json::to_value(state.parameters()));
    for class in Class::ALL {
        if let Some(rules) = state.class(class) {
            put(format!("charter/classes/{class}"), serde_json::to_value(rules));
        }
    }
    for (id, member) in state.members().iter().filter(|(_, member)| !member.standing.is_gone()) {
        let described = serde_json::to_value(&member.member).map(|mut described| {
            described["standing"] = json!(format!("{:?}", member.standing));
            if member.suspended.is_some() {
                described["suspended"] = json!("no new work, by vote");
            }
            if !member.quarantine.is_empty() {
                described["quarantine"] = json!(member.quarantine.keys().collect::<Vec<_>>());
            }
            described
        });
        put(format!("members/{id}"), described);
    }
    for (digest, release) in state.releases().iter().filter(|(_, release)| release.withdrawn.is_none()) {
        put(format!("releases/{digest}"), serde_json::to_value(&release.release));
    }
    for (name, engine) in state.engines() {
        put(format!("engines/{name}"), serde_json::to_value(engine));
    }
    let norms = state.norms();
    put("placement/rules".to_owned(), serde_json::to_value(&norms.placement));
    put("placement/shares".to_owned(), serde_json::to_value(norms.shares));
    put("economy/prices".to_owned(), serde_json::to_value(&norms.prices));
    put("economy/audit-rate".to_owned(), serde_json::to_value(norms.audit_rate));
    if let Some(release) = &norms.operator_release {
        put("operators/release".to_owned(), serde_json::to_value(release));
    }
    policy
}

/// What enacting `proposal` would change of what is in force, as a unified diff; empty if nothing.
pub fn diff(state: &State, proposal: &Proposal) -> String {
    // The id decides nothing but the name of the version.
    let unsigned = StatementId(Digest::of(b"koinon/unsigned"));
    let (before, after) = (policy(state), policy(&state.preview(unsigned, proposal)));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut text = String::new();
    for name in names {
        let (old, new) = (lines(before.get(name)), lines(after.get(name)));
        if old != new {
            let side = |there: bool, name: &str| if there { name.to_owned() } else { "(nothing)".to_owned() };
            let _ = writeln!(text, "--- {}", side(before.contains_key(name), name));
            let _ = writeln!(text, "+++ {}", side(after.contains_key(name), name));
            unified(&mut text, &old, &new);
        }
    }
    text
}

fn lines(value: Option<&Value>) -> Vec<String> {
    let text = value.and_then(|value| serde_yaml::to_string(value).ok()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// One line of a comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// Writes what makes `new` of `old`, in hunks.
fn unified(text: &mut String, old: &[String], new: &[String]) {
    let all = compare(old, new);
    let changed = |at: usize| !matches!(all[at], Line::Same(_));
    let near = |at: usize| {
        let (from, to) = (at.saturating_sub(CONTEXT), (at + CONTEXT + 1).min(all.len()));
        (from..to).any(changed)
    };
    let (mut old_at, mut new_at, mut open) = (1, 1, false);
    for (at, line) in all.iter().enumerate() {
        if !near(at) {
            open = false;
        } else if !open {
            open = true;
            let hunk: Vec<&Line<'_>> = (at..all.len()).take_while(|at| near(*at)).map(|at| &all[at]).collect();
            let olds = hunk.iter().filter(|line| !matches!(line, Line::New(_))).count();
            let news = hunk.iter().filter(|line| !matches!(line, Line::Gone(_))).count();
            // As diff(1) counts: an empty side begins at 0.
            let (old_from, new_from) = (if olds == 0 { 0 } else { old_at }, if news == 0 { 0 } else { new_at });
            let _ = writeln!(text, "@@ -{old_from},{olds} +{new_from},{news} @@");
        }
        let (mark, said, in_old, in_new) = match line {
            Line::Same(said) => (' ', said, 1, 1),
            Line::Gone(said) => ('-', said, 1, 0),
            Line::New(said) => ('+', said, 0, 1),
        };
        if open {
            let _ = writeln!(text, "{mark}{said}");
        }
        (old_at, new_at) = (old_at + in_old, new_at + in_new);
    }
}

/// The longest common lines stay; what a proposal touches has at most some hundred lines.
fn compare<'a>(old: &'a [String], new: &'a [String]) -> Vec<Line<'a>> {
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for (i, before) in old.iter().enumerate().rev() {
        for (j, after) in new.iter().enumerate().rev() {
            common[i][j] =
                if before == after { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut all) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            all.push(Line::Same(&old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            all.push(Line::Gone(&old[i]));
            i += 1;
        } else {
            all.push(Line::New(&new[j]));
            j += 1;
        }
    }
    all
}

/// What is shown before a proposal is signed: the change, who decides it, by which numbers, and when.
pub fn before_signing(state: &State, author: &MemberId, proposal: &Proposal) -> String {
    let mut text = format!("Proposal: {}\n", one_line(&proposal.title));
    for paragraph in proposal.text.as_str().lines() {
        let _ = writeln!(text, "| {paragraph}");
    }
    let change = match &proposal.action {
        Action::CancelProposal(cancel) => cancelled(state, cancel.proposal),
        _ => diff(state, proposal),
    };
    if change.is_empty() {
        let _ = writeln!(text, "\nThis changes nothing that is in force: it is so already.");
    } else {
        let _ = write!(text, "\nIf it is enacted:\n{change}");
    }
    let _ = writeln!(text, "\n{}", decides(state, proposal));
    if let Some(refused) = state.refused_before(author, proposal) {
        let _ = writeln!(text, "\nBeware: {}.", refusal(state, &refused, &here()));
    }
    text
}

fn cancelled(state: &State, target: StatementId) -> String {
    let Some(other) = state.proposals().get(&target) else { return format!("-{target}: not known here\n") };
    let now = now();
    let phase = state.phase(other, now);
    let mut text =
        format!("--- proposals/{target}\n+++ proposals/{target}\n title: {}\n", one_line(&other.proposal.title));
    let _ = writeln!(text, "-state: {}", phase.name());
    if let Phase::Queued { eta, .. } = phase {
        let _ = writeln!(text, "-in force from: {}", Moment::new(eta, &here()));
    }
    text.push_str("+state: Cancelled\n");
    text
}

fn decides(state: &State, proposal: &Proposal) -> String {
    let mut text = format!("Class {} decides", proposal.class);
    let Some(electorate) = state.electorate(proposal) else { return text };
    let names: Vec<String> = electorate.electors.iter().map(|(group, members)| name(group, members.iter())).collect();
    let _ = writeln!(text, ": {}, one vote each.", listed(&names, "and"));
    let electors = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let bars = thresholds(&electorate.rules, &tally(Counts::default(), electors, &electorate.rules));
    let _ = writeln!(text, "  {} must take part ({})", bars.turnout.needed, bars.turnout.rule);
    let share = bars.share.rule.replace("the 0 yes, no and veto", "yes, no and veto");
    let _ = writeln!(text, "  yes must be {share}, and {} ({})", bars.least_yes.needed, bars.least_yes.rule);
    match electorate.rules.veto {
        Some(share) => {
            let least = if electors <= 4 { "one veto" } else { "two vetoes" };
            let _ =
                writeln!(text, "  {least} or more block it, from {}/{} of those that take part", share.num, share.den);
        }
        None => text.push_str("  vetoes count as no\n"),
    }
    let at = |at| Moment::new(at, &here());
    let _ = writeln!(text, "  votes count from   {}", at(proposal.opens_at));
    let early = if state.parameters().close_when_all_voted { ", or until all have voted" } else { "" };
    let _ = writeln!(text, "  votes count until  {}{early}", at(proposal.closes_at));
    let effect = if proposal.scope == Scope::Cancellations { "stops it from" } else { "in force from   " };
    let _ = writeln!(text, "  {effect}   {}, at the earliest", at(proposal.eta));
    let _ = write!(text, "  expires            {}", at(proposal.expires_at));
    text
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
