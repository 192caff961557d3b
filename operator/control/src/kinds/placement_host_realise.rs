//! The objects of a copy and of its namespace, and the weights that it needs. What is remembered here only saves requests.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, PodTemplateSpec, ResourceQuota, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use koinon_api::cooperative::CooperativeSpec;
use koinon_api::gpu_pool::PoolPod;
use koinon_api::weights::{Token, Want};
use koinon_api::{Placement, labels, names};
use koinon_core::ids::{ManifestDigest, MemberId, NodeName};
use koinon_core::placement::ReplicaKey;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::placement_home::Now;
use super::placement_host::GuestError;
use crate::context::Context;
use crate::placement::own::Own;
use crate::placement::reader::read;
use crate::placement::weights::{self, Failure, OwnSources, Weights, WeightsCache, WeightsError};
use crate::placement::writer::{WriteError, Writer};
use crate::render::guest::{self, Granted};
use crate::render::workload::{self, Owned, Scale};
use crate::render::{HostSettings, MANAGED_BY, claim};

/// What was applied is applied again this often, so that what somebody removed comes back.
const APPLY_AGAIN: Duration = Duration::from_secs(60);
/// The cache is asked for what is awaited this often.
const ASK: Duration = Duration::from_secs(2);
/// The cache is asked for what runs this often, so that it keeps it.
const KEEP: Duration = Duration::from_secs(60);
/// The owner's credentials and the cache's address are read again this often.
const READ_AGAIN: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
struct Credentials {
    sources: OwnSources,
    /// How often in a row something was lacking.
    lacking: u32,
}

impl Credentials {
    /// When they are read again: what is lacking soon, because somebody waits for it, then ever less often.
    fn keep(&self) -> Duration {
        match self.lacking {
            0 => READ_AGAIN,
            times => ASK.saturating_mul(1 << times.min(8)).min(READ_AGAIN),
        }
    }
}

/// The means to make what runs, and what was made.
#[derive(Debug)]
pub struct Realiser {
    ctx: Context,
    writer: Writer,
    own: Own,
    cache: WeightsCache,
    /// What the cache said when it was asked last; `None` where it did not answer.
    models: Option<BTreeMap<ManifestDigest, Weights>>,
    listed: Option<Duration>,
    asked: BTreeMap<ManifestDigest, Duration>,
    token: Option<(Duration, Token)>,
    credentials: Option<(Duration, Credentials)>,
    /// Models that cannot be asked for, and what their owner has to do about it.
    stuck: BTreeMap<ManifestDigest, Failure>,
    /// Models of which the cache says only that they fail, and since when.
    failing: BTreeMap<ManifestDigest, Duration>,
    address: Option<(Duration, String)>,
    confined: BTreeMap<MemberId, (Duration, Granted)>,
    deployed: BTreeMap<String, (Duration, Scale)>,
    served: BTreeMap<String, (Duration, String)>,
}

impl Realiser {
    /// A realiser that fetches from `cache`.
    #[must_use]
    pub fn new(ctx: Context, own: Own, cache: WeightsCache) -> Self {
        let writer = Writer::new(&ctx, "placement");
        Self {
            ctx,
            writer,
            own,
            cache,
            models: None,
            listed: None,
            asked: BTreeMap::new(),
            token: None,
            credentials: None,
            stuck: BTreeMap::new(),
            failing: BTreeMap::new(),
            address: None,
            confined: BTreeMap::new(),
            deployed: BTreeMap::new(),
            served: BTreeMap::new(),
        }
    }

    /// Asks the weights cache what it holds, if that is due.
    pub async fn begin(&mut self, now: Now) {
        if !due(self.listed.as_ref(), ASK, now) {
            return;
        }
        self.listed = Some(now.monotonic);
        let listed = match self.token(now).await {
            Ok(token) => self.cache.list(&token).await,
            Err(error) => Err(error),
        };
        match listed {
            Ok(models) => {
                let ready = models.iter().filter(|(_, weights)| matches!(weights, Weights::Ready { .. }));
                let ready: Vec<ManifestDigest> = ready.map(|(digest, _)| *digest).collect();
                self.own.weights.send_if_modified(|held| {
                    let changed = *held != ready;
                    *held = ready;
                    changed
                });
                self.models = Some(models);
            }
            Err(error) => {
                if self.models.take().is_some() || self.asked.is_empty() {
                    tracing::warn!(%error, "the weights cache does not answer");
                }
            }
        }
        let answers = self.models.is_some();
        self.ctx
            .host
            .send_if_modified(|facts| std::mem::replace(&mut facts.weights_cache, Some(answers)) != Some(answers));
    }

    /// What the cache has of a copy's model; asks for it, for as long as the copy needs it.
    pub async fn weights(&mut self, placement: &Placement, spec: &CooperativeSpec, now: Now) -> Option<Weights> {
        let digest: ManifestDigest = placement.spec.model.manifest_digest.parse().ok()?;
        let found = self.look_for(placement, digest, spec, now).await;
        match found {
            Some(Weights::Failed(_)) => drop(self.failing.entry(digest).or_insert(now.monotonic)),
            // Between two tries the cache says nothing of the last one.
            Some(Weights::Absent) => {}
            Some(Weights::Fetching { .. } | Weights::Ready { .. }) | None => drop(self.failing.remove(&digest)),
        }
        found
    }

    /// For how long the cache has only said that a copy's model fails.
    #[must_use]
    pub fn failing(&self, placement: &Placement, now: Now) -> Duration {
        let digest = placement.spec.model.manifest_digest.parse::<ManifestDigest>().ok();
        let since = digest.and_then(|digest| self.failing.get(&digest));
        since.map_or(Duration::ZERO, |since| now.monotonic.saturating_sub(*since))
    }

    async fn look_for(
        &mut self,
        placement: &Placement,
        digest: ManifestDigest,
        spec: &CooperativeSpec,
        now: Now,
    ) -> Option<Weights> {
        let known = self.models.as_ref()?.get(&digest).cloned().unwrap_or(Weights::Absent);
        let pause = if matches!(known, Weights::Ready { .. }) { KEEP } else { ASK };
        if !due(self.asked.get(&digest), pause, now) {
            return Some(told(known, self.stuck.get(&digest)));
        }
        self.asked.insert(digest, now.monotonic);
        match self.want(placement, digest, spec, now).await {
            Ok(state) => {
                self.stuck.remove(&digest);
                if let Some(models) = &mut self.models {
                    models.insert(digest, state.clone());
                }
                Some(state)
            }
            Err(error) => {
                let failure = error.failure();
                if failure.is_none() || self.stuck.get(&digest) != failure.as_ref() {
                    tracing::warn!(%digest, %error, "the weights cache could not be asked");
                }
                match failure {
                    Some(failure) => drop(self.stuck.insert(digest, failure)),
                    None => drop(self.stuck.remove(&digest)),
                }
                Some(told(known, self.stuck.get(&digest)))
            }
        }
    }

    async fn want(
        &mut self,
        placement: &Placement,
        digest: ManifestDigest,
        spec: &CooperativeSpec,
        now: Now,
    ) -> Result<Weights, WeightsError> {
        let owner = |error: koinon_core::ids::IdError| WeightsError::Owner {
            what: format!("Placement {}", placement.name_any()),
            why: error.to_string(),
        };
        let uri = placement.spec.model.uri.parse().map_err(owner)?;
        let revision = Some(placement.spec.model.revision.parse().map_err(owner)?);
        let credentials = match &self.credentials {
            Some((read, credentials)) if !due(Some(read), credentials.keep(), now) => credentials.clone(),
            before => {
                let lacking = before.as_ref().map_or(0, |(_, credentials)| credentials.lacking);
                let sources = weights::sources(&self.ctx.client, &self.ctx.namespace, &spec.sources).await;
                let lacking = if sources.lacking() { lacking.saturating_add(1) } else { 0 };
                let credentials = Credentials { sources, lacking };
                self.credentials = Some((now.monotonic, credentials.clone()));
                credentials
            }
        };
        let sources = credentials.sources.usable_for(&uri)?;
        let capacity = weights::capacity(&spec.weights)?;
        let want = Want { uri, revision, sources, capacity };
        let token = self.token(now).await?;
        self.cache.want(digest, &want, &token).await
    }

    /// The token of the weights cache.
    async fn token(&mut self, now: Now) -> Result<Token, WeightsError> {
        if let Some((read, token)) = &self.token
            && !due(Some(read), READ_AGAIN, now)
        {
            return Ok(token.clone());
        }
        let token = weights::token(&self.ctx).await?;
        self.token = Some((now.monotonic, token.clone()));
        Ok(token)
    }

    /// What this host adds to every pod.
    ///
    /// # Errors
    /// When the address or the token of the weights cache cannot be read.
    pub async fn settings(
        &mut self,
        spec: &CooperativeSpec,
        pod: PoolPod,
        now: Now,
    ) -> Result<HostSettings, GuestError> {
        let weights_url = match &self.address {
            Some((read, url)) if !due(Some(read), READ_AGAIN, now) => url.clone(),
            _ => {
                let api = Api::<Service>::namespaced(self.ctx.client.clone(), &self.ctx.namespace);
                let service = read("Service koinon-weights", api.get_opt(labels::WEIGHTS)).await?;
                let address = service.and_then(|service| service.spec?.cluster_ip).filter(|ip| ip != "None");
                // Guests may ask no DNS server; only where there is no address is the name all there is.
                let url =
                    address.map_or_else(|| self.ctx.args.weights_url.clone(), |ip| url(&ip, labels::WEIGHTS_PORT));
                self.address = Some((now.monotonic, url.clone()));
                url
            }
        };
        Ok(HostSettings {
            koinon_image: self.ctx.args.image.clone(),
            weights_url,
            weights_token: self.token(now).await?,
            image_mirrors: spec.images.mirrors.clone(),
            pull_secrets: spec.images.pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
            pod,
        })
    }

    /// Makes the namespace of a home's work and what confines it.
    ///
    /// # Errors
    /// When something of it cannot be written: nothing runs there before all of it stands.
    pub async fn confine(&mut self, home: &MemberId, granted: &Granted, now: Now) -> Result<(), WriteError> {
        if let Some((at, known)) = self.confined.get(home)
            && known == granted
            && !due(Some(at), APPLY_AGAIN, now)
        {
            return Ok(());
        }
        let name = names::guest_namespace(home.as_str());
        let client = || self.ctx.client.clone();
        self.writer.apply(&Api::<Namespace>::all(client()), &guest::namespace(home, &self.ctx.namespace)).await?;
        let policies = Api::<NetworkPolicy>::namespaced(client(), &name);
        for policy in guest::network_policies(home, &self.ctx.namespace) {
            self.writer.apply(&policies, &policy).await?;
        }
        let quotas = Api::<ResourceQuota>::namespaced(client(), &name);
        self.writer.apply(&quotas, &guest::quota(home, granted)).await?;
        self.confined.insert(home.clone(), (now.monotonic, granted.clone()));
        Ok(())
    }

    /// Makes the copy's Service and says where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn serve(&mut self, placement: &Placement, now: Now) -> Result<Option<String>, WriteError> {
        let owned = owned(placement);
        if let Some((at, url)) = self.served.get(&owned.uid)
            && !due(Some(at), APPLY_AGAIN, now)
        {
            return Ok(Some(url.clone()));
        }
        let api = Api::<Service>::namespaced(self.ctx.client.clone(), &owned.namespace);
        let service = self.writer.apply(&api, &workload::service(&owned)).await?;
        let Some(ip) = service.spec.and_then(|spec| spec.cluster_ip).filter(|ip| !ip.is_empty()) else {
            return Ok(None);
        };
        let url = url(&ip, labels::ENGINE_SERVICE_PORT);
        self.served.insert(owned.uid, (now.monotonic, url.clone()));
        Ok(Some(url))
    }

    /// Makes or scales the copy's Deployment, with the template exactly as it was granted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn deploy(
        &mut self,
        placement: &Placement,
        template: PodTemplateSpec,
        scale: Scale,
        now: Now,
    ) -> Result<(), WriteError> {
        let owned = owned(placement);
        if let Some((at, known)) = self.deployed.get(&owned.uid)
            && *known == scale
            && !due(Some(at), APPLY_AGAIN, now)
        {
            return Ok(());
        }
        if let Some(claim) = claim::of(placement) {
            // Before the pod that names it: without it that pod waits for a claim.
            let api = Api::<ResourceClaimTemplate>::namespaced(self.ctx.client.clone(), &owned.namespace);
            self.writer.apply(&api, &workload::claim_template(&owned, claim)).await?;
        }
        let api = Api::<Deployment>::namespaced(self.ctx.client.clone(), &owned.namespace);
        self.writer.apply(&api, &workload::deployment(&owned, template, scale)).await?;
        self.deployed.insert(owned.uid, (now.monotonic, scale));
        Ok(())
    }

    /// Whether the copy's Deployment was asked to run it, and for how long that has been so.
    #[must_use]
    pub fn deployed(&self, placement: &Placement, now: Now) -> Option<Duration> {
        let (at, scale) = self.deployed.get(&placement.uid()?)?;
        (*scale == Scale::Up).then(|| now.monotonic.saturating_sub(*at))
    }

    /// Why the copy's Deployment makes no pod, in the words of admission.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn refusal(&self, placement: &Placement) -> Result<Option<String>, GuestError> {
        let api = Api::<Deployment>::namespaced(self.ctx.client.clone(), &placement.namespace().unwrap_or_default());
        let deployment = read("a Deployment", api.get_opt(&placement.name_any())).await?;
        let conditions = deployment.and_then(|deployment| deployment.status?.conditions).unwrap_or_default();
        let failure = conditions.into_iter().find(|one| one.type_ == "ReplicaFailure" && one.status == "True");
        Ok(failure.and_then(|failure| failure.message))
    }

    /// How many pods of the copy may still hold GPUs, freshly read.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn pods_left(&self, placement: &Placement) -> Result<usize, GuestError> {
        let api = Api::<Pod>::namespaced(self.ctx.client.clone(), &placement.namespace().unwrap_or_default());
        let selector = format!("{}={}", labels::PLACEMENT, placement.name_any());
        let pods = read("pods", api.list(&ListParams::default().labels(&selector))).await?;
        Ok(pods.items.iter().filter(|pod| holds(pod)).count())
    }

    /// How many pods of any copy of the replica may still hold GPUs of `node`, freshly read.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn pods_on(&self, key: &ReplicaKey, node: &NodeName, own: bool) -> Result<usize, GuestError> {
        let replica = i32::try_from(key.replica.0).unwrap_or(i32::MAX);
        let name = names::host_placement(key.home.as_str(), key.job.as_str(), replica, 0);
        let stem = name.strip_suffix('0').unwrap_or(&name);
        let client = self.ctx.client.clone();
        // Own jobs may run in their team's namespace, which a reservation does not name.
        let api = if own {
            Api::<Pod>::all(client)
        } else {
            Api::namespaced(client, &names::guest_namespace(key.home.as_str()))
        };
        let selector = format!("{}={},app.kubernetes.io/managed-by={MANAGED_BY}", labels::PART, labels::PART_ENGINE);
        let pods = read("pods", api.list(&ListParams::default().labels(&selector))).await?;
        let of_replica = |pod: &&Pod| pod.labels().get(labels::PLACEMENT).is_some_and(|name| name.starts_with(stem));
        let here = |pod: &&Pod| {
            let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            bound.is_none_or(|bound| bound == node.as_str())
        };
        Ok(pods.items.iter().filter(of_replica).filter(|pod| holds(pod)).filter(here).count())
    }

    /// Forgets what was made for a Placement that is gone.
    pub fn forget(&mut self, placement: &Placement) {
        if let Some(uid) = placement.uid() {
            self.deployed.remove(&uid);
            self.served.remove(&uid);
        }
    }
}

/// What is said of a model: what keeps it from being asked for, unless it is here or on its way all the same.
fn told(known: Weights, stuck: Option<&Failure>) -> Weights {
    match (known, stuck) {
        (Weights::Absent | Weights::Failed(_), Some(failure)) => Weights::Failed(failure.clone()),
        (known, _) => known,
    }
}

fn due(last: Option<&Duration>, pause: Duration, now: Now) -> bool {
    last.is_none_or(|last| now.monotonic.saturating_sub(*last) >= pause)
}

/// Whether a pod may still hold devices: it has not ended.
fn holds(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

fn owned(placement: &Placement) -> Owned {
    Owned {
        name: placement.name_any(),
        namespace: placement.namespace().unwrap_or_default(),
        uid: placement.uid().unwrap_or_default(),
    }
}

fn url(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("http://[{ip}]:{port}") } else { format!("http://{ip}:{port}") }
}

#[cfg(test)]
mod tests {
    use koinon_api::weights::FailureReason;

    use super::*;

    #[test]
    fn an_address_of_either_family_makes_a_url() {
        assert_eq!(url("10.112.0.7", 8081), "http://10.112.0.7:8081");
        assert_eq!(url("fd00::7", 8081), "http://[fd00::7]:8081");
    }

    #[test]
    fn what_the_owner_must_mend_is_told_instead_of_waiting_for_ever_and_not_of_a_model_that_is_here() {
        let stuck = Failure::new(FailureReason::NoCredentials, "there is no Secret ours/token".to_owned());
        let failed = Weights::Failed(stuck.clone());
        assert_eq!(told(Weights::Absent, Some(&stuck)), failed);
        assert_eq!(told(Weights::Absent, None), Weights::Absent);
        for here in [Weights::Ready { bytes: 9 }, Weights::Fetching { bytes: 3, total: None }] {
            assert_eq!(told(here.clone(), Some(&stuck)), here);
        }
    }

    #[test]
    fn credentials_that_lack_something_are_read_again_soon_and_then_ever_less_often() {
        let read = |lacking| Credentials { sources: OwnSources::default(), lacking }.keep();
        assert_eq!([1, 2, 3, 4, 99].map(|times| read(times).as_secs()), [4, 8, 16, 30, 30]);
        assert_eq!(read(0), READ_AGAIN);
    }
}
