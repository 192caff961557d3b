//! What the scenario file may say. It is shared with the test device plugin, so that NVML and the kubelet can be made to
//! agree, or not.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Every driver version that this library reports contains this.
pub const DRIVER_MARK: &str = "0.0-fake";
/// Every UUID that this library reports begins with this.
pub const UUID_MARK: &str = "GPU-fa4e0000-";
/// More devices than any node has, and than the agent accepts: its cap of 128 must be testable.
pub const MAX_DEVICES: usize = 256;

/// NVML's text buffers: 80 bytes for versions, 96 for UUIDs and names, the final zero included.
const MAX_VERSION_BYTES: usize = 79;
const MAX_TEXT_BYTES: usize = 95;
/// A full scenario with 256 devices needs about 100 KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

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
    /// What the library counts. Without it, the number of devices below; a driver may be wrong about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// In the order of their NVML indices.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// The first that fits a call is carried out.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// One physical GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// Must begin with [`UUID_MARK`]. Two devices may have the same, since broken firmware does that.
    pub uuid: String,
    /// Not supported when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ProductName>,
    /// Not supported when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Not supported when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// Whether the driver still reaches the device.
    #[serde(default)]
    pub state: DeviceState,
    /// What the device plugin tells the kubelet.
    #[serde(default)]
    pub plugin: PluginView,
}

/// A product name; real libraries have returned bytes that are not text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ProductName {
    /// As it is.
    Text(String),
    /// Bytes in lower-case hexadecimal, for names that JSON cannot hold.
    Hex {
        /// Two digits a byte.
        hex: String,
    },
}

/// Whether the driver still reaches a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// It answers.
    #[default]
    Healthy,
    /// Every call about it returns `NVML_ERROR_GPU_IS_LOST`, the look-up of its handle included.
    Lost,
}

/// What the device plugin tells the kubelet about a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PluginView {
    /// The same as NVML says.
    #[default]
    Follow,
    /// Healthy, whatever NVML says: a plugin that has not noticed.
    Healthy,
    /// Unhealthy, whatever NVML says: a plugin that never takes a verdict back.
    Unhealthy,
    /// Not registered.
    Absent,
}

/// Multi-Instance GPU mode, now and after the next reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mig {
    /// In force.
    pub current: MigMode,
    /// In force after a reset.
    pub pending: MigMode,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MigMode {
    /// The GPU is one device.
    Disabled,
    /// The GPU is divided into instances.
    Enabled,
}

/// Something that goes wrong in a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// An exported symbol, such as `nvmlInit_v2`.
    pub symbol: String,
    /// Only for this NVML index; without it for every device.
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

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file is not there, not readable, or not a plain file of a sane size.
    #[error("reading scenario {path}: {reason}; set FAKE_NVML_SCENARIO to a readable JSON file of at most 1 MiB", path = path.display())]
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

fn fake_driver() -> String {
    DRIVER_MARK.to_owned()
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
        let refused = |what: String, rule| Err(ScenarioError::Refused { what, rule });
        if !self.driver_version.contains(DRIVER_MARK) {
            return refused(self.driver_version.clone(), "a driver version contains 0.0-fake");
        }
        for version in std::iter::once(&self.driver_version).chain(&self.nvml_version) {
            if version.len() > MAX_VERSION_BYTES || version.contains('\0') {
                return refused(version.clone(), "a version has at most 79 bytes, none of them zero");
            }
        }
        if self.devices.len() > MAX_DEVICES {
            return refused(format!("{} devices", self.devices.len()), "there are at most 256 devices");
        }
        for device in &self.devices {
            if !device.uuid.starts_with(UUID_MARK) {
                return refused(device.uuid.clone(), "a UUID begins with GPU-fa4e0000-");
            }
            if device.uuid.len() > MAX_TEXT_BYTES || device.uuid.contains('\0') {
                return refused(device.uuid.clone(), "a UUID has at most 95 bytes, none of them zero");
            }
            match device.name.as_ref().map(ProductName::bytes) {
                None => {}
                Some(Some(name)) if name.len() <= MAX_TEXT_BYTES && !name.contains(&0) => {}
                Some(_) => {
                    return refused(
                        format!("{:?}", device.name),
                        "a name is text or pairs of hexadecimal digits, at most 95 bytes, none of them zero",
                    );
                }
            }
        }
        for fault in &self.faults {
            if !crate::SYMBOLS.contains(&fault.symbol.as_str()) {
                return refused(fault.symbol.clone(), "a fault names an exported symbol");
            }
        }
        Ok(())
    }
}

impl ProductName {
    /// As the C string will hold it; none where the hexadecimal digits are not such.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Hex { hex } => {
                let nibble = |digit: &u8| char::from(*digit).to_digit(16);
                let pairs = hex.as_bytes().chunks(2);
                pairs
                    .map(|pair| match pair {
                        [high, low] => u8::try_from(nibble(high)? * 16 + nibble(low)?).ok(),
                        _ => None,
                    })
                    .collect()
            }
        }
    }
}

impl From<&str> for ProductName {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Device {
    /// A device of which only the UUID is known: `GPU-fa4e0000-0000-4000-8000-<serial in 12 digits>`.
    pub fn bare(serial: u64) -> Self {
        Self {
            uuid: format!("{UUID_MARK}0000-4000-8000-{serial:012}"),
            name: None,
            memory_bytes: None,
            mig: None,
            state: DeviceState::Healthy,
            plugin: PluginView::Follow,
        }
    }

    /// An H100 of 80 GB, as its driver describes it.
    pub fn h100(serial: u64) -> Self {
        Self {
            name: Some("NVIDIA H100 80GB HBM3".into()),
            memory_bytes: Some(81_559 * 1024 * 1024),
            mig: Some(Mig { current: MigMode::Disabled, pending: MigMode::Disabled }),
            ..Self::bare(serial)
        }
    }
}

impl Scenario {
    /// These devices and no fault.
    pub fn of(devices: Vec<Device>) -> Self {
        Self {
            driver_version: fake_driver(),
            nvml_version: None,
            cuda_driver_version: None,
            count: None,
            devices,
            faults: Vec::new(),
        }
    }

    /// The same with one more fault, in every call of `symbol`.
    pub fn with_fault(mut self, symbol: &str, device: Option<u32>, behaviour: Behaviour) -> Self {
        self.faults.push(Fault { symbol: symbol.to_owned(), device, after_calls: 0, behaviour });
        self
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(ProductName::Hex { hex: "ff0a".into() }.bytes(), Some(vec![0xff, 0x0a]));
        let error = load(r#"{"devices": [{"uuid": "GPU-fa4e0000-1", "name": {"hex": "ff0"}}]}"#).unwrap_err();
        assert!(error.to_string().contains("hexadecimal"), "{error}");
    }

    #[test]
    fn a_scenario_survives_the_file() {
        let scenario = Scenario::of(vec![Device::h100(1), Device::bare(2)])
            .with_fault("nvmlInit_v2", None, Behaviour::Return(9))
            .with_fault("nvmlDeviceGetUUID", Some(1), Behaviour::Hang);
        assert_eq!(load(&serde_json::to_string(&scenario).unwrap()).unwrap(), scenario);
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
        assert!(seen >= 2, "found {seen} scenarios");
    }
}
