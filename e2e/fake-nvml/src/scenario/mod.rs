//! What the scenario file may say. It is shared with the test device plugin, so that NVML and the kubelet can be made to
//! agree, or not.

mod check;
mod device;
mod events;
mod health;
mod links;
mod presets;
mod processes;
mod telemetry;
mod values;

pub(crate) use check::names_every_symbol;
pub use check::{MAX_DEVICES, ScenarioError};
pub use device::{Attributes, Board, Device, DeviceState, MemoryUse, Mig, MigInstance, PluginView};
pub use events::Event;
pub use health::{
    Ecc, EccCounter, EccError, EccLocation, EccScope, EccTotals, Errors, RemappedRows, RowRemapper, Sram,
};
pub use links::{NvLink, Pcie};
pub use processes::{Process, ProcessList, Processes};
use serde::{Deserialize, Serialize};
pub use telemetry::{Clocks, MarginLimits, Telemetry, Thresholds, Utilisation};
pub use values::{Blob, Confidential, Field, FieldValue, MigMode, Pci, ProductName, Switch, Text};

/// Every driver version that this library reports contains this.
pub const DRIVER_MARK: &str = "0.0-fake";
/// Every UUID of a device that this library reports begins with this.
pub const UUID_MARK: &str = "GPU-fa4e0000-";
/// Every UUID of an instance that this library reports begins with this.
pub const MIG_UUID_MARK: &str = "MIG-fa4e0000-";
/// The symbol of a fault that strikes every call.
pub const EVERY_SYMBOL: &str = "*";
/// More processes than any list holds. A client must cope with 10,000.
pub(crate) const MAX_PROCESSES: u32 = 20_000;

/// One state of one node's GPUs, and what goes wrong with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// Must contain [`DRIVER_MARK`].
    #[serde(default = "fake_driver")]
    pub driver_version: String,
    /// The version of the library, not of the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvml_version: Option<String>,
    /// 13000 is CUDA 13.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_driver_version: Option<i32>,
    /// How often the driver was loaded. When this changes, every client must initialise the library anew: until then each
    /// call returns `NVML_ERROR_UNINITIALIZED`.
    #[serde(default, skip_serializing_if = "device::is_default")]
    pub driver_loads: u32,
    /// What the library counts. Without it, the number of devices below; a driver may be wrong about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// What the library counts in one call after the other; the last stays. It goes before `count`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<u32>,
    /// In the order of their NVML indices.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// The first that fits a call is carried out.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// What clients hear that wait for events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// Of several XIDs that a client has not yet heard, each is delivered with the code of the last, as NVML documents it.
    #[serde(default, skip_serializing_if = "device::is_default")]
    pub last_xid_only: bool,
    /// Confidential computing on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidential_compute: Option<ConfidentialCompute>,
}

/// Confidential computing on a node. All numbers are NVML's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfidentialCompute {
    /// 0 none, 1 simulated, 2 production.
    pub environment: u32,
    /// Whether it is on.
    pub enabled: bool,
    /// Whether tools may look inside, which makes it worthless as evidence.
    pub dev_tools: bool,
    /// 0 none, 1 protected PCIe, 2 encrypted NVLink.
    pub multi_gpu: u32,
    /// Whether the devices take work. Not supported when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus_ready: Option<bool>,
}

/// Something that goes wrong in a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// An exported symbol, such as `nvmlInit_v2`, or [`EVERY_SYMBOL`].
    pub symbol: String,
    /// Only for this NVML index and its instances; without it for every device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u32>,
    /// So many calls go well first. Each process counts for itself, anew after a change of the file.
    #[serde(default)]
    pub after_calls: u64,
    /// What happens then, each time.
    pub behaviour: Behaviour,
}

/// What a faulty call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Behaviour {
    /// Returns this NVML code, and writes nothing.
    Return(u32),
    /// Answers rightly, but only after this time.
    DelayMilliseconds(u64),
    /// Never returns.
    Hang,
    /// Writes to an address that is not mapped.
    Crash,
}

fn fake_driver() -> String {
    DRIVER_MARK.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn load(text: &str) -> Result<Scenario, ScenarioError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Scenario::load(file.path())
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = load(r#"{"devices": [{"uuid": "GPU-fa4e0000-1", "wattage": 700}]}"#).unwrap_err();
        assert!(error.to_string().contains("wattage"), "{error}");
    }

    #[test]
    fn a_uuid_that_could_be_real_is_refused() {
        let error = load(r#"{"devices": [{"uuid": "GPU-5ab1c3e2-0000-4000-8000-000000000001"}]}"#).unwrap_err();
        assert!(error.to_string().contains("GPU-fa4e0000-"), "{error}");
    }

    #[test]
    fn a_driver_that_could_be_real_is_refused() {
        let error = load(r#"{"driverVersion": "580.95.05"}"#).unwrap_err();
        assert!(error.to_string().contains("0.0-fake"), "{error}");
    }

    #[test]
    fn a_fault_in_a_symbol_that_is_not_exported_is_refused() {
        let error = load(r#"{"faults": [{"symbol": "nvmlDeviceReset", "behaviour": "hang"}]}"#).unwrap_err();
        assert!(error.to_string().contains("nvmlDeviceReset"), "{error}");
    }

    #[test]
    fn a_name_may_be_bytes_but_not_half_a_byte() {
        assert_eq!(Text::Hex { hex: "ff0a".into() }.bytes(), Some(vec![0xff, 0x0a]));
        let error = load(r#"{"devices": [{"uuid": "GPU-fa4e0000-1", "name": {"hex": "ff0"}}]}"#).unwrap_err();
        assert!(error.to_string().contains("hexadecimal"), "{error}");
    }

    fn everything() -> Scenario {
        let crowd = (1..=10_000).map(|pid| Process::new(pid, u64::MAX - 1)).collect();
        let device = Device::h100(1).divided(7).but(|device| {
            device.fields = vec![
                Field { labelled: Some(270), ..Field::of(252, FieldValue::Double(0.1)) },
                Field { scope: Some(3), code: Some(21), value: None, ..Field::of(91, FieldValue::SignedInt(-1)) },
            ];
            device.processes.compute =
                Some(ProcessList { grows_by: 20, grows_times: Some(3), ..ProcessList::of(crowd) });
            let lie = Some(Blob { claimed_bytes: Some(9000), ..Blob::of(&[0, 255]) });
            device.confidential = Confidential { attestation_report: lie, ..Confidential::default() };
        });
        let storm = Event::xid(0, 92).but(|event| (event.times, event.unasked) = (1000, true));
        Scenario {
            counts: vec![1, 2],
            driver_loads: 3,
            last_xid_only: true,
            events: vec![storm, Event::xid(1, 79).but(|event| event.device = None)],
            ..Scenario::known(vec![device, Device::a100(2), Device::l4(3), Device::bare(4)])
        }
    }

    #[test]
    fn a_scenario_survives_the_file() {
        let scenario = everything()
            .with_fault("nvmlInit_v2", None, Behaviour::Return(9))
            .with_fault(EVERY_SYMBOL, None, Behaviour::DelayMilliseconds(5))
            .with_fault("nvmlDeviceGetUUID", Some(1), Behaviour::Hang);
        assert_eq!(load(&serde_json::to_string(&scenario).unwrap()).unwrap(), scenario);
    }

    #[test]
    fn the_largest_node_fits_into_the_file() {
        let full = Scenario::known((0..256).map(|serial| Device::h100(serial).divided(7)).collect());
        assert_eq!(load(&serde_json::to_string(&full).unwrap()).unwrap(), full);
        let crowd: Vec<Process> = (1..=10_000).map(|pid| Process::new(pid, 80 << 30)).collect();
        let crowded = |serial| Device::h100(serial).but(|d| d.processes.compute = Some(ProcessList::of(crowd.clone())));
        let busy = Scenario::known((0..16).map(crowded).collect());
        assert_eq!(load(&serde_json::to_string(&busy).unwrap()).unwrap(), busy);
    }

    #[test]
    fn every_device_of_a_node_has_an_address_and_names_of_its_own() {
        let devices: Vec<Device> = (0..256).map(|serial| Device::h100(serial).divided(7)).collect();
        let instances = || devices.iter().flat_map(|device| &device.mig_instances);
        let uuids: BTreeSet<&str> =
            devices.iter().map(|d| d.uuid.as_str()).chain(instances().map(|part| part.uuid.as_str())).collect();
        assert_eq!(uuids.len(), 256 * 8);
        let addresses = devices.iter().filter_map(|device| device.board.pci.as_ref());
        assert_eq!(addresses.map(|pci| (pci.domain, pci.bus, pci.device)).collect::<BTreeSet<_>>().len(), 256);
        assert!(instances().all(|part| part.memory_bytes.is_some_and(|bytes| bytes > 9 << 30)));
    }

    #[test]
    fn what_no_call_could_carry_out_is_refused_and_named() {
        type Change = fn(&mut Scenario);
        let wrong: [(&str, Change); 12] = [
            ("MIG-fa4e0000-", |s| s.devices[0].mig_instances[0].uuid = "MIG-5ab1c3e2-0000".to_owned()),
            ("0.0-fake", |s| s.driver_version = "580.95.05".to_owned()),
            ("79 bytes", |s| s.nvml_version = Some("1".repeat(80))),
            ("256 devices", |s| s.devices = (0..257).map(Device::bare).collect()),
            ("95 bytes", |s| s.devices[1].uuid = format!("{UUID_MARK}{}", "0".repeat(90))),
            ("none of them zero", |s| s.devices[1].board.serial = Some("1\0".into())),
            ("18 links", |s| s.devices[1].nvlink = vec![NvLink::sound(); 19]),
            ("16 instances", |s| {
                let one = s.devices[0].mig_instances[0].clone();
                s.devices[0].mig_instances = vec![one; 17];
            }),
            ("20,000 processes", |s| {
                s.devices[1].processes.mps = Some(ProcessList::of(vec![Process::new(1, 1); 20_001]));
            }),
            ("NVML's buffer", |s| s.devices[1].confidential.certificate_chain = Some(Blob::of(&[1; 4097]))),
            ("names a device", |s| s.events[0].device = Some(4)),
            ("bits of its type", |s| s.events[0].types = 0),
        ];
        for (rule, change) in wrong {
            let error = everything().but(change).check().unwrap_err();
            assert!(error.to_string().contains(rule), "{rule}: {error}");
        }
        assert!(everything().check().is_ok());
    }

    #[test]
    fn every_scenario_of_the_repository_is_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            Scenario::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            seen += 1;
        }
        assert!(seen >= 3, "found {seen} scenarios");
    }

    #[test]
    fn the_mixed_scenario_is_what_the_products_are() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/porto.json");
        let expected = Scenario::known(vec![Device::h100(300), Device::a100(301).divided(2), Device::l4(302)]);
        let text = serde_json::to_string_pretty(&expected).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap().trim_end(), text, "write this into it:\n{text}");
    }
}
