//! Whether a proposal may be voted on at all: judged from itself, its pinned version and its author's log alone, so
//! that it never depends on what else an operator happens to know.

use std::collections::{BTreeMap, BTreeSet};

use super::Numbers;
use super::chain::Membership;
use super::gather::{Anchored, as_proposal};
use super::hearing::{self, Appealed};
use super::keys::{Logs, in_force, is_closed};
use super::standing;
use crate::body::charter::{self, Class, ClassRules, MAX_MEMBERS, MAX_MEMBERS_COMPLETE, Parameters};
use crate::body::member::Member;
use crate::body::norms::NormError;
use crate::body::proposal::{Action, Proposal, Scope};
use crate::body::{Body, RULES_SUPPORTED};
use crate::ids::{MemberId, PolicyHash, PublicKey, Seconds, StatementId, UnixSeconds};
use crate::statement::Statement;

/// Why a proposal is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Its anchor does not count.
    #[error("its author's log forked, or had used up its day, before it was anchored")]
    AnchorVoid,
    /// The membership that it pins is not known here.
    #[error("membership version {0} is not known here")]
    UnknownMembership(PolicyHash),
    /// Its author was no member of that version.
    #[error("{0} is not an Active member of the membership that it names")]
    AuthorNotActive(MemberId),
    /// It is signed by a key that may not propose.
    #[error("it is signed by {0}, which is not a governance key of its author (an operator key cannot propose)")]
    WrongKey(PublicKey),
    /// The version that it follows is not known here.
    #[error("version {parent} of {scope} is not known here")]
    UnknownParent {
        /// The chain.
        scope: Scope,
        /// The version.
        parent: PolicyHash,
    },
    /// Its action belongs to another chain.
    #[error("its action belongs to scope {expected}, it names {seen}")]
    WrongScope {
        /// The action's.
        expected: Scope,
        /// The proposal's.
        seen: Scope,
    },
    /// Its action is decided by another class.
    #[error("its action is decided by class {expected}, it names {seen}")]
    WrongClass {
        /// The action's.
        expected: Class,
        /// The proposal's.
        seen: Class,
    },
    /// A change of members must be voted on by the members that it follows.
    #[error("a change of members must name the same version as parent and as membership")]
    PinnedElsewhere,
    /// One of its times is not what its class asks for.
    #[error("its {what} is {seen}, its class asks for {rule} {expected}")]
    Time {
        /// Which time.
        what: &'static str,
        /// What it is.
        seen: UnixSeconds,
        /// At least, or exactly.
        rule: &'static str,
        /// What it should be.
        expected: UnixSeconds,
    },
    /// It takes a vote away from somebody whom it does not concern.
    #[error("it names a subject that its action is not about")]
    Subject,
    /// Its author has too many others open.
    #[error("its author had {open} proposals open, the charter allows {allowed}")]
    TooManyOpen {
        /// How many.
        open: u32,
        /// How many are allowed.
        allowed: u32,
    },
    /// Too few members have signed for the applicant.
    #[error("{seen} of the {needed} members that are needed have signed for the applicant: have it co-signed")]
    Sponsors {
        /// How many.
        seen: usize,
        /// How many are needed.
        needed: usize,
    },
    /// It would take the vote of a member that does not say itself that it has an interest.
    #[error(
        "it names an interest of {0}, which has not signed it: a member's vote is left out only by its own signature"
    )]
    Interest(MemberId),
    /// The applicant's id or one of its keys was a member's before.
    #[error("the applicant's id or one of its keys belongs or belonged to a member: choose others")]
    IdOrKeyUsed,
    /// It would confirm a member that is not new.
    #[error("{0} is not on probation in the membership that it names")]
    NotOnProbation(MemberId),
    /// It would count a member again that is counted.
    #[error("{0} is not dormant in the membership that it names")]
    NotDormant(MemberId),
    /// It would count a member no more that is there.
    #[error("{member} is not silent: its log has an entry of {last_entry}")]
    NotSilent {
        /// Which member.
        member: MemberId,
        /// When it last wrote one.
        last_entry: UnixSeconds,
    },
    /// It would lift nothing, or more than anybody weighs.
    #[error("it names {0} proofs: between 1 and 64 are needed")]
    Proofs(usize),
    /// Nothing that it rests on, or more than anybody reads.
    #[error("it names {0} pieces of evidence: between 1 and 16 are needed")]
    Evidence(usize),
    /// It is no second vote on an appeal.
    #[error(
        "appeal {0} leads to no second vote now: it must be about an expulsion of the same member, the first of its kind and not yet in effect"
    )]
    NoSecondVote(StatementId),
    /// The new keys contradict each other.
    #[error("the member could not be one with these keys: {0}")]
    Keys(String),
    /// A new key has not signed, so nobody knows that its owner holds it.
    #[error(
        "it must be signed by the new operator key and by one of the new governance keys too, and {0} has not signed"
    )]
    KeyNotProved(PublicKey),
    /// More members than the rules in force can seal for.
    #[error(
        "the cooperative has all the members that its rules can seal for: {MAX_MEMBERS} under rules 1, {MAX_MEMBERS_COMPLETE} under rules 2"
    )]
    TooManyMembers,
    /// Too few members for one of them to be expelled.
    #[error("the cooperative has {0} members: with two they part, and neither can put the other out")]
    TooFewMembers(usize),
    /// It follows other rules than those in force.
    #[error("it follows rules {seen}, rules {in_force} are in force")]
    OtherRules {
        /// Its rules, or those that it would set.
        seen: u32,
        /// The cooperative's.
        in_force: u32,
    },
    /// The charter version that it pins is not known here.
    #[error("charter version {0} is not known here")]
    UnknownCharter(PolicyHash),
    /// The charter that it would make contradicts itself.
    #[error("the charter would not hold: {0}")]
    Charter(String),
    /// What it would cancel is not known here.
    #[error("proposal {0}, which it would cancel, is not known here")]
    UnknownTarget(StatementId),
    /// The cancellation would be decided too late.
    #[error("it closes at {closes_at}, and to stop that proposal it must close by {latest}")]
    TooLateToCancel {
        /// Its own close.
        closes_at: UnixSeconds,
        /// Three graces before the other takes effect.
        latest: UnixSeconds,
    },
    /// The application is missing or not understood.
    #[error("it carries no application that holds")]
    NoApplication,
    /// Its engine contradicts itself.
    #[error("its engine cannot be used: {0}")]
    Engine(String),
    /// What it would put in force for all work contradicts itself.
    #[error("what it sets would not hold: {0}")]
    Norm(#[from] NormError),
    /// Its term is beyond any that could have been reached.
    #[error("its term {0} is beyond any that could have been reached")]
    Term(u32),
}

impl Invalid {
    /// A short name for conditions and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::AnchorVoid => "AnchorVoid",
            Self::UnknownMembership(_) => "UnknownMembership",
            Self::AuthorNotActive(_) => "AuthorNotActive",
            Self::WrongKey(_) => "WrongKeyRole",
            Self::UnknownParent { .. } => "UnknownParent",
            Self::WrongScope { .. } => "WrongScope",
            Self::WrongClass { .. } => "WrongClass",
            Self::PinnedElsewhere => "PinnedElsewhere",
            Self::Time { .. } => "WrongTime",
            Self::Subject => "WrongSubject",
            Self::TooManyOpen { .. } => "TooManyOpen",
            Self::Sponsors { .. } => "TooFewSponsors",
            Self::Interest(_) => "InterestNotSigned",
            Self::IdOrKeyUsed => "IdOrKeyUsed",
            Self::NotOnProbation(_) => "NotOnProbation",
            Self::NotDormant(_) => "NotDormant",
            Self::NotSilent { .. } => "NotSilent",
            Self::Proofs(_) => "NoProofs",
            Self::Evidence(_) => "NoEvidence",
            Self::NoSecondVote(_) => "NoSecondVote",
            Self::Keys(_) => "InvalidKeys",
            Self::KeyNotProved(_) => "KeyNotProved",
            Self::TooManyMembers => "TooManyMembers",
            Self::TooFewMembers(_) => "TooFewMembers",
            Self::OtherRules { .. } => "OtherRules",
            Self::UnknownCharter(_) => "UnknownCharter",
            Self::Charter(_) => "InvalidCharter",
            Self::UnknownTarget(_) => "UnknownTarget",
            Self::TooLateToCancel { .. } => "TooLateToCancel",
            Self::NoApplication => "NoApplication",
            Self::Engine(_) => "InvalidEngine",
            Self::Norm(_) => "InvalidNorm",
            Self::Term(_) => "WrongTerm",
        }
    }
}

/// Everything that a proposal is judged against.
pub(super) struct Known<'a> {
    pub memberships: &'a super::Memberships,
    pub charters: &'a BTreeMap<PolicyHash, Numbers>,
    /// The founding charter's version.
    pub founding: PolicyHash,
    /// The rules in force.
    pub rules: u32,
    /// Proposals, for those that are about one.
    pub proposal: &'a dyn Fn(StatementId) -> Option<&'a Proposal>,
    /// What an appeal is about.
    pub appeal: &'a dyn Fn(StatementId) -> Option<&'a Appealed>,
    pub is_version: &'a dyn Fn(Scope, &PolicyHash) -> bool,
    /// All logs, to judge which key was in force where.
    pub logs: &'a Logs,
    /// Every governance key that the owner of a log ever had.
    pub keys_ever: &'a dyn Fn(&PublicKey) -> Option<&'a BTreeSet<PublicKey>>,
}

/// By whom a proposal is signed.
pub(super) struct Signed<'a> {
    /// The governance keys of its author that are in force where it is or would be anchored.
    pub in_force: Option<BTreeSet<PublicKey>>,
    /// All keys that signed.
    pub signers: &'a BTreeSet<PublicKey>,
}

/// Judges an anchored proposal: it holds if it does at any of the places at which it stands.
pub(super) fn judge(known: &Known<'_>, anchored: &Anchored) -> Result<(), Invalid> {
    let judged = judge_at(known, anchored, &anchored.signers);
    judged.or_else(|problem| {
        let elsewhere = anchored.elsewhere.iter().any(|place| judge_at(known, place, &anchored.signers).is_ok());
        if elsewhere { Ok(()) } else { Err(problem) }
    })
}

fn judge_at(known: &Known<'_>, anchored: &Anchored, signers: &BTreeSet<PublicKey>) -> Result<(), Invalid> {
    let Some((statement, proposal)) = anchored.statement().and_then(|s| Some((s, as_proposal(s)?))) else {
        return Err(Invalid::AnchorVoid);
    };
    if anchored.anchor.void.is_some() {
        return Err(Invalid::AnchorVoid);
    }
    let numbers = numbers(known, proposal)?;
    let allowed = numbers.parameters.max_open_proposals;
    if anchored.open_before >= allowed {
        return Err(Invalid::TooManyOpen { open: anchored.open_before, allowed });
    }
    let pinned = known.memberships.get(&proposal.membership);
    let is_closed = pinned.is_some_and(|pinned| is_closed(known.logs, pinned, &anchored.anchor.log));
    let in_force = in_force(known.logs, anchored)
        .map(|set| set.governance)
        .map(|keys| if is_closed { BTreeSet::new() } else { keys });
    judge_statement(known, statement, proposal, &Signed { in_force, signers })
}

/// The charter's numbers by which a proposal is decided.
fn numbers<'a>(known: &Known<'a>, proposal: &Proposal) -> Result<&'a Numbers, Invalid> {
    let pinned = proposal.charter.unwrap_or(known.founding);
    known.charters.get(&pinned).ok_or(Invalid::UnknownCharter(pinned))
}

/// Judges a proposal by what it says alone, as before anchoring it.
pub(super) fn judge_statement(
    known: &Known<'_>,
    statement: &Statement,
    proposal: &Proposal,
    signed: &Signed<'_>,
) -> Result<(), Invalid> {
    let pinned = known.memberships.get(&proposal.membership).ok_or(Invalid::UnknownMembership(proposal.membership))?;
    let header = statement.header();
    if !pinned.members.contains_key(&header.author) {
        return Err(Invalid::AuthorNotActive(header.author.clone()));
    }
    let governs = match &signed.in_force {
        Some(keys) if proposal.since_rules() >= 2 => keys.contains(&header.key),
        _ => pinned.governance(&header.author, &header.key),
    };
    if !governs {
        return Err(Invalid::WrongKey(header.key));
    }
    let (scope, class) = (proposal.action.scope(), proposal.action.class());
    if scope != proposal.scope {
        return Err(Invalid::WrongScope { expected: scope, seen: proposal.scope });
    }
    if class != proposal.class {
        return Err(Invalid::WrongClass { expected: class, seen: proposal.class });
    }
    if !(known.is_version)(scope, &proposal.parent) {
        return Err(Invalid::UnknownParent { scope, parent: proposal.parent });
    }
    // A member that signs in a term never signs in a lower one, so a huge term would silence a slot.
    if proposal.term > 1_000 {
        return Err(Invalid::Term(proposal.term));
    }
    // Rules 1 are not repeated once later ones are in force: what they decided stands, what they did not is proposed anew.
    if proposal.since_rules() > known.rules || (proposal.since_rules() >= 2) != proposal.charter.is_some() {
        return Err(Invalid::OtherRules { seen: proposal.since_rules(), in_force: known.rules });
    }
    let numbers = numbers(known, proposal)?;
    if let Some(rules) = numbers.classes.get(&class) {
        judge_times(&hearing::pace(rules, &proposal.action), &numbers.parameters, header.issued_at, proposal)?;
    }
    // Whoever proposes could otherwise leave out all that are against it.
    let agrees = |id: &&MemberId| pinned.get(id).is_some_and(|member| has_signed(known, member, signed, true));
    if let Some(member) = proposal.interested.iter().find(|id| !agrees(id)) {
        return Err(Invalid::Interest(member.clone()));
    }
    judge_action(known, &numbers.parameters, pinned, statement, proposal, signed)
}

/// Whether `member` has signed besides. That signature has no place in its own log, so under rules 2 any key that it ever had
/// there does: what is known of it only grows, and with it the proposals that hold.
fn has_signed(known: &Known<'_>, member: &Member, signed: &Signed<'_>, complete: bool) -> bool {
    let ever = (known.keys_ever)(&member.keys.operator).filter(|_| complete);
    let has = |key: &PublicKey| member.keys.governance.contains(key) || ever.is_some_and(|e| e.contains(key));
    signed.signers.iter().any(has)
}

fn judge_times(
    rules: &ClassRules,
    parameters: &Parameters,
    issued_at: UnixSeconds,
    proposal: &Proposal,
) -> Result<(), Invalid> {
    let at_least = |what, seen: UnixSeconds, expected: UnixSeconds| {
        if seen >= expected { Ok(()) } else { Err(Invalid::Time { what, seen, rule: "at least", expected }) }
    };
    let exactly = |what, seen: UnixSeconds, expected: UnixSeconds| {
        if seen == expected { Ok(()) } else { Err(Invalid::Time { what, seen, rule: "exactly", expected }) }
    };
    at_least("opensAt", proposal.opens_at, issued_at.plus(rules.delay_seconds))?;
    at_least("closesAt", proposal.closes_at, proposal.opens_at.plus(rules.period_seconds))?;
    exactly("eta", proposal.eta, proposal.closes_at.plus(after_close(rules, parameters)))?;
    exactly("expiresAt", proposal.expires_at, proposal.eta.plus(parameters.enact_window_seconds))
}

/// From the close of a box to the effect.
pub(super) fn after_close(rules: &ClassRules, parameters: &Parameters) -> Seconds {
    Seconds(parameters.grace_seconds.0.saturating_add(rules.timelock_seconds.0))
}

fn judge_action(
    known: &Known<'_>,
    parameters: &Parameters,
    pinned: &Membership,
    statement: &Statement,
    proposal: &Proposal,
    signed: &Signed<'_>,
) -> Result<(), Invalid> {
    match &proposal.action {
        Action::Admit(_) => {
            if proposal.parent != proposal.membership {
                return Err(Invalid::PinnedElsewhere);
            }
            let Some(Body::Application(application)) = statement.nested().map(Statement::body) else {
                return Err(Invalid::NoApplication);
            };
            let member = &application.member;
            if proposal.subject.as_ref().is_some_and(|subject| *subject != member.id) {
                return Err(Invalid::Subject);
            }
            let most = if known.rules >= 2 { MAX_MEMBERS_COMPLETE } else { MAX_MEMBERS };
            if pinned.members.len() + pinned.aside.len() >= most {
                return Err(Invalid::TooManyMembers);
            }
            let used = pinned.used_ids.contains(&member.id) || member.keys.all().any(|k| pinned.used_keys.contains(&k));
            if used {
                return Err(Invalid::IdOrKeyUsed);
            }
            let needed = (parameters.sponsors as usize).min(pinned.members.len());
            let complete = proposal.since_rules() >= 2;
            let is_sponsor = |member: &&Member| has_signed(known, member, signed, complete);
            match pinned.members.values().filter(is_sponsor).count() {
                seen if seen < needed => Err(Invalid::Sponsors { seen, needed }),
                _ => Ok(()),
            }
        }
        Action::Expel(expel) => {
            if proposal.parent != proposal.membership {
                return Err(Invalid::PinnedElsewhere);
            }
            if proposal.subject.as_ref() != Some(&expel.member) || pinned.get(&expel.member).is_none() {
                return Err(Invalid::Subject);
            }
            hearing::judge_evidence(&expel.evidence)?;
            if let Some(appeal) = expel.appeal {
                hearing::judge_second_vote(known, statement, expel, appeal)?;
            }
            // Two members part; neither can put the other out.
            if pinned.members.len() < 3 && pinned.members.contains_key(&expel.member) {
                Err(Invalid::TooFewMembers(pinned.members.len()))
            } else {
                Ok(())
            }
        }
        Action::ResetKeys(reset) => standing::judge_reset(pinned, proposal, reset, signed.signers),
        Action::Confirm(confirm) => standing::judge_confirm(pinned, proposal, confirm),
        Action::MarkDormant(mark) => standing::judge_dormant(pinned, proposal, mark),
        Action::Reactivate(wake) => standing::judge_reactivate(pinned, proposal, wake),
        Action::LiftQuarantine(lift) => standing::judge_lift(pinned, proposal, lift),
        Action::Suspend(suspend) => standing::judge_subject(pinned, proposal, &suspend.member),
        Action::Reinstate(reinstate) => standing::judge_subject(pinned, proposal, &reinstate.member),
        // No other action of rules 1 is about a member: a subject would only take a vote away.
        _ if proposal.subject.is_some() => Err(Invalid::Subject),
        Action::AddEngine(add) => add.engine.validate().map_err(|error| Invalid::Engine(error.to_string())),
        Action::SetRules(set) => {
            // By the rules of the version that it follows: once it is in force it must not be what makes itself wrong.
            let followed = known.charters.get(&proposal.parent).map_or(known.rules, |numbers| numbers.rules);
            if !RULES_SUPPORTED.contains(&set.rules) || set.rules <= followed {
                return Err(Invalid::OtherRules { seen: set.rules, in_force: followed });
            }
            set.deliberation.validate().map_err(|error| Invalid::Charter(error.to_string()))
        }
        Action::ChangeCharter(change) => {
            if change.parameters.deliberation.is_none() {
                return Err(Invalid::Charter("parameter deliberation is missing".to_owned()));
            }
            charter::validate_numbers(&change.parameters, &change.classes)
                .map_err(|error| Invalid::Charter(error.to_string()))
        }
        Action::CancelProposal(cancel) => {
            let target = (known.proposal)(cancel.proposal).ok_or(Invalid::UnknownTarget(cancel.proposal))?;
            let grace = parameters.grace_seconds.0;
            let latest = target.eta.minus(Seconds(grace.saturating_mul(3)));
            if proposal.closes_at > latest {
                return Err(Invalid::TooLateToCancel { closes_at: proposal.closes_at, latest });
            }
            Ok(())
        }
        Action::SetPlacementRules(rules) => Ok(rules.validate()?),
        Action::SetShares(shares) => Ok(shares.validate()?),
        Action::SetPrices(prices) => Ok(prices.validate()?),
        Action::SetAuditRate(rate) => Ok(rate.validate()?),
        Action::Checkpoint(checkpoint) => Ok(checkpoint.validate()?),
        Action::AdviseOperatorRelease(_) => Ok(()),
        Action::AddModelRelease(_) | Action::WithdrawModelRelease(_) | Action::RemoveEngine(_) => Ok(()),
    }
}
