//! XID 154 tells what the driver now recommends, in words: `… changed from 0x0 (None) to 0x2 (Node Reboot Required)`.

use crate::gpu::device::RecoveryAction;

/// The recommendation to which a line says it changed; none if it cannot be told.
pub(super) fn parse(detail: Option<&str>) -> Option<RecoveryAction> {
    let (_, after) = detail?.rsplit_once(" to ")?;
    let word = after.trim_start().strip_prefix("0x")?;
    let digits = word.split(|character: char| !character.is_ascii_hexdigit()).next()?;
    Some(of_number(u32::from_str_radix(digits, 16).ok()?))
}

/// A recommendation by its number, that of NVML's field 230.
#[must_use]
pub fn of_number(number: u32) -> RecoveryAction {
    match number {
        0 => RecoveryAction::None,
        1 => RecoveryAction::GpuReset,
        2 => RecoveryAction::NodeReboot,
        3 => RecoveryAction::DrainP2p,
        4 => RecoveryAction::DrainAndReset,
        other => RecoveryAction::Other(other),
    }
}
