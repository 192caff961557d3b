//! From where on something counts. An owner may tune them for its own hardware.

use serde::{Deserialize, Serialize};

use super::input::PerMille;
use crate::ids::Seconds;

/// From where on something counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Clean surveys after a reset or reboot until a device is healthy again.
    pub clean_surveys: u32,
    /// And how far apart the first and the last of them are at least.
    pub clean_period: Seconds,
    /// Changes between healthy and degraded within `flap_period` that are still believed.
    pub flap_changes: u32,
    /// See there.
    pub flap_period: Seconds,
    /// How long a device stays degraded that changed more often.
    pub flap_hold: Seconds,
    /// How long a device that is no longer seen is still shown.
    pub missing_hold: Seconds,
    /// Surveys failed in a row from which on devices are unknown (R7).
    pub missed_surveys: u32,
    /// Applications' faults on one device within `fault_period` from which on it or its tenant is at fault.
    pub faults: u32,
    /// See there.
    pub fault_period: Seconds,
    /// Reports about one workload that lie closer together are one fault.
    pub fault_burst: Seconds,
    /// How long a device is degraded after such faults, or after an XID that named none.
    pub fault_hold: Seconds,
    /// How far apart an XID 45 and its cause may be.
    pub cause_period: Seconds,
    /// Silence that ends an incident of a node.
    pub incident_silence: Seconds,
    /// Rows remapped for uncorrected errors from which on a device is watched (R5).
    pub remaps: u64,
    /// Of the last ten minutes, those with a slowdown by heat from which on a device is degraded (R8: 0.6 a minute).
    pub slowdown_minutes: u32,
    /// How long a device may be at its highest temperature (R8).
    pub hot_period: Seconds,
    /// How long it may be degraded by heat before it is unhealthy (R8).
    pub hot_limit: Seconds,
    /// How long the power brake may be on (R9).
    pub brake_period: Seconds,
    /// On how many devices at least (R9).
    pub brake_devices: u32,
    /// How long the host link may be slow while the device works (R10).
    pub pcie_period: Seconds,
    /// The share of its highest clock from which on a device works (R10).
    pub busy_clock: PerMille,
    /// How far apart two surveys may be for a condition to have lasted between them.
    pub survey_gap: Seconds,
    /// The share of the memory of its like below which a device is not what it says, and as far above it (R12).
    pub memory: PerMille,
    /// The share of the median throughput below which a device is degraded (R14).
    pub slow: PerMille,
    /// And unhealthy (R14).
    pub very_slow: PerMille,
    /// For how long after the node is ready or the driver changed nothing becomes unhealthy but what is certain (R15).
    pub grace: Seconds,
}

impl Default for Limits {
    /// The values of the health rules R1 to R15.
    fn default() -> Self {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 3_600;
        Self {
            clean_surveys: 3,
            clean_period: Seconds(5 * MINUTE),
            flap_changes: 3,
            flap_period: Seconds(HOUR),
            flap_hold: Seconds(6 * HOUR),
            missing_hold: Seconds(24 * HOUR),
            missed_surveys: 2,
            faults: 5,
            fault_period: Seconds(HOUR),
            fault_burst: Seconds(10),
            fault_hold: Seconds(HOUR),
            cause_period: Seconds(MINUTE),
            incident_silence: Seconds(3 * MINUTE),
            remaps: 8,
            slowdown_minutes: 6,
            hot_period: Seconds(5 * MINUTE),
            hot_limit: Seconds(30 * MINUTE),
            brake_period: Seconds(5 * MINUTE),
            brake_devices: 2,
            pcie_period: Seconds(10 * MINUTE),
            busy_clock: PerMille(500),
            // Twelve surveys of 10 s: one that was missed, or an agent that restarted, ends no condition.
            survey_gap: Seconds(2 * MINUTE),
            memory: PerMille(980),
            slow: PerMille(900),
            very_slow: PerMille(750),
            grace: Seconds(10 * MINUTE),
        }
    }
}
