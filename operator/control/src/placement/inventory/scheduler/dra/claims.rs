//! What resource claims hold and ask for, by node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceRequestAllocationResult, ResourceClaim};
use koinon_core::capacity::Sharing;
use koinon_core::gpu::scheduler::{Devices, Doubt};
use koinon_core::ids::{DeviceId, NodeName};
use kube::ResourceExt;

use super::super::{Hold, Holder, HolderKind, Stage, by_node, holder_of, sharing, stage_of};
use super::GPU_DRIVER;
use super::pools::{Key, Pools};
use crate::placement::lean::Pod;

/// What is given and asked for on each node.
#[derive(Debug, Default)]
pub(super) struct Given {
    holds: BTreeMap<NodeName, BTreeMap<(Holder, Stage), BTreeSet<Unit>>>,
    /// Besides devices: what is asked for by number.
    asked: BTreeMap<NodeName, BTreeSet<(Holder, Stage, u32)>>,
    shared: BTreeMap<NodeName, BTreeMap<DeviceId, Sharing>>,
    doubts: BTreeMap<NodeName, BTreeSet<Doubt>>,
    /// A claim holds a device, and nobody knows where.
    lost: bool,
}

/// A device of a claim, by its id where a slice has one for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Known(DeviceId),
    Unnamed(Key),
}

impl Given {
    /// Every node on which something is held or asked for.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.holds.keys().chain(self.asked.keys()).chain(self.doubts.keys())
    }

    /// The devices that several may hold at once.
    pub(super) fn shared(&self, node: &NodeName) -> impl Iterator<Item = (&DeviceId, &Sharing)> {
        self.shared.get(node).into_iter().flatten()
    }

    /// What is not known of `node`.
    pub(super) fn doubts(&self, node: &NodeName) -> BTreeSet<Doubt> {
        let mut doubts = self.doubts.get(node).cloned().unwrap_or_default();
        if self.lost {
            doubts.insert(Doubt::HolderWithoutPlace);
        }
        doubts
    }

    /// What is held on `node`: named devices and counted ones of one holder are two entries.
    pub(super) fn holds(&self, node: &NodeName) -> Vec<Hold> {
        let mut holds = Vec::new();
        for ((holder, stage), units) in self.holds.get(node).into_iter().flatten() {
            let mut named = BTreeSet::new();
            let mut counted = 0_u32;
            for unit in units {
                match unit {
                    Unit::Known(id) => drop(named.insert(id.clone())),
                    Unit::Unnamed(_) => counted = counted.saturating_add(1),
                }
            }
            let hold = |devices| Hold { holder: holder.clone(), stage: *stage, devices };
            if !named.is_empty() {
                holds.push(hold(Devices::Named(named)));
            }
            if counted > 0 {
                holds.push(hold(Devices::Counted(counted)));
            }
        }
        for (holder, stage, count) in self.asked.get(node).into_iter().flatten() {
            holds.push(Hold { holder: holder.clone(), stage: *stage, devices: Devices::Counted(*count) });
        }
        holds.sort();
        holds
    }
}

/// Pods by namespace and name.
type Users<'a> = BTreeMap<(&'a str, &'a str), &'a Arc<Pod>>;

/// Puts the claims in relation with the pods that use them and the devices that they hold.
pub(super) fn given(claims: &[Arc<ResourceClaim>], pods: &[Arc<Pod>], pools: &Pools) -> Given {
    // Most pods use none.
    let pods = || pods.iter().filter(|pod| !pod.claims.is_empty());
    let by_name: Users<'_> = pods().map(|pod| ((&*pod.namespace, &*pod.name), pod)).collect();
    let mut given = Given::default();
    let mut known: BTreeMap<(String, String), &ResourceClaim> = BTreeMap::new();
    for claim in claims {
        known.insert((claim.namespace().unwrap_or_default(), claim.name_any()), claim);
        if let Some(allocation) = claim.status.as_ref().and_then(|status| status.allocation.as_ref()) {
            given.allocated(claim, allocation, &by_name, pools);
        }
    }
    for (node, pods) in by_node(pods()) {
        for pod in pods {
            given.asked_for(&node, pod, &known);
        }
    }
    given
}

impl Given {
    fn allocated<'a>(
        &mut self,
        claim: &'a ResourceClaim,
        allocation: &AllocationResult,
        pods: &Users<'a>,
        pools: &Pools,
    ) {
        let users = users(claim, pods);
        let (holder, stage) = match users.as_slice() {
            [pod] => (holder_of(pod), stage_of(pod)),
            _ => (
                Holder {
                    kind: HolderKind::Claim,
                    namespace: claim.namespace().unwrap_or_default(),
                    name: claim.name_any(),
                    placement: None,
                },
                Stage::Allocated,
            ),
        };
        let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
        for result in results.filter(|result| result.driver == GPU_DRIVER) {
            // Who administers a device looks at it beside its holder, and holds nothing.
            if result.admin_access.unwrap_or(false) {
                continue;
            }
            let key = (result.pool.clone(), result.device.clone());
            let Some(node) = place(&key, allocation, &users, pools) else {
                self.lost = true;
                continue;
            };
            let ids = pools.ids_of(&key);
            let sharing = sharing_of(allocation, result);
            if sharing != Sharing::Exclusive {
                let shared = self.shared.entry(node.clone()).or_default();
                shared.extend(ids.iter().map(|id| (id.clone(), sharing)));
            }
            let units = self.holds.entry(node).or_default().entry((holder.clone(), stage)).or_default();
            if ids.is_empty() {
                units.insert(Unit::Unnamed(key));
            } else {
                units.extend(ids.into_iter().map(Unit::Known));
            }
        }
    }

    /// What a pod that is on `node`, or promised to it, asks for and has not got.
    fn asked_for(&mut self, node: &NodeName, pod: &Pod, claims: &BTreeMap<(String, String), &ResourceClaim>) {
        for name in &pod.claims {
            let claim = name.as_deref().and_then(|name| claims.get(&(pod.namespace.to_string(), name.to_owned())));
            let Some(claim) = claim else {
                // Pods and claims are followed apart: one may be seen before the other.
                self.doubts.entry(node.clone()).or_default().insert(Doubt::ClaimMissing);
                continue;
            };
            if claim.status.as_ref().is_none_or(|status| status.allocation.is_none()) {
                let count = wanted(claim);
                let asked = self.asked.entry(node.clone()).or_default();
                asked.insert((holder_of(pod), stage_of(pod), count));
            }
        }
    }
}

/// The pods for which a claim is reserved, or else the one that it was made for.
fn users<'a>(claim: &'a ResourceClaim, pods: &Users<'a>) -> Vec<&'a Pod> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let find = |name: &'a str, uid: &str| {
        let pod: &'a Pod = pods.get(&(namespace, name)).copied()?;
        (pod.uid.as_deref() == Some(uid)).then_some(pod)
    };
    let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    let reserved: Vec<_> = reserved.filter(|user| user.resource == "pods").collect();
    if reserved.is_empty() {
        let owners = claim.metadata.owner_references.iter().flatten().filter(|owner| owner.kind == "Pod");
        return owners.filter_map(|owner| find(&owner.name, &owner.uid)).collect();
    }
    reserved.iter().filter_map(|user| find(&user.name, &user.uid)).collect()
}

/// Where a device of a claim is: by its slice, or by what the scheduler wrote down, or where its pool is or its pods are.
fn place(key: &Key, allocation: &AllocationResult, users: &[&Pod], pools: &Pools) -> Option<NodeName> {
    let by_slice = || pools.node_of(key).cloned();
    let by_selector = || allocation.node_selector.as_ref().and_then(only_node);
    let by_pool = || pools.only_node_of(&key.0).cloned();
    let by_pods = || {
        let nodes: BTreeSet<_> = users.iter().filter_map(|pod| pod.bound.clone()).collect();
        let mut nodes = nodes.into_iter();
        nodes.next().filter(|_| nodes.next().is_none())
    };
    by_slice().or_else(by_selector).or_else(by_pool).or_else(by_pods)
}

/// The node that a selector means, where it means one by its name.
fn only_node(selector: &NodeSelector) -> Option<NodeName> {
    let [term] = selector.node_selector_terms.as_slice() else { return None };
    let by_name = |field: &&k8s_openapi::api::core::v1::NodeSelectorRequirement| field.key == "metadata.name";
    let field = term.match_fields.iter().flatten().find(by_name).filter(|field| field.operator == "In")?;
    match field.values.as_deref() {
        Some([name]) => name.parse().ok(),
        _ => None,
    }
}

fn sharing_of(allocation: &AllocationResult, result: &DeviceRequestAllocationResult) -> Sharing {
    if result.share_id.is_some() || result.consumed_capacity.is_some() {
        return Sharing::External;
    }
    let configured = allocation.devices.iter().flat_map(|devices| devices.config.iter().flatten());
    let meant = configured.filter(|config| match config.requests.as_deref() {
        None | Some([]) => true,
        // A subrequest goes by the name of its request, a slash and its own.
        Some(names) => names.iter().any(|name| {
            *name == result.request || result.request.split_once('/').is_some_and(|(request, _)| request == name)
        }),
    });
    let parameters = meant.filter_map(|config| config.opaque.as_ref()).filter(|opaque| opaque.driver == GPU_DRIVER);
    parameters.map(|opaque| sharing::of_parameters(&opaque.parameters.0)).max().unwrap_or_default()
}

/// How many devices a claim asks for, of whatever kind: which one cannot be told before it is allocated.
fn wanted(claim: &ResourceClaim) -> u32 {
    let amount = |mode: Option<&str>, count: Option<i64>| match mode {
        None | Some("ExactCount") => u32::try_from(count.unwrap_or(1)).unwrap_or(u32::MAX),
        Some(_) => u32::MAX,
    };
    let mut all = 0_u32;
    for request in claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
        let exactly = request.exactly.iter().filter(|exactly| !exactly.admin_access.unwrap_or(false));
        let exactly = exactly.map(|exactly| amount(exactly.allocation_mode.as_deref(), exactly.count));
        let one_of = request.first_available.iter().flatten();
        let one_of = one_of.map(|one| amount(one.allocation_mode.as_deref(), one.count));
        all = all.saturating_add(exactly.chain(one_of).max().unwrap_or(0));
    }
    all
}
