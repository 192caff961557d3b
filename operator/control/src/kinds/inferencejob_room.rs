//! How much of a host one home asks for: its list of requests is one statement, and a statement has an end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use koinon_api::Placement;
use koinon_api::placement::Side;
use koinon_core::body::latest::GpuNeed;
use koinon_core::ids::{GpuClass, MemberId};

use super::placement_home::renewal_stopped;

/// The most bytes of one host's list of requests. One that no longer fits a statement would renew nothing that it names, so
/// a team that asks for very much would end everybody's copies at that host. The rest is room for what is taken over.
const LIST_ROOM: usize = koinon_core::dsse::MAX_PAYLOAD / 4 * 3;

/// What is asked of the hosts, with what one look adds to it.
#[derive(Debug, Default)]
pub struct Asked(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    /// The bytes of the lists of requests, by host.
    bytes: BTreeMap<MemberId, usize>,
    /// The GPUs of each class, by host.
    gpus: BTreeMap<(MemberId, String), u32>,
}

impl Asked {
    /// What these Placements ask for.
    #[must_use]
    pub fn of(placements: &[Arc<Placement>]) -> Self {
        let mut asked = Sums::default();
        let listed = placements
            .iter()
            .filter(|placement| placement.spec.side == Side::Home && renewal_stopped(placement).is_none());
        for placement in listed {
            let Ok(host) = placement.spec.host.parse::<MemberId>() else { continue };
            let gpu = &placement.spec.gpu;
            let gpus = asked.gpus.entry((host.clone(), gpu.class.clone())).or_default();
            *gpus = gpus.saturating_add(u32::try_from(gpu.count).unwrap_or(0));
            // A Placement says more than its request does.
            *asked.bytes.entry(host).or_default() +=
                serde_json::to_string(&placement.spec).map_or(0, |spec| spec.len());
        }
        Self(Mutex::new(asked))
    }

    /// Whether `host`'s list has room for `bytes` more.
    #[must_use]
    pub fn has_room(&self, host: &MemberId, bytes: usize) -> bool {
        self.lock().bytes.get(host).copied().unwrap_or(0).saturating_add(bytes) <= LIST_ROOM
    }

    /// How many GPUs of `class` are asked of `host`.
    #[must_use]
    pub fn gpus(&self, host: &MemberId, class: &GpuClass) -> u32 {
        self.lock().gpus.get(&(host.clone(), class.to_string())).copied().unwrap_or(0)
    }

    /// Takes that room, and asks for these GPUs.
    pub fn take(&self, host: &MemberId, bytes: usize, gpu: &GpuNeed) {
        let mut sums = self.lock();
        *sums.bytes.entry(host.clone()).or_default() += bytes;
        let gpus = sums.gpus.entry((host.clone(), gpu.class.to_string())).or_default();
        *gpus = gpus.saturating_add(gpu.count);
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn placement(side: &str, renewed: &str) -> Arc<Placement> {
        let object = json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Placement", "metadata": {"name": "tiny-0-1"},
            "spec": {"side": side, "home": "aarhus", "host": "bilbao", "replica": 0, "epoch": 1, "servedName": "tiny",
                "job": {"namespace": "team", "name": "tiny", "uid": "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11"},
                "model": {"uri": "https://models.example/tiny.gguf", "revision": "1",
                    "manifestDigest": format!("sha256:{}", "0".repeat(64)), "quantization": "f32"},
                "engine": {"name": "x".repeat(LIST_ROOM / 4)}, "gpu": {"class": "h100-80", "count": 2},
                "maxModelLen": 512, "maxConcurrency": 4, "lease": {"seconds": 20}},
            "status": {"conditions": [{"type": "Renewed", "status": renewed, "reason": "Renewed", "message": "",
                "lastTransitionTime": "2026-11-21T00:00:00Z"}]}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_list_has_room_for_what_is_renewed_and_never_for_more_than_a_statement_carries() {
        let host: MemberId = "bilbao".parse().unwrap();
        let others = [placement("Host", "True"), placement("Home", "False")];
        assert!(Asked::of(&others).has_room(&host, LIST_ROOM), "neither stands in a list of this home");
        let renewed: Vec<_> = (0..3).map(|_| placement("Home", "True")).collect();
        let asked = Asked::of(&renewed);
        let gpu = GpuNeed { class: "h100-80".parse().unwrap(), count: 1 };
        assert!(asked.has_room(&host, LIST_ROOM / 8));
        assert!(!asked.has_room(&host, LIST_ROOM / 4));
        assert_eq!(asked.gpus(&host, &gpu.class), 6);
        asked.take(&host, LIST_ROOM / 8, &gpu);
        assert_eq!((asked.gpus(&host, &gpu.class), asked.gpus(&host, &"l4-24".parse().unwrap())), (7, 0));
        assert!(!asked.has_room(&host, LIST_ROOM / 8), "what this look has added counts too");
        assert!(asked.has_room(&"cork".parse().unwrap(), LIST_ROOM), "each host has a list of its own");
    }
}
