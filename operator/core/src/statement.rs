//! Statements: who says what, in which cooperative, at which position.
//!
//! [`Statement::verify`] is the only door from bytes to meaning. Whoever holds a [`Statement`] holds one whose
//! signatures, header and nested statements were checked; whether it has any effect is for the log and the fold.

mod draft;
#[cfg(any(test, feature = "testkit"))]
mod earlier;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::body::member::{Application, MemberError};
use crate::body::proposal::Action;
use crate::body::{Body, Opaque, RULES_SUPPORTED};
use crate::dsse::{Envelope, EnvelopeError, Signer};
use crate::ids::{CoopId, Digest, IdError, MemberId, PublicKey, Seq, SiteName, StatementId, UnixSeconds, name_type};
use crate::json::{self, JsonError};
use crate::kind::{Kind, Place};

pub use draft::Draft;

/// Who says it, where and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cooperative; `None` in its founding charter, whose id it is.
    pub coop: Option<CoopId>,
    /// The member.
    pub author: MemberId,
    /// Its site.
    pub site: SiteName,
    /// The key that signed.
    pub key: PublicKey,
    /// What it is.
    pub kind: Kind,
    /// The rules that it follows.
    pub rules: u32,
    /// When its author says it was made.
    pub issued_at: UnixSeconds,
}

/// To whom a Latest statement is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    /// Every member.
    Everyone,
    /// One member.
    Member(MemberId),
}

impl Audience {
    /// Whether `reader` may have it.
    pub fn includes(&self, reader: &MemberId) -> bool {
        match self {
            Self::Everyone => true,
            Self::Member(member) => member == reader,
        }
    }
}
impl std::str::FromStr for Audience {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == "*" { Ok(Self::Everyone) } else { text.parse().map(Self::Member) }
    }
}
impl std::fmt::Display for Audience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everyone => f.write_str("*"),
            Self::Member(member) => member.fmt(f),
        }
    }
}

name_type!(
/// Which of its author's Latest statements of one kind: `beacon`, `requests/cork`.
Subject, "a subject", |t| {
    let good = !t.is_empty() && t.len() <= 80
        && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'/');
    (!good).then_some("must be lower case letters, digits, '-' and '/', at most 80 characters")
});

/// Where a statement stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// Signed by people: it counts from its anchor.
    Human,
    /// An entry of the log of the key that signed it.
    Log {
        /// Its number.
        seq: Seq,
        /// The id of the entry before it; for the first the cooperative's id.
        prev: Digest,
    },
    /// The newest of its subject counts.
    Latest {
        /// Of what.
        subject: Subject,
        /// Higher is newer.
        seq: Seq,
        /// For whom.
        to: Audience,
        /// When it ends by itself.
        not_after: UnixSeconds,
    },
}

impl Position {
    fn place(&self) -> Place {
        match self {
            Self::Human => Place::Human,
            Self::Log { .. } => Place::Log,
            Self::Latest { .. } => Place::Latest,
        }
    }
}

/// Why bytes are not a statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// The envelope does not hold.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The payload is not strict JSON, or has no header.
    #[error("cannot read the payload: {0}")]
    Payload(#[from] JsonError),
    /// The media type names no kind, or another one than the payload.
    #[error("the media type {payload_type:?} is not the one of kind {kind:?}: the payload was relabelled")]
    KindMismatch {
        /// The envelope's.
        payload_type: String,
        /// The payload's.
        kind: String,
    },
    /// The key of the header did not sign.
    #[error("key {0} is named in the header but has not signed")]
    KeyDidNotSign(PublicKey),
    /// Fields of the position are missing, too many, or of another place than the kind's.
    #[error("cannot read the position of a {kind} statement: {rule}")]
    Position {
        /// The kind.
        kind: Kind,
        /// What it breaks.
        rule: &'static str,
    },
    /// The cooperative is missing, or a charter names one.
    #[error("cannot read the cooperative of a {0} statement: it must be empty in a charter and an id elsewhere")]
    Coop(Kind),
    /// A statement inside it does not hold.
    #[error("in the {outer} statement the {inner} does not hold: {source}")]
    Nested {
        /// What carries it.
        outer: Kind,
        /// What is carried.
        inner: &'static str,
        /// Why it does not hold.
        source: Box<StatementError>,
    },
    /// An application without proof of the operator key, or of another member than its author.
    #[error("the application does not hold: {0}")]
    Application(&'static str),
    /// An application that the operator which it names has not signed too.
    #[error(
        "the application does not hold: operator key {0} has not signed too, which proves that the applicant holds it"
    )]
    OperatorDidNotSign(PublicKey),
    /// An application's member is wrong.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// It is understood by a later version only, or breaks its schema.
    #[error("the {kind} statement has no effect here: {why}")]
    NotUnderstood {
        /// The kind.
        kind: Kind,
        /// Why.
        why: Opaque,
    },
}

impl StatementError {
    /// A short name for metrics and events.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Envelope(EnvelopeError::BadSignature(_)) => "BadSignature",
            Self::Envelope(EnvelopeError::PayloadTooLarge { .. } | EnvelopeError::Json(JsonError::TooLarge { .. }))
            | Self::Payload(JsonError::TooLarge { .. }) => "TooLarge",
            Self::Envelope(_) => "BadEnvelope",
            Self::Payload(_) => "BadPayload",
            Self::KindMismatch { .. } => "KindMismatch",
            Self::KeyDidNotSign(_) => "KeyDidNotSign",
            Self::Position { .. } => "BadPosition",
            Self::Coop(_) => "BadCoop",
            Self::Nested { .. } => "BadNested",
            Self::Application(_) | Self::OperatorDidNotSign(_) | Self::Member(_) => "BadApplication",
            Self::NotUnderstood { .. } => "NotUnderstood",
        }
    }
}

/// The payload as it stands on the wire. Fields of later versions are let through here: signature and link alone
/// make an entry part of its log, and the number in `rules` decides whether it may have an effect.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    coop: String,
    author: MemberId,
    site: SiteName,
    key: PublicKey,
    kind: Kind,
    rules: u32,
    issued_at: UnixSeconds,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<PublicKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Subject>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "signed")]
    seq: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prev: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<UnixSeconds>,
    #[serde(deserialize_with = "json::any")]
    body: Value,
}

/// A position, in a number that others read with a sign.
fn signed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Seq>, D::Error> {
    let number: Option<i64> = Option::deserialize(deserializer)?;
    number.map(|number| u64::try_from(number).map(Seq).map_err(D::Error::custom)).transpose()
}

/// The fields of [`Wire`].
const FIELDS: [&str; 14] = [
    "coop", "author", "site", "key", "kind", "rules", "issuedAt", "log", "subject", "seq", "prev", "to", "notAfter",
    "body",
];

impl Wire {
    /// Reads a payload, and the name of the first field in it that this version does not know.
    fn read(payload: &[u8], limit: usize) -> Result<(Self, Option<String>), JsonError> {
        json::from_fields(payload, limit, "a statement", &FIELDS)
    }
}

/// A verified statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    id: StatementId,
    header: Header,
    position: Position,
    body: Body,
    nested: Option<Box<Statement>>,
    envelope: Envelope,
    size: usize,
}

impl Statement {
    /// Verifies an envelope and reads what is in it.
    pub fn verify(envelope: Envelope) -> Result<Self, StatementError> {
        let mismatch = |kind: &str| StatementError::KindMismatch {
            payload_type: json::shorten(&envelope.payload_type),
            kind: json::shorten(kind),
        };
        let claimed = Kind::of_payload_type(&envelope.payload_type).ok_or_else(|| mismatch(""))?;
        let payload = envelope.verify(claimed.max_payload())?;
        let (wire, later) = Wire::read(&payload, claimed.max_payload())?;
        if wire.kind != claimed {
            return Err(mismatch(wire.kind.as_str()));
        }
        if !envelope.signed_by(&wire.key) {
            return Err(StatementError::KeyDidNotSign(wire.key));
        }
        let coop = match (&wire.kind, wire.coop.as_str()) {
            (Kind::Charter, "") => None,
            (Kind::Charter, _) => return Err(StatementError::Coop(wire.kind)),
            (_, id) => Some(id.parse().map_err(|_| StatementError::Coop(wire.kind.clone()))?),
        };
        let position = read_position(&wire)?;
        let mut body = Body::read(&wire.kind, wire.rules, wire.body);
        if RULES_SUPPORTED.contains(&wire.rules)
            && !matches!(position, Position::Latest { .. })
            && let Some(name) = later
        {
            body = Body::Opaque(Opaque::Malformed(json::shorten(&format!("unknown field {name:?} in the header"))));
        }
        let header = Header {
            coop,
            author: wire.author,
            site: wire.site,
            key: wire.key,
            kind: wire.kind,
            rules: wire.rules,
            issued_at: wire.issued_at,
        };
        let (body, nested) = match read_nested(&header, &body) {
            Ok(nested) => (body, nested.map(Box::new)),
            // In a log the entry itself is good: it takes its place and what it carries has no effect.
            Err(error) if position.place() == Place::Log => {
                (Body::Opaque(Opaque::Malformed(json::shorten(&error.to_string()))), None)
            }
            Err(error) => return Err(error),
        };
        if let Body::Application(application) = &body {
            check_application(&header, &envelope, application)?;
        }
        let id = StatementId(Digest::of(&payload));
        Ok(Self { id, header, position, body, nested, size: payload.len(), envelope })
    }

    /// Reads and verifies an envelope in JSON.
    pub fn from_json(bytes: &[u8]) -> Result<Self, StatementError> {
        Self::verify(Envelope::from_json(bytes)?)
    }

    /// Adds the operator's signature to an application that a person has signed; only if it is about this operator.
    pub fn complete_application(mut envelope: Envelope, operator: &dyn Signer) -> Result<Self, StatementError> {
        if Kind::of_payload_type(&envelope.payload_type) != Some(Kind::Application) {
            return Err(StatementError::Application("this is no application"));
        }
        envelope.verify(Kind::Application.max_payload())?;
        envelope.co_sign(operator)?;
        Self::verify(envelope)?.understood()
    }

    /// This statement if its meaning is known here, otherwise why not.
    pub fn understood(self) -> Result<Self, StatementError> {
        match &self.body {
            Body::Opaque(why) => {
                Err(StatementError::NotUnderstood { kind: self.header.kind.clone(), why: why.clone() })
            }
            _ => Ok(self),
        }
    }

    /// The digest of the payload.
    pub fn id(&self) -> StatementId {
        self.id
    }
    /// Who says it, where and when.
    pub fn header(&self) -> &Header {
        &self.header
    }
    /// Where it stands.
    pub fn position(&self) -> &Position {
        &self.position
    }
    /// What it says.
    pub fn body(&self) -> &Body {
        &self.body
    }
    /// What it is.
    pub fn kind(&self) -> &Kind {
        &self.header.kind
    }
    /// Who says it.
    pub fn author(&self) -> &MemberId {
        &self.header.author
    }
    /// The statement that it carries: an anchor's, or the application of an Admit proposal.
    pub fn nested(&self) -> Option<&Statement> {
        self.nested.as_deref()
    }
    /// The envelope, verbatim.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
    /// The length of the payload.
    pub fn size(&self) -> usize {
        self.size
    }
    /// The keys that signed; all of them verified.
    pub fn signers(&self) -> impl Iterator<Item = &PublicKey> {
        self.envelope.signatures.iter().map(|s| &s.keyid)
    }
    /// The cooperative that it belongs to; a charter belongs to the one that it founds.
    pub fn coop(&self) -> CoopId {
        self.header.coop.unwrap_or(CoopId(self.id.0))
    }
    /// The entry before it in its log, if it is an entry and not the first one.
    pub fn previous(&self) -> Option<StatementId> {
        match self.position {
            Position::Log { seq, prev } if seq > Seq(0) => Some(StatementId(prev)),
            _ => None,
        }
    }
    /// The number in its author's log, if it is an entry.
    pub fn log_seq(&self) -> Option<Seq> {
        match self.position {
            Position::Log { seq, .. } => Some(seq),
            _ => None,
        }
    }
}

fn read_position(wire: &Wire) -> Result<Position, StatementError> {
    let wrong = |rule| StatementError::Position { kind: wire.kind.clone(), rule };
    let position = match (wire.log, &wire.subject, wire.seq, wire.prev, &wire.to, wire.not_after) {
        (None, None, None, None, None, None) => Position::Human,
        (Some(log), None, Some(seq), Some(prev), None, None) => {
            if log != wire.key {
                return Err(wrong("a log belongs to one operator key: log and key must be equal"));
            }
            Position::Log { seq, prev }
        }
        (None, Some(subject), Some(seq), None, Some(to), Some(not_after)) => {
            let to = to.parse().map_err(|_| wrong("to must be a member id or *"))?;
            Position::Latest { subject: subject.clone(), seq, to, not_after }
        }
        _ => {
            return Err(wrong(
                "it needs log, seq, prev (an entry), or subject, seq, to, notAfter (Latest), or none (human)",
            ));
        }
    };
    match wire.kind.place() {
        Some(place) if place != position.place() => Err(wrong("its fields are those of another sort of statement")),
        _ => Ok(position),
    }
}

fn read_nested(header: &Header, body: &Body) -> Result<Option<Statement>, StatementError> {
    let failed = |inner| {
        let outer = header.kind.clone();
        move |source: StatementError| StatementError::Nested { outer, inner, source: Box::new(source) }
    };
    match body {
        Body::Anchor(anchor) => {
            let inner = Statement::verify(anchor.statement.clone()).map_err(failed("statement"))?;
            if inner.position.place() != Place::Human || *inner.kind() == Kind::Charter {
                let source = StatementError::Position {
                    kind: inner.kind().clone(),
                    rule: "only what people sign after the founding can be anchored",
                };
                return Err(failed("statement")(source));
            }
            Ok(Some(inner))
        }
        Body::Proposal(proposal) => match &proposal.action {
            Action::Admit(admit) => {
                let inner = Statement::verify(admit.application.clone())
                    .and_then(Statement::understood)
                    .map_err(failed("application"))?;
                if *inner.kind() != Kind::Application || inner.header.coop != header.coop {
                    return Err(StatementError::Application("it must be an application to this cooperative"));
                }
                Ok(Some(inner))
            }
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

fn check_application(header: &Header, envelope: &Envelope, application: &Application) -> Result<(), StatementError> {
    let member = &application.member;
    member.validate()?;
    if member.id != header.author {
        return Err(StatementError::Application("its author must be the member that it describes"));
    }
    if !member.keys.governance.contains(&header.key) {
        return Err(StatementError::Application("it must be signed by one of its governance keys"));
    }
    if !envelope.signed_by(&member.keys.operator) {
        return Err(StatementError::OperatorDidNotSign(member.keys.operator));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
