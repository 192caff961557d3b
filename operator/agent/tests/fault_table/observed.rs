//! What is read off a status: as text for the table, and what must hold of every status whatever the fault.

use koinon_api::gpu_node::{AllocationState, Device, GPUNodeStatus, HealthState, NvmlState, PodResources};

use crate::scene::{BYSTANDER, OTHER, POD, TARGET};

/// What the resource may hold.
const MOST_ROWS: usize = 128;
const MOST_REASONS: usize = 8;
const MOST_XIDS: usize = 16;

/// The row of one of the stage's devices.
pub fn row(status: &GPUNodeStatus, serial: u64) -> Option<&Device> {
    let uuid = fake_nvml::Device::bare(serial).uuid;
    status.devices.iter().find(|device| device.uuid == uuid)
}

/// `Unhealthy(GPULost) RebootNode Drain NotHealthy`: state, reasons, what the owner should do, what becomes of foreign work,
/// and what keeps the device from being shared.
pub fn text(status: &GPUNodeStatus, serial: u64) -> String {
    row(status, serial).map_or_else(|| "no row".to_owned(), of_row)
}

pub fn of_row(device: &Device) -> String {
    let health = &device.health;
    let mut text = format!("{:?}", health.state);
    if !health.reasons.is_empty() {
        text += &format!("({})", health.reasons.join(", "));
    }
    if let Some(action) = health.action {
        text += &format!(" {action:?}");
    }
    if let Some(work) = health.guest_work {
        text += &format!(" {work:?}");
    }
    match device.not_shareable_reason {
        _ if device.shareable => text += " shareable",
        Some(reason) => text += &format!(" {reason:?}"),
        None => text += " not shareable",
    }
    text
}

/// How NVML is called: `Available`, or the state of the failure with its code.
pub fn nvml(status: &GPUNodeStatus) -> String {
    let Some(nvml) = &status.nvml else { return "never asked".to_owned() };
    match nvml.last_return_code {
        Some(code) => format!("{:?} {code}", nvml.state),
        None => format!("{:?}", nvml.state),
    }
}

pub fn others(status: &GPUNodeStatus, another: bool) -> String {
    let serials = if another { vec![BYSTANDER] } else { vec![BYSTANDER, OTHER] };
    let mut texts: Vec<String> = serials.iter().map(|serial| text(status, *serial)).collect();
    texts.dedup();
    texts.join(" / ")
}

/// Whether the pod that holds the target is still said to.
pub fn is_held(status: &GPUNodeStatus) -> bool {
    let allocation = row(status, TARGET).and_then(|device| device.allocation.as_ref());
    allocation.is_some_and(|allocation| {
        let holder = |holder: &koinon_api::gpu_node::Holder| {
            (holder.namespace.as_str(), holder.name.as_str()) == ("team", POD.0)
        };
        allocation.holders.iter().any(holder)
    })
}

/// What no status may say.
pub fn invariants(status: &GPUNodeStatus, available: bool, broken: &mut Vec<String>) {
    let mut must = |holds: bool, what: &str, of: &str| {
        if !holds {
            broken.push(format!("{what}: {of}"));
        }
    };
    let state = status.nvml.as_ref().map(|nvml| nvml.state);
    must(
        (state == Some(NvmlState::Available)) == available,
        "the state of NVML is not the survey's",
        &format!("{state:?}"),
    );
    must(status.installed.is_some() == available, "how many devices there are", &format!("{:?}", status.installed));
    must(status.devices.len() <= MOST_ROWS, "too many rows", "");
    let healthy = status.devices.iter().filter(|row| row.parent.is_none() && row.health.state == HealthState::Healthy);
    let healthy = i32::try_from(healthy.count()).unwrap();
    must(
        status.healthy.is_none_or(|said| said == healthy),
        "healthy ones are miscounted",
        &format!("{:?}", status.healthy),
    );
    let asked = status.scheduler.as_ref().is_some_and(|scheduler| scheduler.pod_resources == PodResources::Available);
    for device in &status.devices {
        let id = &device.uuid;
        let health = &device.health;
        let well = health.state == HealthState::Healthy && available && device.missing_since_time.is_none();
        // Where the kubelet does not answer the operator counts what pods ask for.
        let free =
            !asked || device.allocation.as_ref().is_some_and(|allocation| allocation.state == AllocationState::Free);
        must(
            !device.shareable || (well && free && device.class.is_some()),
            "a device is offered that is not well and free",
            id,
        );
        must(device.shareable != device.not_shareable_reason.is_some(), "a reason too many or too few", id);
        must(health.reasons.len() <= MOST_REASONS, "too many reasons", id);
        must((health.state == HealthState::Healthy) == health.guest_work.is_none(), "what becomes of foreign work", id);
        must(device.xids.len() <= MOST_XIDS, "too many XIDs", id);
        must(health.since_time.is_some(), "since when is not said", id);
        must(device.memory.as_ref().is_none_or(|memory| memory.total_bytes > 0), "a memory of nothing", id);
    }
    let unprintable = |value: &serde_json::Value| value.as_str().is_some_and(|text| text.chars().any(char::is_control));
    let all = serde_json::to_value(status).unwrap();
    must(!any(&all, &unprintable), "a text that is not printable", "");
    must(all.to_string().len() < 1 << 20, "a status of more than a mebibyte", "");
}

fn any(value: &serde_json::Value, holds: &dyn Fn(&serde_json::Value) -> bool) -> bool {
    holds(value)
        || match value {
            serde_json::Value::Array(items) => items.iter().any(|item| any(item, holds)),
            serde_json::Value::Object(map) => map.values().any(|item| any(item, holds)),
            _ => false,
        }
}
