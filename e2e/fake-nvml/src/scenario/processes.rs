//! Who uses a device.

use serde::{Deserialize, Serialize};

/// The processes on a device, kind by kind. A kind that is absent is not supported, which is not the same as none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Processes {
    /// With a CUDA context of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<ProcessList>,
    /// That draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graphics: Option<ProcessList>,
    /// Clients of the Multi-Process Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mps: Option<ProcessList>,
}

/// The processes of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProcessList {
    /// Those there now.
    pub list: Vec<Process>,
    /// So many more at each call of one client, with the next process numbers and memory that is not available.
    #[serde(default)]
    pub grows_by: u32,
    /// So many times, and then no more; without it, always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grows_times: Option<u32>,
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// In the process namespace of the host.
    pub pid: u32,
    /// Without it, NVML's mark for "not available".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// The GPU instance it runs on. Without it, NVML's mark for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gi: Option<u32>,
    /// The compute instance it runs on. Without it, NVML's mark for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<u32>,
}

impl ProcessList {
    /// These processes, and no more.
    pub fn of(list: Vec<Process>) -> Self {
        Self { list, ..Self::default() }
    }

    /// As it is when one client asks for it after so many earlier calls.
    pub(crate) fn after(&self, calls: u64) -> Vec<Process> {
        let times = self.grows_times.map_or(calls, |most| calls.min(u64::from(most)));
        let more = times.saturating_mul(u64::from(self.grows_by));
        // No node has more processes than this.
        let more = u32::try_from(more).unwrap_or(u32::MAX).min(super::MAX_PROCESSES);
        let next = self.list.iter().map(|process| process.pid).max().unwrap_or(0);
        let new = (1..=more).map(|step| Process { pid: next.wrapping_add(step), used_bytes: None, gi: None, ci: None });
        self.list.iter().copied().chain(new).collect()
    }
}

impl Process {
    /// A process on a device that is not divided.
    pub fn new(pid: u32, used_bytes: u64) -> Self {
        Self { pid, used_bytes: Some(used_bytes), gi: None, ci: None }
    }
}
