//! The recovery action that a driver recommends is heard by asking: its event has a bit that older clients drop.

use std::collections::BTreeMap;

use koinon_core::gpu::device::{Device, RecoveryAction};
use koinon_core::gpu::xid::Xid;
use koinon_core::ids::{DeviceId, UnixSeconds};

use super::coalesce::{Heard, Voice};

/// NVIDIA's code for a recovery action that changed.
const RECOVERY_ACTION_CHANGED: Xid = Xid(154);

/// What each device was last known to recommend.
#[derive(Debug, Default)]
pub struct Recoveries(BTreeMap<DeviceId, RecoveryAction>);

impl Recoveries {
    /// The changes that a survey shows. What is not known is no change, and neither is the first that is known, unless it is
    /// that something has to be done.
    pub(crate) fn changes(&mut self, devices: &[Device], at: UnixSeconds) -> Vec<Heard> {
        let mut changes = Vec::new();
        for device in devices {
            let Some(now) = device.recovery.get() else { continue };
            let before = self.0.insert(device.id.clone(), now).unwrap_or(RecoveryAction::None);
            if before != now {
                changes.push(Heard {
                    at,
                    device: Some(device.id.clone()),
                    xid: RECOVERY_ACTION_CHANGED,
                    voice: Voice::Recovery,
                    place: None,
                    detail: Some(format!("recovery action changed from {} to {}", name(before), name(now))),
                });
            }
        }
        // A device that is gone may come back; a node never has so many that have been.
        while self.0.len() > 1024 {
            self.0.pop_first();
        }
        changes
    }
}

fn name(action: RecoveryAction) -> String {
    match action {
        RecoveryAction::None => "0 (none)".to_owned(),
        RecoveryAction::GpuReset => "1 (GPU reset)".to_owned(),
        RecoveryAction::NodeReboot => "2 (node reboot)".to_owned(),
        RecoveryAction::DrainP2p => "3 (drain P2P)".to_owned(),
        RecoveryAction::DrainAndReset => "4 (drain and reset)".to_owned(),
        RecoveryAction::Other(code) => format!("{code}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::survey::judge_for_tests;

    const GPU: &str = "GPU-fa4e0000-0000-4000-8000-000000000001";

    fn device(action: &Value) -> Vec<Device> {
        let said = json!({"uuidAgain": {"value": GPU}, "recovery": {"action": action}});
        let survey = judge_for_tests(&json!({"read": {
            "driverVersion": "noSymbol", "nvmlVersion": "noSymbol", "cudaVersion": "noSymbol", "count": 1,
            "devices": [{"index": 0, "uuid": {"value": GPU}, "said": said}],
        }}));
        assert_eq!(survey.devices.len(), 1);
        survey.devices
    }

    #[test]
    fn a_change_is_an_error_and_what_is_not_known_is_no_change() {
        let mut recoveries = Recoveries::default();
        let mut changes = |action: Value| recoveries.changes(&device(&action), UnixSeconds(9));
        assert_eq!(changes(json!({"value": 0})), [], "nothing has to be done, and never had");
        assert_eq!(changes(json!({"code": 15})), []);
        let [change] = changes(json!({"value": 1})).try_into().unwrap();
        assert_eq!((change.xid, change.voice, change.at), (Xid(154), Voice::Recovery, UnixSeconds(9)));
        assert_eq!(change.device.unwrap().as_str(), GPU);
        assert_eq!(change.detail.as_deref(), Some("recovery action changed from 0 (none) to 1 (GPU reset)"));
        assert_eq!(changes(json!({"value": 1})), []);
        assert_eq!(changes(json!({"code": 999})), []);
        assert_eq!(changes(json!({"value": 1})), [], "it was never known to be another");
        assert_eq!(changes(json!({"value": 0})).len(), 1, "that it is done is a change as well");
        assert_eq!(changes(json!("noSymbol")), []);
    }

    #[test]
    fn a_device_that_needs_something_when_it_is_first_seen_is_told() {
        assert_eq!(Recoveries::default().changes(&device(&json!({"value": 2})), UnixSeconds(9)).len(), 1);
    }
}
