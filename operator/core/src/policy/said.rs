//! What became of something that people said and a log holds, other than a proposal or a vote: it is shown to them, and
//! decides nothing.

use std::fmt;

use super::hearing::has_news;
use super::keys::KeyProblem;
use super::{EmergencyState, MemberStanding, ProposalState, State};
use crate::body::Body;
use crate::body::emergency::Stop;
use crate::body::proposal::{Action, Scope};
use crate::ids::{MemberId, StatementId, UnixSeconds};
use crate::statement::Statement;

/// See [`State::said`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has its effect.
    InEffect,
    /// It has its effect, until then.
    InEffectUntil(UnixSeconds),
    /// An order for which more owners must sign before it lapses.
    Awaits {
        /// How many owners stand behind it.
        owners: usize,
        /// How many must.
        needed: usize,
        /// When it lapses.
        until: UnixSeconds,
    },
    /// An order whose time is over.
    Lapsed(UnixSeconds),
    /// An order that another one for the same cause bars.
    Barred(StatementId),
    /// An order that no member stands behind in the versions that it names.
    NoOrder,
    /// Keys stay as they are.
    Keys(KeyProblem),
    /// It is about something that is not known here.
    UnknownTarget,
    /// It is about its own author, or about a member of the same owner.
    OwnSubject,
    /// A co-signature that does not count.
    NotCoSigned,
    /// Something about a proposal that only another member says.
    NotItsPlace(MemberId),
    /// A reply to something that is about no member.
    NoSubject,
    /// An appeal against what is no expulsion of its author in a first vote.
    NoFirstVote,
    /// An appeal that names nothing new.
    NoNews,
    /// An appeal against what has not passed.
    NotPassed,
    /// It came after this.
    TooLate(UnixSeconds),
    /// Another one came first.
    Second(StatementId),
    /// Its author was no member any more, or the entry has no effect.
    Void,
}

impl Said {
    /// Whether it has its effect.
    pub fn in_effect(&self) -> bool {
        matches!(self, Self::InEffect | Self::InEffectUntil(_))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InEffect => f.write_str("it has its effect"),
            Self::InEffectUntil(_) => f.write_str("it has its effect until it lapses"),
            Self::Awaits { owners, needed, .. } => {
                write!(f, "{owners} of the {needed} owners that are needed have signed")
            }
            Self::Lapsed(_) => f.write_str("it has lapsed"),
            Self::Barred(by) => {
                write!(f, "order {by} has stopped the same for the same cause, and it cannot be repeated so soon")
            }
            Self::NoOrder => f.write_str(
                "the membership or charter that it names is not known here, its author is not counted there, or it is about \
                 its author",
            ),
            Self::Keys(problem) => write!(f, "the keys stay as they are: {problem}"),
            Self::UnknownTarget => f.write_str("what it is about is not known here"),
            Self::OwnSubject => f.write_str("it is about its own author"),
            Self::NotCoSigned => f.write_str(
                "it was anchored before the order or by a key that was not in force, or its author is not counted in the \
                 membership that the order names, or is of the owner that the order is about",
            ),
            Self::NotItsPlace(member) => write!(f, "only {member} says that"),
            Self::NoSubject => f.write_str("what it replies to is about no member"),
            Self::NoFirstVote => {
                f.write_str("an appeal is made against the first vote to expel its author, and this is none")
            }
            Self::NoNews => f.write_str("an appeal names evidence that the proposal does not, and this names none"),
            Self::NotPassed => f.write_str("what it is against has not passed: there is nothing to appeal against"),
            Self::TooLate(_) => f.write_str("it came too late"),
            Self::Second(first) => write!(f, "{first} came first, and one counts"),
            Self::Void => f.write_str(
                "the entry that holds it has no effect: its log forked or had used up its day, or its author was no member \
                 any more",
            ),
        }
    }
}

impl State {
    /// What became of `said`, which its author's operator anchored at `at`, as of `now`. Nothing for what is no statement of
    /// people, or a proposal or a vote, which have a record of their own.
    pub fn said(&self, said: &Statement, at: UnixSeconds, now: UnixSeconds) -> Option<Said> {
        let author = said.author();
        Some(match said.body() {
            Body::Leave(_) if self.leaves.contains_key(&said.id()) => Said::InEffect,
            Body::Leave(_) => Said::Void,
            Body::KeyUpdate(_) | Body::KeyRevocation(_) => self.said_of_keys(said.id()),
            Body::EmergencyOrder(_) => match self.emergencies.get(&said.id()) {
                Some(order) => order.standing(now),
                None => Said::NoOrder,
            },
            Body::CoSignature(signature) => match self.emergencies.get(&signature.order) {
                Some(order) => order.co_signed(author, at),
                None => Said::UnknownTarget,
            },
            Body::Appeal(appeal) => match self.proposals.get(&appeal.proposal) {
                Some(state) => appealed(state, said, at),
                None => Said::UnknownTarget,
            },
            Body::Reply(reply) => self.said_about(reply.proposal, at, author, |on| on.proposal.subject.as_ref()),
            Body::Withdrawal(back) => self.said_about(back.proposal, at, author, |on| Some(&on.author)),
            Body::Recusal(recusal) => self.said_about(recusal.proposal, at, author, |_| Some(author)),
            Body::Delegation(_) => match self.member(author).map(|member| member.standing) {
                Some(MemberStanding::Left | MemberStanding::Expelled) | None => Said::Void,
                Some(_) => Said::InEffect,
            },
            _ => return None,
        })
    }

    fn said_of_keys(&self, id: StatementId) -> Said {
        let mut places = self.key_changes().values().filter(|change| change.id == id).map(|change| &change.problem);
        let first = places.next();
        match (first, places.any(Option::is_none)) {
            (None, _) => Said::Void,
            (Some(None), _) | (_, true) => Said::InEffect,
            (Some(Some(problem)), false) => Said::Keys(problem.clone()),
        }
    }

    /// Something that one member says about a proposal while its box is open.
    fn said_about<'a>(
        &'a self,
        proposal: StatementId,
        at: UnixSeconds,
        author: &MemberId,
        who: impl Fn(&'a ProposalState) -> Option<&'a MemberId>,
    ) -> Said {
        let Some(on) = self.proposals.get(&proposal) else { return Said::UnknownTarget };
        match who(on) {
            Some(member) if member != author => Said::NotItsPlace(member.clone()),
            None => Said::NoSubject,
            // The box decides in the end, and whoever asks sees it there.
            Some(_) if at > on.proposal.closes_at => Said::TooLate(on.proposal.closes_at),
            Some(_) => Said::InEffect,
        }
    }
}

impl EmergencyState {
    fn standing(&self, now: UnixSeconds) -> Said {
        let (owners, needed, until) = (self.owners, self.needed, self.until);
        match self.barred_by {
            Some(by) => Said::Barred(by),
            None if now >= until => Said::Lapsed(until),
            None if owners < needed => Said::Awaits { owners, needed, until },
            None => Said::InEffectUntil(until),
        }
    }

    fn co_signed(&self, author: &MemberId, at: UnixSeconds) -> Said {
        match &self.stop {
            _ if self.signed.contains(author) => Said::InEffect,
            Stop::Member(member) if member == author => Said::OwnSubject,
            _ if at >= self.until => Said::TooLate(self.until),
            _ => Said::NotCoSigned,
        }
    }
}

fn appealed(on: &ProposalState, said: &Statement, at: UnixSeconds) -> Said {
    let Body::Appeal(appeal) = said.body() else { return Said::NoFirstVote };
    let Action::Expel(expel) = &on.proposal.action else { return Said::NoFirstVote };
    if expel.member != *said.author() || expel.appeal.is_some() || on.proposal.scope != Scope::Membership {
        return Said::NoFirstVote;
    }
    let eta = on.certificates.first().map(|certificate| on.eta(certificate.closed_at));
    match (on.appealed_by, eta) {
        _ if !has_news(appeal, expel) => Said::NoNews,
        (_, None) => Said::NotPassed,
        (Some(counted), _) if counted == said.id() => Said::InEffect,
        (_, Some(eta)) if at > eta => Said::TooLate(eta),
        (Some(first), _) => Said::Second(first),
        (None, Some(_)) => Said::Void,
    }
}
