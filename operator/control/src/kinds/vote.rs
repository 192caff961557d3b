//! `Vote`: whether each of them counts, and why not.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{ConditionType, Reason, Verdict};
use koinon_api::vote::{Choice as Shown, Ground as ShownGround, Vote, VoteSpec, VoteStatus};
use koinon_api::{labels, names, time};
use koinon_core::body::Body;
use koinon_core::body::proposal::{Choice, Ground};
use koinon_core::ids::StatementId;
use koinon_core::policy::{Commons, Verdict as Ballot, VoteRecord};
use koinon_core::statement::Statement;
use kube::ResourceExt;

use crate::commons::candidate::Source;
use crate::commons::envelope::{from_resource, to_resource};
use crate::commons::people;
use crate::commons::view::CommonsView;
use crate::kinds::ballots::anchored;
use crate::kinds::projections::{Moment, Projected, set};
use crate::kinds::proposal::{Applied, SETTLED};

impl Projected for Vote {
    type Status = VoteStatus;

    fn bare(name: &str) -> Self {
        // Never written: votes are cast by people, and mirrors are made with their envelope.
        Vote::new(
            name,
            VoteSpec {
                proposal: String::new(),
                choice: Shown::default(),
                vseq: None,
                ground: None,
                reason: None,
                envelope: None,
            },
        )
    }

    fn status(&self) -> Option<&VoteStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: VoteStatus) {
        self.status = Some(status);
    }

    fn conditions(status: &VoteStatus) -> &[Condition] {
        &status.conditions
    }
}

/// The id of what a resource carries; `None` for a draft and for what cannot be read.
pub(crate) fn id_of(vote: &Vote) -> Option<StatementId> {
    let envelope = from_resource(vote.spec.envelope.as_ref()?).ok()?;
    envelope.payload_digest().ok().map(StatementId)
}

/// A copy for reading of a vote that was anchored somewhere.
pub(crate) fn mirror(commons: &Commons, on: StatementId, record: &VoteRecord) -> Option<Vote> {
    let envelope = anchored(commons, &record.author, record.id)?;
    let statement = Statement::verify(envelope.clone()).ok()?;
    let Body::Vote(body) = statement.body() else { return None };
    // A page of text does not fit a line; the signed reason stands in the envelope whole.
    let reason = body.reason.as_ref().map(ToString::to_string).filter(|text| text.len() <= 256 && !text.contains('\n'));
    let spec = VoteSpec {
        proposal: on.to_string(),
        choice: match body.choice {
            Choice::Yes => Shown::Approve,
            Choice::No => Shown::Reject,
            Choice::Abstain => Shown::Abstain,
            Choice::Veto => Shown::Veto,
        },
        vseq: Some(body.vseq.into()),
        ground: body.ground.map(|ground| match ground {
            Ground::Legal => ShownGround::Legal,
            Ground::Safety => ShownGround::Safety,
            Ground::Solvency => ShownGround::Solvency,
            Ground::Charter => ShownGround::Charter,
        }),
        reason,
        envelope: Some(to_resource(&envelope)),
    };
    let mut mirror = Vote::new(&names::vote(&record.id.to_string()), spec);
    mirror.labels_mut().extend([
        (labels::MIRROR.to_owned(), labels::TRUE.to_owned()),
        (labels::AUTHOR.to_owned(), record.author.to_string()),
        (labels::PROPOSAL.to_owned(), names::id_label(&on.to_string())),
    ]);
    Some(mirror)
}

/// The status of every vote that is there.
pub(crate) fn statuses(view: &CommonsView, all: &[Arc<Vote>], moment: &Moment) -> BTreeMap<String, VoteStatus> {
    all.iter().map(|vote| (vote.name_any(), status(view, vote, moment))).collect()
}

fn status(view: &CommonsView, object: &Arc<Vote>, moment: &Moment) -> VoteStatus {
    let generation = object.metadata.generation;
    let before = object.status.clone().unwrap_or_default();
    let conditions = before.conditions.clone();
    let mut status = VoteStatus { observed_generation: generation, conditions, ..VoteStatus::default() };
    let name = object.name_any();
    let note = |conditions: &mut Vec<Condition>, type_, verdict| set(conditions, type_, verdict, generation, moment);
    if object.spec.envelope.is_none() {
        let choice = match object.spec.choice {
            Shown::Approve => "yes",
            Shown::Reject => "no",
            Shown::Abstain => "abstain",
            Shown::Veto => "veto",
        };
        let message =
            format!("a draft; sign it with: kubectl koinon vote {} {choice}", names::proposal(&object.spec.proposal));
        note(&mut status.conditions, ConditionType::Signed, Verdict::no(Reason::Unsigned, message));
        status.reason = Some(Reason::Unsigned.as_str().to_owned());
        return status;
    }
    let id = id_of(object);
    status.id = id.map(|id| id.to_string());
    let verdict = view.verdicts.get(&Source::Vote(name));
    let refused = matches!(verdict, Some(people::Verdict::Refused(_)));
    let known = id.filter(|_| !refused).and_then(|id| view.state.vote(&id)).map(|(_, record)| record);
    let applied = Applied { known: known.is_some(), verdict };
    if applied.is_settled() && before.counted.is_some() {
        note(&mut status.conditions, ConditionType::Anchored, applied.anchored());
        return VoteStatus { observed_generation: generation, conditions: status.conditions, ..before };
    }
    note(&mut status.conditions, ConditionType::Signed, applied.signed());
    note(&mut status.conditions, ConditionType::Accepted, applied.accepted());
    note(&mut status.conditions, ConditionType::Anchored, applied.anchored());
    let counted = match known {
        Some(record) => {
            status.author = Some(record.author.to_string());
            status.anchored_time = time::from_unix(record.anchor.at.0);
            status.counted = Some(record.verdict == Ballot::Counted);
            let reason = people::ballot(record.verdict, || Reason::UnknownKey);
            if record.verdict == Ballot::Counted {
                Verdict::yes(reason, "in the tally")
            } else {
                Verdict::no(reason, record.verdict.to_string())
            }
        }
        None => match verdict {
            Some(people::Verdict::Refused(refusal)) => {
                status.counted = Some(false);
                Verdict::no(refusal.reason, refusal.message.clone())
            }
            Some(people::Verdict::Waiting(refusal)) => Verdict::no(refusal.reason, refusal.message.clone()),
            Some(people::Verdict::Settled { .. }) => Verdict::unknown(Reason::Settled, SETTLED),
            _ => Verdict::unknown(Reason::AwaitingAnchor, "it counts from its anchor on"),
        },
    };
    status.reason = Some(counted.reason.as_str().to_owned());
    note(&mut status.conditions, ConditionType::Counted, counted);
    status
}
