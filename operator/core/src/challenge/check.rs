//! Computing again what a transcript's devices say they computed: by anybody, as much of it as they like, in small steps.

use sha2::{Digest as _, Sha256};

use super::matrix::{Keys, Rows};
use super::secret::Salt;
use super::task::{Node, Seed, Size};
use super::transcript::{Transcript, TranscriptError};
use super::tree::{Path, leaf};

/// Why a transcript does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refuted {
    /// It is none.
    #[error(transparent)]
    Transcript(#[from] TranscriptError),
    /// A row is not what the device had.
    #[error("device {device} did not have row {row} of its matrix when it gave its digest")]
    Row {
        /// Which device.
        device: u8,
        /// Which row.
        row: u32,
    },
}

/// What was computed again and found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Devices, all that the transcript has.
    pub devices: u8,
    /// Rows of them.
    pub rows: u32,
}

/// One device's part of a check.
#[derive(Clone, Debug)]
struct Part {
    device: u8,
    root: Node,
    asked: Vec<(u32, Path)>,
}

/// A check under way. A step takes some ten milliseconds, and all of it [`Check::work`] multiply-adds.
#[derive(Clone, Debug)]
pub struct Check {
    seed: Seed,
    salt: Salt,
    size: Size,
    parts: Vec<Part>,
    now: Option<Rows>,
    checked: Checked,
}

impl Check {
    /// Of all rows that are looked at.
    ///
    /// # Errors
    /// The transcript is none.
    pub fn all(transcript: &Transcript) -> Result<Self, Refuted> {
        Self::sample(transcript, usize::MAX, &[])
    }

    /// Of `each` of the rows of each device that are looked at, chosen by `choice`. Members that draw different ones check all of
    /// it together.
    ///
    /// # Errors
    /// The transcript is none.
    pub fn sample(transcript: &Transcript, each: usize, choice: &[u8]) -> Result<Self, Refuted> {
        transcript.validate()?;
        let parts = (0u8..).zip(&transcript.devices).zip(transcript.asked()).map(|((device, answer), rows)| {
            let mut asked: Vec<(u32, Path)> = rows.into_iter().zip(answer.paths.iter().cloned()).collect();
            if each < asked.len() {
                asked.sort_by_cached_key(|(row, _)| -> [u8; 32] {
                    Sha256::new()
                        .chain_update(choice)
                        .chain_update([device])
                        .chain_update(row.to_be_bytes())
                        .finalize()
                        .into()
                });
                asked.truncate(each.max(1));
            }
            Part { device, root: answer.root, asked }
        });
        let mut parts: Vec<Part> = parts.collect();
        parts.reverse();
        Ok(Self {
            seed: transcript.seed(),
            salt: transcript.secret.salt(),
            size: transcript.size,
            checked: Checked { devices: u8::try_from(parts.len()).unwrap_or(u8::MAX), rows: 0 },
            parts,
            now: None,
        })
    }

    /// Multiply-adds that are left, those of devices that have been begun counted whole.
    #[must_use]
    pub fn work(&self) -> u64 {
        let rows: usize = self.parts.iter().map(|part| part.asked.len()).sum();
        u64::try_from(rows).unwrap_or(u64::MAX).saturating_mul(self.size.row_work())
    }

    /// Goes on a little. Says what was checked once all is.
    ///
    /// # Errors
    /// A row is not what the device had.
    pub fn step(&mut self) -> Result<Option<Checked>, Refuted> {
        let Some(part) = self.parts.last() else { return Ok(Some(self.checked)) };
        let rows = self.now.get_or_insert_with(|| {
            let asked: Vec<u32> = part.asked.iter().map(|(row, _)| *row).collect();
            Rows::new(&Keys::new(&self.seed, part.device, self.size), &asked)
        });
        if rows.step() {
            return Ok(None);
        }
        let sums = self.now.take().map(Rows::into_sums).unwrap_or_default();
        for (at, (row, path)) in part.asked.iter().enumerate() {
            let right = sums.get(at).map(|sums| leaf(&self.salt, part.device, *row, sums));
            let root = right.and_then(|right| path.root(right, *row, self.size.rows()));
            if root != Some(part.root) {
                return Err(Refuted::Row { device: part.device, row: *row });
            }
            self.checked.rows += 1;
        }
        self.parts.pop();
        Ok(self.parts.is_empty().then_some(self.checked))
    }

    /// All the steps at once: seconds to minutes.
    ///
    /// # Errors
    /// A row is not what the device had.
    pub fn finish(mut self) -> Result<Checked, Refuted> {
        loop {
            if let Some(checked) = self.step()? {
                return Ok(checked);
            }
        }
    }
}
