//! How schedulers name a GPU, and which of the node's devices that is.

use std::collections::{BTreeMap, BTreeSet};

use super::Evidence;
use crate::gpu::device::Device;
use crate::ids::DeviceId;

/// A device as a scheduler names it. Foreign text, at most as long as its reader allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceName {
    /// By a device plugin.
    Plugin {
        /// As `nvidia.com/gpu`.
        resource: String,
        /// As the plugin registered it.
        id: String,
    },
    /// In a resource slice.
    Dra(DraDevice),
}

/// A device of a resource slice. The name tells nothing of the device: drivers number them anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DraDevice {
    /// As `gpu.nvidia.com`.
    pub driver: String,
    /// Usually the node's name.
    pub pool: String,
    /// Within the pool.
    pub device: String,
}

/// Which names of resources and drivers stand for GPUs. A held device of one of these that nobody recognises may be any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relevant {
    /// Extended resources. One that ends in - is the beginning of names.
    pub resources: BTreeSet<String>,
    /// Drivers of resource slices.
    pub drivers: BTreeSet<String>,
}

impl Default for Relevant {
    fn default() -> Self {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            resources: set(&["nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-"]),
            drivers: set(&["gpu.nvidia.com"]),
        }
    }
}

impl Relevant {
    /// Whether a device of this name is a GPU.
    pub fn has(&self, name: &DeviceName) -> bool {
        match name {
            DeviceName::Plugin { resource, .. } => self.resources.iter().any(|known| match known.strip_suffix('-') {
                Some(_) => resource.starts_with(known.as_str()),
                None => known == resource,
            }),
            DeviceName::Dra(device) => self.drivers.contains(&device.driver),
        }
    }
}

/// Which device a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meant {
    pub(super) device: DeviceId,
    /// The name is that of a share of the device.
    pub(super) share: bool,
}

/// The names by which the node's devices may be called.
pub(super) struct Names<'a> {
    ids: BTreeSet<&'a str>,
    /// By the number of the device file; none where two claim the same.
    minors: BTreeMap<u32, Option<&'a Device>>,
    slices: &'a BTreeMap<DraDevice, DeviceId>,
}

impl<'a> Names<'a> {
    pub(super) fn of(evidence: &Evidence<'a>) -> Self {
        let mut minors: BTreeMap<u32, Option<&Device>> = BTreeMap::new();
        for device in evidence.devices {
            if let Some(minor) = device.identity.minor.get() {
                minors.entry(minor).and_modify(|other| *other = None).or_insert(Some(device));
            }
        }
        let ids = evidence.devices.iter().flat_map(ids_of).map(DeviceId::as_str).collect();
        Self { ids, minors, slices: evidence.slices }
    }

    /// Which device is meant, if it is one of the node's.
    pub(super) fn meant(&self, name: &DeviceName) -> Option<Meant> {
        match name {
            DeviceName::Dra(device) => {
                let device = self.slices.get(device)?;
                self.ids.contains(device.as_str()).then(|| Meant { device: device.clone(), share: false })
            }
            DeviceName::Plugin { id, .. } => self.by_id(id).or_else(|| self.by_minor(id)),
        }
    }

    fn by_id(&self, id: &str) -> Option<Meant> {
        let known = |id: &str, share| {
            let device = self.ids.get(id)?;
            Some(Meant { device: device.parse().ok()?, share })
        };
        known(id, false)
            // NVIDIA's device plugin names the shares of a time-sliced or MPS device `<uuid>::<number>`.
            .or_else(|| id.split_once("::").and_then(|(id, _)| known(id, true)))
            // HAMi's `<uuid>-<number>`.
            .or_else(|| id.rsplit_once('-').filter(|(_, share)| is_number(share)).and_then(|(id, _)| known(id, true)))
    }

    /// GKE's device plugin: `nvidia<minor>`, `nvidia<minor>/gi<instance>`, and `…/vgpu<share>` behind either.
    fn by_minor(&self, id: &str) -> Option<Meant> {
        let mut parts = id.strip_prefix("nvidia")?.split('/');
        let device = self.minors.get(&parts.next()?.parse().ok()?).copied().flatten()?;
        let mut meant = Meant { device: device.id.clone(), share: false };
        for part in parts {
            if part.strip_prefix("vgpu").is_some_and(is_number) {
                meant.share = true;
            } else {
                let number: u32 = part.strip_prefix("gi")?.parse().ok()?;
                let mut of = device
                    .instances
                    .iter()
                    .filter(|one| one.place.get().is_some_and(|place| place.gpu_instance == number));
                meant.device = of.next()?.id.clone();
                // Several compute instances share it: which one is meant is not said.
                if of.next().is_some() {
                    return None;
                }
            }
        }
        Some(meant)
    }
}

/// Whether a device plugin calls a GPU by its UUID, as the driver writes it. Then it is that one and no other, also where the
/// driver no longer names it.
pub(super) fn is_uuid(name: &DeviceName) -> bool {
    let DeviceName::Plugin { id, .. } = name else { return false };
    let Some(uuid) = id.strip_prefix("GPU-") else { return false };
    let lengths: Vec<usize> = uuid.splitn(6, '-').map(str::len).collect();
    // In capitals it may be one of those that the driver names in small letters.
    lengths == [8, 4, 4, 4, 12] && uuid.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The ids of a device and of its instances.
pub(super) fn ids_of(device: &Device) -> impl Iterator<Item = &DeviceId> {
    std::iter::once(&device.id).chain(device.instances.iter().map(|instance| &instance.id))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit())
}
