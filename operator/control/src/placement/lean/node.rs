//! A Node: what decides whether work may come, and what its scheduler may give out.

use k8s_openapi::api::core::v1::{self, Taint};
use koinon_core::capacity::Sharing;
use koinon_core::ids::NodeName;
use kube::ResourceExt;
use serde::Deserialize;

use super::words::{Labels, Word, word};
use crate::cache::Kept;
use crate::placement::inventory::requests;
use crate::placement::inventory::scheduler::sharing;

/// A Node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(from = "v1::Node")]
pub struct Node {
    /// Its name; none if no node can be called so.
    pub name: Option<NodeName>,
    /// All of them: pools select by any.
    pub labels: Labels,
    /// What keeps work away.
    pub taints: Box<[Taint]>,
    /// It is cordoned.
    pub unschedulable: bool,
    /// Its kubelet says so.
    pub ready: bool,
    /// How far its tenants are kept apart.
    pub sharing: Sharing,
    /// Extended resources, as numbers: what cannot be read promises nothing.
    allocatable: Box<[(Word, u32)]>,
}

impl Node {
    /// How many of an extended resource may be given out.
    #[must_use]
    pub fn allocatable(&self, resource: &str) -> u32 {
        self.allocatable.iter().find(|(name, _)| **name == *resource).map_or(0, |(_, amount)| *amount)
    }
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let amounts = status.and_then(|status| status.allocatable.as_ref()).into_iter().flatten();
        let amounts = amounts.filter(|(resource, _)| is_extended(resource)).map(|(resource, amount)| {
            // What cannot be read promises nothing.
            let amount = Some(requests::whole(&amount.0)).filter(|amount| *amount < u32::MAX).unwrap_or(0);
            (word(resource), amount)
        });
        Self {
            name: node.name_any().parse().ok(),
            labels: node.labels().iter().collect(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default().into(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            ready: conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True"),
            sharing: sharing::of_node(&node),
            allocatable: amounts.collect(),
        }
    }
}

impl Kept<v1::Node> for Node {
    fn keep(node: v1::Node) -> Option<Self> {
        Some(node.into())
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

/// Whether a resource is one that a device plugin may register: those of Kubernetes itself have no domain, and the schema of
/// GPUPool wants one.
pub(super) fn is_extended(resource: &str) -> bool {
    resource.contains('/')
}
