//! How a device is connected.

use serde::{Deserialize, Serialize};

/// The link to the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pcie {
    /// In use; less than the maximum while nothing is to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Possible for this device in this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_generation: Option<u32>,
    /// Lanes in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Lanes possible for this device in this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_width: Option<u32>,
    /// Packets sent twice; also field 94.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replays: Option<u32>,
}

/// One link to another GPU or to a switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NvLink {
    /// Whether it carries data.
    pub active: bool,
    /// Data link replays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replays: Option<u64>,
    /// Recoveries of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recoveries: Option<u64>,
    /// Checksum errors of flow control units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc_flit: Option<u64>,
    /// Checksum errors of data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc_data: Option<u64>,
    /// Errors that the code repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_data: Option<u64>,
}

impl NvLink {
    /// An active link on which nothing has gone wrong.
    pub fn sound() -> Self {
        Self {
            active: true,
            replays: Some(0),
            recoveries: Some(0),
            crc_flit: Some(0),
            crc_data: Some(0),
            ecc_data: None,
        }
    }
}
