//! An invite: what a sponsor gives to somebody who may apply, as one line of text.
//!
//! It pins where the applicant connects (the sponsor's address and operator key) and what it must find there (the
//! cooperative and a membership head that the history has to contain), so that nobody on the way can answer instead.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::ids::{CoopId, Digest, Endpoint, MemberId, PolicyHash, PublicKey, UnixSeconds};
use crate::json;

/// What every invite begins with.
pub const PREFIX: &str = "koinon-invite-1.";

/// Longest invite that is read, in characters.
pub const MAX_INVITE: usize = 4096;

/// A sponsor's invitation to one applicant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Invite {
    /// The cooperative.
    pub coop: CoopId,
    /// The member that invites.
    pub sponsor: MemberId,
    /// The key that certifies the sponsor's endpoint.
    pub operator_key: PublicKey,
    /// Where the sponsor's peer endpoint is.
    pub endpoints: Vec<Endpoint>,
    /// A membership version that the cooperative's history must contain.
    pub membership_head: PolicyHash,
    /// The id under which the applicant may apply.
    pub member: MemberId,
    /// The one-time secret.
    pub secret: String,
    /// When the invite ends.
    pub expires_at: UnixSeconds,
}

/// Why a line is not an invite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// It does not begin like one.
    #[error("an invite begins with {PREFIX}; paste the whole line that `kubectl koinon invite` printed")]
    NotAnInvite,
    /// It is longer than any.
    #[error("an invite has at most {MAX_INVITE} characters")]
    TooLong,
    /// Its text is damaged.
    #[error("the invite is damaged: paste the whole line that `kubectl koinon invite` printed")]
    Damaged,
    /// Its content is not what an invite holds.
    #[error("cannot read the invite: {0}")]
    Content(#[from] json::JsonError),
}

impl Invite {
    /// The invite as one line.
    #[must_use]
    pub fn to_line(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(text))
    }

    /// Reads an invite, ignoring white space around and line breaks within it.
    ///
    /// # Errors
    /// See [`InviteError`].
    pub fn from_line(line: &str) -> Result<Self, InviteError> {
        let joined: String = line.split_whitespace().collect();
        if joined.len() > MAX_INVITE {
            return Err(InviteError::TooLong);
        }
        let text = joined.strip_prefix(PREFIX).ok_or(InviteError::NotAnInvite)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InviteError::Damaged)?;
        Ok(json::from_slice(&bytes, MAX_INVITE, "an invite")?)
    }

    /// The digest of the secret: all that the sponsor's cluster keeps of it.
    #[must_use]
    pub fn secret_digest(&self) -> Digest {
        secret_digest(&self.secret)
    }
}

/// The digest under which a sponsor's cluster knows an invite's secret.
#[must_use]
pub fn secret_digest(secret: &str) -> Digest {
    Digest::of(secret.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> Invite {
        Invite {
            coop: CoopId(Digest([1; 32])),
            sponsor: "aarhus".parse().unwrap(),
            operator_key: PublicKey([2; 32]),
            endpoints: vec!["https://aarhus.example:7443".parse().unwrap()],
            membership_head: PolicyHash(Digest([3; 32])),
            member: "bilbao".parse().unwrap(),
            secret: "one-time".to_owned(),
            expires_at: UnixSeconds(2_000_000_000),
        }
    }

    #[test]
    fn an_invite_survives_being_wrapped_by_a_mail_program() {
        let line = invite().to_line();
        let wrapped: String =
            line.chars().enumerate().flat_map(|(i, c)| if i % 70 == 69 { vec![c, '\n'] } else { vec![c] }).collect();
        assert_eq!(Invite::from_line(&wrapped), Ok(invite()));
    }

    #[test]
    fn something_else_is_named_as_no_invite() {
        assert_eq!(Invite::from_line("hello"), Err(InviteError::NotAnInvite));
        assert_eq!(Invite::from_line(&format!("{PREFIX}!!")), Err(InviteError::Damaged));
        assert_eq!(Invite::from_line(&"x".repeat(5000)), Err(InviteError::TooLong));
        let cut = invite().to_line();
        assert!(Invite::from_line(&cut[..cut.len() - 9]).is_err());
    }
}
