//! Why something that people said has its effect, or has none: keys, orders, co-signatures, appeals and whatever else is
//! applied as a `Statement`.

use std::fmt::Write as _;

use anyhow::bail;
use jiff::tz::TimeZone;
use koinon_api::Statement as Resource;
use koinon_core::body::Body;
use koinon_core::ids::{MemberId, UnixSeconds};
use koinon_core::policy::{Commons, KeyProblem, NotAnchored, Said, State};
use koinon_core::statement::Statement;
use kube::ResourceExt as _;

use crate::cluster::{Cluster, now, to_core};
use crate::emergency::stops;
use crate::moment::{Moment, here};
use crate::output::one_line;
use crate::utterance::{self, Utterance};

/// Prints why the statement that `wanted` names has its effect or none.
///
/// # Errors
/// Where none or several fit.
pub async fn run(cluster: &Cluster, wanted: &str) -> anyhow::Result<()> {
    let membership = cluster.membership().await?;
    let commons = cluster.commons(&membership).await?;
    if let Some(found) = utterance::find(&commons, wanted)? {
        print!("{}", explained(&commons, found, now(), &here()));
        return Ok(());
    }
    // Its owner may have given it a name of its own, or no operator has anchored it.
    let resources = cluster.list::<Resource>("statements").await?;
    let fits = |resource: &&Resource, signed: &Statement| {
        signed.kind().is_said() && (resource.name_any().starts_with(wanted) || utterance::named(signed.id(), wanted))
    };
    let found = resources.iter().find_map(|resource| {
        let signed = to_core(&resource.spec.envelope).ok().and_then(|envelope| Statement::verify(envelope).ok())?;
        fits(&resource, &signed).then_some(signed)
    });
    let Some(signed) = found else {
        bail!("no statement {wanted} in any log here, nor in namespace {}", cluster.namespace);
    };
    match utterance::find(&commons, &signed.id().to_string())? {
        Some(found) => print!("{}", explained(&commons, found, now(), &here())),
        None => print!("{}", unanchored(commons.state(), &membership.member, &signed, now(), &here())),
    }
    Ok(())
}

/// One that a log holds.
fn explained(commons: &Commons, found: Utterance<'_>, now: UnixSeconds, zone: &TimeZone) -> String {
    let (said, state) = (found.said, commons.state());
    let mut text = head(state, said, zone);
    let (at, log) = (found.entry.statement.header().issued_at, found.entry.statement.header().key);
    let mut line = |told: String| {
        // A String takes whatever is written into it.
        let _ = writeln!(text, "{told}");
    };
    line(format!("  anchored  {}, at position {} of log {log}", Moment::new(at, zone), found.entry.seq()));
    match state.said(said, at, now) {
        Some(effect @ (Said::InEffect | Said::InEffectUntil(_))) => {
            line(format!("It has its effect{}.", until(&effect, zone)))
        }
        Some(effect) => {
            line(format!("It has no effect: {effect}{}.", until(&effect, zone)));
            if let Some(advice) = advice(&effect, said) {
                line(format!("What to do: {advice}."));
            }
        }
        None => line("It has no effect.".to_owned()),
    }
    text
}

/// What is said, by whom, signed with which keys.
fn head(state: &State, said: &Statement, zone: &TimeZone) -> String {
    let mut text = format!("{} of {}: {}\n", said.kind(), said.author(), gist(said.body()));
    let mut line = |told: String| {
        let _ = writeln!(text, "{told}");
    };
    line(format!("  id        {}", said.id()));
    for key in said.signers() {
        line(format!("  key       {key}, {}", role(state, said.author(), key)));
    }
    line(format!("  signed    {}, by the clock of its author's machine", Moment::new(said.header().issued_at, zone)));
    text
}

fn gist(body: &Body) -> String {
    match body {
        Body::KeyUpdate(update) => {
            format!("{} governance keys, as set {}", update.governance.len(), update.number)
        }
        Body::KeyRevocation(revoked) => format!("takes back {} since position {}", revoked.key, revoked.since_seq),
        Body::EmergencyOrder(order) => stops(&order.stop),
        Body::CoSignature(signature) => format!("stands behind order {}", signature.order),
        Body::Appeal(appeal) => format!("against {}: {}", appeal.proposal, one_line(&appeal.text)),
        Body::Reply(reply) => format!("to {}: {}", reply.proposal, one_line(&reply.text)),
        Body::Withdrawal(back) => format!("takes back {}", back.proposal),
        Body::Recusal(recusal) => format!("abstains on {}", recusal.proposal),
        Body::Delegation(delegation) => match &delegation.to {
            Some(to) => format!("{to} votes for it where it does not itself"),
            None => "nobody votes for it any more".to_owned(),
        },
        Body::Leave(_) => "leaves the cooperative".to_owned(),
        _ => "something that this version does not know".to_owned(),
    }
}

fn role(state: &State, author: &MemberId, key: &koinon_core::ids::PublicKey) -> &'static str {
    let Some(member) = state.member(author) else { return "of nobody that is known here" };
    let keys = &member.member.keys;
    if state.key_set(author).is_some_and(|set| set.governance.contains(key)) {
        "a governance key in force"
    } else if state.key_set(author).is_some_and(|set| set.retired.contains(key)) {
        "a governance key that is in force no more"
    } else if keys.recovery.contains(key) {
        "a recovery key"
    } else if keys.operator == *key {
        "its operator's key, which cannot say this"
    } else {
        "no key of its author"
    }
}

fn until(effect: &Said, zone: &TimeZone) -> String {
    let at = |at: &UnixSeconds| Moment::new(*at, zone).to_string();
    match effect {
        Said::InEffectUntil(end) => format!(", until {}", at(end)),
        Said::Awaits { until, .. } => format!("; it lapses at {}", at(until)),
        Said::Lapsed(end) => format!(", at {}", at(end)),
        Said::TooLate(end) => format!(", after {}", at(end)),
        _ => String::new(),
    }
}

/// What its author, or whoever wants it, can do.
fn advice(effect: &Said, said: &Statement) -> Option<String> {
    Some(match effect {
        Said::InEffect | Said::InEffectUntil(_) => return None,
        Said::Awaits { .. } => format!("another member signs it: kubectl koinon cosign {}", said.id()),
        Said::Lapsed(_) | Said::Barred(_) => "propose it for a vote: kubectl koinon propose".to_owned(),
        Said::NoOrder => "let another member give the order".to_owned(),
        Said::Keys(KeyProblem::NotNext { .. }) => {
            "see which set is in force (kubectl koinon keys rotate says it), and make the update anew".to_owned()
        }
        Said::Keys(KeyProblem::NotAllowed) => {
            "sign with a governance key that is in force, or with more than half of the recovery keys".to_owned()
        }
        Said::Keys(KeyProblem::NotProved(_)) => {
            "make it anew with kubectl koinon keys rotate, which signs with both keys".to_owned()
        }
        Said::Keys(_) => "make a new key, and the update anew: kubectl koinon keys rotate".to_owned(),
        Said::UnknownTarget => "wait until this cluster has heard of it (kubectl koinon members)".to_owned(),
        Said::OwnSubject | Said::NotCoSigned => "other members have to sign the order".to_owned(),
        Said::NotItsPlace(_) | Said::NoSubject => "vote on it instead: kubectl koinon vote".to_owned(),
        Said::NoNews => "appeal anew with evidence that the proposal does not name".to_owned(),
        Said::NotPassed => "wait: once the proposal has passed it counts, if it names something new".to_owned(),
        Said::NoFirstVote | Said::Second(_) | Said::TooLate(_) => "nothing helps".to_owned(),
        Said::Void => "see this member's log: kubectl get kmem -o yaml".to_owned(),
    })
}

/// One that no operator has anchored, and why.
fn unanchored(state: &State, me: &MemberId, said: &Statement, now: UnixSeconds, zone: &TimeZone) -> String {
    let author = said.author();
    let mut text = head(state, said, zone);
    text.push_str("No log here holds it, so it has no effect.\n");
    let why = match (author == me, state.may_anchor(author, said, now)) {
        (false, _) => format!("Only {author}'s own operator gives it a place: apply it in that cluster."),
        (true, Ok(()) | Err(NotAnchored::UnknownProposal)) => {
            "The operator may anchor it and has not: kubectl get kstmt -o yaml shows why, kubectl koinon doctor whether it signs.".to_owned()
        }
        (true, Err(refused)) => format!("The operator does not anchor it: {refused}."),
    };
    let _ = writeln!(text, "{why}");
    text
}

#[cfg(test)]
#[path = "explain_said_tests.rs"]
mod tests;
