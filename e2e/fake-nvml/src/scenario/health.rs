//! What has gone wrong inside a device.

use serde::{Deserialize, Serialize};

use super::values::Switch;

/// What has gone wrong inside a device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Errors {
    /// Error correction. Totals also answer fields 3 to 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc: Option<Ecc>,
    /// What happened in the memories on the chip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sram: Option<Sram>,
    /// Rows that were replaced; also fields 142 to 145.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remapped_rows: Option<RemappedRows>,
    /// How many banks can still replace rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_remapper: Option<RowRemapper>,
    /// The driver's own advice, field 230: 0 none, 1 reset, 2 reboot, 3 drain, 4 drain and reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_action: Option<u32>,
}

/// Error correction of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ecc {
    /// In force. While it is off, no counter is supported.
    pub current: Switch,
    /// In force after a reset.
    pub pending: Switch,
    /// Over all places.
    #[serde(default)]
    pub totals: EccTotals,
    /// Place by place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<EccCounter>,
}

/// Errors over all places of a device. Volatile ones count from the last load of the driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EccTotals {
    /// Repaired, since the driver was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected_volatile: Option<u64>,
    /// Repaired, ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected_aggregate: Option<u64>,
    /// Not repaired, since the driver was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncorrected_volatile: Option<u64>,
    /// Not repaired, ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncorrected_aggregate: Option<u64>,
}

/// Errors of one kind in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EccCounter {
    /// Whether the data were repaired.
    pub error: EccError,
    /// Since when.
    pub scope: EccScope,
    /// Where.
    pub location: EccLocation,
    /// How many.
    pub count: u64,
}

/// Whether the data of a memory error were repaired. In the order of NVML's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EccError {
    /// They were.
    Corrected,
    /// They were not.
    Uncorrected,
}

/// Since when errors count. In the order of NVML's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EccScope {
    /// The last load of the driver.
    Volatile,
    /// The making of the device.
    Aggregate,
}

/// Where memory errors happen. In the order of NVML's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EccLocation {
    /// Cache of the first level.
    L1Cache,
    /// Cache of the second level.
    L2Cache,
    /// Device memory.
    Dram,
    /// Registers.
    RegisterFile,
    /// Texture memory.
    TextureMemory,
    /// Texture memory used as shared memory.
    TextureShm,
    /// The control unit.
    Cbu,
    /// All memories on the chip together.
    Sram,
}

/// Errors in the memories on the chip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sram {
    /// Not repaired, found by parity, ever.
    pub aggregate_uncorrected_parity: u64,
    /// Not repaired, found by double-error detection, ever.
    pub aggregate_uncorrected_sec_ded: u64,
    /// Repaired, ever.
    pub aggregate_corrected: u64,
    /// As the first, since the driver was loaded.
    pub volatile_uncorrected_parity: u64,
    /// As the second, since the driver was loaded.
    pub volatile_uncorrected_sec_ded: u64,
    /// As the third, since the driver was loaded.
    pub volatile_corrected: u64,
    /// Of those not repaired: in the cache of the second level.
    pub uncorrected_l2: u64,
    /// In a streaming multiprocessor.
    pub uncorrected_sm: u64,
    /// In the link to the host.
    pub uncorrected_pcie: u64,
    /// In a microcontroller.
    pub uncorrected_mcu: u64,
    /// Elsewhere.
    pub uncorrected_other: u64,
    /// More than the maker accepts.
    pub threshold_exceeded: bool,
}

/// Rows of memory that were replaced by spare ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemappedRows {
    /// For errors that were repaired.
    pub correctable: u32,
    /// For errors that were not.
    pub uncorrectable: u32,
    /// More will be at the next reset.
    pub pending: bool,
    /// One could not be.
    pub failed: bool,
}

/// Banks of memory by how many rows they can still replace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RowRemapper {
    /// All.
    pub max: u32,
    /// Most.
    pub high: u32,
    /// Some.
    pub partial: u32,
    /// Few.
    pub low: u32,
    /// None.
    pub none: u32,
}
