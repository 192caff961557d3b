//! Whether the member that a proposal is about was heard: what it is accused of, who has told it, and what it says.

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use koinon_core::body::proposal::Action;
use koinon_core::body::{Body, Notice};
use koinon_core::ids::{MemberId, StatementId, UnixSeconds};
use koinon_core::policy::{Commons, ProposalState};
use serde::Serialize;

use crate::evidence;
use crate::moment::Moment;
use crate::output::one_line;
use crate::utterance::{self, Utterance};

/// What was said to a member and by it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hearing {
    /// Which member.
    pub member: MemberId,
    /// What the proposal rests on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// The appeal that this is the second vote on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_vote_on: Option<StatementId>,
    /// What operators say of whether it knows.
    pub notices: Vec<NoticeView>,
    /// How many operators must have told it, or tried, for it to count as heard without a reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed: Option<usize>,
    /// Its replies.
    pub replies: Vec<SideView>,
    /// Its appeals.
    pub appeals: Vec<SideView>,
}

/// One operator's word.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NoticeView {
    /// Whose operator.
    pub by: MemberId,
    /// What it knows.
    pub notice: Notice,
    /// When it said so.
    pub at: Moment,
}

/// What the member said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SideView {
    /// The statement.
    pub id: StatementId,
    /// When its operator anchored it.
    pub at: Moment,
    /// In words.
    pub text: String,
    /// What an appeal names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// Whether it has its effect.
    pub in_effect: bool,
    /// Why not, or what it does.
    pub verdict: String,
}

/// What there is of it in `commons`; nothing for a proposal that is not about whether a member stays.
pub fn hearing(commons: &Commons, on: &ProposalState, now: UnixSeconds, zone: &TimeZone) -> Option<Hearing> {
    let (member, needed) = match &on.proposal.action {
        Action::Expel(expel) => (&expel.member, expel.appeal.is_none().then_some(on.quorum)),
        Action::MarkDormant(mark) => (&mark.member, None),
        Action::Reactivate(wake) => (&wake.member, None),
        Action::Suspend(_) | Action::Reinstate(_) | Action::LiftQuarantine(_) | Action::ResetKeys(_) => {
            (on.proposal.subject.as_ref()?, None)
        }
        _ => return None,
    };
    let (evidence, second_vote_on) = match &on.proposal.action {
        Action::Expel(expel) => (expel.evidence.iter().map(|one| evidence::told(commons, one)).collect(), expel.appeal),
        _ => (Vec::new(), None),
    };
    let about = commons.state().notices().iter().filter(|notice| notice.seal.proposal == on.id);
    let notices = about
        .map(|sealed| NoticeView {
            by: sealed.by.clone(),
            notice: sealed.seal.notice,
            at: Moment::new(sealed.at, zone),
        })
        .collect();
    let (mut replies, mut appeals) = (Vec::new(), Vec::new());
    for one in utterance::all(commons) {
        match one.said.body() {
            Body::Reply(reply) if reply.proposal == on.id && one.said.author() == member => {
                replies.push(side(commons, one, reply.text.as_str(), Vec::new(), now, zone));
            }
            Body::Appeal(appeal) if appeal.proposal == on.id && one.said.author() == member => {
                let evidence = appeal.evidence.iter().map(|piece| evidence::told(commons, piece)).collect();
                appeals.push(side(commons, one, appeal.text.as_str(), evidence, now, zone));
            }
            _ => {}
        }
    }
    Some(Hearing { member: member.clone(), evidence, second_vote_on, notices, needed, replies, appeals })
}

fn side(
    commons: &Commons,
    Utterance { said, entry }: Utterance<'_>,
    text: &str,
    evidence: Vec<String>,
    now: UnixSeconds,
    zone: &TimeZone,
) -> SideView {
    let at = entry.statement.header().issued_at;
    let verdict = commons.state().said(said, at, now);
    SideView {
        id: said.id(),
        at: Moment::new(at, zone),
        text: text.to_owned(),
        evidence,
        in_effect: verdict.as_ref().is_some_and(|verdict| verdict.in_effect()),
        verdict: verdict.map(|verdict| verdict.to_string()).unwrap_or_default(),
    }
}

/// The same as people read it; nothing where nothing was said and nothing must be.
pub fn text(hearing: &Hearing) -> String {
    let Hearing { member, evidence, second_vote_on, notices, needed, replies, appeals } = hearing;
    let mut out = String::new();
    let mut line = |text: String| {
        // A String takes whatever is written into it.
        let _ = writeln!(out, "  {text}");
    };
    for piece in evidence {
        line(format!("for      {piece}"));
    }
    if let Some(appeal) = second_vote_on {
        line(format!("again    the second vote, on the appeal {appeal}"));
    }
    for NoticeView { by, notice, at } in notices {
        line(format!("told     {} ({at})", said_of(by, member, *notice)));
    }
    if let (Some(needed), true) = (needed, replies.is_empty()) {
        let told = notices.iter().map(|notice| &notice.by).collect::<std::collections::BTreeSet<_>>().len();
        line(format!(
            "heard    {told} of the {needed} operators that must have told it or tried have said so, and it has not replied"
        ));
    }
    for (word, sides) in [("replies ", replies), ("appeals ", appeals)] {
        for side in sides {
            line(format!("{word} {}: {}", side.at, one_line(&side.text)));
            side.evidence.iter().for_each(|piece| line(format!("         with {piece}")));
            if !side.in_effect {
                line(format!("         without effect: {}", side.verdict));
            }
        }
    }
    if out.is_empty() { out } else { format!("\nHearing of {member}:\n{out}") }
}

fn said_of(by: &MemberId, member: &MemberId, notice: Notice) -> String {
    match notice {
        Notice::Received => format!("{member}'s own operator has it"),
        Notice::Delivered => format!("{by} knows that {member} has it"),
        Notice::Tried => format!("{by} has tried and not reached {member}"),
    }
}
