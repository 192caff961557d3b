//! One membership, from its `Cooperative` to a running engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use koinon_api::conditions::Reason;
use koinon_api::cooperative::CooperativeSpec;
use koinon_api::member::Liveness;
use koinon_core::founding::Founding;
use koinon_core::ids::{CoopId, MemberId, PublicKey, SiteName};
use koinon_core::invite::Invite;
use koinon_core::log::Limits;
use koinon_core::statement::{Statement, StatementError};
use koinon_net::client::Proxies;
use koinon_net::metrics::NetMetrics;
use kube::api::{Api, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::api_store::ApiStore;
use super::candidate::{Candidate, Refusal};
use super::desk::InviteDesk;
use super::engine::{Controls, Engine, Parts};
use super::envelope::from_resource;
use super::joining;
use super::logs::{Author, Contents};
use super::node::{self, Inputs, Network, Outputs, PeerName};
use super::reach::Reach;
use super::shelf::{KeptIn, Shelf};
use super::view::CommonsView;
use crate::context::Context;
use crate::keys::OperatorKey;
use crate::peers::PeersSnapshot;

/// The wait before a failed start is tried again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait for something of the own cluster, which somebody may be repairing right now.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The longest wait between two questions to a sponsor, who may be down for hours, or has said no.
const LONGEST_WAIT_FOR_SPONSOR: Duration = Duration::from_secs(60);

/// How far a membership has come.
#[derive(Clone, Debug, Default)]
pub enum Stage {
    /// It has just begun.
    #[default]
    Starting,
    /// It cannot go on by itself, or not yet; it is tried again.
    Held(Refusal),
    /// Its engine runs.
    Running(Running),
}

/// A running engine, as others see it.
#[derive(Clone)]
pub struct Running {
    /// The commons; `None` before the engine's first turn.
    pub view: watch::Receiver<Option<Arc<CommonsView>>>,
    /// What is held, for those who need the envelopes themselves.
    pub shelf: Arc<Shelf>,
    /// Connections.
    pub net: Arc<NetMetrics>,
    /// Who reaches this member.
    pub reach: watch::Receiver<Arc<Reach>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("shelf", &self.shelf).finish_non_exhaustive()
    }
}

/// What a membership is made of.
#[derive(Debug)]
pub struct Session {
    /// Handles.
    pub ctx: Context,
    /// The operator's key.
    pub key: OperatorKey,
    /// What the owner applied.
    pub spec: CooperativeSpec,
    /// What people applied.
    pub people: watch::Receiver<Arc<Vec<Candidate>>>,
    /// What the owner says.
    pub controls: watch::Receiver<Controls>,
    /// Where the stage is told.
    pub stage: watch::Sender<Stage>,
    /// Where what is heard is told.
    pub peers: watch::Sender<Arc<PeersSnapshot>>,
}

/// The parts of a `Cooperative` that name this membership.
#[derive(Clone, Debug)]
struct Named {
    coop: CoopId,
    me: MemberId,
    site: SiteName,
}

impl Session {
    /// Runs until `stop`, whatever it takes to begin.
    pub async fn run(self, stop: CancellationToken) {
        let mut wait = FIRST_WAIT;
        loop {
            let held = tokio::select! {
                () = stop.cancelled() => return,
                begun = self.begin() => match begun {
                    Ok(begun) => {
                        self.go(begun, stop).await;
                        return;
                    }
                    Err(refusal) => refusal,
                },
            };
            tracing::warn!(reason = %held.reason, "the membership cannot begin: {}", held.message);
            let longest = match held.reason {
                Reason::WriteFailed | Reason::InviteMissing => LONGEST_WAIT,
                _ => LONGEST_WAIT_FOR_SPONSOR,
            };
            self.stage.send_replace(Stage::Held(held));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait.min(longest)) => wait = (wait * 2).min(longest),
            }
        }
    }

    async fn begin(&self) -> Result<Begun, Refusal> {
        let named = self.named()?;
        let store = ApiStore::new(
            self.ctx.client.clone(),
            &self.ctx.namespace,
            self.ctx.lease.clone(),
            self.ctx.write_timeout(),
        );
        let author = Author {
            me: named.me.clone(),
            site: named.site.clone(),
            key: self.key.signer.clone(),
            clock: self.ctx.clock.clone(),
            store: Arc::new(store),
        };
        let unavailable = |error: &dyn std::error::Error| Refusal::new(Reason::WriteFailed, error.to_string());
        let stored_bytes = usize::try_from(self.ctx.args.author_cap_bytes).unwrap_or(usize::MAX);
        let limits = Limits { stored_bytes, ..Limits::default() };
        let contents = Contents::read(author.store.as_ref(), named.coop, limits).await;
        let contents = contents.map_err(|error| unavailable(&error))?;
        for (name, why) in &contents.spoilt {
            tracing::error!(%name, %why, "a stored Statement does not hold; it is left where it is and not served");
            self.ctx.metrics.refused.with_label_values(&["Spoilt"]).inc();
        }
        let name = PeerName::new(author.clone(), named.coop).map_err(|error| unavailable(&error))?;
        let proxies = Proxies::from_env();
        let Loaded { commons, refused, invite } = self.load(&named, &author, &name, contents, limits, &proxies).await?;
        let parameters = *commons.state().parameters();
        let charter = commons.founding().statement().clone();
        author.store.keep(&charter).await.map_err(|error| unavailable(&error))?;
        for (id, error) in refused {
            tracing::warn!(%id, %error, "a stored entry belongs to no log of this cooperative");
        }
        let (view_sender, view) = watch::channel(None);
        let desk = Arc::new(InviteDesk::new(&self.ctx, view.clone()));
        let kept = KeptIn { store: author.store.clone(), own: author.log() };
        let shelf = Shelf::new(commons, kept, self.ctx.publisher.clone(), desk);
        let network = Network::bind(self.ctx.args.peer_listen, name, shelf.clone(), &parameters, proxies).await;
        let network = network.map_err(|error| unavailable(&error))?;
        let (reach_sender, reach) = watch::channel(Arc::default());
        let running = Running { view, shelf: shelf.clone(), net: network.metrics(), reach };
        let engine = Engine::new(Parts {
            author,
            shelf,
            publisher: self.ctx.publisher.clone(),
            invite: invite.clone(),
            lost: self.lost(),
            metrics: self.ctx.metrics.clone(),
        });
        let outputs = Outputs { view: view_sender, peers: self.peers.clone(), reach: reach_sender };
        Ok(Begun { engine, network, invite, running, outputs })
    }

    async fn go(&self, begun: Begun, stop: CancellationToken) {
        let Begun { engine, network, invite, running, outputs } = begun;
        tracing::info!(address = ?network.address(), "the peer endpoint listens");
        self.stage.send_replace(Stage::Running(running));
        let inputs = Inputs { people: self.people.clone(), controls: self.controls.clone() };
        node::run(engine, network, invite, inputs, outputs, stop).await;
    }

    fn named(&self) -> Result<Named, Refusal> {
        let wrong = |what: &str, error: koinon_core::ids::IdError| {
            Refusal::new(Reason::CharterInvalid, format!("spec.{what} cannot be read: {error}"))
        };
        Ok(Named {
            coop: self.spec.id.parse().map_err(|error| wrong("id", error))?,
            me: self.spec.member.parse().map_err(|error| wrong("member", error))?,
            site: self.spec.site.name.parse().map_err(|error| wrong("site.name", error))?,
        })
    }

    /// What the store amounts to, and the invite while this member is not admitted yet.
    async fn load(
        &self,
        named: &Named,
        author: &Author,
        name: &PeerName,
        contents: Contents,
        limits: Limits,
        proxies: &Proxies,
    ) -> Result<Loaded, Refusal> {
        if let Some(charter) = &self.spec.charter {
            let (commons, refused) = contents.load(self.founded(named, author, charter)?, limits);
            return Ok(Loaded { commons, refused, invite: None });
        }
        let application =
            self.spec.application.as_ref().ok_or_else(|| {
                Refusal::new(Reason::ApplicationInvalid, "spec has neither a charter nor an application")
            })?;
        let malformed = |error: String| Refusal::new(Reason::ApplicationInvalid, error);
        let envelope = from_resource(application).map_err(|error| malformed(error.to_string()))?;
        // Read before anything is sent: an application with another key or member would waste the invite.
        let complete = joining::complete(envelope.clone(), author).map_err(|error| match error {
            StatementError::OperatorDidNotSign(key) => {
                other_key("application", key, author, "apply again with this one")
            }
            error => malformed(error.to_string()),
        })?;
        self.fits(named, &complete)?;
        let Some(founding) = contents.founding(named.coop) else {
            let invite = self.invite(named).await?;
            let founding = joining::apply(name, author, &invite, envelope, proxies).await;
            let (commons, refused) = contents.load(founding.map_err(|error| error.refusal())?, limits);
            return Ok(Loaded { commons, refused, invite: Some(invite) });
        };
        let (commons, refused) = contents.load(founding, limits);
        let admitted = commons.state().member(&named.me);
        if admitted.is_some_and(|member| member.member.keys.operator == author.log()) {
            // The invite is ignored once this member is admitted.
            return Ok(Loaded { commons, refused, invite: None });
        }
        // The charter is here because the sponsor took the application once. Asking again repairs what the sponsor may
        // have lost since; that it refuses now is no reason to stop listening for the vote.
        let invite = self.invite(named).await?;
        if let Err(error) = joining::apply(name, author, &invite, envelope, proxies).await {
            tracing::info!(%error, "the sponsor did not take the application once more");
        }
        Ok(Loaded { commons, refused, invite: Some(invite) })
    }

    fn founded(&self, named: &Named, author: &Author, charter: &koinon_api::Envelope) -> Result<Founding, Refusal> {
        let invalid = |message: String| Refusal::new(Reason::CharterInvalid, message);
        let envelope = from_resource(charter).map_err(|error| invalid(error.to_string()))?;
        let founding = Founding::verify_as(envelope, named.coop).map_err(|error| invalid(error.to_string()))?;
        let founder = founding.charter().founders.iter().find(|founder| founder.id == named.me);
        match founder {
            None => Err(invalid(format!("{} is not among the charter's founders", named.me))),
            Some(founder) if founder.keys.operator != author.log() => {
                Err(other_key("charter", founder.keys.operator, author, "found anew"))
            }
            Some(_) => Ok(founding),
        }
    }

    fn fits(&self, named: &Named, application: &Statement) -> Result<(), Refusal> {
        let koinon_core::body::Body::Application(body) = application.body() else {
            return Err(Refusal::new(Reason::ApplicationInvalid, "spec.application carries no application"));
        };
        if application.coop() != named.coop || body.member.id != named.me {
            let message = format!(
                "spec.application is {}'s to {}, and this Cooperative is {} of {}",
                body.member.id,
                application.coop(),
                named.me,
                named.coop
            );
            return Err(Refusal::new(Reason::ApplicationInvalid, message));
        }
        Ok(())
    }

    async fn invite(&self, named: &Named) -> Result<Invite, Refusal> {
        let missing = |message: String| Refusal::new(Reason::InviteMissing, message);
        let reference = self.spec.invite_secret_ref.as_ref().ok_or_else(|| {
            missing(
                "spec.inviteSecretRef names no Secret: put the sponsor's invite into one (kubectl koinon join)".into(),
            )
        })?;
        let secrets: Api<Secret> = Api::namespaced(self.ctx.client.clone(), &self.ctx.namespace);
        let read = tokio::time::timeout(self.ctx.write_timeout(), secrets.get_opt(&reference.name)).await;
        let secret = match read {
            Ok(Ok(Some(secret))) => secret,
            Ok(Ok(None)) => return Err(missing(format!("there is no Secret {}", reference.name))),
            Ok(Err(error)) => return Err(missing(format!("the Secret {} cannot be read: {error}", reference.name))),
            Err(_) => return Err(missing(format!("the Secret {} was not read in time", reference.name))),
        };
        let line = secret.data.as_ref().and_then(|data| data.get("invite"));
        let line = line.ok_or_else(|| missing(format!("the Secret {} has no entry invite", reference.name)))?;
        let line = std::str::from_utf8(&line.0).map_err(|_| missing("the invite is no text".into()))?;
        let invite = Invite::from_line(line).map_err(|error| missing(error.to_string()))?;
        if invite.coop != named.coop || invite.member != named.me {
            let message = format!(
                "the invite is for {} of {}, and this Cooperative is {} of {}",
                invite.member, invite.coop, named.me, named.coop
            );
            return Err(Refusal::new(Reason::InviteForeign, message));
        }
        Ok(invite)
    }

    /// Members that were Lost when a leader last wrote them down: they stay so until they are heard.
    fn lost(&self) -> BTreeSet<MemberId> {
        let members = self.ctx.caches.members.all();
        let lost = members
            .iter()
            .filter(|member| member.status.as_ref().is_some_and(|status| status.liveness == Some(Liveness::Lost)));
        lost.filter_map(|member| member.name_any().parse().ok()).collect()
    }
}

/// This operator is not the one that `what` names. Mostly its key was lost and another one put in its place.
fn other_key(what: &str, named: PublicKey, author: &Author, otherwise: &str) -> Refusal {
    let message = format!(
        "the {what} names operator key {named}, this operator has {}: restore that key (kubectl koinon keys restore), or \
         {otherwise}",
        author.log()
    );
    Refusal::new(Reason::KeyMismatch, message)
}

struct Loaded {
    commons: koinon_core::policy::Commons,
    refused: Vec<(koinon_core::ids::StatementId, koinon_core::log::Refused)>,
    invite: Option<Invite>,
}

struct Begun {
    engine: Engine,
    network: Network,
    invite: Option<Invite>,
    running: Running,
    outputs: Outputs,
}
