//! The outcome in the one form that every implementation of the audit prints, to be compared byte by byte.
//!
//! One line for every fact, in the order of the report; what has no order of its own is sorted. No times of day, no words
//! for people: those may differ.

use std::fmt::Write as _;

use super::members::{MemberReport, OrderReport};
use super::read::Finding;
use super::report::{BoxReport, CertificateReport, ProposalReport, Report, Signed, VoteReport};
use crate::body::entry::Outcome;
use crate::body::proposal::{Choice, Scope};

/// The canonical form of an outcome.
pub fn canonical(report: &Report) -> String {
    let mut out = String::new();
    write_all(&mut out, report);
    out.push_str("holds\n");
    out
}

/// The canonical form of what does not hold.
pub fn canonical_finding(finding: &Finding) -> String {
    format!("fails {} {}\n", finding.line, finding.problem.category())
}

/// Writes a line; a string takes everything.
macro_rules! line {
    ($out:expr, $($format:tt)*) => {{
        let _ = writeln!($out, $($format)*);
    }};
}

fn write_all(out: &mut String, report: &Report) {
    line!(out, "coop {}", report.coop);
    line!(out, "asOf {}", report.as_of);
    line!(out, "rules {}", report.rules);
    line!(out, "entries {}", report.entries);
    for scope in Scope::ALL {
        line!(out, "head {scope} {}", or_dash(report.heads.get(&scope)));
    }
    for d in &report.decisions {
        let (close, enact) = (ids(&d.close_seals), ids(&d.enact_seals));
        line!(out, "version {} {} {} {} {} {}", d.scope, d.number, d.version, d.child, d.root, d.term);
        line!(out, " settled {} close {close} enact {enact}", d.settled_at);
    }
    report.members.iter().for_each(|member| write_member(out, member));
    write_sorted(
        out,
        report.keys.iter().map(|key| format!("keys {} {} {} {}", key.entry, key.member, key.id, key.told())),
    );
    for r in &report.releases {
        line!(out, "release {} {} {}", r.digest, r.since, or_dash(r.withdrawn));
    }
    for e in &report.engines {
        line!(out, "engine {} {}", e.name, e.image);
    }
    report.proposals.iter().for_each(|proposal| write_proposal(out, proposal));
    for leave in &report.leaves {
        line!(out, "leave {} {} {}", leave.id, leave.author, or_dash(leave.enacted));
        leave.certificates.iter().for_each(|certificate| write_certificate(out, certificate));
    }
    let ended = report.ended.iter();
    write_sorted(out, ended.map(|e| format!("ended {} {} {} {}", e.slot.scope, e.slot.parent, e.slot.term, e.what)));
    let stray = report.stray_votes.iter().map(|(on, vote)| format!("stray {on} {}", of_vote(vote)));
    write_sorted(out, stray);
    let faults = report.faults.iter();
    write_sorted(out, faults.map(|f| format!("fault {} {} {} {} {}", f.fault, f.member, f.about, f.first, f.second)));
    for fork in &report.forks {
        line!(out, "fork {} {} {} {}", fork.log, fork.seq, fork.first, fork.second);
    }
    write_sorted(out, report.branches.iter().map(|b| format!("branch {} {} {}", b.log, b.seq, b.entry)));
    report.orders.iter().for_each(|order| write_order(out, order));
}

fn write_member(out: &mut String, m: &MemberReport) {
    let (left, forked) = (or_dash(m.left), or_dash(m.forked_at));
    line!(out, "member {} {} {} {left} {forked}", m.id, m.standing, m.since);
    let (aside, suspended) = (or_dash(m.aside), or_dash(m.suspended));
    line!(out, " aside {aside} suspended {suspended} keys {} {}", or_dash(m.key_number), joined(&m.governance));
    for log in &m.logs {
        line!(out, " log {} {} {}", log.log, log.generation, or_dash(log.replaced));
    }
    for proof in &m.quarantine {
        line!(out, " proof {} {} {} {}", proof.id, proof.offence, proof.first, proof.second);
    }
}

fn write_order(out: &mut String, o: &OrderReport) {
    line!(out, "order {} {} {} {} {} {}", o.id, o.author, o.stop, o.cause, o.issued_at, o.until);
    let (signed, barred) = (joined(&o.signed), or_dash(o.barred_by));
    line!(out, " signed {signed} {}/{} barred {barred} {:?}", o.owners, o.needed, o.standing);
}

fn write_proposal(out: &mut String, p: &ProposalReport) {
    line!(out, "proposal {} {} {} {}", p.id, p.author, p.action, p.rules);
    line!(out, " standing {} {}", p.standing.phase, or_dash(Some(&p.standing.detail).filter(|d| !d.is_empty())));
    if let Some(ballot) = &p.ballot {
        line!(
            out,
            " slot {} {} {} {} {}/{}",
            p.slot.scope,
            p.slot.parent,
            p.slot.term,
            p.sealers.len(),
            p.quorum,
            p.enact_quorum
        );
        write_box(out, ballot);
    }
    write_sorted(out, p.notices.iter().map(|n| format!(" notice {} {} {} {:?}", n.by.id, n.by.by, n.by.at, n.notice)));
    p.certificates.iter().for_each(|certificate| write_certificate(out, certificate));
    write_sorted(out, p.votes.iter().map(|vote| format!(" vote {}", of_vote(vote))));
}

fn write_box(out: &mut String, ballot: &BoxReport) {
    let closed = if ballot.all_voted { "early" } else { "late" };
    let outcome = of_outcome(ballot.outcome);
    line!(out, " box {} {} {} {closed} {outcome}", ballot.root, ballot.count, ballot.closed_at);
    let t = &ballot.tally;
    let counts = format!("{}/{}/{}/{}", t.yes, t.no, t.abstain, t.veto);
    line!(out, " tally {} {counts} {} {} {}", t.electors, t.turnout_needed, t.min_yes, of_outcome(t.outcome));
}

fn write_certificate(out: &mut String, c: &CertificateReport) {
    line!(out, " certificate {} {} {} {} {}", c.term, c.root, c.count, of_outcome(c.outcome), c.closed_at);
    line!(out, "  of {} by {}", c.membership_head, ids(&c.seals));
}

fn write_sorted(out: &mut String, lines: impl Iterator<Item = String>) {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines.iter().for_each(|text| line!(out, "{text}"));
}

fn of_vote(vote: &VoteReport) -> String {
    let choice = match vote.choice {
        Choice::Yes => "yes",
        Choice::No => "no",
        Choice::Abstain => "abstain",
        Choice::Veto => "veto",
    };
    format!("{} {} {choice} {} {}", vote.id, vote.author, vote.vseq, vote.verdict)
}

fn of_outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Rejected => "rejected",
        Outcome::QuorumNotMet => "quorumNotMet",
        Outcome::Vetoed => "vetoed",
        Outcome::Stale => "stale",
        Outcome::Withdrawn => "withdrawn",
        Outcome::Refuted => "refuted",
        Outcome::Unheard => "unheard",
        Outcome::CoolDown => "coolDown",
    }
}

fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn ids(seals: &[Signed]) -> String {
    joined(seals.iter().map(|seal| seal.id))
}

fn joined<T: std::fmt::Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if values.is_empty() { "-".to_owned() } else { values.join(",") }
}
