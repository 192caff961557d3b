//! What is computed: sizes, and where the numbers come from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::{Bytes, CoopId, GpuClass, IdError, MemberId, StatementId, as_string};

/// Rows of each device that are looked at. A device of whose rows the part `f` is right passes with probability `f` to this
/// power.
pub const ROWS: usize = 8;

/// Devices of one challenge: all GPUs of the largest nodes that there are.
pub const MAX_DEVICES: u8 = 16;

/// Rows that are looked at in all, so that a transcript stays below [`super::MAX_TRANSCRIPT`].
const MAX_PATHS: usize = 64;

/// The inner dimension for real devices. Multiplying again must take much longer than hashing what was kept, also for somebody
/// with a better kernel than ours: an H100 does 10^15 multiply-adds of 8 bits a second on its tensor cores at best, so for
/// 80 GB again needs 0.6 s or more, while hashing takes 0.1 to 0.2 s.
pub const DEPTH: u32 = 32_768;

/// Rows of a device when `devices` are asked at once.
#[must_use]
pub fn rows_each(devices: u8) -> usize {
    ROWS.min(MAX_PATHS / usize::from(devices.max(1)))
}

/// Thirty-two bytes with a meaning, written as 64 lower case hex digits. What shows them for debugging shows the beginning: some
/// are secret for a while.
macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub [u8; 32]);
        impl ::std::str::FromStr for $name {
            type Err = $crate::ids::IdError;
            fn from_str(text: &str) -> Result<Self, $crate::ids::IdError> {
                $crate::ids::parse_hex32(text, "")
                    .map(Self)
                    .ok_or_else(|| $crate::ids::IdError::new($what, "must be 64 lower case hex digits", text))
            }
        }
        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, "{}({}…)", stringify!($name), ::hex::encode(&self.0[..4]))
            }
        }
        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&::hex::encode(self.0))
            }
        }
        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::ids::Parsed(::std::marker::PhantomData))
            }
        }
    };
}
pub(crate) use bytes_type;

bytes_type!(
    /// Where all numbers of a challenge come from.
    Seed, "a seed");
bytes_type!(
    /// What the challenger drew so that nobody could know the seed.
    Nonce, "a nonce");

/// Who challenges whom. The seed comes from it, so a transcript belongs to one challenger, one host and one time: it cannot be
/// shown again for another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Occasion {
    /// In which cooperative.
    pub coop: CoopId,
    /// Who asks.
    pub challenger: MemberId,
    /// Whose devices are asked.
    pub host: MemberId,
    /// Of which class they are said to be.
    pub class: GpuClass,
    /// A log entry that was new when it began: the challenge was not made before that was.
    pub after: StatementId,
    /// Drawn by the challenger.
    pub nonce: Nonce,
}

impl Occasion {
    /// The seed.
    #[must_use]
    pub fn seed(&self) -> Seed {
        let mut hasher = Sha256::new();
        hasher.update(b"koinon challenge seed v1\0");
        hasher.update(self.coop.0.0);
        for name in [self.challenger.as_str(), self.host.as_str(), self.class.as_str()] {
            // Names are far below 256 bytes, and their lengths keep two neighbours from being cut otherwise.
            hasher.update([u8::try_from(name.len()).unwrap_or(u8::MAX)]);
            hasher.update(name);
        }
        hasher.update(self.after.0.0);
        hasher.update(self.nonce.0);
        Seed(hasher.finalize().into())
    }
}

/// Why a size cannot be computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The matrix is too small, too large, or not made of whole tiles.
    #[error("a challenge of {0} rows: it must be a multiple of {step} from {step} to {most}", step = Size::TILE, most = Size::MAX_ROWS)]
    Rows(u32),
    /// The inner dimension is.
    #[error("a challenge of depth {0}: it must be a multiple of {step} from {step} to {most}", step = Size::DEPTH_STEP, most = Size::MAX_DEPTH)]
    Depth(u32),
}

/// How much is computed: C = A·B with A of `rows` × `depth` and B of `depth` × `rows` numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Sides", into = "Sides")]
pub struct Size {
    rows: u32,
    depth: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sides {
    rows: u32,
    depth: u32,
}

impl TryFrom<Sides> for Size {
    type Error = SizeError;
    fn try_from(sides: Sides) -> Result<Self, SizeError> {
        Self::new(sides.rows, sides.depth)
    }
}

impl From<Size> for Sides {
    fn from(size: Size) -> Self {
        Self { rows: size.rows, depth: size.depth }
    }
}

impl Size {
    /// Rows are computed in tiles of so many.
    pub const TILE: u32 = 128;
    /// 256 GiB of sums.
    pub const MAX_ROWS: u32 = 1 << 18;
    /// The depth is worked through in pieces of so many.
    pub const DEPTH_STEP: u32 = 64;
    /// Far from where a sum could overflow: 2^16 products of at most 2^12.
    pub const MAX_DEPTH: u32 = 1 << 16;

    /// `rows` × `rows` sums of `depth` products.
    ///
    /// # Errors
    /// Not whole tiles, or too large.
    pub fn new(rows: u32, depth: u32) -> Result<Self, SizeError> {
        if rows == 0 || rows > Self::MAX_ROWS || !rows.is_multiple_of(Self::TILE) {
            return Err(SizeError::Rows(rows));
        }
        if depth == 0 || depth > Self::MAX_DEPTH || !depth.is_multiple_of(Self::DEPTH_STEP) {
            return Err(SizeError::Depth(depth));
        }
        Ok(Self { rows, depth })
    }

    /// The size that fills nine tenths of `memory` of a device with sums: rows = √(0.9 · memory / 4), down to whole tiles. What
    /// is left is for the driver and the keys. A device of more than 305 GB is filled in part.
    ///
    /// # Errors
    /// The memory is too small for one tile, or the depth is wrong.
    pub fn filling(memory: Bytes, depth: u32) -> Result<Self, SizeError> {
        let sums = memory.0 / 40 * 9;
        let rows = u32::try_from(sums.isqrt()).unwrap_or(u32::MAX).min(Self::MAX_ROWS);
        Self::new(rows / Self::TILE * Self::TILE, depth)
    }

    /// Rows of the matrix, and its columns.
    #[must_use]
    pub fn rows(self) -> u32 {
        self.rows
    }

    /// Products in each sum.
    #[must_use]
    pub fn depth(self) -> u32 {
        self.depth
    }

    /// Words of four numbers in each sum.
    #[must_use]
    pub fn words(self) -> u32 {
        self.depth / 4
    }

    /// What the matrix takes.
    #[must_use]
    pub fn memory(self) -> Bytes {
        Bytes(4 * u64::from(self.rows) * u64::from(self.rows))
    }

    /// Multiply-adds of all of it.
    #[must_use]
    pub fn work(self) -> u64 {
        self.row_work() * u64::from(self.rows)
    }

    /// Multiply-adds of one row.
    #[must_use]
    pub fn row_work(self) -> u64 {
        u64::from(self.rows) * u64::from(self.depth)
    }
}

/// What the engine is told to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Task {
    /// Where the numbers come from.
    pub seed: Seed,
    /// How many.
    pub size: Size,
}

/// Sixteen bytes of a digest: a node of a tree.
///
/// Half a SHA-256 is enough here. A prover gains by opening a row that it had not computed when it gave the root. For that the
/// row's right digest, unknown to it then, would have to hit a node that it had fixed: one in 2^128 for each try and node. Two
/// inputs with one digest, which are found in 2^64 tries, do not help: it would have had to know both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub [u8; 16]);

impl FromStr for Node {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("a root", "must be 32 lower case hex digits", text);
        let mut bytes = [0; 16];
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong());
        }
        hex::decode_to_slice(text, &mut bytes).map_err(|_| wrong())?;
        Ok(Self(bytes))
    }
}
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
as_string!(Node);
