//! What people are shown of a vote, beyond what decides it: whose choice counts for whom, who decides by which numbers,
//! and what would be in force if it passed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Enactment, State, version_hash};
use crate::body::Body;
use crate::body::charter::ClassRules;
use crate::body::member::Member;
use crate::body::proposal::{Action, Choice, Proposal};
use crate::ids::{ControlGroup, MemberId, StatementId};
use crate::merkle;
use crate::statement::Statement;

/// What counts for a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// As what.
    pub choice: Choice,
    /// How it came about.
    pub through: Through,
}

/// How the choice of a control group came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Through {
    /// One of its members voted.
    Vote(StatementId),
    /// One of its members declared an interest: it abstains.
    Recusal,
    /// It did not vote, and had left that to this member.
    Delegate(MemberId),
}

/// A vote that one member has left to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// The delegation.
    pub delegation: StatementId,
    /// Whose vote.
    pub from: MemberId,
    /// Who casts it.
    pub to: MemberId,
    /// What becomes of it.
    pub fate: DelegationFate,
}

/// What becomes of a delegation in one box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DelegationFate {
    /// It counts.
    Counts,
    /// The other has not voted itself.
    Waits,
    /// It is not needed: its author has voted, or abstains for an interest.
    Own,
    /// One of the two is no elector.
    NotElector,
    /// The other abstains for an interest.
    OtherRecused,
    /// Its author gave two choices under one number.
    Equivocation,
    /// As many as the charter allows vote through the other already.
    OverCap,
}

/// Who decides a proposal, by which numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electorate {
    /// Who votes: the control groups and their members.
    pub electors: BTreeMap<ControlGroup, BTreeSet<MemberId>>,
    /// How its class decides.
    pub rules: ClassRules,
}

impl State {
    /// Who decides `proposal`, anchored or drafted; none if what it pins is not known here.
    pub fn electorate(&self, proposal: &Proposal) -> Option<Electorate> {
        let membership = self.membership_version(&proposal.membership)?;
        let rules = *self.numbers(proposal)?.classes.get(&proposal.class)?;
        Some(Electorate { electors: membership.electors(proposal.subject.iter().chain(&proposal.interested)), rules })
    }

    /// What would be in force if `proposal` were enacted now. A cancellation changes nothing that is in force.
    pub fn preview(&self, id: StatementId, proposal: &Proposal) -> Self {
        let mut next = self.clone();
        let root = merkle::root(&BTreeSet::new());
        let enacted = Enactment {
            proposal: id,
            root,
            version: version_hash(proposal.scope, proposal.parent, id, root),
            term: proposal.term,
            settled_at: proposal.expires_at,
            close_seals: BTreeSet::new(),
            enact_seals: BTreeSet::new(),
        };
        next.apply(proposal, applicant(&proposal.action).as_ref(), &enacted);
        next.follow(proposal.scope, enacted);
        next
    }
}

/// The member that an action admits.
pub fn applicant(action: &Action) -> Option<Member> {
    let Action::Admit(admit) = action else { return None };
    match Statement::verify(admit.application.clone()).ok()?.body() {
        Body::Application(application) => Some(application.member.clone()),
        _ => None,
    }
}
