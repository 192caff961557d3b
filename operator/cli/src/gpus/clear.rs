//! `kubectl koinon gpus clear`: the owner's word that a device is well again.

use anyhow::{Context as _, bail};
use koinon_api::gpu_node::{Device, HealthState, RecoveryAction};
use koinon_api::{GPUNode, labels};
use koinon_core::gpu::words::Cause;
use koinon_core::ids::Line;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::access::Access;
use crate::cluster::{Cluster, now, time};

/// Say that a device is well again: what stands against it is taken back, once.
///
/// What is Unhealthy ends by a reset or a reboot and clean surveys, or by this word of its owner. The reason is kept on the GPUNode
/// beside the time. What the driver still says is found again by the next survey, so this is refused where nothing but that stands
/// against the device.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl koinon gpus clear n1/GPU-5ab1c3e2 --reason 'passed dcgmi diag -r 3' --dry-run
  kubectl koinon gpus clear n1/GPU-5ab1c3e2 --reason 'passed dcgmi diag -r 3'")]
pub struct Clear {
    /// The device, by its node and the beginning of its UUID.
    #[arg(value_name = "NODE/UUID")]
    device: Named,
    /// Why it is well: what was done, or what it passed.
    #[arg(long, value_name = "TEXT")]
    reason: Reason,
    /// Only say what it would do.
    #[arg(long)]
    dry_run: bool,
}

/// A device by its node and the beginning of its UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    node: String,
    uuid: String,
}

impl std::str::FromStr for Named {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((node, uuid)) if !node.is_empty() && !uuid.is_empty() => {
                Ok(Self { node: node.to_owned(), uuid: uuid.to_owned() })
            }
            _ => Err("write NODE/UUID, as kubectl koinon gpus -o wide shows them".to_owned()),
        }
    }
}

/// A reason that the agent can read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reason(Line);

impl std::str::FromStr for Reason {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("a word without a reason does not count".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("write it on one line".to_owned());
        }
        text.parse().map(Self).map_err(|error: koinon_core::ids::IdError| error.to_string())
    }
}

impl Clear {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { device: named, reason: Reason(reason), dry_run } = self;
        let cluster = Cluster::connect(access).await?;
        let api: Api<GPUNode> = Api::all(cluster.client.clone());
        let gpu_node = api
            .get_opt(&named.node)
            .await
            .with_context(|| format!("cannot read GPUNode {}", named.node))?
            .with_context(|| format!("there is no GPUNode {}; see kubectl koinon gpus", named.node))?;
        let device = find(&gpu_node, &named.uuid)?;
        println!("{}", effect(&named.node, device)?);
        if dry_run {
            return Ok(());
        }
        let (key, value) = (annotation(device), format!("{} {reason}", time(now())));
        let change = json!({"metadata": {"annotations": {key: value}}});
        api.patch(&gpu_node.name_any(), &PatchParams::default(), &Patch::Merge(change))
            .await
            .with_context(|| format!("cannot annotate GPUNode {}", named.node))?;
        println!("said so; its agent hears it with its next survey: kubectl koinon gpus {}", device.uuid);
        Ok(())
    }
}

fn annotation(device: &Device) -> String {
    format!("{}{}", labels::CLEAR, device.uuid)
}

fn find<'a>(gpu_node: &'a GPUNode, uuid: &str) -> anyhow::Result<&'a Device> {
    let devices = gpu_node.status.as_ref().map(|status| status.devices.as_slice()).unwrap_or_default();
    let found: Vec<&Device> = devices.iter().filter(|device| device.uuid.starts_with(uuid)).collect();
    // One that is named in full may begin the name of another.
    match (found.iter().find(|device| device.uuid == uuid), found.as_slice()) {
        (Some(device), _) => Ok(device),
        (None, [device]) => Ok(device),
        (None, []) => bail!("{} has no device {uuid}; see kubectl koinon gpus {0} -o wide", gpu_node.name_any()),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|device| device.uuid.as_str()).collect();
            bail!("{uuid} may be {}: name one in full", names.join(" or "))
        }
    }
}

/// What the word would do; an error where the rules give it no effect.
fn effect(node: &str, device: &Device) -> anyhow::Result<String> {
    let uuid = &device.uuid;
    if let Some(parent) = &device.parent {
        bail!("{uuid} is an instance and is as its device is: kubectl koinon gpus clear {node}/{parent}");
    }
    let reasons = device.health.reasons.join(", ");
    match device.health.state {
        HealthState::Healthy => bail!("{uuid} of {node} is Healthy: nothing stands against it"),
        HealthState::Unknown => bail!(
            "{uuid} of {node} is Unknown ({reasons}): no word takes the place of a survey; see kubectl koinon gpus --why {uuid}"
        ),
        HealthState::Degraded | HealthState::Unhealthy => {}
    }
    let still: Vec<&str> = device.health.reasons.iter().filter_map(|reason| still_read(device, reason)).collect();
    if !device.health.reasons.is_empty() && still.len() == device.health.reasons.len() {
        bail!(
            "{uuid} of {node} is {:?} for what its driver says now: {}. A word changes nothing of that; see kubectl koinon gpus \
             --why {uuid}",
            device.health.state,
            still.join("; ")
        );
    }
    let mut text = format!(
        "{uuid} of {node} is {:?} ({reasons}): all that is taken back. Unless a survey finds it again it is Healthy with the next, \
         may be offered to others, and loses its taints",
        device.health.state
    );
    if !still.is_empty() {
        text.push_str(&format!("\nwhat its driver says now stays: {}", still.join("; ")));
    }
    Ok(text)
}

/// What the last survey says for a reason, where the rule reads it anew each time.
fn still_read(device: &Device, reason: &str) -> Option<&'static str> {
    let remap = device.remap.as_ref();
    let recommends = |wanted: &[RecoveryAction]| device.recovery_action.is_some_and(|action| wanted.contains(&action));
    let (is, says) = match reason.parse::<Cause>().ok()? {
        Cause::RemapFailed => (
            remap.and_then(|remap| remap.failed) == Some(true),
            "a row could not be remapped, and nothing but another device helps (R4)",
        ),
        Cause::SramThreshold => (
            device.ecc.as_ref().and_then(|ecc| ecc.sram_threshold_exceeded) == Some(true),
            "its SRAM had more errors than its maker allows, and nothing but another device helps (R4)",
        ),
        Cause::RemapPending => {
            (remap.and_then(|remap| remap.pending) == Some(true), "a remapped row waits for a reset (R3)")
        }
        Cause::ResetRequired => {
            (recommends(&[RecoveryAction::GPUReset, RecoveryAction::DrainAndReset]), "it asks for a reset (R1)")
        }
        Cause::RebootRequired => (recommends(&[RecoveryAction::NodeReboot]), "it asks for a restart of the node (R1)"),
        Cause::DrainP2p => (recommends(&[RecoveryAction::DrainP2P]), "it asks to end work between peers (R1)"),
        Cause::GpuLost => (device.missing_since_time.is_some(), "no survey finds it (R6)"),
        _ => return None,
    };
    is.then_some(says)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn device(more: Value) -> Device {
        let mut device = json!({"uuid": "GPU-1", "index": 0, "health": {"state": "Healthy"}});
        for (key, value) in more.as_object().unwrap() {
            device[key] = value.clone();
        }
        serde_json::from_value(device).unwrap()
    }

    fn told(more: Value) -> String {
        match effect("n1", &device(more)) {
            Ok(text) => text,
            Err(refused) => format!("refused: {refused}"),
        }
    }

    #[test]
    fn what_an_event_left_behind_is_taken_back_and_shown_before() {
        let text = told(json!({"health": {"state": "Unhealthy", "reasons": ["DoubleBitError"]}}));
        assert!(text.starts_with("GPU-1 of n1 is Unhealthy (DoubleBitError): all that is taken back"), "{text}");
        // A reason that only another release knows may be taken back as well.
        assert!(!told(json!({"health": {"state": "Degraded", "reasons": ["FanNoise"]}})).contains("refused"));
    }

    #[test]
    fn what_the_driver_still_says_no_word_takes_back() {
        let sick = |reasons: Value| json!({"state": "Unhealthy", "reasons": reasons});
        for (reason, reading) in [
            ("RemapFailed", json!({"remap": {"failed": true}})),
            ("SramThreshold", json!({"ecc": {"enabled": true, "sramThresholdExceeded": true}})),
            ("RemapPending", json!({"remap": {"pending": true}})),
            ("ResetRequired", json!({"recoveryAction": "DrainAndReset"})),
            ("RebootRequired", json!({"recoveryAction": "NodeReboot"})),
            ("GPULost", json!({"missingSinceTime": "2026-11-21T00:00:00Z"})),
        ] {
            let with = |reasons: Value| {
                let mut all = reading.clone();
                all["health"] = sick(reasons);
                all
            };
            assert!(told(with(json!([reason]))).starts_with("refused: "), "{reason}");
            let both = told(with(json!(["DoubleBitError", reason])));
            assert!(
                both.contains("all that is taken back") && both.contains("\nwhat its driver says now stays"),
                "{both}"
            );
            // The reason of an event of that name, of which no reading tells any more.
            assert!(!told(json!({"health": sick(json!([reason]))})).contains("refused"), "{reason}");
        }
    }

    #[test]
    fn what_nothing_stands_against_nobody_knows_or_is_a_part_is_refused() {
        assert!(told(json!({})).starts_with("refused: GPU-1 of n1 is Healthy"));
        assert!(told(json!({"health": {"state": "Unknown", "reasons": ["SurveyFailed"]}})).starts_with("refused: "));
        let part = json!({"parent": "GPU-0", "health": {"state": "Unhealthy"}});
        assert!(told(part).ends_with("kubectl koinon gpus clear n1/GPU-0"));
    }

    #[test]
    fn a_device_is_found_by_the_beginning_of_its_name_if_no_other_begins_so() {
        let gpu_node = |names: &[&str]| -> GPUNode {
            let devices: Vec<Value> =
                names.iter().map(|name| json!({"uuid": name, "index": 0, "health": {"state": "Healthy"}})).collect();
            serde_json::from_value(
                json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": "n1"},
                "spec": {}, "status": {"devices": devices}}),
            )
            .unwrap()
        };
        let node = gpu_node(&["GPU-12", "GPU-123", "GPU-2"]);
        let name = |uuid: &str| find(&node, uuid).map(|device| device.uuid.clone()).map_err(|error| error.to_string());
        assert_eq!((name("GPU-2").unwrap(), name("GPU-12").unwrap()), ("GPU-2".to_owned(), "GPU-12".to_owned()));
        assert_eq!(name("GPU-1").unwrap_err(), "GPU-1 may be GPU-12 or GPU-123: name one in full");
        assert!(name("GPU-9").unwrap_err().contains("n1 has no device GPU-9"));
    }

    #[test]
    fn what_is_written_is_what_the_agent_reads() {
        assert_eq!(annotation(&device(json!({}))), "clear.koinon.dev/GPU-1");
        assert!("n1".parse::<Named>().is_err() && "/GPU".parse::<Named>().is_err() && "n1/".parse::<Named>().is_err());
        for wrong in ["", "  ", "two\nlines"] {
            assert!(wrong.parse::<Reason>().is_err(), "{wrong:?}");
        }
    }
}
