//! The kinds of statements and where each of them stands.

use std::fmt;
use std::str::FromStr;

use crate::dsse::{MAX_DOCUMENT, MAX_HUMAN_PAYLOAD, MAX_PAYLOAD};
use crate::ids::{IdError, as_string};

/// What a statement is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Human: the founding charter.
    Charter,
    /// Human: a request to be admitted.
    Application,
    /// Human: something to vote on.
    Proposal,
    /// Human: a vote.
    Vote,
    /// Human: a member's own leaving.
    Leave,
    /// Human: the author of a proposal takes it back.
    Withdrawal,
    /// Human: another member votes for this one.
    Delegation,
    /// Human: a member declares an interest and does not vote on one proposal.
    Recusal,
    /// Human: a member's next governance keys.
    KeyUpdate,
    /// Human: a governance key is taken back.
    KeyRevocation,
    /// Human: what the member that is to be expelled says to it.
    Reply,
    /// Human: an expelled member asks for another vote.
    Appeal,
    /// Human: something stops at once, for a short time.
    EmergencyOrder,
    /// Human: another member stands behind an order.
    CoSignature,
    /// Log: a human statement's place.
    Anchor,
    /// Log: what one operator held of a ballot box in time.
    BoxOffer,
    /// Log: the content of a ballot box as one operator sealed it.
    CloseSeal,
    /// Log: one operator's signature under an enactment.
    EnactSeal,
    /// Log: one operator signs no more in a slot, and says what it has signed there.
    SlotStatus,
    /// Log: whether the member that a proposal is about knows of it.
    NoticeSent,
    /// Log: proof of a fork.
    Evidence,
    /// Log: proof of two seals where one was promised.
    SealEvidence,
    /// Log: names the head of a lost log.
    LogResume,
    /// Latest: a sign of life.
    Beacon,
    /// Latest: capacity on offer.
    Offer,
    /// Latest: all that a home asks of one host.
    Requests,
    /// Latest: all that a host holds for one home.
    Grants,
    /// Latest: what one member measured of another's GPUs.
    Challenge,
    /// A kind of a later version: stored and relayed, without effect.
    Other(OtherKind),
}

/// The name of a kind that this version does not know.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OtherKind(String);

/// Where statements of a kind stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Signed by people, without a position.
    Human,
    /// An entry of a log.
    Log,
    /// The newest of its subject counts.
    Latest,
}

/// The kinds with a meaning, and their names on the wire.
const KNOWN: [(Kind, &str, Place); 28] = [
    (Kind::Charter, "charter", Place::Human),
    (Kind::Application, "application", Place::Human),
    (Kind::Proposal, "proposal", Place::Human),
    (Kind::Vote, "vote", Place::Human),
    (Kind::Leave, "leave", Place::Human),
    (Kind::Withdrawal, "withdrawal", Place::Human),
    (Kind::Delegation, "delegation", Place::Human),
    (Kind::Recusal, "recusal", Place::Human),
    (Kind::KeyUpdate, "key-update", Place::Human),
    (Kind::KeyRevocation, "key-revocation", Place::Human),
    (Kind::Reply, "reply", Place::Human),
    (Kind::Appeal, "appeal", Place::Human),
    (Kind::EmergencyOrder, "emergency-order", Place::Human),
    (Kind::CoSignature, "co-signature", Place::Human),
    (Kind::Anchor, "anchor", Place::Log),
    (Kind::BoxOffer, "box-offer", Place::Log),
    (Kind::CloseSeal, "close-seal", Place::Log),
    (Kind::EnactSeal, "enact-seal", Place::Log),
    (Kind::SlotStatus, "slot-status", Place::Log),
    (Kind::NoticeSent, "notice-sent", Place::Log),
    (Kind::Evidence, "evidence", Place::Log),
    (Kind::SealEvidence, "seal-evidence", Place::Log),
    (Kind::LogResume, "log-resume", Place::Log),
    (Kind::Beacon, "beacon", Place::Latest),
    (Kind::Offer, "offer", Place::Latest),
    (Kind::Requests, "requests", Place::Latest),
    (Kind::Grants, "grants", Place::Latest),
    (Kind::Challenge, "challenge", Place::Latest),
];

impl Kind {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(OtherKind(name)) => name,
            known => KNOWN.iter().find(|(kind, ..)| kind == known).map_or("", |(_, name, _)| name),
        }
    }

    /// Where statements of this kind stand; `None` if only a later version knows.
    pub fn place(&self) -> Option<Place> {
        KNOWN.iter().find(|(kind, ..)| kind == self).map(|(_, _, place)| *place)
    }

    /// Every kind with a meaning.
    pub fn known() -> impl Iterator<Item = Self> {
        KNOWN.into_iter().map(|(kind, ..)| kind)
    }

    /// Whether people apply it as a `Statement`: it has no resource of its own, and their operator anchors it.
    pub fn is_said(&self) -> bool {
        let has_its_own = matches!(self, Self::Charter | Self::Application | Self::Proposal | Self::Vote);
        self.place() == Some(Place::Human) && !has_its_own
    }

    /// The media type of its envelopes.
    pub fn payload_type(&self) -> String {
        format!("application/vnd.koinon.{self}.v1+json")
    }

    /// The kind whose media type `payload_type` is.
    pub fn of_payload_type(payload_type: &str) -> Option<Self> {
        payload_type.strip_prefix("application/vnd.koinon.")?.strip_suffix(".v1+json")?.parse().ok()
    }

    /// Largest payload of this kind. An application travels inside a proposal, and that inside an anchor.
    pub fn max_payload(&self) -> usize {
        match (self, self.place()) {
            (Self::Charter, _) => MAX_DOCUMENT,
            (Self::Application, _) => 16 * 1024,
            (_, Some(Place::Human)) => MAX_HUMAN_PAYLOAD,
            _ => MAX_PAYLOAD,
        }
    }
}

/// The most characters of a kind's name.
const MAX_KIND: usize = 31;

impl FromStr for Kind {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if let Some((kind, ..)) = KNOWN.iter().find(|(_, name, _)| *name == text) {
            return Ok(kind.clone());
        }
        let bytes = text.as_bytes();
        // What every store of every member takes: a label's value ends in a letter or digit, and the resource's own
        // pattern is as long. An entry that one member can make and another cannot keep would stop the other.
        let good = bytes.first().is_some_and(u8::is_ascii_lowercase)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.len() <= MAX_KIND
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if good {
            Ok(Self::Other(OtherKind(text.to_owned())))
        } else {
            Err(IdError::new("a kind", "must be lower case letters, digits and inner '-', at most 31 characters", text))
        }
    }
}
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
as_string!(Kind);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_keep_their_names() {
        for (kind, name, _) in KNOWN {
            assert_eq!(kind.as_str(), name);
            assert_eq!(name.parse::<Kind>().unwrap(), kind);
            assert_eq!(Kind::of_payload_type(&kind.payload_type()), Some(kind));
        }
    }

    #[test]
    fn a_later_kind_is_carried_by_name() {
        let later: Kind = "ledger-day".parse().unwrap();
        assert_eq!((later.as_str(), later.place()), ("ledger-day", None));
        assert!("x".repeat(31).parse::<Kind>().is_ok());
        for bad in ["", "Vote", "a b", "-x", "x-", &"x".repeat(32)] {
            assert!(bad.parse::<Kind>().is_err(), "{bad}");
        }
    }
}
