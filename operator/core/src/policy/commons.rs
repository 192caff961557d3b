//! Charter, logs and what they amount to, kept together; and what the own operator anchors.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::State;
use super::ballot::{Poll, Verdict};
use super::checkpoint::{self, NotSettled};
use super::emergency::OrderProblem;
use super::gather::as_proposal;
use super::keys::KeyProblem;
use super::readings::Memory;
use super::validity::{Invalid, Signed, judge_statement};
use crate::body::Body;
use crate::body::entry::Head;
use crate::body::norms::Checkpoint;
use crate::body::proposal::Proposal;
use crate::founding::Founding;
use crate::ids::{MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds};
use crate::kind::Place;
use crate::log::{Inserted, Limits, Past, Recollection, Refused, Replica, Settled};
use crate::sealing::came_late;
use crate::statement::Statement;

/// What became of many entries.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// New here, each behind the one that it follows.
    pub stored: Vec<StatementId>,
    /// Not taken, and why.
    pub refused: Vec<(StatementId, Refused)>,
}

/// The commons of one cooperative as one member holds it.
#[derive(Clone, Debug)]
pub struct Commons {
    founding: Arc<Founding>,
    replica: Replica,
    state: Arc<State>,
    /// Checkpoints that were proposed, and whether they are what remains of the entries up to them.
    judged: BTreeMap<StatementId, bool>,
    memory: Memory,
    /// Nothing was taken since it was last looked at whether something can be forgotten.
    looked: bool,
}

/// Why a member cannot begin with what it remembers of what it forgot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRecalled {
    /// Entries that are needed are not there.
    #[error("{0} entries that are still needed are missing, {1} first")]
    Missing(usize, StatementId),
    /// It leads to another state than the one that the cooperative sealed.
    #[error("what is remembered is not what a checkpoint in force names")]
    NotSealed,
}

impl Commons {
    /// The commons at its founding.
    pub fn new(founding: Founding, limits: Limits) -> Self {
        let replica = Replica::new(&founding, limits);
        let mut memory = Memory::default();
        let state = Arc::new(State::fold_again(&founding, &replica, &mut memory));
        Self { founding: Arc::new(founding), replica, state, judged: BTreeMap::new(), memory, looked: false }
    }

    /// The commons from entries that were stored, in any order; the second part is what was refused.
    pub fn load(
        founding: Founding,
        limits: Limits,
        entries: impl IntoIterator<Item = Statement>,
    ) -> (Self, Vec<(StatementId, Refused)>) {
        let mut commons = Self::new(founding, limits);
        let refused = commons.insert_all(entries);
        (commons, refused)
    }

    /// The commons of a member that has forgotten what a checkpoint settled, from what it finds when it starts again: what
    /// remains of that, and every other entry.
    ///
    /// # Errors
    /// Where the two do not lead to the checkpoint that says so: then every entry is needed.
    pub fn recall(
        founding: Founding,
        limits: Limits,
        recollection: Recollection,
        entries: impl IntoIterator<Item = Statement>,
    ) -> Result<(Self, Vec<(StatementId, Refused)>), NotRecalled> {
        if let Some(first) = recollection.missing().next() {
            return Err(NotRecalled::Missing(recollection.missing().count(), first));
        }
        let mut commons = Self::new(founding, limits);
        commons.replica.recall(recollection);
        commons.refold();
        let refused = commons.insert_all(entries);
        let is_sealed = commons.replica.settled().is_some_and(|settled| checkpoint::is_sealed(&commons.state, settled));
        is_sealed.then_some((commons, refused)).ok_or(NotRecalled::NotSealed)
    }

    /// Takes one entry and everything that follows from it.
    pub fn insert(&mut self, entry: Statement) -> Result<Inserted, Refused> {
        let inserted = self.replica.insert(entry)?;
        if matches!(inserted, Inserted::Stored { .. }) {
            self.refold();
            self.replica.take_news();
        }
        Ok(inserted)
    }

    /// Takes many entries with one fold; members that they admit are taken along with their entries.
    pub fn insert_all<S: Into<Arc<Statement>>>(
        &mut self,
        entries: impl IntoIterator<Item = S>,
    ) -> Vec<(StatementId, Refused)> {
        self.take_all(entries).refused
    }

    /// Like [`Commons::insert_all`], and says which entries are new here, so that they can be stored.
    pub fn take_all<S: Into<Arc<Statement>>>(&mut self, entries: impl IntoIterator<Item = S>) -> Taken {
        let mut waiting: Vec<Arc<Statement>> = entries.into_iter().map(Into::into).collect();
        let mut taken = Taken::default();
        loop {
            let mut unknown = Vec::new();
            let mut news = false;
            for entry in waiting {
                if !self.replica.knows(&entry.header().key) && entry.log_seq().is_some() {
                    unknown.push(entry);
                    continue;
                }
                let id = entry.id();
                match self.replica.insert(entry) {
                    Ok(inserted) => news |= matches!(inserted, Inserted::Stored { .. }),
                    Err(error) => taken.refused.push((id, error)),
                }
            }
            if news {
                self.refold();
            }
            if !unknown.iter().any(|entry| self.replica.knows(&entry.header().key)) {
                taken.refused.extend(unknown.into_iter().map(|e| (e.id(), Refused::UnknownLog(e.header().key))));
                taken.stored = self.replica.take_news();
                return taken;
            }
            waiting = unknown;
        }
    }

    fn refold(&mut self) {
        loop {
            let mut state = State::fold_again(&self.founding, &self.replica, &mut self.memory);
            #[cfg(test)]
            assert_eq!(state, State::fold(&self.founding, &self.replica), "what was remembered holds no more");
            // What was settled is known only once it is read; a conflict below it is read again without it.
            let mut again = self.replica.note_floor(state.floor());
            for (log, began) in state.logs() {
                again |= self.replica.know(*log, began.owner.clone());
            }
            if again {
                continue;
            }
            let judged = checkpoint::judge_all(&self.founding, &self.replica, &state, &mut self.judged);
            state.settleable_proposals = judged;
            self.state = Arc::new(state);
            self.looked = false;
            return;
        }
    }

    /// The checkpoint that could be proposed now, of what was written up to `before`.
    ///
    /// # Errors
    /// Where the rules in force know none.
    pub fn draft_checkpoint(&self, before: UnixSeconds) -> Result<Checkpoint, NotSettled> {
        self.checkpoint_at(self.state.settleable(&self.replica, before))
    }

    /// The checkpoint that ends at `logs`.
    ///
    /// # Errors
    /// Where no checkpoint can end there.
    pub fn checkpoint_at(&self, logs: BTreeMap<PublicKey, Head>) -> Result<Checkpoint, NotSettled> {
        let state = checkpoint::settle(&self.founding, &self.replica, &logs, &self.state.floor())?.digest();
        Ok(Checkpoint { logs, state })
    }

    /// Forgets what the newest checkpoint has settled, if that is news; what remains of it, to be kept for [`Commons::recall`].
    /// Whoever calls this must hold the entries elsewhere: they are still served. It costs a fold after something new was
    /// taken while a checkpoint cannot be recomputed here, and nothing otherwise.
    pub fn forget_settled(&mut self) -> Option<Arc<Settled>> {
        if std::mem::replace(&mut self.looked, true) {
            return None;
        }
        let settled = checkpoint::news(&self.founding, &self.replica, &self.state)?;
        self.replica.settle(settled.clone());
        self.refold();
        self.looked = true;
        Some(settled)
    }

    /// The first checkpoint in force that is not what remains of the entries up to it, with why: more members than may have
    /// sealed something else than they held. It costs a fold for each checkpoint, and all entries.
    pub fn false_checkpoint(&self) -> Option<(PolicyHash, String)> {
        checkpoint::first_false(&self.founding, &self.replica, &self.state)
    }

    /// This as if a checkpoint of everything that was written up to `before` were in force, and forgotten; nothing where none
    /// can be made.
    #[cfg(any(test, feature = "testkit"))]
    pub fn as_if_settled(&self, before: UnixSeconds) -> Option<Self> {
        let logs = self.state.settleable(&self.replica, before);
        let settled = checkpoint::settle(&self.founding, &self.replica, &logs, &self.state.floor()).ok()?;
        let mut forgetful = self.clone();
        forgetful.replica.settle(Arc::new(settled));
        forgetful.refold();
        Some(forgetful)
    }

    /// The founding.
    pub fn founding(&self) -> &Founding {
        &self.founding
    }
    /// The logs.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }
    /// What they amount to.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// What the operator of `me` with `log` does with a human statement that it was given.
    pub fn anchoring(&self, me: &MemberId, log: &PublicKey, statement: &Statement, now: UnixSeconds) -> Anchoring {
        let anchored =
            self.replica.entries(log).find(|e| e.statement.nested().is_some_and(|s| s.id() == statement.id()));
        if let (None, Some(past)) = (anchored, self.replica.past_that_says(log, &statement.id())) {
            return Anchoring::Settled(past);
        }
        match anchored {
            // A copy with further co-signatures is worth a second anchor: sponsors may sign one after the other.
            Some(entry) if !adds_signers(entry.statement.nested(), statement) => {
                Anchoring::Already { seq: entry.seq(), id: entry.id() }
            }
            _ => match self.state.may_anchor(me, statement, now) {
                Ok(()) => Anchoring::Anchor,
                Err(NotAnchored::UnknownProposal) => Anchoring::Wait,
                Err(error) => Anchoring::Refuse(error),
            },
        }
    }
}

fn adds_signers(held: Option<&Statement>, offered: &Statement) -> bool {
    held.is_some_and(|held| offered.signers().any(|key| !held.envelope().signed_by(key)))
}

/// What to do with a human statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchoring {
    /// Append an anchor entry for it.
    Anchor,
    /// It has its place.
    Already {
        /// Where in the own log.
        seq: Seq,
        /// The anchor entry.
        id: StatementId,
    },
    /// It had its place, in an entry that a checkpoint has settled.
    Settled(Past),
    /// It is about something that is not known here yet.
    Wait,
    /// It would not count: say why instead of giving it a place.
    Refuse(NotAnchored),
}

/// Why a human statement is not anchored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnchored {
    /// It belongs to another cooperative.
    #[error("the statement belongs to another cooperative")]
    OtherCooperative,
    /// It is not one that people sign and operators anchor.
    #[error("a {0} statement is not anchored")]
    NotAnchorable(String),
    /// It is another member's, whose own operator anchors it.
    #[error("the statement is {0}'s: it counts only from the log of its author's own operator")]
    NotOurs(MemberId),
    /// This member is no Active member.
    #[error("{0} is not an Active member")]
    NotActive(MemberId),
    /// It is signed by a key that may not do that.
    #[error("the statement is signed by {0}, which is no governance key of its author (an operator key cannot vote)")]
    WrongKeyRole(PublicKey),
    /// It is signed by a key that speaks for its author no more.
    #[error("the statement is signed by {0}, which its author has replaced or taken back: sign it with a key in force")]
    KeyReplaced(PublicKey),
    /// It is dated ahead of this operator's clock.
    #[error("the statement is dated {issued_at}, it is {now} here: compare the clocks")]
    FromTheFuture {
        /// Its date.
        issued_at: UnixSeconds,
        /// The operator's.
        now: UnixSeconds,
    },
    /// The proposal that it votes on is not known here.
    #[error("the proposal that it votes on is not known here")]
    UnknownProposal,
    /// The proposal that it votes on is over.
    #[error("the proposal is {0}: votes on it no longer count")]
    ProposalOver(&'static str),
    /// It is a vote that would not count.
    #[error("the vote would not count: {0}")]
    Vote(Verdict),
    /// It is an appeal that leads to no second vote.
    #[error(
        "there is nothing to appeal against: a first vote to expel this member must have passed and not be in effect, and the appeal name evidence that it does not"
    )]
    NoAppeal,
    /// It is an order that cannot take effect.
    #[error("the order would have no effect: {0}")]
    Order(OrderProblem),
    /// It is a signature under an order that has lapsed, is barred, or is about the member that signs.
    #[error("the order has lapsed, may not be repeated so soon, or is about this member")]
    OrderOver,
    /// It would not change the keys of its author.
    #[error("the keys would stay as they are: {0}")]
    Keys(KeyProblem),
    /// It is a proposal, and the others would have too little time left to vote.
    #[error("more than half of its vote, until {closes_at}, is over: propose it again")]
    TooLate {
        /// When the vote closes.
        closes_at: UnixSeconds,
    },
    /// It is a proposal that is not valid.
    #[error("the proposal is not valid: {0}")]
    Proposal(Invalid),
}

impl State {
    /// Whether the operator of `me` should give `statement` a place in its log.
    pub fn may_anchor(&self, me: &MemberId, statement: &Statement, now: UnixSeconds) -> Result<(), NotAnchored> {
        let header = statement.header();
        if statement.coop() != self.coop() {
            return Err(NotAnchored::OtherCooperative);
        }
        if statement.kind().place() != Some(Place::Human) {
            return Err(NotAnchored::NotAnchorable(statement.kind().to_string()));
        }
        if header.author != *me {
            return Err(NotAnchored::NotOurs(header.author.clone()));
        }
        let member = self.member(me).filter(|m| !m.standing.is_gone());
        let member = member.ok_or_else(|| NotAnchored::NotActive(me.clone()))?;
        let about_keys = matches!(statement.body(), Body::KeyUpdate(_) | Body::KeyRevocation(_)) && self.rules() >= 2;
        if !about_keys && !member.member.keys.governance.contains(&header.key) {
            let had = self.key_set(me).is_some_and(|set| set.retired.contains(&header.key));
            return Err(if had { NotAnchored::KeyReplaced } else { NotAnchored::WrongKeyRole }(header.key));
        }
        if header.issued_at > now.plus(self.parameters().clock_tolerance_seconds) {
            return Err(NotAnchored::FromTheFuture { issued_at: header.issued_at, now });
        }
        match statement.body() {
            Body::Proposal(proposal) => {
                self.judge_unanchored(statement, proposal).map_err(NotAnchored::Proposal)?;
                // Signatures under what is anchored may still come.
                let is_new = proposal.since_rules() >= 2 && !self.proposals().contains_key(&statement.id());
                let tolerance = self.parameters().clock_tolerance_seconds;
                if is_new && came_late(proposal, tolerance, now) {
                    return Err(NotAnchored::TooLate { closes_at: proposal.closes_at });
                }
                Ok(())
            }
            Body::KeyUpdate(_) | Body::KeyRevocation(_) if about_keys => {
                self.check_keys(statement).map_err(NotAnchored::Keys)
            }
            Body::Leave(_) => Ok(()),
            Body::Withdrawal(withdrawal) => self.may_still_say(withdrawal.proposal, now, |p| p.author == *me),
            Body::Recusal(recusal) => self.may_still_say(recusal.proposal, now, |_| true),
            Body::Reply(reply) => self.may_still_say(reply.proposal, now, |p| p.proposal.subject.as_ref() == Some(me)),
            Body::Appeal(appeal) if !self.proposals().contains_key(&appeal.proposal) => {
                Err(NotAnchored::UnknownProposal)
            }
            Body::Appeal(appeal) => self.may_appeal(me, appeal, now).then_some(()).ok_or(NotAnchored::NoAppeal),
            Body::EmergencyOrder(order) if self.rules() >= 2 => {
                self.order_problem(me, order, now).map_or(Ok(()), |problem| Err(NotAnchored::Order(problem)))
            }
            Body::CoSignature(signature) if !self.emergencies().contains_key(&signature.order) => {
                Err(NotAnchored::UnknownProposal)
            }
            Body::CoSignature(signature) => {
                self.may_co_sign(me, signature.order, now).then_some(()).ok_or(NotAnchored::OrderOver)
            }
            Body::Delegation(_) if self.rules() >= 2 => Ok(()),
            Body::Vote(vote) => {
                let on = self.proposals().get(&vote.proposal).ok_or(NotAnchored::UnknownProposal)?;
                let phase = self.phase(on, now);
                if phase.is_final() {
                    return Err(NotAnchored::ProposalOver(phase.name()));
                }
                let pinned = self.membership_version(&on.proposal.membership).ok_or(NotAnchored::UnknownProposal)?;
                let numbers = self.numbers(&on.proposal).ok_or(NotAnchored::UnknownProposal)?;
                let rules = numbers.classes.get(&on.proposal.class).ok_or(NotAnchored::UnknownProposal)?;
                let poll = Poll::new(&on.proposal, pinned, rules, &numbers.parameters, self.logs());
                let governs = poll.is_complete() || pinned.governance(&header.author, &header.key);
                match poll.judge(statement, vote, governs) {
                    Verdict::Counted => Ok(()),
                    verdict => Err(NotAnchored::Vote(verdict)),
                }
            }
            _ => Err(NotAnchored::NotAnchorable(statement.kind().to_string())),
        }
    }

    /// Whether something about a proposal of rules 2 can still have an effect.
    fn may_still_say(
        &self,
        proposal: StatementId,
        now: UnixSeconds,
        may: impl Fn(&super::ProposalState) -> bool,
    ) -> Result<(), NotAnchored> {
        let on = self.proposals().get(&proposal).ok_or(NotAnchored::UnknownProposal)?;
        let phase = self.phase(on, now);
        if phase.is_final() || !may(on) || on.rules < 2 {
            return Err(NotAnchored::ProposalOver(phase.name()));
        }
        Ok(())
    }

    /// Judges a proposal that is not anchored yet.
    pub fn check_proposal(&self, statement: &Statement) -> Result<(), Invalid> {
        let proposal = as_proposal(statement).ok_or(Invalid::AnchorVoid)?;
        self.judge_unanchored(statement, proposal)
    }

    fn judge_unanchored(&self, statement: &Statement, proposal: &Proposal) -> Result<(), Invalid> {
        let in_force = self.key_set(statement.author()).map(|set| set.governance.clone());
        let signers = statement.signers().copied().collect();
        let signed = Signed { in_force, signers: &signers };
        self.known(|known| judge_statement(known, statement, proposal, &signed))?;
        self.check_locally(proposal)
    }
}
