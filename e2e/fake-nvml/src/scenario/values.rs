//! Values that several groups share.

use serde::{Deserialize, Serialize};

/// Bytes that a library returns as text, or at length; real ones have returned text that was none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Text {
    /// As it is.
    Text(String),
    /// Bytes in hexadecimal, for what JSON cannot hold.
    Hex {
        /// Two digits a byte.
        hex: String,
    },
}

/// A product name.
pub type ProductName = Text;

impl Text {
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

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Off or on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Switch {
    /// Off.
    Disabled,
    /// On.
    Enabled,
}

/// Of Multi-Instance GPU: whether the GPU is one device, or divided into instances.
pub type MigMode = Switch;

impl Switch {
    /// NVML writes 0 and 1, whatever the name of the type.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Disabled => 0,
            Self::Enabled => 1,
        }
    }
}

/// A place on the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pci {
    /// 0 on most machines.
    pub domain: u32,
    /// 0 to 255.
    pub bus: u32,
    /// 0 to 31.
    pub device: u32,
    /// Device in the upper half, vendor in the lower: 0x10de is NVIDIA.
    pub device_id: u32,
    /// The board that carries the device.
    pub subsystem_id: u32,
    /// Another text than the one that follows from the numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus_id: Option<Text>,
}

/// One answer of `nvmlDeviceGetFieldValues`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Field {
    /// The field that is asked for.
    pub id: u32,
    /// Only for this scope, such as the number of a link; without it for every scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
    /// What it holds. Without it, and without a code, the field is not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<FieldValue>,
    /// The NVML code of this field alone.
    #[serde(default, rename = "return", skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// When the sample was taken, in microseconds since 1970; without it, now. Drivers have stepped backwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_microseconds: Option<i64>,
    /// The id that the answer bears, where it is another: drivers from 580.82 on renumbered 251 to 273.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labelled: Option<u32>,
}

/// A number of one of NVML's types.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FieldValue {
    /// Tag 0.
    Double(f64),
    /// Tag 1.
    UnsignedInt(u32),
    /// Tag 2.
    UnsignedLong(u64),
    /// Tag 3.
    UnsignedLongLong(u64),
    /// Tag 4.
    SignedLongLong(i64),
    /// Tag 5.
    SignedInt(i32),
    /// Tag 6.
    UnsignedShort(u16),
}

impl Field {
    /// A field with a value, sampled now.
    pub fn of(id: u32, value: FieldValue) -> Self {
        Self { id, scope: None, value: Some(value), code: None, timestamp_microseconds: None, labelled: None }
    }
}

/// A device's own evidence of what it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Confidential {
    /// What it says of itself. The nonce is the client's and comes back unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_report: Option<Blob>,
    /// The same of its controller, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cec_attestation_report: Option<Blob>,
    /// Certificates of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_chain: Option<Blob>,
    /// Certificates of the key that signs reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_certificate_chain: Option<Blob>,
}

/// Bytes in a buffer whose size the library reports beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blob {
    /// What the buffer holds.
    pub bytes: Text,
    /// The size that the library claims, where it lies; it may exceed the buffer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_bytes: Option<u32>,
}

impl Confidential {
    /// What is given, each with the size of the buffer that NVML has for it.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (&Blob, usize)> {
        let all = [
            (&self.attestation_report, 8192),
            (&self.cec_attestation_report, 4096),
            (&self.certificate_chain, 4096),
            (&self.attestation_certificate_chain, 5120),
        ];
        all.into_iter().filter_map(|(blob, buffer)| Some((blob.as_ref()?, buffer)))
    }
}

impl Blob {
    /// These bytes, and the truth about their number.
    pub fn of(bytes: &[u8]) -> Self {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes: Text::Hex { hex }, claimed_bytes: None }
    }

    /// The size that the library reports.
    pub(crate) fn size(&self) -> u32 {
        let true_size = self.bytes.bytes().and_then(|bytes| u32::try_from(bytes.len()).ok());
        self.claimed_bytes.or(true_size).unwrap_or(0)
    }
}
