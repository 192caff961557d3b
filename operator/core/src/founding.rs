//! The founding: a charter that every founder has signed. Its digest is the cooperative.

use crate::body::Body;
use crate::body::charter::{Charter, CharterError};
use crate::dsse::Envelope;
use crate::ids::{CoopId, MemberId};
use crate::statement::{Statement, StatementError};

/// A founding that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    statement: Statement,
    charter: Charter,
}

/// Why a charter founds nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoundingError {
    /// It is no statement that holds.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// It is another statement.
    #[error("this is a {0} statement, not a charter")]
    NotACharter(String),
    /// Its content contradicts itself.
    #[error(transparent)]
    Charter(#[from] CharterError),
    /// A founder is missing among the signatures.
    #[error("founder {0} has not signed the charter with a governance key: have it co-signed before founding")]
    NotSigned(MemberId),
    /// A key signed that belongs to no founder.
    #[error("the charter is signed by {0}, which is no founder's governance key")]
    StrangeSignature(crate::ids::PublicKey),
    /// Another cooperative than the expected one.
    #[error("this charter founds {seen}, not {expected}: the envelope does not belong to spec.id")]
    OtherCooperative {
        /// The id that was expected.
        expected: CoopId,
        /// The id of this charter.
        seen: CoopId,
    },
}

impl Founding {
    /// Verifies a charter and all its founders' signatures.
    pub fn verify(envelope: Envelope) -> Result<Self, FoundingError> {
        let statement = Statement::verify(envelope)?.understood()?;
        let Body::Charter(charter) = statement.body() else {
            return Err(FoundingError::NotACharter(statement.kind().to_string()));
        };
        charter.validate()?;
        let is_governance = |key| charter.founders.iter().any(|f| f.keys.governance.contains(key));
        if let Some(stranger) = statement.signers().find(|key| !is_governance(key)) {
            return Err(FoundingError::StrangeSignature(*stranger));
        }
        for founder in &charter.founders {
            if !founder.keys.governance.iter().any(|key| statement.envelope().signed_by(key)) {
                return Err(FoundingError::NotSigned(founder.id.clone()));
            }
        }
        let charter = (**charter).clone();
        Ok(Self { statement, charter })
    }

    /// Like [`Founding::verify`], for a cooperative whose id is already known.
    pub fn verify_as(envelope: Envelope, expected: CoopId) -> Result<Self, FoundingError> {
        let founding = Self::verify(envelope)?;
        if founding.coop() != expected {
            return Err(FoundingError::OtherCooperative { expected, seen: founding.coop() });
        }
        Ok(founding)
    }

    /// The cooperative's id.
    pub fn coop(&self) -> CoopId {
        self.statement.coop()
    }
    /// The charter.
    pub fn charter(&self) -> &Charter {
        &self.charter
    }
    /// The rules that it begins with.
    pub fn rules(&self) -> u32 {
        self.statement.header().rules
    }
    /// The signed statement.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }
}
