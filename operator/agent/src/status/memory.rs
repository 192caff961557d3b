//! What the agent remembers over its own restarts. It stands in the status of its node's object: there it outlives the agent,
//! and needs no place on the node's disk.

use koinon_api::gpu_node::GPUNodeStatus;
use koinon_core::gpu::health::history::{Clock, DriverSeen};
use koinon_core::gpu::health::{BootId, DeviceHistory, History, Incident};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a kernel that does not say its boot's id is said to have.
pub const UNKNOWN_BOOT: &str = "unknown";
/// As much as one field of the resource may hold.
const MAX_BYTES: usize = 16 * 1024;
/// What moves on with each survey of a device that is well.
const TICKS: [&str; 4] = ["clock", "seen", "last", "heard"];

/// The part of a history that is about the node.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OfNode {
    clock: Option<Clock>,
    driver: Option<DriverSeen>,
    incident: Option<Incident>,
    /// The record of the kernel's log after the last one that was judged, in the boot of `clock`.
    log: u64,
}

/// The history that a status holds. What cannot be read is forgotten: a device starts anew, and is then believed only once a
/// survey has read it.
pub fn load(status: &GPUNodeStatus) -> History {
    let OfNode { clock, driver, incident, log: _ } = node(status);
    let devices = status.devices.iter().filter_map(|device| {
        let history = read::<DeviceHistory>(&device.uuid, device.health.memory.as_deref())?;
        Some((device.uuid.parse().ok()?, history))
    });
    History { clock, driver, incident, devices: devices.collect() }
}

/// The record of the kernel's log after the last one that what the status remembers tells of. 0 if that was another boot's
/// log, or if one boot cannot be told from another.
pub fn log_judged(status: &GPUNodeStatus, boot: &BootId) -> u64 {
    let OfNode { clock, log, .. } = node(status);
    let same = boot.as_str() != UNKNOWN_BOOT && clock.is_some_and(|clock| clock.boot == *boot);
    if same { log } else { 0 }
}

fn node(status: &GPUNodeStatus) -> OfNode {
    let memory = status.agent.as_ref().and_then(|agent| agent.memory.as_deref());
    read("node", memory).unwrap_or_default()
}

fn read<T: serde::de::DeserializeOwned>(what: &str, text: Option<&str>) -> Option<T> {
    serde_json::from_str(text?)
        .inspect_err(|error| tracing::warn!(%error, what, "what the status remembers cannot be read"))
        .ok()
}

/// What to remember of the node: its history, and up to before which record of the kernel's log that goes.
pub(super) fn of_node(history: &History, log: u64) -> Option<String> {
    let History { clock, driver, incident, devices: _ } = history.clone();
    bounded(&OfNode { clock, driver, incident, log })
}

/// What to remember of one device.
pub(super) fn of_device(history: &DeviceHistory) -> Option<String> {
    bounded(history).or_else(|| {
        // What stands against it matters more than what it was compared with and how often its programs failed.
        let lean = DeviceHistory { faults: Vec::new(), xids: Vec::new(), changes: Vec::new(), ..history.clone() };
        bounded(&lean)
    })
}

/// Without what is at its default, which reads back the same: of a device that is well nearly nothing remains.
fn bounded<T: Serialize>(value: &T) -> Option<String> {
    fn lean(value: Value) -> Option<Value> {
        match value {
            Value::Null => None,
            Value::Array(items) if items.is_empty() => None,
            Value::Object(map) => {
                let map: Map<_, _> = map.into_iter().filter_map(|(key, value)| Some((key, lean(value)?))).collect();
                (!map.is_empty()).then_some(Value::Object(map))
            }
            other => Some(other),
        }
    }
    let text = lean(serde_json::to_value(value).ok()?)?.to_string();
    (text.len() <= MAX_BYTES).then_some(text)
}

/// The same without what moves on with each survey.
pub(super) fn without_ticks(text: &str) -> String {
    fn strip(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let rest = map.into_iter().filter(|(key, _)| !TICKS.contains(&key.as_str()));
                Value::Object(rest.map(|(key, value)| (key, strip(value))).collect())
            }
            Value::Array(items) => Value::Array(items.into_iter().map(strip).collect()),
            other => other,
        }
    }
    serde_json::from_str(text).map_or_else(|_| text.to_owned(), |value| strip(value).to_string())
}
