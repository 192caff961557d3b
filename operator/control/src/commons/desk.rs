//! The sponsor's desk: invites are Secrets, and what is taken becomes the draft of a proposal.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use koinon_api::catalogue::{Action, Admit};
use koinon_api::labels;
use koinon_api::proposal::{Proposal, ProposalClass, ProposalSpec};
use koinon_core::body::Member;
use koinon_core::ids::PublicKey;
use koinon_core::policy::State;
use koinon_net::wire::{JoinAccepted, JoinRefusal, JoinRefused, JoinRequest};
use kube::api::{Api, ListParams, Patch, PatchParams, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use super::envelope::to_resource;
use super::invites::{self, OpenInvite, Taken, refuse};
use super::shelf::JoinDesk;
use super::view::{CommonsView, Standing};
use crate::clock::Clock;
use crate::lease::LeaseHandle;
use crate::placement::writer::Writer;

/// A desk in the release namespace.
#[derive(Debug)]
pub struct InviteDesk {
    secrets: Api<Secret>,
    proposals: Api<Proposal>,
    lease: LeaseHandle,
    writer: Writer,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    view: watch::Receiver<Option<Arc<CommonsView>>>,
}

impl InviteDesk {
    /// A desk that judges by `view`.
    #[must_use]
    pub fn new(ctx: &crate::context::Context, view: watch::Receiver<Option<Arc<CommonsView>>>) -> Self {
        InviteDesk {
            secrets: Api::namespaced(ctx.client.clone(), &ctx.namespace),
            proposals: Api::namespaced(ctx.client.clone(), &ctx.namespace),
            lease: ctx.lease.clone(),
            writer: Writer::new(ctx, "invites"),
            timeout: ctx.write_timeout(),
            clock: ctx.clock.clone(),
            view,
        }
    }

    async fn take(&self, key: &PublicKey, request: JoinRequest) -> Result<JoinAccepted, JoinRefused> {
        let view = self.view.borrow().clone().filter(|view| view.standing == Standing::Member);
        let view = view.ok_or_else(|| unavailable("the sponsor is no member at this moment: try again later"))?;
        // Read anew and not from a cache: an invite that was made a second ago is good, and one that was deleted is not.
        let params = ListParams::default().labels(&format!("{}={}", labels::INVITE, labels::TRUE));
        let listed = tokio::time::timeout(self.timeout, self.secrets.list(&params)).await;
        let listed = match listed {
            Ok(Ok(listed)) => listed.items,
            Ok(Err(error)) => return Err(unavailable(format!("the sponsor could not read its invites: {error}"))),
            Err(_) => return Err(unavailable("the sponsor could not read its invites in time")),
        };
        let open: Vec<OpenInvite> = listed.iter().filter_map(|secret| OpenInvite::read(secret).ok()).collect();
        let taken =
            invites::judge(&open, &request, key, view.coop, |member| used(&view.state, member), self.clock.unix())?;
        let secret = listed.iter().find(|secret| secret.name_any() == taken.invite.name);
        if taken.invite.used_by.is_none()
            && let Some(secret) = secret
        {
            self.mark(secret, key).await?;
        }
        self.draft(&view.state, &taken).await?;
        tracing::info!(member = %taken.member.id, "an application has arrived");
        Ok(JoinAccepted { application: taken.statement.id() })
    }

    /// Writes down who uses the invite, before anything is accepted: of two that come at once, one is too late.
    async fn mark(&self, secret: &Secret, key: &PublicKey) -> Result<(), JoinRefused> {
        let fence = self.lease.guard().map_err(|_| unavailable("the sponsor's operator is handing over: try again"))?;
        let patch = json!({"metadata": {
            "resourceVersion": secret.resource_version(),
            "annotations": {labels::USED_BY: key.to_string()}
        }});
        let (params, patch, name) = (PatchParams::default(), Patch::Merge(&patch), secret.name_any());
        let written = fence.within(self.secrets.patch(&name, &params, &patch));
        match tokio::time::timeout(self.timeout, written).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(unavailable(format!("the sponsor could not mark the invite as used: {error}"))),
            Err(_) => Err(unavailable("the sponsor could not mark the invite as used in time")),
        }
    }

    /// Makes the draft that the sponsor's people sign, unless the application is proposed already.
    async fn draft(&self, state: &State, taken: &Taken) -> Result<(), JoinRefused> {
        let keys = &taken.member.keys;
        let proposed = state.proposals().values().any(|proposal| {
            proposal.applicant.as_ref().is_some_and(|applicant| applicant.keys == *keys) && proposal.invalid.is_none()
        });
        if proposed {
            return Ok(());
        }
        let name = draft_name(&taken.member);
        let spec = ProposalSpec {
            title: format!("Admit {}", taken.member.id),
            text: describe(&taken.member),
            class: ProposalClass::Admit,
            action: Some(Action::Admit(Admit { application: to_resource(&taken.application) })),
            envelope: None,
        };
        let draft = Proposal::new(&name, spec);
        match self.writer.apply(&self.proposals, &draft).await {
            Ok(_) => Ok(()),
            Err(error) => Err(unavailable(format!("the sponsor could not keep the application: {error}"))),
        }
    }
}

impl JoinDesk for InviteDesk {
    fn join<'a>(
        &'a self,
        key: &'a PublicKey,
        request: JoinRequest,
    ) -> BoxFuture<'a, Result<JoinAccepted, JoinRefused>> {
        Box::pin(self.take(key, request))
    }
}

/// The name of the draft that admits a member; `kubectl koinon propose --from` signs it.
#[must_use]
pub fn draft_name(member: &Member) -> String {
    format!("admit-{}", member.id)
}

fn describe(member: &Member) -> String {
    let endpoints: Vec<&str> = member.endpoints.peer.iter().map(|endpoint| endpoint.as_str()).collect();
    let reached = if endpoints.is_empty() { "outbound only".to_owned() } else { endpoints.join(", ") };
    format!(
        "{} asks to be admitted: owner {}, control group {}, site {} in {} ({}), operator key {}, reached at {}.",
        member.id,
        member.owner,
        member.control_group,
        member.site.name,
        member.site.region,
        member.site.jurisdiction,
        member.keys.operator,
        reached
    )
}

/// What of a member is, or was, another's.
fn used(state: &State, member: &Member) -> Option<String> {
    // Admitted before it had read the charter: it asks again, and nothing of it is anybody else's.
    if state.member(&member.id).is_some_and(|known| known.member.keys == member.keys) {
        return None;
    }
    let membership = state.membership()?;
    if membership.used_ids.contains(&member.id) {
        return Some(format!("the member id {}", member.id));
    }
    member.keys.all().find(|key| membership.used_keys.contains(key)).map(|key| format!("the key {key}"))
}

fn unavailable(message: impl Into<String>) -> JoinRefused {
    refuse(JoinRefusal::Unavailable, message)
}

/// The operator keys that used an invite and whose application is still open here, by what the invites say.
///
/// They read on while there is no proposal about them yet, until their invite would have ended; once there is one, its
/// fate decides.
#[must_use]
pub fn applicants(
    secrets: &[Arc<Secret>],
    state: &State,
    now: koinon_core::ids::UnixSeconds,
) -> std::collections::BTreeSet<PublicKey> {
    let open = secrets.iter().filter_map(|secret| OpenInvite::read(secret).ok());
    let proposed = |key: &PublicKey| {
        let of_key = |p: &&koinon_core::policy::ProposalState| {
            p.applicant.as_ref().is_some_and(|applicant| applicant.keys.operator == *key)
        };
        state.proposals().values().any(|proposal| of_key(&proposal))
    };
    open.filter(|invite| invite.expires_at > now)
        .filter_map(|invite| invite.used_by)
        .filter(|key| !proposed(key))
        .collect()
}

#[cfg(test)]
mod tests {
    use koinon_core::body::charter::Preset;
    use koinon_core::log::Limits;
    use koinon_core::policy::Commons;
    use koinon_core::testkit;

    use super::*;

    #[test]
    fn a_member_that_asks_again_is_itself_and_anybody_else_under_its_name_is_not() {
        let (aarhus, bilbao) = (testkit::person("aarhus"), testkit::person("bilbao"));
        let founding = testkit::found(&[&aarhus, &bilbao], testkit::charter(&[&aarhus, &bilbao], Preset::Trial));
        let commons = Commons::new(founding, Limits::default());
        assert_eq!(used(commons.state(), &bilbao.member), None);
        let mut stranger = testkit::person("cork").member;
        assert_eq!(used(commons.state(), &stranger), None);
        stranger.id = bilbao.id();
        assert_eq!(used(commons.state(), &stranger).as_deref(), Some("the member id bilbao"));
        stranger.id = "dublin".parse().unwrap();
        stranger.keys.operator = bilbao.member.keys.operator;
        assert!(used(commons.state(), &stranger).unwrap().starts_with("the key ed25519:"));
    }
}
