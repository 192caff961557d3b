//! What statements say. Bodies that decide are closed: an unknown field makes them invalid, because a reader that
//! skips what it does not know would decide something else than its neighbour. Bodies of Latest statements are open.

pub mod catalogue;
pub mod challenge_report;
pub mod challenges;
pub mod charter;
pub mod emergency;
pub mod entry;
mod form;
pub mod hearing;
pub mod keys;
pub mod latest;
pub mod member;
pub mod norms;
pub mod proposal;
pub mod standing;

use serde_json::Value;

use crate::json::{same_form, shorten};
use crate::kind::Kind;

pub use catalogue::{Engine, ModelRelease};
pub use challenge_report::ChallengeReport;
pub use challenges::{Challenges, ClassChallenge};
pub use charter::{Charter, Class, ClassRules, Parameters};
pub use emergency::{Cause, CoSignature, EmergencyOrder, Stop};
pub use entry::{Anchor, BoxOffer, CloseSeal, EnactSeal, Evidence, LogResume, Outcome, SealEvidence, Slot, SlotStatus};
pub use hearing::{Appeal, Document, EvidenceRef, Notice, NoticeSent, Reply};
pub use keys::{KeyRevocation, KeyUpdate};
pub use latest::{Beacon, Grants, Offer, Requests};
pub use member::{Application, Member};
pub use norms::{AuditRate, Checkpoint, OperatorRelease, PlacementRules, Prices, Shares};
pub use proposal::{Action, Delegation, Leave, Proposal, Recusal, Scope, Vote, Withdrawal};
pub use standing::{Confirm, LiftQuarantine, MarkDormant, Reactivate, Reinstate, ResetKeys, Suspend};

/// The rules that a cooperative begins with, and those of every statement whose body has not changed since.
pub const RULES: u32 = 1;
/// The rules that this code can decide by.
pub const RULES_SUPPORTED: [u32; 2] = [RULES, 2];

/// Fields that rules 2 added. Empty or null they would be read as absent, which a closed body of rules 1 must not be.
const LATER_FIELDS: [(Kind, &str); 4] = [
    (Kind::Proposal, "/charter"),
    (Kind::Proposal, "/interested"),
    (Kind::CloseSeal, "/basis"),
    (Kind::Charter, "/parameters/deliberation"),
];

/// A body that was read, or why it has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The founding charter.
    Charter(Box<Charter>),
    /// A request to be admitted.
    Application(Box<Application>),
    /// Something to vote on.
    Proposal(Box<Proposal>),
    /// A vote.
    Vote(Vote),
    /// A member's own leaving.
    Leave(Leave),
    /// The author of a proposal takes it back.
    Withdrawal(Withdrawal),
    /// Another member votes for this one.
    Delegation(Delegation),
    /// A member declares an interest.
    Recusal(Recusal),
    /// A member's next governance keys.
    KeyUpdate(KeyUpdate),
    /// A governance key is taken back.
    KeyRevocation(KeyRevocation),
    /// What the member that is to be expelled says to it.
    Reply(Reply),
    /// An expelled member asks for another vote.
    Appeal(Appeal),
    /// Something stops at once, for a short time.
    EmergencyOrder(Box<EmergencyOrder>),
    /// Another member stands behind an order.
    CoSignature(CoSignature),
    /// A human statement's place in a log.
    Anchor(Box<Anchor>),
    /// What one operator held of a ballot box in time.
    BoxOffer(BoxOffer),
    /// What one operator sealed as the content of a ballot box.
    CloseSeal(CloseSeal),
    /// One operator's signature under an enactment.
    EnactSeal(EnactSeal),
    /// One operator signs no more in a slot.
    SlotStatus(SlotStatus),
    /// Whether the member that a proposal is about knows of it.
    NoticeSent(NoticeSent),
    /// Proof that a log forked.
    Evidence(Box<Evidence>),
    /// Proof that an operator signed two seals where it promised one.
    SealEvidence(Box<SealEvidence>),
    /// A new log after the old one was lost.
    LogResume(LogResume),
    /// A sign of life with the heads of logs and policies.
    Beacon(Box<Beacon>),
    /// What a member offers.
    Offer(Box<Offer>),
    /// All that a home asks of one host.
    Requests(Box<Requests>),
    /// All that a host holds for one home.
    Grants(Box<Grants>),
    /// What one member measured of another's GPUs.
    Challenge(Box<ChallengeReport>),
    /// Stored and relayed, without effect.
    Opaque(Opaque),
}

/// Why a statement with a good signature has no effect here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Opaque {
    /// A kind of a later version.
    #[error("its kind is not known to this version")]
    UnknownKind,
    /// Rules of a later version.
    #[error("it follows rules {0}, this version decides by rules 1 and 2")]
    UnsupportedRules(u32),
    /// The body breaks its schema.
    #[error("its body is not valid: {0}")]
    Malformed(String),
}

impl Body {
    /// The body as JSON; `None` for an opaque one, which exists only as the bytes that were signed.
    pub fn to_json(&self) -> Option<Value> {
        match self {
            Self::Charter(b) => serde_json::to_value(b),
            Self::Application(b) => serde_json::to_value(b),
            Self::Proposal(b) => serde_json::to_value(b),
            Self::Vote(b) => serde_json::to_value(b),
            Self::Leave(b) => serde_json::to_value(b),
            Self::Withdrawal(b) => serde_json::to_value(b),
            Self::Delegation(b) => serde_json::to_value(b),
            Self::Recusal(b) => serde_json::to_value(b),
            Self::KeyUpdate(b) => serde_json::to_value(b),
            Self::KeyRevocation(b) => serde_json::to_value(b),
            Self::Reply(b) => serde_json::to_value(b),
            Self::Appeal(b) => serde_json::to_value(b),
            Self::EmergencyOrder(b) => serde_json::to_value(b),
            Self::CoSignature(b) => serde_json::to_value(b),
            Self::Anchor(b) => serde_json::to_value(b),
            Self::BoxOffer(b) => serde_json::to_value(b),
            Self::CloseSeal(b) => serde_json::to_value(b),
            Self::EnactSeal(b) => serde_json::to_value(b),
            Self::SlotStatus(b) => serde_json::to_value(b),
            Self::NoticeSent(b) => serde_json::to_value(b),
            Self::SealEvidence(b) => serde_json::to_value(b),
            Self::Evidence(b) => serde_json::to_value(b),
            Self::LogResume(b) => serde_json::to_value(b),
            Self::Beacon(b) => serde_json::to_value(b),
            Self::Offer(b) => serde_json::to_value(b),
            Self::Requests(b) => serde_json::to_value(b),
            Self::Grants(b) => serde_json::to_value(b),
            Self::Challenge(b) => serde_json::to_value(b),
            Self::Opaque(_) => return None,
        }
        .ok()
    }

    /// The kind of statement this is the body of; `None` for an opaque one.
    pub fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Charter(_) => Kind::Charter,
            Self::Application(_) => Kind::Application,
            Self::Proposal(_) => Kind::Proposal,
            Self::Vote(_) => Kind::Vote,
            Self::Leave(_) => Kind::Leave,
            Self::Withdrawal(_) => Kind::Withdrawal,
            Self::Delegation(_) => Kind::Delegation,
            Self::Recusal(_) => Kind::Recusal,
            Self::KeyUpdate(_) => Kind::KeyUpdate,
            Self::KeyRevocation(_) => Kind::KeyRevocation,
            Self::Reply(_) => Kind::Reply,
            Self::Appeal(_) => Kind::Appeal,
            Self::EmergencyOrder(_) => Kind::EmergencyOrder,
            Self::CoSignature(_) => Kind::CoSignature,
            Self::Anchor(_) => Kind::Anchor,
            Self::BoxOffer(_) => Kind::BoxOffer,
            Self::CloseSeal(_) => Kind::CloseSeal,
            Self::EnactSeal(_) => Kind::EnactSeal,
            Self::SlotStatus(_) => Kind::SlotStatus,
            Self::NoticeSent(_) => Kind::NoticeSent,
            Self::SealEvidence(_) => Kind::SealEvidence,
            Self::Evidence(_) => Kind::Evidence,
            Self::LogResume(_) => Kind::LogResume,
            Self::Beacon(_) => Kind::Beacon,
            Self::Offer(_) => Kind::Offer,
            Self::Requests(_) => Kind::Requests,
            Self::Grants(_) => Kind::Grants,
            Self::Challenge(_) => Kind::Challenge,
            Self::Opaque(_) => return None,
        })
    }

    /// Reads the body of a statement of `kind` under `rules`.
    pub(crate) fn read(kind: &Kind, rules: u32, value: Value) -> Self {
        if !RULES_SUPPORTED.contains(&rules) {
            return Self::Opaque(Opaque::UnsupportedRules(rules));
        }
        let names_later_field = LATER_FIELDS.iter().any(|(of, field)| of == kind && value.pointer(field).is_some());
        let body = Self::read_typed(kind, value);
        if body.since_rules() > rules || (rules == RULES && names_later_field) {
            // The release before this one has no meaning for it: nor may it have one here.
            return Self::Opaque(Opaque::Malformed("it belongs to later rules".to_owned()));
        }
        body
    }

    /// The lowest rules that know this body.
    pub fn since_rules(&self) -> u32 {
        match self {
            Self::Proposal(proposal) => proposal.since_rules(),
            Self::CloseSeal(seal) if seal.basis.is_some() => 2,
            Self::CloseSeal(seal) => seal.outcome.since_rules(),
            Self::Charter(charter) if charter.parameters.deliberation.is_some() => 2,
            Self::Withdrawal(_) | Self::Delegation(_) | Self::Recusal(_) | Self::BoxOffer(_) | Self::SlotStatus(_) => 2,
            Self::KeyUpdate(_) | Self::KeyRevocation(_) => 2,
            Self::EmergencyOrder(_) | Self::CoSignature(_) => 2,
            Self::NoticeSent(_) | Self::Reply(_) | Self::Appeal(_) | Self::SealEvidence(_) => 2,
            _ => RULES,
        }
    }

    fn read_typed(kind: &Kind, value: Value) -> Self {
        fn typed<T: serde::de::DeserializeOwned>(value: Value, wrap: fn(T) -> Body) -> Body {
            match serde_json::from_value(value) {
                Ok(body) => wrap(body),
                Err(error) => Body::Opaque(Opaque::Malformed(shorten(&error.to_string()))),
            }
        }
        fn closed<T: serde::de::DeserializeOwned>(said: Value, wrap: fn(T) -> Body) -> Body {
            let body = match T::deserialize(&said) {
                Ok(body) => wrap(body),
                Err(error) => return Body::Opaque(Opaque::Malformed(shorten(&error.to_string()))),
            };
            if form::is_plain(&said, &body) {
                debug_assert!(body.to_json().is_some_and(|read| same_form(&said, &read)));
                return body;
            }
            match body.to_json() {
                Some(read) if !same_form(&said, &read) => {
                    Body::Opaque(Opaque::Malformed("a list stands for an object, or an object for a word".to_owned()))
                }
                _ => body,
            }
        }
        match kind {
            Kind::Charter => closed(value, Self::Charter),
            Kind::Application => closed(value, Self::Application),
            Kind::Proposal => closed(value, Self::Proposal),
            Kind::Vote => closed(value, Self::Vote),
            Kind::Leave => closed(value, Self::Leave),
            Kind::Withdrawal => closed(value, Self::Withdrawal),
            Kind::Delegation => closed(value, Self::Delegation),
            Kind::Recusal => closed(value, Self::Recusal),
            Kind::KeyUpdate => closed(value, Self::KeyUpdate),
            Kind::KeyRevocation => closed(value, Self::KeyRevocation),
            Kind::Reply => closed(value, Self::Reply),
            Kind::Appeal => closed(value, Self::Appeal),
            Kind::EmergencyOrder => closed(value, Self::EmergencyOrder),
            Kind::CoSignature => closed(value, Self::CoSignature),
            Kind::Anchor => closed(value, Self::Anchor),
            Kind::BoxOffer => closed(value, Self::BoxOffer),
            Kind::CloseSeal => closed(value, Self::CloseSeal),
            Kind::EnactSeal => closed(value, Self::EnactSeal),
            Kind::SlotStatus => closed(value, Self::SlotStatus),
            Kind::NoticeSent => closed(value, Self::NoticeSent),
            Kind::SealEvidence => closed(value, Self::SealEvidence),
            Kind::Evidence => closed(value, Self::Evidence),
            Kind::LogResume => closed(value, Self::LogResume),
            Kind::Beacon => typed(value, Self::Beacon),
            Kind::Offer => typed(value, Self::Offer),
            Kind::Requests => typed(value, Self::Requests),
            Kind::Grants => typed(value, Self::Grants),
            Kind::Challenge => typed(value, Self::Challenge),
            Kind::Other(_) => Self::Opaque(Opaque::UnknownKind),
        }
    }
}
