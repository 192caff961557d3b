//! Reading a scenario, and refusing one that could be taken for real hardware or that no call could carry out.

use std::path::{Path, PathBuf};

use super::{
    DRIVER_MARK, Device, EVERY_SYMBOL, Fault, MAX_PROCESSES, MIG_UUID_MARK, MigInstance, Scenario, Text, UUID_MARK,
};

/// More devices than any node has, and than the agent accepts: its cap of 128 must be testable.
pub const MAX_DEVICES: usize = 256;

/// NVML's text buffers: 80 bytes for versions, 96 for UUIDs, the final zero included.
const MAX_VERSION_BYTES: usize = 79;
const MAX_UUID_BYTES: usize = 95;
/// Far beyond any buffer of a client, which is what such a name is for.
const MAX_TEXT_BYTES: usize = 1024 * 1024;
/// NVML has room for so many links.
const MAX_LINKS: usize = 18;
/// No device has more instances.
const MAX_INSTANCES: usize = 16;
/// A full scenario with 256 devices needs about 2 MiB, one with 10,000 processes on each of 16 devices about 8 MiB.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file is not there, not readable, or not a plain file of a sane size.
    #[error("reading scenario {path}: {reason}; set FAKE_NVML_SCENARIO to a readable JSON file of at most 16 MiB", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Not JSON of the right shape.
    #[error("reading scenario {path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said, which names the key.
        reason: String,
    },
    /// Right in shape, but it could be taken for real hardware, or cannot be carried out.
    #[error("scenario says {what}: {rule}")]
    Refused {
        /// The offending value.
        what: String,
        /// What it breaks.
        rule: &'static str,
    },
}

/// Fails with the value and the rule unless the rule holds.
fn hold(holds: bool, what: impl ToString, rule: &'static str) -> Result<(), ScenarioError> {
    if holds { Ok(()) } else { Err(ScenarioError::Refused { what: what.to_string(), rule }) }
}

fn hold_text(text: Option<&Text>) -> Result<(), ScenarioError> {
    let Some(text) = text else { return Ok(()) };
    let sound = text.bytes().is_some_and(|bytes| bytes.len() <= MAX_TEXT_BYTES && !bytes.contains(&0));
    let what = format!("{text:.80?}");
    hold(sound, what, "a name is text or pairs of hexadecimal digits, at most 1 MiB, none of them zero")
}

fn hold_uuid(uuid: &str, mark: &str, rule: &'static str) -> Result<(), ScenarioError> {
    hold(uuid.starts_with(mark), uuid, rule)?;
    let sound = uuid.len() <= MAX_UUID_BYTES && !uuid.contains('\0');
    hold(sound, uuid, "a UUID has at most 95 bytes, none of them zero")
}

pub(crate) fn names_every_symbol(fault: &Fault) -> bool {
    fault.symbol == EVERY_SYMBOL
}

impl Scenario {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let unreadable =
            |reason: &dyn ToString| ScenarioError::Unreadable { path: path.to_owned(), reason: reason.to_string() };
        let size = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
        if size > MAX_FILE_BYTES {
            return Err(unreadable(&format_args!("it has {size} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| unreadable(&error))?;
        let scenario: Self = serde_json::from_slice(&bytes)
            .map_err(|error| ScenarioError::Malformed { path: path.to_owned(), reason: error.to_string() })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Refuses what could be taken for real hardware, and what no call could carry out.
    pub fn check(&self) -> Result<(), ScenarioError> {
        hold(self.driver_version.contains(DRIVER_MARK), &self.driver_version, "a driver version contains 0.0-fake")?;
        for version in std::iter::once(&self.driver_version).chain(&self.nvml_version) {
            let sound = version.len() <= MAX_VERSION_BYTES && !version.contains('\0');
            hold(sound, version, "a version has at most 79 bytes, none of them zero")?;
        }
        let devices = self.devices.len();
        hold(devices <= MAX_DEVICES, format_args!("{devices} devices"), "there are at most 256 devices")?;
        self.devices.iter().try_for_each(Device::check)?;
        for fault in &self.faults {
            let known = names_every_symbol(fault) || crate::SYMBOLS.contains(&fault.symbol.as_str());
            hold(known, &fault.symbol, "a fault names an exported symbol, or all of them as *")?;
        }
        for event in &self.events {
            hold(event.types != 0, "an event of no type", "an event has the bits of its type")?;
            let known = event.device.is_none_or(|index| usize::try_from(index).is_ok_and(|index| index < devices));
            hold(
                known,
                format_args!("an event of device {:?}", event.device),
                "an event names a device of the scenario",
            )?;
        }
        Ok(())
    }
}

impl Device {
    fn check(&self) -> Result<(), ScenarioError> {
        hold_uuid(&self.uuid, UUID_MARK, "a UUID begins with GPU-fa4e0000-")?;
        for text in [&self.name, &self.board.serial, &self.board.vbios] {
            hold_text(text.as_ref())?;
        }
        hold_text(self.board.pci.as_ref().and_then(|pci| pci.bus_id.as_ref()))?;
        hold(
            self.nvlink.len() <= MAX_LINKS,
            format_args!("{} links", self.nvlink.len()),
            "NVLink has at most 18 links",
        )?;
        for list in [&self.processes.compute, &self.processes.graphics, &self.processes.mps].into_iter().flatten() {
            let count = list.list.len();
            let sound = u32::try_from(count).is_ok_and(|count| count <= MAX_PROCESSES);
            hold(sound, format_args!("{count} processes"), "a device has at most 20,000 processes of a kind")?;
        }
        let instances = self.mig_instances.len();
        hold(instances <= MAX_INSTANCES, format_args!("{instances} instances"), "a device has at most 16 instances")?;
        self.mig_instances.iter().try_for_each(MigInstance::check)?;
        for (blob, buffer) in self.confidential.blobs() {
            let sound = blob.bytes.bytes().is_some_and(|bytes| bytes.len() <= buffer);
            hold(sound, format_args!("{blob:.80?}"), "evidence is pairs of hexadecimal digits that fit NVML's buffer")?;
        }
        Ok(())
    }
}

impl MigInstance {
    fn check(&self) -> Result<(), ScenarioError> {
        hold_uuid(&self.uuid, MIG_UUID_MARK, "the UUID of an instance begins with MIG-fa4e0000-")?;
        hold_text(self.name.as_ref())
    }
}
