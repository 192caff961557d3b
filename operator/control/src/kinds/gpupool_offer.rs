//! What this member offers to everybody, from its pools. Pure.

use std::collections::BTreeMap;

use koinon_api::cooperative::CooperativeSpec;
use koinon_core::body::latest::{GuestsMode, NetworkPolicyState, Offer, OfferedClass};
use koinon_core::ids::{Endpoint, GpuClass, IdError, Jurisdiction, ManifestDigest};

use super::gpupool;
use crate::placement::inventory::{Inventory, PoolView};

/// Most models that an offer names: 71 bytes each, far below the size of a statement.
const MOST_WEIGHTS: usize = 128;

/// Whose figures an offer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eyes {
    /// Other members': without what the owner keeps free, and nothing outside of the owner's hours.
    Others,
    /// The owner's own jobs.
    Own,
}

/// The offer.
///
/// # Errors
/// When the site's jurisdiction is not a country.
pub fn offer(
    inventory: &Inventory,
    spec: &CooperativeSpec,
    network_policy: NetworkPolicyState,
    weights: &[ManifestDigest],
    ending: bool,
    eyes: Eyes,
) -> Result<Offer, IdError> {
    let guests: GuestsMode = spec.guests.mode.into();
    Ok(Offer {
        classes: classes(inventory, eyes),
        // A member that winds up takes nothing new, whatever its owner last wrote.
        guests: if ending && guests == GuestsMode::Accept { GuestsMode::Drain } else { guests },
        network_policy,
        weights: weights.iter().take(MOST_WEIGHTS).copied().collect(),
        gateway: gateways(spec),
        jurisdiction: jurisdiction(spec)?,
    })
}

/// The country of the site; a subdivision is for people.
///
/// # Errors
/// When it is not one.
pub fn jurisdiction(spec: &CooperativeSpec) -> Result<Jurisdiction, IdError> {
    let text = spec.site.jurisdiction.as_str();
    text.split('-').next().unwrap_or(text).parse()
}

/// The gateways for members; one that cannot be read is left out.
#[must_use]
pub fn gateways(spec: &CooperativeSpec) -> Vec<Endpoint> {
    spec.endpoints.gateway.iter().filter_map(|url| url.trim_end_matches('/').parse().ok()).collect()
}

fn classes(inventory: &Inventory, eyes: Eyes) -> Vec<OfferedClass> {
    let mut classes: BTreeMap<GpuClass, OfferedClass> = BTreeMap::new();
    for view in inventory.pools.values() {
        for class in view.capacity.classes.keys() {
            let Some(offered) = of_pool(inventory, view, class, eyes) else { continue };
            match classes.get_mut(class) {
                None => {
                    classes.insert(class.clone(), offered);
                }
                Some(sum) => {
                    sum.offered = sum.offered.saturating_add(offered.offered);
                    sum.largest_block = sum.largest_block.max(offered.largest_block);
                    sum.largest_node = sum.largest_node.max(offered.largest_node);
                    sum.memory_bytes = sum.memory_bytes.min(offered.memory_bytes);
                    sum.evidence = sum.evidence.min(offered.evidence);
                }
            }
        }
    }
    classes.into_values().collect()
}

fn of_pool(inventory: &Inventory, view: &PoolView, class: &GpuClass, eyes: Eyes) -> Option<OfferedClass> {
    let figures = view.capacity.classes.get(class)?;
    let product = view.nodes.iter().find_map(|node| inventory.nodes.get(node)?.product(class))?;
    let mine = |node: &&koinon_core::ids::NodeName| {
        inventory.owner.get(&((*node).clone(), class.clone())) == Some(&gpupool::name(view))
    };
    let free_on =
        |node| inventory.capacities.get(node).and_then(|capacity| capacity.classes.get(class)).map_or(0, |c| c.free);
    let (offered, largest_block) = match eyes {
        Eyes::Others => (figures.offered, figures.largest_node),
        Eyes::Own => {
            let free = || view.nodes.iter().filter(mine).map(free_on);
            (free().sum(), free().max().unwrap_or(0))
        }
    };
    Some(OfferedClass {
        class: class.clone(),
        product: product.name.clone(),
        memory_bytes: product.memory,
        offered,
        largest_block,
        largest_node: view.largest_installed.get(class).copied(),
        evidence: gpupool::evidence(view, inventory, class).into(),
    })
}
