//! What the driver tells clients without being asked.

use serde::{Deserialize, Serialize};

/// Something that happens once, or again and again. Each client process hears it once each time it happens, counted from
/// when that process read the scenario in which it first stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    /// How long after the scenario was read.
    #[serde(default)]
    pub after_milliseconds: u64,
    /// The NVML index of the device; without it, the library delivers a null handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u32>,
    /// NVML's bits: 1 single-bit error, 2 double-bit error, 8 XID, 0x8000 change of the recovery action.
    pub types: u64,
    /// For an XID, its code.
    #[serde(default)]
    pub data: u64,
    /// The GPU instance. Without it, NVML's mark for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gi: Option<u32>,
    /// The compute instance. Without it, NVML's mark for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<u32>,
    /// How often it happens.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// The time between one and the next; 0 for all at once.
    #[serde(default)]
    pub every_milliseconds: u64,
    /// Delivered to every set, even if nobody registered for its type: drivers newer than their clients do that.
    #[serde(default)]
    pub unasked: bool,
}

fn once() -> u32 {
    1
}

fn is_once(times: &u32) -> bool {
    *times == 1
}

/// NVML's bit for an XID.
const XID: u64 = nvml_wrapper_sys::bindings::nvmlEventTypeXidCriticalError as u64;

impl Event {
    /// An XID of a device, at once.
    pub fn xid(device: u32, code: u64) -> Self {
        Self {
            after_milliseconds: 0,
            device: Some(device),
            types: XID,
            data: code,
            gi: None,
            ci: None,
            times: 1,
            every_milliseconds: 0,
            unasked: false,
        }
    }

    /// The same event after a change: `Event::xid(0, 92).but(|event| event.times = 1000)`.
    #[must_use]
    pub fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn is_xid(&self) -> bool {
        self.types & XID != 0
    }
}
