//! From what the surveying process printed to what the agent says of its node. Pure; nothing raw leaves here.

mod device;
mod text;
mod values;

use std::path::PathBuf;

use koinon_core::gpu::device::{Confidential, Device, Taken};
use koinon_core::gpu::reading::{Gap, Reading};

use super::MAX_DEVICES;
use super::failure::Failure;
use super::wire::{Answer, CallErrors, Failed, MARK, RawConfidential, Readings};
use values::{confidential_capable, confidential_mode, on_or_off, reading};

pub use text::Version;
pub(crate) use text::{gpu_id, readable};

/// A message that people read in conditions is cut here.
const MAX_MESSAGE_CHARS: usize = 256;
/// Functions and codes of which errors are kept: a driver that fails everywhere fails alike.
const MAX_ERRORS: usize = 64;

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
    /// When it began: what happened later it may not tell.
    pub taken: Taken,
    /// Whether the rest says anything at all.
    pub nvml: Nvml,
    /// The driver's version.
    pub driver: Reading<Version>,
    /// The library's own version.
    pub library: Reading<Version>,
    /// The file that answered.
    pub library_file: Option<PathBuf>,
    /// 13000 is CUDA 13.0.
    pub cuda: Reading<i32>,
    /// Confidential computing, which the driver decides for the whole node.
    pub confidential: Confidential,
    /// As NVML counts; may be more than it then describes.
    pub count: Option<u32>,
    /// By index. Two with one UUID are both here.
    pub devices: Vec<Device>,
    /// Of the devices that NVML counted: those that did not say who they are because they are lost.
    pub lost_unidentified: u32,
    /// And for any other cause.
    pub other_unidentified: u32,
    /// Which functions returned errors; that something is not supported or not there is none.
    pub errors: Vec<CallErrors>,
}

impl Survey {
    /// A survey that found nothing out.
    pub fn failed(taken: Taken, failure: Failure, code: Option<u32>, message: &str) -> Self {
        const NOT_ASKED: Gap = Gap::NotAsked;
        Self {
            taken,
            nvml: Nvml::Failed { failure, code, message: readable(message, MAX_MESSAGE_CHARS) },
            driver: Reading::Unknown(NOT_ASKED),
            library: Reading::Unknown(NOT_ASKED),
            library_file: None,
            cuda: Reading::Unknown(NOT_ASKED),
            confidential: Confidential {
                capable: Reading::Unknown(NOT_ASKED),
                mode: Reading::Unknown(NOT_ASKED),
                ready: Reading::Unknown(NOT_ASKED),
            },
            count: None,
            devices: Vec::new(),
            lost_unidentified: 0,
            other_unidentified: 0,
            errors: Vec::new(),
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
pub(super) fn judge(output: &[u8], taken: Taken) -> Survey {
    match read(output) {
        Ok(Answer::Failed(Failed { failure, code, message })) => Survey::failed(taken, failure, code, &message),
        Ok(Answer::Read(readings)) => described(readings, taken),
        Err(why) => Survey::failed(taken, Failure::Garbled, None, &why),
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

fn described(readings: Readings, taken: Taken) -> Survey {
    let confidential = confidential(readings.confidential);
    let mut survey = Survey {
        taken,
        nvml: Nvml::Available,
        driver: reading(readings.driver_version, |text| Version::parse(&text)),
        library: reading(readings.nvml_version, |text| Version::parse(&text)),
        library_file: readings.library_file.map(PathBuf::from),
        cuda: reading(readings.cuda_version, |version| (version > 0).then_some(version)),
        confidential: confidential.clone(),
        count: Some(readings.count),
        devices: Vec::new(),
        lost_unidentified: 0,
        other_unidentified: 0,
        errors: readings.errors.into_iter().filter(is_of_nvml).take(MAX_ERRORS).collect(),
    };
    for raw in readings.devices {
        match device::device(raw, &confidential) {
            Ok(device) => survey.devices.push(device),
            Err(Gap::Lost) => survey.lost_unidentified += 1,
            Err(_) => survey.other_unidentified += 1,
        }
    }
    survey
}

/// The library shares the process that says this, so it may have said it.
fn is_of_nvml(errors: &CallErrors) -> bool {
    let name = errors.symbol.strip_prefix("nvml").unwrap_or_default();
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn confidential(raw: RawConfidential) -> Confidential {
    Confidential {
        capable: reading(raw.capabilities, confidential_capable),
        mode: reading(raw.state, confidential_mode),
        ready: reading(raw.ready, on_or_off),
    }
}

#[cfg(test)]
mod tests;
