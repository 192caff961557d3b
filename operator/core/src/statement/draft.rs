//! Statements about to be signed.

use super::{Position, Statement, StatementError, Wire};
use crate::body::{Body, Opaque};
use crate::dsse::{Envelope, Signer};
use crate::ids::{CoopId, MemberId, PublicKey, SiteName, UnixSeconds};
use crate::json::{self, JsonError};
use crate::kind::Kind;
#[cfg(any(test, feature = "testkit"))]
use crate::{
    ids::{Digest, StatementId},
    statement::Header,
};

/// A statement about to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The cooperative; `None` for a charter.
    pub coop: Option<CoopId>,
    /// The member that says it.
    pub author: MemberId,
    /// Its site.
    pub site: SiteName,
    /// When it is made.
    pub issued_at: UnixSeconds,
    /// Where it stands.
    pub position: Position,
    /// What it says.
    pub body: Body,
}

impl Draft {
    /// The exact bytes that a signer with `key` would sign over.
    pub fn payload(&self, key: PublicKey) -> Result<(Kind, Vec<u8>), StatementError> {
        let opaque =
            |why: &str| StatementError::NotUnderstood { kind: Kind::Anchor, why: Opaque::Malformed(why.to_owned()) };
        let kind = self.body.kind().ok_or_else(|| opaque("an opaque body cannot be signed anew"))?;
        let body = self.body.to_json().ok_or_else(|| opaque("the body cannot be written as JSON"))?;
        let mut wire = Wire {
            coop: self.coop.map(|id| id.to_string()).unwrap_or_default(),
            author: self.author.clone(),
            site: self.site.clone(),
            key,
            kind: kind.clone(),
            rules: self.body.since_rules(),
            issued_at: self.issued_at,
            log: None,
            subject: None,
            seq: None,
            prev: None,
            to: None,
            not_after: None,
            body,
        };
        match &self.position {
            Position::Human => {}
            Position::Log { seq, prev } => {
                (wire.log, wire.seq, wire.prev) = (Some(key), Some(*seq), Some(*prev));
            }
            Position::Latest { subject, seq, to, not_after } => {
                (wire.subject, wire.seq) = (Some(subject.clone()), Some(*seq));
                (wire.to, wire.not_after) = (Some(to.to_string()), Some(*not_after));
            }
        }
        let payload = serde_json::to_vec(&wire).map_err(|error| JsonError::Shape {
            what: "a statement to sign",
            why: json::shorten(&error.to_string()),
        })?;
        Ok((kind, payload))
    }

    /// The envelope with one signature, for statements that are complete only when others have signed too.
    pub fn envelope(&self, signer: &dyn Signer) -> Result<Envelope, StatementError> {
        let (kind, payload) = self.payload(signer.public_key())?;
        Ok(Envelope::sign(&kind.payload_type(), &payload, signer))
    }

    /// Signs it with each of `signers` (the first one's key stands in the header) and reads it back,
    /// so that nothing leaves that a reader would refuse.
    pub fn sign(&self, signer: &dyn Signer, co_signers: &[&dyn Signer]) -> Result<Statement, StatementError> {
        let mut envelope = self.envelope(signer)?;
        for co_signer in co_signers {
            envelope.co_sign(*co_signer)?;
        }
        Statement::verify(envelope)?.understood()
    }

    /// Signs it without reading it back, with what it carries, for simulations that sign millions of statements: equal to
    /// what [`Draft::sign`] makes.
    #[cfg(any(test, feature = "testkit"))]
    pub fn sign_unread(&self, signer: &dyn Signer, carried: Option<&Statement>) -> Result<Statement, StatementError> {
        let (kind, payload) = self.payload(signer.public_key())?;
        let header = Header {
            coop: self.coop,
            author: self.author.clone(),
            site: self.site.clone(),
            key: signer.public_key(),
            rules: self.body.since_rules(),
            issued_at: self.issued_at,
            kind,
        };
        Ok(Statement {
            id: StatementId(Digest::of(&payload)),
            position: self.position.clone(),
            body: self.body.clone(),
            nested: carried.cloned().map(Box::new),
            envelope: Envelope::sign(&header.kind.payload_type(), &payload, signer),
            size: payload.len(),
            header,
        })
    }
}
