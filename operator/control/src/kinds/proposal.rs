//! `Proposal`: where each of them stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{ConditionType, Reason, Verdict};
use koinon_api::proposal::{
    Proposal, ProposalClass, ProposalSpec, ProposalState as Shown, ProposalStatus, Tally as ShownTally,
};
use koinon_api::{labels, names, time};
use koinon_core::ids::{StatementId, UnixSeconds};
use koinon_core::policy::{Commons, Phase, ProposalState};
use koinon_core::tally::Tally;
use kube::ResourceExt;

use crate::commons::candidate::Source;
use crate::commons::envelope::{from_resource, to_resource};
use crate::commons::people;
use crate::commons::view::CommonsView;
use crate::kinds::ballots::anchored;
use crate::kinds::projections::{Moment, Projected, set};

impl Projected for Proposal {
    type Status = ProposalStatus;

    fn bare(name: &str) -> Self {
        // Never written: proposals are made by people, and mirrors with their envelope.
        Proposal::new(
            name,
            ProposalSpec {
                title: String::new(),
                text: String::new(),
                class: ProposalClass::default(),
                action: None,
                envelope: None,
            },
        )
    }

    fn status(&self) -> Option<&ProposalStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: ProposalStatus) {
        self.status = Some(status);
    }

    fn conditions(status: &ProposalStatus) -> &[Condition] {
        &status.conditions
    }
}

/// The id of what a resource carries; `None` for a draft and for what cannot be read.
pub(crate) fn id_of(proposal: &Proposal) -> Option<StatementId> {
    let envelope = from_resource(proposal.spec.envelope.as_ref()?).ok()?;
    envelope.payload_digest().ok().map(StatementId)
}

/// A copy for reading of a proposal that was anchored somewhere.
pub(crate) fn mirror(commons: &Commons, id: StatementId) -> Option<Proposal> {
    let state = commons.state().proposals().get(&id)?;
    let envelope = anchored(commons, &state.author, id)?;
    // The two types have the same JSON; an action that a later version knows is left out.
    let action = serde_json::to_value(&state.proposal.action).ok().and_then(|json| serde_json::from_value(json).ok());
    let class = serde_json::to_value(state.proposal.class).ok().and_then(|json| serde_json::from_value(json).ok())?;
    let spec = ProposalSpec {
        title: state.proposal.title.to_string(),
        text: state.proposal.text.to_string(),
        class,
        action,
        envelope: Some(to_resource(&envelope)),
    };
    let mut mirror = Proposal::new(&names::proposal(&id.to_string()), spec);
    mirror.labels_mut().extend([
        (labels::MIRROR.to_owned(), labels::TRUE.to_owned()),
        (labels::AUTHOR.to_owned(), state.author.to_string()),
    ]);
    Some(mirror)
}

/// The status of every proposal that is there.
pub(crate) fn statuses(view: &CommonsView, all: &[Arc<Proposal>], moment: &Moment) -> BTreeMap<String, ProposalStatus> {
    all.iter().map(|proposal| (proposal.name_any(), status(view, proposal, moment))).collect()
}

fn status(view: &CommonsView, object: &Arc<Proposal>, moment: &Moment) -> ProposalStatus {
    let generation = object.metadata.generation;
    let before = object.status.clone().unwrap_or_default();
    let conditions = before.conditions.clone();
    let mut status = ProposalStatus { observed_generation: generation, conditions, ..ProposalStatus::default() };
    let name = object.name_any();
    let note = |conditions: &mut Vec<Condition>, type_, verdict| set(conditions, type_, verdict, generation, moment);
    if object.spec.envelope.is_none() {
        status.state = Some(Shown::Draft);
        let message = format!("a draft; sign it with: kubectl koinon propose --from {name}");
        note(&mut status.conditions, ConditionType::Signed, Verdict::no(Reason::Unsigned, message));
        return status;
    }
    let id = id_of(object);
    status.id = id.map(|id| id.to_string());
    let verdict = view.verdicts.get(&Source::Proposal(name));
    // A resource that is refused has no part in what its payload may have brought about elsewhere: its fields, or its
    // signature, are not those that the members voted on.
    let refused = matches!(verdict, Some(people::Verdict::Refused(_)));
    let known = id.filter(|_| !refused).and_then(|id| view.state.proposals().get(&id));
    let applied = Applied { known: known.is_some(), verdict };
    note(&mut status.conditions, ConditionType::Signed, applied.signed());
    note(&mut status.conditions, ConditionType::Anchored, applied.anchored());
    let Some(known) = known else {
        note(&mut status.conditions, ConditionType::Accepted, applied.accepted());
        status.state = Some(if refused { Shown::Invalid } else { Shown::Submitted });
        return status;
    };
    let accepted = match &known.invalid {
        Some(why) => Verdict::no(invalid_reason(why), why.to_string()),
        None => applied.accepted(),
    };
    note(&mut status.conditions, ConditionType::Accepted, accepted);
    if known.is_settled() {
        let message = "it stands in its author's log, and a checkpoint has settled it";
        note(&mut status.conditions, ConditionType::Anchored, Verdict::yes(Reason::Settled, message));
    }
    let phase = view.state.phase(known, moment.now);
    // It was shown with its votes, which are forgotten now; none are not what it had. Nor does what was decided of it become
    // something else without them.
    let is_shown =
        before.state == Some(shown(&phase)) || before.state.as_ref().is_some_and(is_final) && known.forgotten;
    if known.lacks_its_box() && is_shown {
        return ProposalStatus { observed_generation: generation, conditions: status.conditions, ..before };
    }
    let came_of_it = if known.is_settled() {
        // Its object was deleted and applied again: what it was is known from an audit only.
        Verdict::no(Reason::Settled, SETTLED)
    } else {
        enacted(view, known, &phase)
    };
    note(&mut status.conditions, ConditionType::Enacted, came_of_it);
    status.state = Some(shown(&phase));
    describe(&mut status, known, &phase);
    status
}

fn describe(status: &mut ProposalStatus, known: &ProposalState, phase: &Phase) {
    let body = &known.proposal;
    let at = |at: UnixSeconds| time::from_unix(at.0);
    status.author = Some(known.author.to_string());
    status.scope = Some(body.scope.to_string());
    status.tally = (!known.lacks_its_box()).then(|| tally(&known.ballot.tally));
    status.opens_time = at(body.opens_at);
    status.closes_time = at(known.ballot.closed_at);
    status.eta_time = at(known.eta(known.ballot.closed_at));
    status.expires_time = at(body.expires_at);
    if let Phase::Enacted { version } = phase {
        status.policy_version = Some(version.to_string());
    }
}

fn tally(tally: &Tally) -> ShownTally {
    let small = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let counts = &tally.counts;
    ShownTally {
        approve: small(counts.yes),
        reject: small(counts.no),
        abstain: small(counts.abstain),
        veto: small(counts.veto),
        turnout: small(counts.turnout()),
        electors: small(tally.electors),
    }
}

fn shown(phase: &Phase) -> Shown {
    match phase {
        Phase::Invalid(_) => Shown::Invalid,
        Phase::Pending { .. } => Shown::Pending,
        Phase::Open { .. } => Shown::Open,
        Phase::Closing { .. } => Shown::Closing,
        Phase::Queued { .. } | Phase::AwaitingSlot { .. } => Shown::Queued,
        Phase::Appealed { .. } => Shown::Appealed,
        Phase::Enacted { .. } | Phase::Stopped { .. } => Shown::Enacted,
        Phase::Rejected => Shown::Rejected,
        Phase::QuorumNotMet => Shown::QuorumNotMet,
        Phase::Vetoed => Shown::Vetoed,
        Phase::Refuted => Shown::Refuted,
        Phase::Unheard => Shown::Unheard,
        Phase::CoolDown { .. } => Shown::CoolDown,
        Phase::Withdrawn => Shown::Withdrawn,
        Phase::Cancelled { .. } => Shown::Cancelled,
        Phase::Stalled => Shown::Stalled,
        Phase::Stale => Shown::Stale,
        Phase::Superseded { .. } => Shown::Superseded,
        Phase::Expired => Shown::Expired,
    }
}

/// Whether nothing else comes of what was shown so.
fn is_final(shown: &Shown) -> bool {
    match shown {
        Shown::Draft
        | Shown::Submitted
        | Shown::Pending
        | Shown::Open
        | Shown::Closing
        | Shown::Queued
        | Shown::Appealed => false,
        Shown::Invalid
        | Shown::Rejected
        | Shown::QuorumNotMet
        | Shown::Vetoed
        | Shown::Withdrawn
        | Shown::Refuted
        | Shown::Unheard
        | Shown::Stale
        | Shown::CoolDown
        | Shown::Stalled
        | Shown::Enacted
        | Shown::Cancelled
        | Shown::Superseded
        | Shown::Expired => true,
    }
}

fn enacted(view: &CommonsView, known: &ProposalState, phase: &Phase) -> Verdict {
    let counts = &known.ballot.tally.counts;
    let votes = format!(
        "{} for, {} against, {} vetoes of {} electors",
        counts.yes, counts.no, counts.veto, known.ballot.tally.electors
    );
    let late = if view.late.contains(&known.id) {
        "; it came here when more than half of its vote was over, so that this one vouches only for what others do"
    } else {
        ""
    };
    match phase {
        Phase::Enacted { version } => Verdict::yes(Reason::Enacted, format!("version {version} is in force")),
        Phase::Stopped { target } => Verdict::yes(Reason::Enacted, format!("{votes}; it has stopped {target}")),
        Phase::Invalid(why) => Verdict::no(invalid_reason(why), why.to_string()),
        Phase::Pending { .. } => Verdict::no(Reason::Pending, "the vote has not opened yet"),
        Phase::Open { .. } => Verdict::no(
            Reason::Open,
            format!("{votes}; vote with: kubectl koinon vote {}", names::proposal(&known.id.to_string())),
        ),
        Phase::Closing { sealed, needed } => Verdict::no(
            Reason::AwaitingSeals,
            format!("{votes}; {sealed} of {needed} operators agree on the ballot box{late}"),
        ),
        Phase::Queued { signed, needed, eta } => {
            let from = time::from_unix(eta.0).map_or_else(|| eta.to_string(), |time| time.0.to_string());
            let reason = if *signed == 0 { Reason::AwaitingTimelock } else { Reason::AwaitingEnactment };
            Verdict::no(
                reason,
                format!("{votes}; passed, in force from {from} on; {signed} of {needed} operators have signed that"),
            )
        }
        Phase::AwaitingSlot { term } => Verdict::no(
            Reason::AwaitingSlot,
            format!(
                "{votes}; passed, and not enacted in time: the operators are settling whether it was (attempt {term})"
            ),
        ),
        Phase::Rejected => Verdict::no(Reason::Rejected, votes),
        Phase::QuorumNotMet => Verdict::no(Reason::QuorumNotMet, votes),
        Phase::Vetoed => Verdict::no(Reason::Vetoed, votes),
        Phase::Appealed { by } => {
            let member = known.proposal.subject.as_ref().map(ToString::to_string).unwrap_or_default();
            Verdict::no(
                Reason::Appealed,
                format!(
                    "{votes}; passed, and {member} has appealed; the second vote: kubectl koinon propose expel {member} --appeal {by}"
                ),
            )
        }
        Phase::Refuted => Verdict::no(
            Reason::Refuted,
            format!("{votes}; the member that it is about has shown that it is there: its log has a new entry"),
        ),
        Phase::Unheard => Verdict::no(
            Reason::Unheard,
            format!(
                "{votes}; the member that it is about was not heard: propose it again, and let the vote last longer"
            ),
        ),
        Phase::CoolDown { by, until } => {
            let until = time::from_unix(until.0).map_or_else(|| until.to_string(), |time| time.0.to_string());
            let refused = names::proposal(&by.to_string());
            Verdict::no(
                Reason::CoolDown,
                format!(
                    "{votes}; {refused} refused the same not long ago, and fewer than two thirds said yes: propose it again with a vote that opens from {until} on"
                ),
            )
        }
        Phase::Withdrawn => Verdict::no(Reason::Withdrawn, format!("{} took it back", known.author)),
        Phase::Cancelled { by } => Verdict::no(
            Reason::Cancelled,
            format!("it had passed, and {} stopped it", names::proposal(&by.to_string())),
        ),
        Phase::Stalled => Verdict::no(
            Reason::Stalled,
            format!("{votes}; too few operators agreed on the ballot box in time{late}: propose it again"),
        ),
        Phase::Stale => {
            Verdict::no(Reason::Stale, "the membership has moved on since it was proposed: propose it again")
        }
        Phase::Superseded { by } => Verdict::no(
            Reason::Superseded,
            format!("{by} took its place in the chain of {}: propose it again", known.proposal.scope),
        ),
        Phase::Expired => {
            let quorum = view.state.quorum();
            Verdict::no(
                Reason::Stalled,
                format!("{votes}; its time ended before {quorum} operators had signed its enactment: propose it again"),
            )
        }
    }
}

/// The closed reason of an invalid proposal.
pub(crate) fn invalid_reason(why: &koinon_core::policy::Invalid) -> Reason {
    people::invalid(why, || Reason::UnknownKey)
}

/// Whether something is refused because of who signed it, or because nobody did.
fn is_of_a_signature(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidSignature | Reason::UnknownKey | Reason::KeyReplaced | Reason::OperatorKeyNotAllowed
    )
}

/// What the fields of a signed resource and the engine's verdict amount to.
pub(crate) struct Applied<'a> {
    /// It stands in a log.
    pub known: bool,
    /// What the engine made of the resource; `None` before it has looked.
    pub verdict: Option<&'a people::Verdict>,
}

/// What is said of what lies below a checkpoint.
pub(crate) const SETTLED: &str =
    "a checkpoint has settled it, and what it was is read from the whole history; see: kubectl koinon audit";

impl Applied<'_> {
    /// Whether it lies below a checkpoint, and what came of it is not known any more.
    pub fn is_settled(&self) -> bool {
        !self.known && matches!(self.verdict, Some(people::Verdict::Settled { .. }))
    }

    /// Whether a signature holds.
    pub fn signed(&self) -> Verdict {
        match self.verdict {
            Some(people::Verdict::Refused(refusal)) if is_of_a_signature(refusal.reason) => {
                Verdict::no(refusal.reason, refusal.message.clone())
            }
            _ => Verdict::yes(Reason::Signed, "signed with a governance key"),
        }
    }

    /// Whether it may count.
    pub fn accepted(&self) -> Verdict {
        match self.verdict {
            Some(people::Verdict::Refused(refusal)) => Verdict::no(refusal.reason, refusal.message.clone()),
            Some(people::Verdict::Waiting(refusal)) if refusal.reason != Reason::AwaitingAnchor => {
                Verdict::unknown(refusal.reason, refusal.message.clone())
            }
            None if !self.known => Verdict::unknown(Reason::Starting, "not looked at yet"),
            _ => Verdict::yes(Reason::Valid, "valid"),
        }
    }

    /// Whether it stands in its author's log.
    pub fn anchored(&self) -> Verdict {
        match self.verdict {
            Some(people::Verdict::Anchored { seq, .. }) => {
                Verdict::yes(Reason::Anchored, format!("entry {seq} of its author's log"))
            }
            Some(people::Verdict::Settled { seq, .. }) => Verdict::yes(
                Reason::Settled,
                format!("entry {seq} of its author's log, which a checkpoint has settled"),
            ),
            Some(people::Verdict::Refused(refusal)) => Verdict::no(refusal.reason, refusal.message.clone()),
            Some(people::Verdict::Waiting(refusal)) => Verdict::no(refusal.reason, refusal.message.clone()),
            None if self.known => Verdict::yes(Reason::Anchored, "anchored by its author's operator"),
            None => Verdict::no(Reason::AwaitingAnchor, "the operator has not looked at it yet"),
        }
    }
}
