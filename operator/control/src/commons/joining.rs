//! The applicant's side of joining: one application to the sponsor, and its charter in return.

use std::time::Duration;

use koinon_api::conditions::Reason;
use koinon_core::dsse::Envelope;
use koinon_core::founding::{Founding, FoundingError};
use koinon_core::ids::StatementId;
use koinon_core::invite::Invite;
use koinon_core::statement::{Statement, StatementError};
use koinon_net::client::{DialError, JoinError, JoinSession, Proxies, SessionError, one_line};
use koinon_net::limits::{Limits, Timing};
use koinon_net::tls::PeerRefusal;
use koinon_net::wire::{JoinAccepted, JoinRefusal, JoinRequest};
use thiserror::Error;

use super::candidate::Refusal;
use super::logs::Author;
use super::node::{PeerName, sponsor};

/// How often the charter is asked for before the whole application is tried again.
const ATTEMPTS: u32 = 6;
/// The wait after the first of these attempts; each further one waits as much longer.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the application is not with the sponsor, or the sponsor's charter not here.
#[derive(Debug, Error)]
pub enum JoinTrouble {
    /// The application itself.
    #[error("the application does not hold: {0}")]
    Application(#[from] StatementError),
    /// The invite has ended.
    #[error("the invite ended at {0} (Unix time): ask the sponsor for another")]
    Expired(i64),
    /// The sponsor refused it, or could not be asked.
    #[error(transparent)]
    Asked(#[from] JoinError),
    /// It was taken, and then the sponsor did not answer.
    #[error("the sponsor took the application and did not show its charter")]
    Session(#[from] SessionError),
    /// The sponsor has no charter.
    #[error("the sponsor has no charter of {0}: is the invite from another cooperative?")]
    NoCharter(koinon_core::ids::CoopId),
    /// What it showed is not the charter of the invite.
    #[error("the sponsor showed a charter that does not hold: {0}")]
    Charter(#[from] FoundingError),
}

impl JoinTrouble {
    /// As a condition says it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let reason = match self {
            JoinTrouble::Application(_) => Reason::ApplicationInvalid,
            JoinTrouble::Expired(_) => Reason::InviteExpired,
            JoinTrouble::Asked(JoinError::Refused(refused)) => match refused.reason {
                JoinRefusal::InviteUsed => Reason::InviteUsed,
                JoinRefusal::InviteExpired => Reason::InviteExpired,
                JoinRefusal::WrongCooperative | JoinRefusal::WrongMember => Reason::InviteForeign,
                JoinRefusal::ApplicationInvalid | JoinRefusal::Taken => Reason::ApplicationInvalid,
                JoinRefusal::WrongKey => Reason::KeyMismatch,
                JoinRefusal::Unavailable => Reason::SponsorUnreachable,
                JoinRefusal::InviteUnknown | JoinRefusal::Unknown => Reason::InviteRefused,
            },
            JoinTrouble::Asked(JoinError::TooLarge { .. }) => Reason::ApplicationInvalid,
            JoinTrouble::Asked(JoinError::Session(error)) | JoinTrouble::Session(error) => unreachable(error),
            JoinTrouble::NoCharter(_) => Reason::InviteForeign,
            JoinTrouble::Charter(_) => Reason::CharterInvalid,
        };
        Refusal::new(reason, one_line(self))
    }
}

/// Whoever answers proves another cooperative, or another key, than the invite names; anything else is a bad line.
fn unreachable(error: &SessionError) -> Reason {
    let refusal = match error {
        SessionError::Dial(error) => match error.as_ref() {
            DialError::Certificate { refusal, .. } => Some(refusal),
            _ => None,
        },
        _ => None,
    };
    match refusal {
        Some(PeerRefusal::WrongCooperative { .. } | PeerRefusal::WrongKey { .. }) => Reason::InviteForeign,
        _ => Reason::SponsorUnreachable,
    }
}

/// Completes an application with the operator's own signature, which proves that the applicant holds the key.
///
/// # Errors
/// When it is about another operator, or no application.
pub fn complete(application: Envelope, author: &Author) -> Result<Statement, StatementError> {
    Statement::complete_application(application, author.key.as_ref())
}

/// Applies, and fetches the charter that the invite names. May be repeated: the same applicant is taken again.
///
/// # Errors
/// See [`JoinTrouble`].
pub async fn apply(
    name: &PeerName,
    author: &Author,
    invite: &Invite,
    application: Envelope,
    proxies: &Proxies,
) -> Result<Founding, JoinTrouble> {
    let application = complete(application, author)?;
    let request = JoinRequest { secret: invite.secret.clone(), application: application.envelope().clone() };
    let mut answer = send(name, invite, proxies, &request).await;
    if let Err(JoinError::Session(error)) = &answer {
        // The sponsor may have taken it, and ended the connection for that very reason before its answer was out.
        tracing::debug!(%error, "the sponsor's answer was lost, asking once more");
        tokio::time::sleep(PAUSE).await;
        answer = send(name, invite, proxies, &request).await;
    }
    if let Err(JoinError::Refused(refused)) = &answer
        && refused.reason == JoinRefusal::InviteUnknown
        && invite.expires_at <= author.clock.unix()
    {
        // The sponsor has thrown it away, as it may once its time is over.
        return Err(JoinTrouble::Expired(invite.expires_at.0));
    }
    answer?;
    let charter = fetch_charter(name, invite, proxies).await?.ok_or(JoinTrouble::NoCharter(invite.coop))?;
    Ok(Founding::verify_as(charter, invite.coop)?)
}

async fn send(
    name: &PeerName,
    invite: &Invite,
    proxies: &Proxies,
    request: &JoinRequest,
) -> Result<JoinAccepted, JoinError> {
    connect(name, invite, proxies).await?.apply(request).await
}

/// Fetches the charter over a new connection: the one that applied was judged before the application was taken, and the
/// sponsor ends it when what its key may read changes.
async fn fetch_charter(name: &PeerName, invite: &Invite, proxies: &Proxies) -> Result<Option<Envelope>, SessionError> {
    let mut attempt = 0;
    loop {
        let fetched = match connect(name, invite, proxies).await {
            Ok(session) => session.document(&StatementId(invite.coop.0)).await,
            Err(error) => Err(error),
        };
        attempt += 1;
        match fetched {
            Err(error) if attempt < ATTEMPTS => {
                tracing::debug!(%error, attempt, "the sponsor did not show its charter yet");
                tokio::time::sleep(PAUSE * attempt).await;
            }
            fetched => return fetched,
        }
    }
}

async fn connect(name: &PeerName, invite: &Invite, proxies: &Proxies) -> Result<JoinSession, SessionError> {
    JoinSession::connect(&sponsor(invite), &name.identity, proxies, Limits::default(), Timing::default()).await
}
