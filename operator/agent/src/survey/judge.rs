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

/// A driver version of the characters that such versions have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverVersion(String);

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
    pub driver: Reading<DriverVersion>,
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
        driver: reading(readings.driver_version, |text| DriverVersion::parse(&text)),
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

impl DriverVersion {
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "GPU-fa4e0000-0000-4000-8000-000000000001";

    fn device(index: u32, uuid: &str) -> RawDevice {
        RawDevice {
            index,
            uuid: Raw::Value(uuid.to_owned()),
            product: Raw::Value("NVIDIA H100 80GB HBM3".to_owned()),
            memory_bytes: Raw::Value(85_520_809_984),
            mig: Raw::Value((0, 0)),
        }
    }

    fn survey(devices: Vec<RawDevice>) -> Survey {
        let count = u32::try_from(devices.len()).unwrap();
        judge(&printed(&Answer::Read(Readings {
            driver_version: Raw::Value("0.0-fake".to_owned()),
            cuda_version: Raw::NoSymbol,
            count,
            devices,
        })))
    }

    fn printed(answer: &Answer) -> Vec<u8> {
        format!("\n{MARK}{}\n", serde_json::to_string(answer).unwrap()).into_bytes()
    }

    #[test]
    fn a_value_that_is_not_supported_is_neither_zero_nor_a_fault() {
        let bare =
            RawDevice { product: Raw::Code(3), memory_bytes: Raw::Code(3), mig: Raw::NoSymbol, ..device(0, ONE) };
        let survey = survey(vec![bare]);
        assert_eq!(survey.devices[0].memory, Reading::Unsupported);
        assert_eq!(survey.devices[0].mig, Reading::Unsupported);
        assert_eq!(survey.devices[0].health, Health::Healthy);
    }

    #[test]
    fn a_value_that_could_not_be_read_makes_the_device_unknown() {
        for failed in [1, 2, 4, 23, 25, 27, 999] {
            let survey = survey(vec![RawDevice { memory_bytes: Raw::Code(failed), ..device(0, ONE) }]);
            assert_eq!(survey.devices[0].memory.known(), None);
            assert_eq!(survey.devices[0].health, Health::Unknown(HealthReason::ReadFailed), "code {failed}");
        }
    }

    #[test]
    fn a_device_that_is_lost_after_it_said_its_uuid_is_unhealthy() {
        for lost in [15, 28] {
            let survey = survey(vec![RawDevice { memory_bytes: Raw::Code(lost), ..device(0, ONE) }]);
            assert_eq!(survey.devices[0].health, Health::Unhealthy(HealthReason::GpuLost));
        }
    }

    #[test]
    fn a_device_that_needs_a_reset_is_unhealthy() {
        let survey = survey(vec![RawDevice { mig: Raw::Code(16), ..device(0, ONE) }]);
        assert_eq!(survey.devices[0].health, Health::Unhealthy(HealthReason::ResetRequired));
    }

    #[test]
    fn a_device_without_a_usable_uuid_is_counted_but_not_listed() {
        let lost = RawDevice { uuid: Raw::Code(15), ..device(0, ONE) };
        let odd = device(1, "GPU-fa4e0000-../../etc/passwd");
        let survey = survey(vec![lost, odd, device(2, ONE)]);
        assert_eq!((survey.devices.len(), survey.lost_unidentified, survey.other_unidentified), (1, 1, 1));
        assert_eq!(survey.devices[0].health, Health::Healthy);
    }

    #[test]
    fn two_devices_with_one_uuid_are_both_unknown_and_a_third_is_not() {
        let other = "GPU-fa4e0000-0000-4000-8000-000000000002";
        let survey = survey(vec![device(0, ONE), device(1, other), device(2, ONE)]);
        let states: Vec<Health> = survey.devices.iter().map(|device| device.health).collect();
        let twice = Health::Unknown(HealthReason::DuplicateUuid);
        assert_eq!(states, [twice, Health::Healthy, twice]);
    }

    #[test]
    fn a_name_cannot_break_a_line_or_a_label() {
        let hostile = RawDevice { product: Raw::Value("H100\n\u{202e}\"} 1\u{7}\0".to_owned()), ..device(0, ONE) };
        assert_eq!(survey(vec![hostile]).devices[0].product.known().unwrap().as_str(), "H100 ?\"} 1??");
        let long = RawDevice { product: Raw::Value("x".repeat(100_000)), ..device(0, ONE) };
        assert_eq!(survey(vec![long]).devices[0].product.known().unwrap().as_str().len(), 95);
        let blank = RawDevice { product: Raw::Value(" \n".to_owned()), ..device(0, ONE) };
        assert_eq!(survey(vec![blank]).devices[0].product, Reading::Unknown(Gap::Implausible));
    }

    #[test]
    fn memory_that_no_device_has_is_not_believed() {
        for bytes in [0, u64::MAX, 17 << 40] {
            let survey = survey(vec![RawDevice { memory_bytes: Raw::Value(bytes), ..device(0, ONE) }]);
            assert_eq!(survey.devices[0].memory, Reading::Unknown(Gap::Implausible), "{bytes}");
        }
    }

    #[test]
    fn what_the_library_prints_beside_the_answer_is_passed_over() {
        let mut output = b"NVRM: hello".to_vec();
        output.extend(printed(&Answer::Failed(Failed {
            failure: Failure::DriverNotLoaded,
            code: Some(9),
            message: "driver\nnot loaded".to_owned(),
        })));
        output.extend(b"goodbye\n");
        let nvml = judge(&output).nvml;
        let message = "driver not loaded".to_owned();
        assert_eq!(nvml, Nvml::Failed { failure: Failure::DriverNotLoaded, code: Some(9), message });
    }

    #[test]
    fn no_answer_two_answers_and_half_an_answer_are_garbled() {
        let one = printed(&Answer::Failed(Failed { failure: Failure::Error, code: None, message: String::new() }));
        for output in
            [b"".to_vec(), b"hello\n".to_vec(), [one.clone(), one.clone()].concat(), one[..one.len() - 4].to_vec()]
        {
            assert_eq!(judge(&output).failure(), Some(Failure::Garbled), "{}", String::from_utf8_lossy(&output));
        }
    }

    #[test]
    fn more_devices_than_the_cap_are_garbled() {
        let devices = (0..=MAX_DEVICES).map(|index| device(index, ONE)).collect();
        assert_eq!(survey(devices).failure(), Some(Failure::Garbled));
    }

    proptest! {
        #[test]
        fn any_output_is_judged_without_a_panic_and_yields_no_more_than_the_cap(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            marked in any::<bool>(),
        ) {
            let output = if marked { [MARK.as_bytes(), &noise].concat() } else { noise };
            prop_assert!(judge(&output).devices.len() <= MAX_DEVICES as usize);
        }

        #[test]
        fn a_name_is_always_short_printable_ascii(text in any::<String>()) {
            let clean = readable(&text, 95);
            prop_assert!(clean.len() <= 95 && clean.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}
