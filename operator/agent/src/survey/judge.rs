//! From what the surveying process printed to what the agent says of its node. Pure; nothing raw leaves here.

use std::collections::BTreeMap;
use std::fmt;

use super::MAX_DEVICES;
use super::wire::{Answer, Failed, Failure, MARK, Raw, RawDevice, Readings};

/// NVML return codes that decide something here.
mod code {
    pub(super) const NOT_SUPPORTED: u32 = 3;
    pub(super) const NO_PERMISSION: u32 = 4;
    pub(super) const GPU_IS_LOST: u32 = 15;
    pub(super) const RESET_REQUIRED: u32 = 16;
    pub(super) const GPU_NOT_FOUND: u32 = 28;
}

/// A message that people read in conditions is cut here.
const MAX_MESSAGE_CHARS: usize = 256;
/// Sixteen times the largest GPU of today; more is a driver's error.
const MAX_MEMORY_BYTES: u64 = 16 * 1024 * 1024 * 1024 * 1024;

/// A value, or why there is none. Unknown is neither zero nor healthy; unsupported is neither unknown nor bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading<T> {
    /// The driver gave it.
    Known(T),
    /// This device or this driver has no such value.
    Unsupported,
    /// It should be there and could not be read.
    Unknown(Gap),
}

/// Why a value could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The driver no longer reaches the device.
    Lost,
    /// The device does not work before its next reset.
    ResetRequired,
    /// This process may not ask.
    NoPermission,
    /// Not text, or a value that no device has.
    Implausible,
    /// The survey failed before it came to that.
    NotAsked,
    /// Any other NVML return code.
    Code(u32),
}

/// A GPU's UUID, in the form in which NVML, the device plugin and the kubelet write it: `GPU-` and a UUID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uuid(String);

/// A product name of printable characters that may stand in a resource, a label or a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product(String);

/// A version of driver or library, of the characters that such versions have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

/// Bytes of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(i64);

/// Multi-Instance GPU mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigState {
    /// The GPU is divided into instances.
    pub enabled: bool,
    /// It will be after the next reset.
    pub pending: bool,
}

/// What NVML says of a device as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Healthy,
    /// It is known not to work.
    Unhealthy(HealthReason),
    /// Nothing is known that could be relied on: no new work, and nothing is evicted.
    Unknown(HealthReason),
}

/// Why a device is not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthReason {
    /// The driver no longer reaches it.
    GpuLost,
    /// It needs a reset.
    ResetRequired,
    /// Another device of the node has the same UUID, so neither can be told from the other.
    DuplicateUuid,
    /// A value that every device has could not be read.
    ReadFailed,
    /// It was there, and the driver no longer lists it.
    DeviceMissing,
    /// The survey as a whole failed.
    SurveyFailed,
}

/// One device that said its UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Position in NVML's order, which changes between boots.
    pub index: u32,
    /// What it is known by.
    pub uuid: Uuid,
    /// What it is.
    pub product: Reading<Product>,
    /// Its whole memory.
    pub memory: Reading<Memory>,
    /// Whether it is divided.
    pub mig: Reading<MigState>,
    /// As a whole.
    pub health: Health,
}

/// Whether NVML could be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nvml {
    /// It answered.
    Available,
    /// It did not.
    Failed {
        /// In what way.
        failure: Failure,
        /// Its return code, where a call was reached.
        code: Option<u32>,
        /// For people; cleaned and cut.
        message: String,
    },
}

/// What one survey found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Whether the rest says anything at all.
    pub nvml: Nvml,
    /// The driver's version.
    pub driver: Reading<Version>,
    /// The library's own version.
    pub library: Reading<Version>,
    /// 13000 is CUDA 13.0.
    pub cuda: Reading<i32>,
    /// As NVML counts; may be more than it then describes.
    pub count: Option<u32>,
    /// By index. Two with one UUID are both here, and both unknown.
    pub devices: Vec<Device>,
    /// Of the devices that NVML counted: those that did not say who they are because they are lost.
    pub lost_unidentified: u32,
    /// And for any other cause.
    pub other_unidentified: u32,
}

impl Survey {
    /// A survey that found nothing out.
    pub fn failed(failure: Failure, code: Option<u32>, message: &str) -> Self {
        Self {
            nvml: Nvml::Failed { failure, code, message: readable(message, MAX_MESSAGE_CHARS) },
            driver: Reading::Unknown(Gap::NotAsked),
            library: Reading::Unknown(Gap::NotAsked),
            cuda: Reading::Unknown(Gap::NotAsked),
            count: None,
            devices: Vec::new(),
            lost_unidentified: 0,
            other_unidentified: 0,
        }
    }

    /// The failure, if it was one.
    pub fn failure(&self) -> Option<Failure> {
        match self.nvml {
            Nvml::Available => None,
            Nvml::Failed { failure, .. } => Some(failure),
        }
    }
}

/// Reads the output of a surveying process that ended by itself with status 0.
pub(super) fn judge(output: &[u8]) -> Survey {
    match read(output) {
        Ok(Answer::Failed(Failed { failure, code, message })) => Survey::failed(failure, code, &message),
        Ok(Answer::Read(readings)) => described(readings),
        Err(why) => Survey::failed(Failure::Garbled, None, &why),
    }
}

fn read(output: &[u8]) -> Result<Answer, String> {
    let mut marked = output.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(MARK.as_bytes()));
    let line = marked.next().ok_or("the surveying process printed no answer")?;
    if marked.next().is_some() {
        return Err("the surveying process printed two answers".to_owned());
    }
    let answer: Answer =
        serde_json::from_slice(line).map_err(|error| format!("reading the surveying process's answer: {error}"))?;
    match &answer {
        Answer::Read(readings) if readings.devices.len() > MAX_DEVICES as usize => Err(format!(
            "the surveying process described {} devices, at most {MAX_DEVICES} are",
            readings.devices.len()
        )),
        _ => Ok(answer),
    }
}

fn described(readings: Readings) -> Survey {
    let mut survey = Survey {
        nvml: Nvml::Available,
        driver: reading(readings.driver_version, |text| Version::parse(&text)),
        library: reading(readings.nvml_version, |text| Version::parse(&text)),
        cuda: reading(readings.cuda_version, |version| (version > 0).then_some(version)),
        count: Some(readings.count),
        devices: Vec::new(),
        lost_unidentified: 0,
        other_unidentified: 0,
    };
    for raw in readings.devices {
        match Device::of(raw) {
            Ok(device) => survey.devices.push(device),
            Err(Gap::Lost) => survey.lost_unidentified += 1,
            Err(_) => survey.other_unidentified += 1,
        }
    }
    let mut seen: BTreeMap<Uuid, u32> = BTreeMap::new();
    for device in &survey.devices {
        *seen.entry(device.uuid.clone()).or_default() += 1;
    }
    for device in &mut survey.devices {
        if seen.get(&device.uuid).is_some_and(|times| *times > 1) {
            device.health = Health::Unknown(HealthReason::DuplicateUuid);
        }
    }
    survey
}

impl Device {
    fn of(raw: RawDevice) -> Result<Self, Gap> {
        let uuid = match reading(raw.uuid, |text| Uuid::parse(&text)) {
            Reading::Known(uuid) => uuid,
            Reading::Unsupported => return Err(Gap::Code(code::NOT_SUPPORTED)),
            Reading::Unknown(gap) => return Err(gap),
        };
        let product = reading(raw.product, |text| Product::clean(&text));
        let memory = reading(raw.memory_bytes, Memory::plausible);
        let mig = reading(raw.mig, |(current, pending)| {
            Some(MigState { enabled: on_or_off(current)?, pending: on_or_off(pending)? })
        });
        let health = health(&[product.gap(), memory.gap(), mig.gap()]);
        Ok(Self { index: raw.index, uuid, product, memory, mig, health })
    }
}

fn health(gaps: &[Option<Gap>]) -> Health {
    let has = |gap| gaps.contains(&Some(gap));
    if has(Gap::Lost) {
        Health::Unhealthy(HealthReason::GpuLost)
    } else if has(Gap::ResetRequired) {
        Health::Unhealthy(HealthReason::ResetRequired)
    } else if gaps.iter().any(Option::is_some) {
        Health::Unknown(HealthReason::ReadFailed)
    } else {
        Health::Healthy
    }
}

fn reading<T, U>(raw: Raw<T>, accept: impl FnOnce(T) -> Option<U>) -> Reading<U> {
    match raw {
        Raw::Value(value) => accept(value).map_or(Reading::Unknown(Gap::Implausible), Reading::Known),
        // An older driver has no such function: no more a fault of the device than one that the device does not support.
        Raw::NoSymbol | Raw::Code(code::NOT_SUPPORTED) => Reading::Unsupported,
        Raw::NotText => Reading::Unknown(Gap::Implausible),
        Raw::Code(code::GPU_IS_LOST | code::GPU_NOT_FOUND) => Reading::Unknown(Gap::Lost),
        Raw::Code(code::RESET_REQUIRED) => Reading::Unknown(Gap::ResetRequired),
        Raw::Code(code::NO_PERMISSION) => Reading::Unknown(Gap::NoPermission),
        Raw::Code(code) => Reading::Unknown(Gap::Code(code)),
    }
}

fn on_or_off(mode: u32) -> Option<bool> {
    match mode {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

impl<T> Reading<T> {
    /// The value, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unsupported | Self::Unknown(_) => None,
        }
    }

    fn gap(&self) -> Option<Gap> {
        match self {
            Self::Unknown(gap) => Some(*gap),
            Self::Known(_) | Self::Unsupported => None,
        }
    }
}

impl Uuid {
    /// Accepts `GPU-` and 32 hexadecimal digits in the usual groups.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("GPU-")?;
        let groups: Vec<&str> = digits.split('-').collect();
        let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
        let hexadecimal = groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
        (lengths == [8, 4, 4, 4, 12] && hexadecimal).then(|| Self(text.to_owned()))
    }

    /// As NVML writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Product {
    /// NVML's names have at most 95 bytes; anything that is not a printable ASCII character becomes `?`.
    fn clean(text: &str) -> Option<Self> {
        let clean = readable(text, 95);
        (!clean.is_empty()).then_some(Self(clean))
    }

    /// Printable ASCII.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+');
        ((1..=79).contains(&text.len()) && text.bytes().all(usual)).then(|| Self(text.to_owned()))
    }

    /// Letters, digits, dots and dashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Memory {
    fn plausible(bytes: u64) -> Option<Self> {
        (1..=MAX_MEMORY_BYTES).contains(&bytes).then(|| i64::try_from(bytes).ok().map(Self)).flatten()
    }

    /// In bytes; at least one.
    pub fn bytes(self) -> i64 {
        self.0
    }
}

/// Text for people: printable ASCII, without runs of spaces, of at most `limit` characters.
pub(super) fn readable(text: &str, limit: usize) -> String {
    let printable: String = text
        .chars()
        .take(limit.saturating_mul(4))
        .map(|character| match character {
            ' '..='~' => character,
            _ if character.is_whitespace() => ' ',
            _ => '?',
        })
        .collect();
    let words: Vec<&str> = printable.split(' ').filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(limit).collect()
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
