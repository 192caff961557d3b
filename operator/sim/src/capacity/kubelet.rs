//! A node's device plugin and kubelet: they hand out whatever the plugin lists, to whoever is bound there.

use std::collections::BTreeMap;

use koinon_core::gpu::usage::{Allocation, DeviceName, Holding, Kubelet as Said, PodRef};
use koinon_core::ids::DeviceId;

use super::hardware::Machine;
use super::plan::Second;
use crate::dice::Dice;

const RESOURCE: &str = "nvidia.com/gpu";

/// What one node gives out.
#[derive(Clone, Debug, Default)]
pub(super) struct Kubelet {
    /// What the plugin lists, and whether it calls it healthy. It takes nothing of that back.
    listed: BTreeMap<DeviceId, bool>,
    /// Until when nothing is registered.
    pub empty_until: Second,
    /// Who holds what.
    pub held: BTreeMap<DeviceId, PodRef>,
    /// Until when it does not say who holds what.
    pub silent_until: Second,
    /// When the Node's figures are next made true.
    pub figures_due: Second,
    /// Whether the plugin notices that devices fail.
    pub blind: bool,
}

impl Kubelet {
    /// The plugin starts, and lists what the driver lists.
    pub fn register(&mut self, machine: &Machine, at: Second) {
        let listed = machine.gpus.iter().filter(|gpu| gpu.listed).flat_map(super::hardware::Gpu::units);
        self.listed = listed.map(|unit| (unit, true)).collect();
        self.empty_until = at;
    }

    /// The plugin looks at a device: it may notice that it fails, and never that it is well again.
    pub fn notice(&mut self, machine: &Machine, dice: &mut Dice) -> bool {
        if self.blind {
            return false;
        }
        let mut noticed = false;
        for (unit, healthy) in &mut self.listed {
            let fails = machine.gpu_of(unit).is_none_or(|gpu| !gpu.works());
            if *healthy && fails && dice.percent(5) {
                (*healthy, noticed) = (false, true);
            }
        }
        noticed
    }

    /// What it may give out at all.
    pub fn allocatable(&self, now: Second) -> Vec<DeviceId> {
        let registered = self.listed.iter().filter(|(_, healthy)| **healthy && now >= self.empty_until);
        registered.map(|(unit, _)| unit.clone()).collect()
    }

    /// Gives `pod` any free devices; none if there are not enough.
    pub fn admit(&mut self, pod: &PodRef, gpus: u32, now: Second, dice: &mut Dice) -> Option<Vec<DeviceId>> {
        let mut free: Vec<DeviceId> =
            self.allocatable(now).into_iter().filter(|unit| !self.held.contains_key(unit)).collect();
        dice.shuffle(&mut free);
        let wanted = usize::try_from(gpus).unwrap_or(usize::MAX);
        if free.len() < wanted {
            return None;
        }
        free.truncate(wanted);
        for unit in &free {
            self.held.insert(unit.clone(), pod.clone());
        }
        Some(free)
    }

    /// What its PodResources API answers; `pods` are those that it runs.
    pub fn says(&self, pods: impl Iterator<Item = PodRef>, now: Second) -> Said {
        if now < self.silent_until {
            return Said::Unknown;
        }
        let named = |unit: &DeviceId| DeviceName::Plugin { resource: RESOURCE.to_owned(), id: unit.to_string() };
        let holding =
            |(unit, pod): (&DeviceId, &PodRef)| Holding { pod: pod.clone(), claim: None, device: named(unit) };
        Said::Said(Allocation {
            pods: pods.collect(),
            holdings: self.held.iter().map(holding).collect(),
            allocatable: Some(self.allocatable(now).iter().map(named).collect()),
        })
    }
}
