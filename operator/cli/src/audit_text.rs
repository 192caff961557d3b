//! An audit as people read it.

use std::fmt::Write as _;

use koinon_core::audit::{
    Decision, MemberReport, OrderReport, OrderStanding, ProposalReport, Report, Signed, VoteReport,
};
use koinon_core::body::Notice;

use crate::cluster::time;
use crate::output::or_dash;

/// Writes a line; a string takes everything.
macro_rules! line {
    ($out:expr) => { $out.push('\n') };
    ($out:expr, $($format:tt)*) => {{
        let _ = writeln!($out, $($format)*);
    }};
}

/// Every decision with its evidence, then everything that came to nothing and why.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    line!(out, "{} ({})", report.name, report.coop);
    line!(out, "{} entries, exported {}; rules {} are in force", report.entries, time(report.as_of), report.rules);
    line!(out, "\nDECISIONS");
    if report.decisions.is_empty() {
        line!(out, "none since the founding");
    }
    for decision in &report.decisions {
        write_decision(&mut out, report, decision);
    }
    let enacted = |p: &&ProposalReport| !report.decisions.iter().any(|decision| decision.child == p.id);
    let others: Vec<&ProposalReport> = report.proposals.iter().filter(enacted).collect();
    if !others.is_empty() {
        line!(out, "\nPROPOSALS THAT DECIDED NOTHING");
        others.into_iter().for_each(|proposal| write_proposal(&mut out, proposal));
    }
    write_members(&mut out, report);
    write_keys(&mut out, report);
    write_orders(&mut out, report);
    write_wrongs(&mut out, report);
    write_branches(&mut out, report);
    line!(out, "\nHEADS, to be compared with those that members quote");
    for (scope, head) in &report.heads {
        line!(out, "{scope} {head}");
    }
    line!(out, "\nEverything holds: {} decisions follow from what their makers signed.", report.decisions.len());
    out
}

fn write_decision(out: &mut String, report: &Report, decision: &Decision) {
    line!(out, "\n{} version {} {}", decision.scope, decision.number, decision.version);
    match report.proposal(&decision.child) {
        Some(proposal) => {
            write_what(out, proposal);
            write_count(out, proposal);
        }
        None => {
            let author = report.leaves.iter().find(|leave| leave.id == decision.child).map(|leave| &leave.author);
            line!(out, "  {} left, by statement {}", or_dash(author), decision.child);
        }
    }
    line!(out, "  box {} in term {}", decision.root, decision.term);
    write_seals(out, "closed by", &decision.close_seals);
    write_seals(out, "enacted by", &decision.enact_seals);
}

fn write_what(out: &mut String, proposal: &ProposalReport) {
    let (author, issued) = (&proposal.author, time(proposal.issued_at));
    line!(out, "  {:?} by {author}, {issued}, under rules {}", proposal.title.as_str(), proposal.rules);
    line!(out, "  proposal {}", proposal.id);
    line!(out, "  change {}", proposal.change);
}

fn write_count(out: &mut String, proposal: &ProposalReport) {
    if let Some(ballot) = &proposal.ballot {
        let t = &ballot.tally;
        line!(
            out,
            "  count {} yes, {} no, {} abstain, {} veto of {}; {} had to take part and {} to say yes: {:?}, closed {}",
            t.yes,
            t.no,
            t.abstain,
            t.veto,
            t.electors,
            t.turnout_needed,
            t.min_yes,
            t.outcome,
            time(ballot.closed_at)
        );
    }
    proposal.votes.iter().for_each(|vote| write_vote(out, vote));
    for notice in &proposal.notices {
        line!(out, "    {} says that the member {} ({})", notice.by.by, told(notice.notice), notice.by.id);
    }
}

fn told(notice: Notice) -> &'static str {
    match notice {
        Notice::Received => "has it, and is the member",
        Notice::Delivered => "was told",
        Notice::Tried => "could not be reached",
    }
}

fn write_vote(out: &mut String, vote: &VoteReport) {
    let counts = if vote.verdict == "Counted" { String::new() } else { format!(", not counted: {}", vote.why) };
    line!(out, "    {} {:?} at {}{counts} ({})", vote.author, vote.choice, time(vote.issued_at), vote.id);
}

fn write_seals(out: &mut String, what: &str, seals: &[Signed]) {
    for seal in seals {
        line!(out, "  {what} {} at {} ({})", seal.by, time(seal.at), seal.id);
    }
}

fn write_proposal(out: &mut String, proposal: &ProposalReport) {
    line!(out);
    write_what(out, proposal);
    let standing = &proposal.standing;
    let more = standing.why.clone().or_else(|| Some(standing.detail.clone()).filter(|detail| !detail.is_empty()));
    line!(out, "  {}{}", standing.phase, more.map(|more| format!(": {more}")).unwrap_or_default());
    write_count(out, proposal);
    for certificate in &proposal.certificates {
        line!(out, "  box {} of {} entries: {:?}", certificate.root, certificate.count, certificate.outcome);
        write_seals(out, "closed by", &certificate.seals);
    }
}

fn write_members(out: &mut String, report: &Report) {
    line!(out, "\nMEMBERS");
    for member in &report.members {
        write_member(out, member);
    }
    for leave in report.leaves.iter().filter(|leave| leave.enacted.is_none()) {
        line!(out, "{} asked to leave, {} ({})", leave.author, time(leave.issued_at), leave.id);
    }
}

fn write_member(out: &mut String, member: &MemberReport) {
    let forked = member.forked_at.map(|seq| format!(", its log forked at entry {seq}")).unwrap_or_default();
    let suspended = member.suspended.map(|by| format!(", suspended by {by}")).unwrap_or_default();
    line!(out, "{} ({}): {}{suspended}{forked}", member.id, member.owner, member.standing);
    for log in member.logs.iter().filter(|log| log.replaced.is_some()) {
        line!(out, "  log {} was replaced by membership version {}", log.log, or_dash(log.replaced));
    }
    for proof in &member.quarantine {
        line!(out, "  no new work: {} by {} and {} (proof {})", proof.offence, proof.first, proof.second, proof.id);
    }
}

fn write_keys(out: &mut String, report: &Report) {
    if report.keys.is_empty() {
        return;
    }
    line!(out, "\nKEYS");
    for key in &report.keys {
        let why = key.why.as_ref().map(|why| format!(", without effect: {why}")).unwrap_or_default();
        line!(out, "{} {}{why} ({}, anchored by {})", key.member, key.change, key.id, key.entry);
    }
}

fn write_orders(out: &mut String, report: &Report) {
    if report.orders.is_empty() {
        return;
    }
    line!(out, "\nEMERGENCY ORDERS");
    for order in &report.orders {
        let (issued, until) = (time(order.issued_at), time(order.until));
        line!(out, "stop {} for {}: by {}, {issued} to {until} ({})", order.stop, order.cause, order.author, order.id);
        let signed: Vec<String> = order.signed.iter().map(ToString::to_string).collect();
        line!(out, "  {}; behind it {}", became(order), signed.join(", "));
    }
}

fn became(order: &OrderReport) -> String {
    match order.standing {
        OrderStanding::Holds => "it holds".to_owned(),
        OrderStanding::Lapsed => "it has lapsed".to_owned(),
        OrderStanding::Short => format!("no effect: {} of the {} owners that are needed", order.owners, order.needed),
        OrderStanding::Barred => format!("no effect: it repeats {} too soon", or_dash(order.barred_by)),
    }
}

fn write_branches(out: &mut String, report: &Report) {
    if report.branches.is_empty() {
        return;
    }
    line!(out, "\nBRANCHES THAT THIS FILE DOES NOT HOLD");
    line!(out, "Members keep two branches of a forked log. Of these there are more: whoever was shown others than");
    line!(out, "this exporter may conclude something else from what their authors said there. Audit its export, too.");
    for branch in &report.branches {
        line!(out, "{} entry {} of log {}: {}", branch.member, branch.seq, branch.log, branch.entry);
    }
}

fn write_wrongs(out: &mut String, report: &Report) {
    if report.faults.is_empty() && report.forks.is_empty() && report.stray_votes.is_empty() {
        return;
    }
    line!(out, "\nWHAT HONEST OPERATORS DO NOT DO");
    for fault in &report.faults {
        line!(out, "{} of {} on {}: {} and {}", fault.fault, fault.member, fault.about, fault.first, fault.second);
    }
    for fork in &report.forks {
        line!(out, "fork of {} at entry {}: {} and {}", fork.member, fork.seq, fork.first, fork.second);
    }
    for (on, vote) in &report.stray_votes {
        line!(out, "a vote of {} on {on}, which nobody has proposed ({})", vote.author, vote.id);
    }
}
