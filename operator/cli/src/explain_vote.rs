//! Why a vote counts, or does not: from its author's log, as every member reads it.

use std::fmt::Write as _;

use anyhow::bail;
use jiff::tz::TimeZone;
use koinon_api::{Vote, names};
use koinon_core::body::Body;
use koinon_core::ids::{MemberId, StatementId, UnixSeconds};
use koinon_core::policy::{Commons, ProposalState, State, VoteRecord, vouchers};
use koinon_core::statement::Statement;
use kube::ResourceExt as _;

use crate::cluster::{Cluster, now};
use crate::moment::{Moment, here};
use crate::output::one_line;
use crate::proposal::view::{VoteView, vote_view};
use crate::prospect::{listed, word};
use crate::vote::statement_of;

/// Prints why the vote that `wanted` names counts or does not.
///
/// # Errors
/// Where none or several fit.
pub async fn run(cluster: &Cluster, wanted: &str) -> anyhow::Result<()> {
    let membership = cluster.membership().await?;
    let commons = cluster.commons(&membership).await?;
    let state = commons.state();
    let found = match find(state, wanted)? {
        Some(found) => Some(found),
        None => {
            // Its owner may have given it a name of its own, or no operator has anchored it.
            let votes = cluster.list::<Vote>("votes").await?;
            let Some(resource) = votes.iter().find(|vote| vote.name_any().starts_with(wanted)) else {
                bail!("no vote {wanted} in any log here, nor in namespace {}", cluster.namespace);
            };
            let statement = statement_of(resource)?;
            let anchored = state.vote(&statement.id()).map(|_| statement.id());
            if anchored.is_none() {
                print!("{}", unanchored(state, &membership.member, &statement, now(), &here()));
            }
            anchored
        }
    };
    if let Some(text) = found.and_then(|id| explained(&commons, id, now(), &here())) {
        print!("{text}");
    }
    Ok(())
}

/// The one anchored vote whose name or id begins with `wanted`.
fn find(state: &State, wanted: &str) -> anyhow::Result<Option<StatementId>> {
    let on_proposals = state.proposals().values().flat_map(|proposal| &proposal.votes);
    let all = on_proposals.chain(state.stray_votes().iter().map(|(_, vote)| vote));
    let fits = |id: &StatementId| {
        let id = id.to_string();
        names::vote(&id).starts_with(wanted) || id.starts_with(wanted)
    };
    let fitting: Vec<StatementId> = all.map(|vote| vote.id).filter(fits).collect();
    match fitting.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => {
            let names: Vec<String> = several.iter().map(|id| names::vote(&id.to_string())).collect();
            bail!("{wanted} fits several votes: {}", names.join(", "))
        }
    }
}

/// A vote that some log holds.
fn explained(commons: &Commons, id: StatementId, now: UnixSeconds, zone: &TimeZone) -> Option<String> {
    let state = commons.state();
    let (on, record) = state.vote(&id)?;
    let view = vote_view(commons, record, zone);
    let proposal = state.proposals().get(&on);
    let mut text = String::new();
    let mut line = |said: String| {
        // A String takes whatever is written into it.
        let _ = writeln!(text, "{said}");
    };
    let ground = view.ground.map(|ground| format!(" ({ground:?})").to_lowercase()).unwrap_or_default();
    line(format!("vote/{} of {}: {}{ground}", names::vote(&id.to_string()), view.member, word(view.choice)));
    line(format!("  id        {id}, number {} of its author's own", view.vseq));
    match proposal {
        Some(proposal) => line(format!("  on        {} ({on})", one_line(&proposal.proposal.title))),
        None => line(format!("  on        {on}, which no log here holds")),
    }
    if let Some(reason) = &view.reason {
        line(format!("  because   {}", one_line(reason)));
    }
    if let Some(key) = view.key {
        line(format!("  key       {key}, {}", role(state, &view.member, &key)));
    }
    line(format!("  signed    {}, by the clock of its author's machine", view.signed));
    if let Some(proposal) = proposal {
        let body = &proposal.proposal;
        let tolerance = proposal.parameters.clock_tolerance_seconds;
        let (from, to) = (Moment::new(body.opens_at.minus(tolerance), zone), Moment::new(body.closes_at, zone));
        line(format!("  counts    if it is dated from {from} to {to}"));
    }
    line(format!("  anchored  {}, at position {} of log {}", view.anchored, view.seq, view.log));
    if let Some(proposal) = proposal {
        line(format!("  box       {}", boxed(proposal, record, &view)));
        line(format!("  proposal  {}", state.phase(proposal, now).name()));
    }
    let counts = if view.counts() { "It counts." } else { "It does not count: " };
    line(if view.counts() { counts.to_owned() } else { format!("{counts}{} ({}).", view.why, view.verdict) });
    if let Some(advice) = view.advice {
        line(format!("What to do: {advice}."));
    }
    Some(text)
}

fn role(state: &State, author: &MemberId, key: &koinon_core::ids::PublicKey) -> String {
    let Some(keys) = state.member(author).map(|member| &member.member.keys) else {
        return format!("of nobody that is known here as {author}");
    };
    if keys.governance.contains(key) {
        format!("a governance key of {author}")
    } else if keys.operator == *key {
        format!("{author}'s operator key, which cannot vote")
    } else if keys.recovery.contains(key) {
        format!("a recovery key of {author}, which cannot vote")
    } else {
        format!("no key of {author} that is in force now")
    }
}

/// Who holds a vote for the box, and whether that is enough.
fn boxed(proposal: &ProposalState, record: &VoteRecord, view: &VoteView) -> String {
    if proposal.rules < 2 {
        let inside = if proposal.ballot.ids.contains(&record.id) { "in" } else { "not in" };
        return format!("{inside} the box {} as this cluster holds it", proposal.ballot.root);
    }
    let needed = vouchers(proposal.sealers.len());
    let offering =
        proposal.offers.iter().filter(|offer| view.entry.is_some_and(|entry| offer.seal.entries.contains(&entry)));
    let by: Vec<&str> = offering.map(|offer| offer.by.as_str()).collect();
    let sealed = proposal.certificates.first().zip(view.entry);
    match sealed {
        Some((sealed, entry)) if sealed.entries.contains(&entry) => format!("in the sealed box {}", sealed.root),
        Some((sealed, _)) => {
            format!("not in the sealed box {}: offered by {}, {needed} must have", sealed.root, listed(&by, "and"))
        }
        None if proposal.offers.is_empty() => {
            format!("operators have not offered yet what they hold; {needed} must offer it")
        }
        None => format!("offered by {}; {needed} must offer it", listed(&by, "and")),
    }
}

/// A vote that no operator has anchored, and why.
fn unanchored(state: &State, me: &MemberId, vote: &Statement, now: UnixSeconds, zone: &TimeZone) -> String {
    let author = vote.author();
    let signed = Moment::new(vote.header().issued_at, zone);
    let mut text = format!("vote of {author}, signed {signed}: no log here holds it, so it does not count.\n");
    let why = match (author == me, state.may_anchor(author, vote, now)) {
        (false, _) => format!("Only {author}'s own operator gives it a place: apply it in that cluster."),
        (true, Ok(())) => {
            "The operator may anchor it and has not: see that it runs and signs (kubectl koinon doctor).".to_owned()
        }
        (true, Err(refused)) => format!("The operator does not anchor it: {refused}."),
    };
    let _ = writeln!(text, "{why}");
    if let Body::Vote(body) = vote.body() {
        let _ = writeln!(text, "See also: kubectl koinon proposal {}", body.proposal);
    }
    text
}

#[cfg(test)]
#[path = "explain_vote_tests.rs"]
mod tests;
