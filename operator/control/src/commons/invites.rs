//! The sponsor's side of joining: which invites there are, and whether an application is taken.
//!
//! An invite is a Secret that holds only the digest of the one-time secret. Using it is written down before the
//! application is accepted, together with the key that used it, so that the same applicant may ask again when the answer
//! was lost, and nobody else can.

use k8s_openapi::api::core::v1::Secret;
use koinon_api::labels;
use koinon_core::body::{Body, Member};
use koinon_core::dsse::Envelope;
use koinon_core::ids::{CoopId, Digest, MemberId, PublicKey, UnixSeconds};
use koinon_core::invite::secret_digest;
use koinon_core::statement::Statement;
use koinon_net::wire::{JoinRefusal, JoinRefused, JoinRequest};
use kube::ResourceExt;

/// An invite as the sponsor's cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenInvite {
    /// The Secret's name.
    pub name: String,
    /// The digest of the one-time secret.
    pub secret: Digest,
    /// Under which id the applicant may apply.
    pub member: MemberId,
    /// When it ends.
    pub expires_at: UnixSeconds,
    /// The operator key that used it.
    pub used_by: Option<PublicKey>,
}

impl OpenInvite {
    /// Reads an invite's Secret.
    ///
    /// # Errors
    /// What about it cannot be read.
    pub fn read(secret: &Secret) -> Result<Self, String> {
        let text = |entry: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(entry)).ok_or(format!("it has no {entry}"))?;
            std::str::from_utf8(&bytes.0).map_err(|_| format!("{entry} is no text")).map(str::trim)
        };
        let digest = format!("sha256:{}", text("secretHash")?);
        let used_by = secret.annotations().get(labels::USED_BY).map(|key| key.parse());
        Ok(OpenInvite {
            name: secret.name_any(),
            secret: digest.parse().map_err(|_| "secretHash is no digest".to_owned())?,
            member: text("member")?.parse().map_err(|_| "member is no member id".to_owned())?,
            expires_at: UnixSeconds(text("expiresAt")?.parse().map_err(|_| "expiresAt is no time".to_owned())?),
            used_by: used_by.transpose().map_err(|_| format!("{} is no key", labels::USED_BY))?,
        })
    }
}

/// An application that is taken, and the invite that it uses.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The invite.
    pub invite: OpenInvite,
    /// The application as it will travel in the proposal.
    pub application: Envelope,
    /// Its id.
    pub statement: Statement,
    /// Who applies.
    pub member: Member,
}

/// Decides whether `request`, from whoever has proven to hold `key`, is taken.
///
/// # Errors
/// The reason for the applicant.
pub fn judge(
    invites: &[OpenInvite],
    request: &JoinRequest,
    key: &PublicKey,
    coop: CoopId,
    is_taken: impl Fn(&Member) -> Option<String>,
    now: UnixSeconds,
) -> Result<Taken, JoinRefused> {
    let digest = secret_digest(&request.secret);
    let invite = invites.iter().find(|invite| invite.secret == digest).ok_or_else(|| {
        refuse(
            JoinRefusal::InviteUnknown,
            "this sponsor knows no invite with this secret: ask whoever sent it for a new one",
        )
    })?;
    match &invite.used_by {
        Some(user) if user != key => {
            return Err(refuse(JoinRefusal::InviteUsed, "another operator has used this invite: ask for a new one"));
        }
        // An invite that was used in time stays good for whoever used it, or a lost answer would cost the application.
        Some(_) => {}
        None if invite.expires_at <= now => {
            let message = format!("the invite ended {} s ago: ask for a new one", now.0 - invite.expires_at.0);
            return Err(refuse(JoinRefusal::InviteExpired, message));
        }
        None => {}
    }
    let statement = Statement::verify(request.application.clone())
        .and_then(Statement::understood)
        .map_err(|error| refuse(JoinRefusal::ApplicationInvalid, error.to_string()))?;
    let Body::Application(application) = statement.body() else {
        let message = format!("this is a {} statement and no application", statement.kind());
        return Err(refuse(JoinRefusal::ApplicationInvalid, message));
    };
    let member = application.member.clone();
    if statement.coop() != coop {
        let message = format!("the application is for {}, and this is {coop}", statement.coop());
        return Err(refuse(JoinRefusal::WrongCooperative, message));
    }
    if member.keys.operator != *key {
        return Err(refuse(
            JoinRefusal::WrongKey,
            format!("the application names operator key {}, and {key} has sent it", member.keys.operator),
        ));
    }
    if member.id != invite.member {
        let message = format!("the invite is for {}, and {} has applied with it", invite.member, member.id);
        return Err(refuse(JoinRefusal::WrongMember, message));
    }
    if let Some(what) = is_taken(&member) {
        return Err(refuse(JoinRefusal::Taken, format!("{what} is taken by another member already")));
    }
    Ok(Taken { invite: invite.clone(), application: request.application.clone(), member, statement })
}

/// A refusal in words.
pub fn refuse(reason: JoinRefusal, message: impl Into<String>) -> JoinRefused {
    JoinRefused { reason, message: message.into() }
}

#[cfg(test)]
mod tests {
    use koinon_core::dsse::Signer;
    use koinon_core::testkit::{self, Person, T0};

    use super::*;

    const COOP: CoopId = CoopId(Digest([9; 32]));

    fn secret(entries: &[(&str, &str)], used_by: Option<&PublicKey>) -> Secret {
        let data =
            entries.iter().map(|(name, text)| (*name, serde_json::json!(base64(text)))).collect::<serde_json::Value>();
        let annotations = used_by.map(|key| serde_json::json!({labels::USED_BY: key.to_string()}));
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "koinon-invite-bilbao", "annotations": annotations}, "data": data
        }))
        .unwrap()
    }

    fn base64(text: &str) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    fn invite(used_by: Option<PublicKey>) -> OpenInvite {
        let hash = secret_digest("one-time").hex();
        let end = (T0.0 + 3600).to_string();
        let entries = [("secretHash", hash.as_str()), ("member", "bilbao"), ("expiresAt", end.as_str())];
        OpenInvite::read(&secret(&entries, used_by.as_ref())).unwrap()
    }

    fn request(person: &Person) -> JoinRequest {
        JoinRequest { secret: "one-time".into(), application: person.application(COOP, T0).envelope().clone() }
    }

    fn reason(result: Result<Taken, JoinRefused>) -> JoinRefusal {
        result.unwrap_err().reason
    }

    fn nobody(_: &Member) -> Option<String> {
        None
    }

    #[test]
    fn a_good_application_is_taken_and_again_when_the_answer_was_lost() {
        let bilbao = testkit::person("bilbao");
        let key = bilbao.operator.public_key();
        let taken = judge(&[invite(None)], &request(&bilbao), &key, COOP, nobody, T0).unwrap();
        assert_eq!(taken.member.id, bilbao.id());
        let days_later = UnixSeconds(T0.0 + 300_000);
        judge(&[invite(Some(key))], &request(&bilbao), &key, COOP, nobody, days_later).unwrap();
    }

    #[test]
    fn a_used_an_expired_and_a_foreign_invite_are_refused_with_their_reason() {
        let (bilbao, cork) = (testkit::person("bilbao"), testkit::person("cork"));
        let key = bilbao.operator.public_key();
        let judge_at = |invites: &[OpenInvite], now| judge(invites, &request(&bilbao), &key, COOP, nobody, now);
        assert_eq!(reason(judge_at(&[invite(Some(cork.operator.public_key()))], T0)), JoinRefusal::InviteUsed);
        assert_eq!(reason(judge_at(&[invite(None)], UnixSeconds(T0.0 + 3600))), JoinRefusal::InviteExpired);
        assert_eq!(reason(judge_at(&[], T0)), JoinRefusal::InviteUnknown);
        let foreign = CoopId(Digest([8; 32]));
        let refused = judge(&[invite(None)], &request(&bilbao), &key, foreign, nobody, T0);
        assert_eq!(reason(refused), JoinRefusal::WrongCooperative);
    }

    #[test]
    fn an_application_of_another_member_key_or_form_is_refused() {
        let (bilbao, cork) = (testkit::person("bilbao"), testkit::person("cork"));
        let key = bilbao.operator.public_key();
        let taken = |request: &JoinRequest, key: &PublicKey| judge(&[invite(None)], request, key, COOP, nobody, T0);
        assert_eq!(reason(taken(&request(&cork), &cork.operator.public_key())), JoinRefusal::WrongMember);
        assert_eq!(reason(taken(&request(&bilbao), &cork.operator.public_key())), JoinRefusal::WrongKey);
        let mut changed = request(&bilbao);
        changed.application.payload.replace_range(40..41, "A");
        assert_eq!(reason(taken(&changed, &key)), JoinRefusal::ApplicationInvalid);
        let occupied = judge(&[invite(None)], &request(&bilbao), &key, COOP, |m| Some(m.id.to_string()), T0);
        assert_eq!(reason(occupied), JoinRefusal::Taken);
    }

    #[test]
    fn a_secret_that_is_no_invite_is_named() {
        assert_eq!(OpenInvite::read(&secret(&[], None)).unwrap_err(), "it has no secretHash");
        let entries = [("secretHash", "abc"), ("member", "bilbao"), ("expiresAt", "1")];
        assert_eq!(OpenInvite::read(&secret(&entries, None)).unwrap_err(), "secretHash is no digest");
    }
}
