//! What a challenger shows the others.

use serde::{Deserialize, Serialize};

use super::secret::asked_rows;
use super::task::{MAX_DEVICES, Node, Occasion, Seed, Size, rows_each};
use super::timing::Timing;
use super::tree::Path;
use super::{Commitment, Secret};
use crate::json::{self, JsonError};

/// Longest transcript. One of 8 devices of 256 GiB has 29 KiB.
pub const MAX_TRANSCRIPT: usize = 40 * 1024;

/// One device's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Answer {
    /// The digest of its matrix under the salt.
    pub root: Node,
    /// The path of each row that is looked at, in the order in which they were chosen.
    pub paths: Vec<Path>,
}

/// A challenge and its answer. The rows themselves are not in it: whoever checks computes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Transcript {
    /// Who asked whom, and when.
    pub occasion: Occasion,
    /// How much was computed.
    pub size: Size,
    /// What chose salt and rows.
    pub secret: Secret,
    /// How long the two answers took together, for all devices, as the challenger measured.
    pub timing: Timing,
    /// Each device's.
    pub devices: Vec<Answer>,
}

/// Why a transcript is none, found without computing a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscriptError {
    /// Not the JSON of one.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// No device, or more than there can be.
    #[error("a challenge of {0} devices: between 1 and {MAX_DEVICES} are possible")]
    Devices(usize),
    /// More or fewer rows than are looked at.
    #[error("device {device} shows {seen} rows: {expected} are looked at")]
    Rows {
        /// Which device.
        device: usize,
        /// What it shows.
        seen: usize,
        /// What it must.
        expected: usize,
    },
    /// A path is not as long as it must be.
    #[error("the path of row {row} of device {device} has not the length of a path in this matrix")]
    Path {
        /// Which device.
        device: usize,
        /// Which row.
        row: u32,
    },
}

impl Transcript {
    /// Reads a transcript and checks all that needs no computing.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &[u8]) -> Result<Self, TranscriptError> {
        let read: Self = json::from_slice(bytes, MAX_TRANSCRIPT, "the transcript of a challenge")?;
        json::check_form(bytes, &read, "the transcript of a challenge")?;
        read.validate()?;
        Ok(read)
    }

    /// Checks numbers and lengths.
    ///
    /// # Errors
    /// They do not fit each other.
    pub fn validate(&self) -> Result<(), TranscriptError> {
        let count = self.devices.len();
        let devices = u8::try_from(count).ok().filter(|count| (1..=MAX_DEVICES).contains(count));
        let expected = rows_each(devices.ok_or(TranscriptError::Devices(count))?);
        for (device, answer) in self.devices.iter().enumerate() {
            if answer.paths.len() != expected {
                return Err(TranscriptError::Rows { device, seen: answer.paths.len(), expected });
            }
        }
        for (device, (answer, rows)) in self.devices.iter().zip(self.asked()).enumerate() {
            for (path, row) in answer.paths.iter().zip(rows) {
                if !path.fits(row, self.size.rows()) {
                    return Err(TranscriptError::Path { device, row });
                }
            }
        }
        Ok(())
    }

    /// Its one spelling, to be signed.
    #[must_use]
    pub fn text(&self) -> String {
        // Only maps with other keys than text and failing writers make this fail; there are neither.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Where its numbers came from.
    #[must_use]
    pub fn seed(&self) -> Seed {
        self.occasion.seed()
    }

    /// What was said first. Where a challenger has published it before, it must be the same.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        self.secret.salt().commitment()
    }

    /// The rows of each device that are looked at.
    #[must_use]
    pub fn asked(&self) -> Vec<Vec<u32>> {
        let roots: Vec<Node> = self.devices.iter().map(|answer| answer.root).collect();
        asked_rows(&self.seed(), &self.secret, self.size, &roots)
    }
}
