//! What becomes of the statements that people applied.

use koinon_api::conditions::Reason;
use koinon_core::ids::{MemberId, PublicKey, Seq, StatementId, UnixSeconds};
use koinon_core::kind::Kind;
use koinon_core::log::Past;
use koinon_core::policy::{Anchoring, Commons, Invalid, NotAnchored, OrderProblem, State, Verdict as Ballot};
use koinon_core::statement::Statement;

use super::candidate::{Candidate, Refusal, belongs};

/// Where an applied statement stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stands in its author's log.
    Anchored {
        /// In which entry.
        entry: StatementId,
        /// At which position.
        seq: Seq,
        /// In whose log.
        log: PublicKey,
        /// When, by the clock of the operator that anchored it.
        at: UnixSeconds,
    },
    /// It stood in its author's log, below a checkpoint: what came of it is decided, and stays as it was shown.
    Settled {
        /// At which position.
        seq: Seq,
        /// When, by the clock of the operator that anchored it.
        at: UnixSeconds,
    },
    /// It is good, and its time has not come.
    Waiting(Refusal),
    /// It is not anchored, and why.
    Refused(Refusal),
}

/// Judges one candidate; `None` means that it is to be anchored now.
#[must_use]
pub fn judge(
    candidate: &Candidate,
    commons: &Commons,
    me: &MemberId,
    log: &PublicKey,
    now: UnixSeconds,
) -> Option<Verdict> {
    let statement = match &candidate.statement {
        Ok(statement) => statement,
        Err(refusal) => return Some(Verdict::Refused(refusal.clone())),
    };
    if let Err(refusal) = belongs(statement, commons.replica().coop(), me) {
        if refusal.reason != Reason::NotSeat {
            return Some(Verdict::Refused(refusal));
        }
        let author = statement.author();
        if commons.state().member(author).is_none() {
            let message = format!("{author} is no member of this cooperative, now or before");
            return Some(Verdict::Refused(Refusal::new(Reason::NotElector, message)));
        }
        // A mirror, or applied at another seat from a shared repository: its author's operator anchors it, and we see that.
        return Some(anchored_anywhere(commons, statement).unwrap_or(Verdict::Refused(refusal)));
    }
    match commons.anchoring(me, log, statement, now) {
        Anchoring::Anchor => None,
        Anchoring::Already { seq, id } => {
            let at = commons.replica().get(&id).map_or(now, |entry| entry.statement.header().issued_at);
            Some(Verdict::Anchored { entry: id, seq, log: *log, at })
        }
        Anchoring::Settled(past) => Some(settled(past)),
        Anchoring::Wait => {
            let message = "the proposal or order that it is about has not arrived here yet";
            Some(Verdict::Waiting(Refusal::new(Reason::UnknownProposal, message)))
        }
        Anchoring::Refuse(why) => {
            let refusal = Refusal::new(reason(commons.state(), statement, &why), why.to_string());
            // What is not known here may still arrive; everything else stays wrong.
            Some(match refusal.reason {
                Reason::UnknownParent | Reason::UnknownProposal => Verdict::Waiting(refusal),
                _ => Verdict::Refused(refusal),
            })
        }
    }
}

fn anchored_anywhere(commons: &Commons, statement: &Statement) -> Option<Verdict> {
    let author = commons.state().member(statement.author())?;
    let log = author.member.keys.operator;
    let id = statement.id();
    // Both branches of a forked log: what stands in the second one is anchored too, and void.
    let mut entries = commons.replica().all(&log);
    match entries.find(|entry| entry.statement.nested().is_some_and(|nested| nested.id() == id)) {
        Some(entry) => {
            let at = entry.statement.header().issued_at;
            Some(Verdict::Anchored { entry: entry.id(), seq: entry.seq(), log, at })
        }
        None => commons.replica().past_that_says(&log, &id).map(settled),
    }
}

fn settled(past: Past) -> Verdict {
    Verdict::Settled { seq: past.seq, at: past.issued_at }
}

fn reason(state: &State, statement: &Statement, why: &NotAnchored) -> Reason {
    let key = || wrong_key(state, statement);
    match why {
        NotAnchored::OtherCooperative => Reason::ForeignCooperative,
        NotAnchored::NotAnchorable(_) => Reason::PayloadMalformed,
        NotAnchored::NotOurs(_) => Reason::NotSeat,
        NotAnchored::NotActive(_) => Reason::NotElector,
        NotAnchored::WrongKeyRole(_) => key(),
        NotAnchored::KeyReplaced(_) => Reason::KeyReplaced,
        NotAnchored::FromTheFuture { .. } => Reason::TimesInvalid,
        NotAnchored::UnknownProposal => Reason::UnknownProposal,
        NotAnchored::ProposalOver(_) | NotAnchored::TooLate { .. } => Reason::TooLate,
        NotAnchored::Vote(verdict) => ballot(*verdict, key),
        NotAnchored::Keys(_) => Reason::KeysUnchanged,
        NotAnchored::NoAppeal => Reason::NothingToAppeal,
        NotAnchored::Order(OrderProblem::Again(_)) => Reason::Barred,
        NotAnchored::Order(_) => Reason::ActionInvalid,
        NotAnchored::OrderOver => Reason::Lapsed,
        NotAnchored::Proposal(why) => invalid(why, key),
    }
}

/// The reason why a proposal may not be voted on. `key` says what a wrong key is.
#[must_use]
pub fn invalid(why: &Invalid, key: impl FnOnce() -> Reason) -> Reason {
    match why {
        Invalid::AnchorVoid => Reason::LogForked,
        Invalid::UnknownMembership(_) | Invalid::UnknownParent { .. } | Invalid::UnknownCharter(_) => {
            Reason::UnknownParent
        }
        Invalid::UnknownTarget(_) => Reason::UnknownProposal,
        Invalid::OtherRules { .. } => Reason::UnsupportedRules,
        Invalid::AuthorNotActive(_) => Reason::NotElector,
        Invalid::WrongKey(_) => key(),
        Invalid::Time { .. } | Invalid::TooLateToCancel { .. } => Reason::TimesInvalid,
        Invalid::TooManyOpen { .. } => Reason::TooManyOpen,
        _ => Reason::ActionInvalid,
    }
}

/// The reason why a vote is, or is not, in the tally.
#[must_use]
pub fn ballot(verdict: Ballot, key: impl FnOnce() -> Reason) -> Reason {
    match verdict {
        Ballot::Counted => Reason::Counted,
        Ballot::Superseded | Ballot::AlreadyFinal => Reason::SupersededByVote,
        Ballot::Equivocation | Ballot::VetoWithoutGround | Ballot::TooManyVotes => Reason::PayloadMalformed,
        Ballot::NotElector => Reason::NotElector,
        Ballot::WrongKeyRole => key(),
        Ballot::Revoked => Reason::UnknownKey,
        Ballot::TooEarly => Reason::TooEarly,
        Ballot::TooLate | Ballot::AnchoredTooLate | Ballot::NotInBox => Reason::TooLate,
        Ballot::Recused => Reason::Recused,
        Ballot::LogForked => Reason::LogForked,
        Ballot::OverBudget => Reason::OverBudget,
        Ballot::NoProposal => Reason::UnknownProposal,
    }
}

/// An operator key that tries to vote is another matter than a key that nobody knows: it may be stolen.
fn wrong_key(state: &State, statement: &Statement) -> Reason {
    let is_operators = state.members().values().any(|member| member.member.keys.operator == statement.header().key);
    if is_operators { Reason::OperatorKeyNotAllowed } else { Reason::UnknownKey }
}

/// The order in which candidates are anchored: proposals before the votes on them, older before newer.
#[must_use]
pub fn order(candidate: &Candidate) -> (u8, i64, Option<StatementId>) {
    match &candidate.statement {
        Ok(statement) => {
            let rank = u8::from(*statement.kind() != Kind::Proposal);
            (rank, statement.header().issued_at.0, Some(statement.id()))
        }
        Err(_) => (u8::MAX, 0, None),
    }
}
