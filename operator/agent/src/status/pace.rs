//! When a status is worth a write. With thousands of nodes, what each of them says costs the API server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koinon_api::conditions::{ConditionType, same_ignoring_times};
use koinon_api::gpu_node::GPUNodeStatus;

use super::memory;

/// What nobody decides by is written at most so often: a storm of corrected errors must not become one of writes.
const MINOR_SECONDS: i64 = 60;

/// Whether `next` should take the place of `previous`: at once if it changes what others decide by, and after a while if it
/// changes anything.
pub(super) fn is_due(previous: &GPUNodeStatus, next: &GPUNodeStatus, now: &Time) -> bool {
    if !same_ignoring_times(&essence(previous), &essence(next)) {
        return true;
    }
    let written = previous.survey_time.as_ref().map(|time| now.0.duration_since(time.0).as_secs());
    // A clock that was set back must not silence the agent.
    let waited = written.is_none_or(|seconds| !(0..MINOR_SECONDS).contains(&seconds));
    waited && !same_ignoring_times(&without_ticks(previous), &without_ticks(next))
}

fn is_sight(type_: &str) -> bool {
    use ConditionType::{HoldersKnown, KernelLogRead, ProcessesKnown};
    [HoldersKnown, KernelLogRead, ProcessesKnown].iter().any(|sight| sight.as_str() == type_)
}

/// What others decide by.
fn essence(status: &GPUNodeStatus) -> GPUNodeStatus {
    let mut status = status.clone();
    if let Some(agent) = &mut status.agent {
        (agent.sequence, agent.memory) = (0, None);
    }
    // Why something cannot be asked may be told in other words each time.
    for condition in status.conditions.iter_mut().filter(|condition| is_sight(&condition.type_)) {
        condition.message.clear();
    }
    for device in &mut status.devices {
        device.xids.clear();
        device.processes = None;
        device.health.memory = None;
        if let Some(ecc) = &mut device.ecc {
            (ecc.volatile_uncorrected, ecc.aggregate_uncorrected) = (None, None);
        }
        if let Some(remap) = &mut device.remap {
            (remap.correctable, remap.uncorrectable) = (None, None);
        }
        if let Some(memory) = &mut device.memory {
            memory.unattributed_bytes = None;
        }
    }
    status
}

/// Everything but what moves on with each survey.
fn without_ticks(status: &GPUNodeStatus) -> GPUNodeStatus {
    let mut status = status.clone();
    if let Some(agent) = &mut status.agent {
        agent.sequence = 0;
        agent.memory = agent.memory.as_deref().map(memory::without_ticks);
    }
    for device in &mut status.devices {
        device.health.memory = device.health.memory.as_deref().map(memory::without_ticks);
    }
    status
}
