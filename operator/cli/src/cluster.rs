//! What the commands read from, and write to, the member's cluster.

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use koinon_api::labels;
use koinon_api::settled::{Data, Noted, noted};
use koinon_api::{Cooperative, Proposal, Statement, names};
use koinon_core::founding::Founding;
use koinon_core::ids::{CoopId, MemberId, PublicKey, Seconds, SiteName, UnixSeconds};
use koinon_core::log::{Limits, Recollection, Settled};
use koinon_core::policy::Commons;
use koinon_core::statement::Statement as Signed;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::Access;

/// The field manager of everything that this command applies.
const FIELD_MANAGER: &str = "kubectl-koinon";

/// What the entries amount to; where some of those that were settled are not there, together with what remains of them.
///
/// # Errors
/// Where neither does.
pub fn amount_to(
    founding: Founding,
    limits: Limits,
    entries: Vec<Signed>,
    settled: Option<Settled>,
) -> anyhow::Result<Commons> {
    let (commons, _) = Commons::load(founding.clone(), limits, entries.iter().cloned());
    let Some(settled) = settled.filter(|settled| lacks(&commons, settled)) else { return Ok(commons) };
    let mut recollection = Recollection::new(settled);
    let later: Vec<Signed> = entries.into_iter().filter_map(|entry| recollection.take(entry)).collect();
    let recalled = Commons::recall(founding, limits, recollection, later);
    let (commons, _) = recalled.with_context(|| {
        format!(
            "log entries are missing in this cluster, and the ConfigMap {} does not make up for them: put them back (kubectl \
             koinon archive restore)",
            names::SETTLED
        )
    })?;
    Ok(commons)
}

/// Whether entries are missing below what was settled.
pub fn lacks(commons: &Commons, settled: &Settled) -> bool {
    let replica = commons.replica();
    settled.logs.values().any(|of_log| !replica.contains(&of_log.head.id))
}

/// The release of one member.
pub struct Cluster {
    /// The API server.
    pub client: Client,
    /// The release's namespace.
    pub namespace: String,
}

/// The cooperative as this cluster knows it.
pub struct Membership {
    /// The resource.
    pub resource: Cooperative,
    /// The cooperative's id.
    pub coop: CoopId,
    /// This cluster's member.
    pub member: MemberId,
    /// Its site.
    pub site: SiteName,
}

impl Cluster {
    /// Connects as `access` says.
    ///
    /// # Errors
    /// Where no client can be made.
    pub async fn connect(access: &Access) -> anyhow::Result<Self> {
        Ok(Self { client: access.client().await?, namespace: access.release().to_owned() })
    }

    /// The resources of one kind in the release's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Every resource of one kind that can be read. One that cannot be is named and left out: it keeps nobody from the others.
    ///
    /// # Errors
    /// Where the API server does not answer.
    pub async fn list<K>(&self, what: &str) -> anyhow::Result<Vec<K>>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        readable(&Api::namespaced(self.client.clone(), &self.namespace), what).await
    }

    /// The one `Cooperative` of the release, where there is one.
    ///
    /// # Errors
    /// Where the API server does not answer, or knows no such kind.
    pub async fn find_cooperative(&self) -> anyhow::Result<Option<Cooperative>> {
        let found = self
            .api::<Cooperative>()
            .list(&ListParams::default())
            .await
            .context("cannot read the Cooperative (is the chart koinon-crds installed?)")?;
        Ok(Cooperative::chosen(&found.items).cloned())
    }

    /// This cluster's membership.
    ///
    /// # Errors
    /// Where the cluster has neither founded nor joined.
    pub async fn membership(&self) -> anyhow::Result<Membership> {
        let Some(resource) = self.find_cooperative().await? else {
            bail!(
                "namespace {} holds no Cooperative: found one (kubectl koinon found) or join one (kubectl koinon join)",
                self.namespace
            );
        };
        let coop = resource.spec.id.parse().context("cannot read the Cooperative's spec.id")?;
        let member = resource.spec.member.parse().context("cannot read the Cooperative's spec.member")?;
        let site = resource.spec.site.name.parse().context("cannot read the Cooperative's spec.site.name")?;
        Ok(Membership { resource, coop, member, site })
    }

    /// The founding charter, from the founder's own resource or from the commons.
    ///
    /// # Errors
    /// Where it is not there yet, or does not hold.
    pub async fn founding(&self, membership: &Membership) -> anyhow::Result<Founding> {
        let envelope = match &membership.resource.spec.charter {
            Some(envelope) => envelope.clone(),
            None => {
                let name = names::statement(&membership.coop.to_string());
                let stored = self.api::<Statement>().get_opt(&name).await.context("cannot read the charter")?;
                let stored = stored.with_context(|| {
                    format!(
                        "the charter (Statement {name}) has not arrived yet; see kubectl get kcoop -n {}",
                        self.namespace
                    )
                })?;
                stored.spec.envelope
            }
        };
        Founding::verify_as(to_core(&envelope)?, membership.coop).context("the stored charter does not hold")
    }

    /// The commons as this cluster stores it, verified and folded here: what the operator reports is not needed.
    ///
    /// # Errors
    /// Where the charter is not there yet or the statements cannot be read.
    pub async fn commons(&self, membership: &Membership) -> anyhow::Result<Commons> {
        self.commons_within(membership, Limits::default()).await
    }

    /// The same, of no author less than `limits` allow. Where entries were moved to an archive, from what remains of them.
    ///
    /// # Errors
    /// As [`Cluster::commons`].
    pub async fn commons_within(&self, membership: &Membership, limits: Limits) -> anyhow::Result<Commons> {
        let founding = self.founding(membership).await?;
        let entries = self.entries().await?.into_iter().map(|(_, entry)| entry).collect();
        amount_to(founding, limits, entries, self.settled().await?)
    }

    /// Every log entry that the cluster stores, with the name of its Statement. What does not verify, or is none of an operator's
    /// entries, has no effect for the operator either.
    ///
    /// # Errors
    /// Where the statements cannot be read.
    pub async fn entries(&self) -> anyhow::Result<Vec<(String, Signed)>> {
        let stored = self.list::<Statement>("statements").await?;
        let entries = stored.iter().filter_map(|resource| {
            let envelope = to_core(&resource.spec.envelope).ok()?;
            let signed = Signed::verify(envelope).ok().filter(|statement| statement.log_seq().is_some())?;
            Some((resource.name_any(), signed))
        });
        Ok(entries.collect())
    }

    /// What the operator remembers of the entries that a checkpoint has settled; nothing where it still needs them all.
    ///
    /// # Errors
    /// Where the API server does not answer, or it cannot be read.
    pub async fn settled(&self) -> anyhow::Result<Option<Settled>> {
        let text = match self.map(names::SETTLED).await?.and_then(noted) {
            None => return Ok(None),
            Some(Noted::Here(text)) => text,
            Some(Noted::In(parts)) => {
                let mut text = String::new();
                for name in parts {
                    let part = self.map(&name).await?.and_then(|mut data| data.remove(labels::SETTLED_ENTRY));
                    text.push_str(&part.unwrap_or_default());
                }
                text
            }
        };
        let read = serde_json::from_str(&text);
        read.map(Some).with_context(|| format!("the ConfigMap {} is not what an operator writes", names::SETTLED))
    }

    async fn map(&self, name: &str) -> anyhow::Result<Option<Data>> {
        let map = self.api::<ConfigMap>().get_opt(name).await;
        Ok(map.with_context(|| format!("cannot read the ConfigMap {name}"))?.and_then(|map| map.data))
    }

    /// The public key of the cluster's operator.
    ///
    /// # Errors
    /// Where the operator has not made its key yet.
    pub async fn operator_key(&self) -> anyhow::Result<PublicKey> {
        let secret = self
            .api::<Secret>()
            .get_opt(labels::OPERATOR_KEY_SECRET)
            .await
            .context("cannot read the operator's key Secret")?
            .with_context(|| {
                format!(
                    "the operator in namespace {} has not made its key yet: install the chart koinon and wait for it to be ready",
                    self.namespace
                )
            })?;
        secret
            .annotations()
            .get(labels::PUBLIC_KEY)
            .with_context(|| {
                format!("Secret {} lacks the annotation {}", labels::OPERATOR_KEY_SECRET, labels::PUBLIC_KEY)
            })?
            .parse()
            .context("cannot read the operator's public key")
    }

    /// Applies `resource` by server-side apply.
    ///
    /// # Errors
    /// What the API server answered.
    pub async fn apply<K>(&self, resource: &K) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let name = resource.name_any();
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        self.api::<K>()
            .patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(resource))
            .await
            .with_context(|| format!("cannot apply {kind} {name} in namespace {}", self.namespace))
    }

    /// How far this machine's clock is ahead of the API server's, by the date that it would give `resource`; nothing is
    /// created.
    ///
    /// # Errors
    /// What the API server answered.
    pub async fn clock_ahead<K>(&self, resource: &K) -> anyhow::Result<Seconds>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let (name, asked) = (resource.name_any(), now());
        let dry = PatchParams::apply(FIELD_MANAGER).force().dry_run();
        let made = self
            .api::<K>()
            .patch(&name, &dry, &Patch::Apply(resource))
            .await
            .with_context(|| format!("cannot apply {name} in namespace {}", self.namespace))?;
        let created = made.creation_timestamp().map(|time| UnixSeconds(koinon_api::time::to_unix(&time)));
        Ok(created.map_or(Seconds(0), |created| offset(asked, created, now())))
    }

    /// A proposal by its name, its id, or the beginning of either, as long as only one fits.
    ///
    /// # Errors
    /// Where none or several fit.
    pub async fn proposal(&self, wanted: &str) -> anyhow::Result<Proposal> {
        let all = self.list::<Proposal>("proposals").await?;
        let fits = |proposal: &&Proposal| {
            let id = proposal.status.as_ref().and_then(|status| status.id.as_deref()).unwrap_or_default();
            proposal.name_any().starts_with(wanted) || (!id.is_empty() && id.starts_with(wanted))
        };
        if let Some(exact) = all.iter().find(|proposal| proposal.name_any() == wanted) {
            return Ok(exact.clone());
        }
        let fitting: Vec<&Proposal> = all.iter().filter(fits).collect();
        match fitting.as_slice() {
            [one] => Ok((*one).clone()),
            [] => bail!("no proposal {wanted} in namespace {}; see kubectl koinon proposals", self.namespace),
            several => bail!(
                "{wanted} fits several proposals: {}",
                several.iter().map(|proposal| proposal.name_any()).collect::<Vec<_>>().join(", ")
            ),
        }
    }
}

/// Every resource behind `api` that can be read; see [`Cluster::list`].
///
/// # Errors
/// Where the API server does not answer.
pub async fn readable<K>(api: &Api<DeserializeGuard<K>>, what: &str) -> anyhow::Result<Vec<K>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = api.list(&ListParams::default()).await.with_context(|| format!("cannot list the {what}"))?;
    let mut readable = Vec::with_capacity(found.items.len());
    for DeserializeGuard(item) in found.items {
        match item {
            Ok(item) => readable.push(item),
            Err(error) => eprintln!(
                "left out of the {what}: {} cannot be read: {}",
                error.metadata.name.unwrap_or_default(),
                error.error
            ),
        }
    }
    Ok(readable)
}

/// The envelope of a resource as the domain's own.
///
/// # Errors
/// Where a signature's key or form is not one.
pub fn to_core(envelope: &koinon_api::Envelope) -> anyhow::Result<koinon_core::dsse::Envelope> {
    envelope.try_into().context("cannot read the envelope")
}

/// The domain's envelope as a resource carries it.
///
/// # Errors
/// Never in practice: both have the same JSON.
pub fn to_api(envelope: &koinon_core::dsse::Envelope) -> anyhow::Result<koinon_api::Envelope> {
    envelope.try_into().context("cannot write the envelope")
}

/// How far a clock that read `asked` and `answered` is ahead of one that read `between` meanwhile.
fn offset(asked: UnixSeconds, between: UnixSeconds, answered: UnixSeconds) -> Seconds {
    if between < asked {
        asked.since(between)
    } else if between > answered {
        answered.since(between)
    } else {
        Seconds(0)
    }
}

/// Now, by this machine's clock.
pub fn now() -> UnixSeconds {
    UnixSeconds(jiff::Timestamp::now().as_second())
}

/// A moment as people read it.
pub fn time(at: UnixSeconds) -> String {
    jiff::Timestamp::from_second(at.0).map_or_else(|_| at.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_only_beyond_what_the_question_took() {
        let off = |between| offset(UnixSeconds(100), UnixSeconds(between), UnixSeconds(103)).0;
        assert_eq!([off(100), off(103), off(60), off(143)], [0, 0, 40, -40]);
    }
}
