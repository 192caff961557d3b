//! Which calls go where: a function of what the API server holds.
//!
//! As a home the gateway routes only Placements of its own side whose `Routable` is True and, of one replica, only the copy
//! with the highest epoch. As a host it answers only for the highest epoch that it holds of a replica. So two epochs of one
//! replica are never in one table, whatever the objects say.

mod build;
pub mod choose;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_api::{Cooperative, InferenceJob, Member, Placement};
use koinon_core::ids::{CoopId, Endpoint, Epoch, ManifestDigest, MemberId, Namespace, PublicKey, ServedName};
use koinon_core::placement::ReplicaKey;

/// What the table is made of.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The Cooperatives of the release namespace; the gateway knows itself by the only one.
    pub cooperatives: Vec<Arc<Cooperative>>,
    /// The Members of the release namespace.
    pub members: Vec<Arc<Member>>,
    /// All Placements of the cluster, of both sides.
    pub placements: Vec<Arc<Placement>>,
    /// All InferenceJobs of the cluster.
    pub jobs: Vec<Arc<InferenceJob>>,
}

/// Where calls go at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingTable {
    /// Who this is, once there is a Cooperative.
    pub own: Option<Own>,
    /// The models that applications here may call, by namespace and name.
    pub models: BTreeMap<(Namespace, ServedName), Model>,
    /// The copies that run here for a home, by replica: one each.
    pub hosted: BTreeMap<ReplicaKey, Hosted>,
    /// The operator keys of the other members.
    pub pins: BTreeMap<PublicKey, MemberId>,
    /// Members that may not work, this one possibly among them, and why. They are known, so that they hear it.
    pub halted: BTreeMap<MemberId, String>,
}

/// This gateway's own membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The cooperative.
    pub coop: CoopId,
    /// The member whose gateway this is.
    pub member: MemberId,
}

/// A model of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// What is served, by content.
    pub digest: ManifestDigest,
    /// When the job was made, in Unix seconds, if it is known.
    pub created: i64,
    /// Where calls can go: at most one for each replica. Empty while nothing can be routed to.
    pub routes: Vec<Arc<Route>>,
    /// Why copies are not called whose host, or home, may not work.
    pub halted: BTreeSet<String>,
}

/// One copy that may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which replica of which job.
    pub replica: ReplicaKey,
    /// Which copy of it.
    pub epoch: Epoch,
    /// Who runs it.
    pub member: MemberId,
    /// What it serves.
    pub digest: ManifestDigest,
    /// The most calls that it works on at a time.
    pub concurrency: u32,
    /// How it is reached.
    pub target: Target,
}

/// How a copy is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The Service before the engine, in this cluster.
    Engine(EngineUrl),
    /// The gateway of another member, which answers under this operator key.
    Gateway {
        /// The key that must have certified the gateway.
        key: PublicKey,
        /// Where it may be reached, in the order to try.
        addresses: Vec<Endpoint>,
    },
}

/// The address of an engine's Service: `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineUrl(String);

impl EngineUrl {
    /// Host and port, as a request's authority.
    pub fn authority(&self) -> &str {
        &self.0
    }
}

/// A copy that runs here for a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosted {
    /// The only epoch that may be called.
    pub epoch: Epoch,
    /// What it serves.
    pub digest: ManifestDigest,
    /// The most calls that it works on at a time.
    pub concurrency: u32,
    /// Where it answers; `None` while it does not, or may no longer.
    pub engine: Option<EngineUrl>,
}

/// What a name came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// One model.
    One {
        /// Its namespace.
        namespace: &'a Namespace,
        /// The name that its engine knows.
        name: &'a ServedName,
        /// The model.
        model: &'a Model,
    },
    /// No model that may be called.
    None,
    /// The namespaces that serve this name.
    Several(Vec<&'a Namespace>),
}

impl RoutingTable {
    /// Makes the table. Objects that contradict each other, or that cannot be read, cost themselves alone.
    #[must_use]
    pub fn build(facts: &Facts) -> Self {
        build::build(facts)
    }

    /// Looks a model up as an application names it: `name`, or `namespace/name`.
    pub fn find(&self, asked: &str, allowed: &BTreeSet<Namespace>) -> Found<'_> {
        let (namespace, name) = match asked.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, asked),
        };
        let mut found = self.models.iter().filter(|((in_namespace, served), _)| {
            served.as_str() == name
                && namespace.is_none_or(|wanted| wanted == in_namespace.as_str())
                && allowed.contains(in_namespace)
        });
        match (found.next(), found.next()) {
            (None, _) => Found::None,
            (Some(((namespace, name), model)), None) => Found::One { namespace, name, model },
            (Some(((first, _), _)), Some(((second, _), _))) => {
                let rest = found.map(|((namespace, _), _)| namespace);
                Found::Several([first, second].into_iter().chain(rest).collect())
            }
        }
    }

    /// The models that a key may call and that can be routed to, with the names by which they are asked for.
    pub fn callable(&self, allowed: &BTreeSet<Namespace>) -> Vec<(String, &Namespace, &Model)> {
        let callable = self
            .models
            .iter()
            .filter(|((namespace, _), model)| allowed.contains(namespace) && !model.routes.is_empty());
        callable
            .map(|((namespace, name), model)| {
                let alone = matches!(self.find(name.as_str(), allowed), Found::One { .. });
                let shown = if alone { name.to_string() } else { format!("{namespace}/{name}") };
                (shown, namespace, model)
            })
            .collect()
    }

    /// Copies that applications here can be routed to.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.models.values().flat_map(|model| &model.routes)
    }
}
