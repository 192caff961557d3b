//! From what a call came to, to a reading: which codes mean what, and which values no device has.

use koinon_core::gpu::device::{ConfidentialMode, RecoveryAction, Setting};
use koinon_core::gpu::reading::{Gap, Reading};
use koinon_core::gpu::xid::recovery;
use koinon_core::ids::{Bytes, Line};

use super::super::wire::{Raw, RawRecovery, code};

/// Sixteen times the largest GPU of today; more is a driver's error.
const MAX_MEMORY_BYTES: u64 = 16 * 1024 * 1024 * 1024 * 1024;
/// Ten kilowatts; the largest GPU of today draws less than two.
const MAX_MILLIWATTS: u32 = 10_000_000;
/// Ten kilowatts for thirty years.
const MAX_MILLIJOULES: u64 = 10_000_000_000_000_000;
const MAX_MEGAHERTZ: u32 = 10_000;
/// One a microsecond for nine years.
const MAX_COUNT: u64 = 1 << 48;
/// In degrees Celsius; a broken sensor says 255.
const TEMPERATURES: std::ops::RangeInclusive<i64> = -50..=150;

/// A value that is accepted, or why there is none.
pub(super) fn reading<T, U>(raw: Raw<T>, accept: impl FnOnce(T) -> Option<U>) -> Reading<U> {
    // An older driver has no such function: no more a fault of the device than one that the device does not support.
    if raw.is_unsupported() {
        return Reading::Unsupported;
    }
    Reading::Unknown(match raw {
        Raw::Value(value) => match accept(value) {
            Some(value) => return Reading::Known(value),
            None => Gap::Implausible,
        },
        Raw::NotText | Raw::TooMany => Gap::Implausible,
        Raw::Unstable => Gap::Unstable,
        Raw::NotAsked | Raw::NoSymbol => Gap::NotAsked,
        Raw::Code(code::GPU_IS_LOST | code::GPU_NOT_FOUND) => Gap::Lost,
        Raw::Code(code::RESET_REQUIRED) => Gap::ResetRequired,
        Raw::Code(code::NO_PERMISSION) => Gap::NoPermission,
        Raw::Code(code::LIBRARY_RM_VERSION_MISMATCH | code::ARGUMENT_VERSION_MISMATCH) => Gap::VersionMismatch,
        Raw::Code(code::NOT_READY) => Gap::NotReady,
        Raw::Code(code) => Gap::Code(code),
    })
}

/// The same of a field.
pub(super) fn field<U>(raw: Raw<i64>, accept: impl FnOnce(i64) -> Option<U>) -> Reading<U> {
    if raw.is_unsupported_field() { Reading::Unsupported } else { reading(raw, accept) }
}

pub(super) fn bytes(bytes: u64) -> Option<Bytes> {
    (bytes <= MAX_MEMORY_BYTES).then_some(Bytes(bytes))
}

pub(super) fn count(count: u64) -> Option<u64> {
    (count <= MAX_COUNT).then_some(count)
}

pub(super) fn signed_count(number: i64) -> Option<u64> {
    u64::try_from(number).ok().and_then(count)
}

pub(super) fn milliwatts(power: u32) -> Option<u32> {
    (power <= MAX_MILLIWATTS).then_some(power)
}

pub(super) fn millijoules(energy: i64) -> Option<u64> {
    u64::try_from(energy).ok().filter(|energy| *energy <= MAX_MILLIJOULES)
}

pub(super) fn megahertz(clock: u32) -> Option<u32> {
    (clock <= MAX_MEGAHERTZ).then_some(clock)
}

pub(super) fn percent(share: u32) -> Option<u32> {
    (share <= 100).then_some(share)
}

/// Sixteen is twice the newest generation.
pub(super) fn pcie_generation(generation: u32) -> Option<u32> {
    (1..=16).contains(&generation).then_some(generation)
}

pub(super) fn pcie_width(lanes: u32) -> Option<u32> {
    (1..=32).contains(&lanes).then_some(lanes)
}

pub(super) fn celsius(degrees: i64) -> Option<i32> {
    i32::try_from(degrees).ok().filter(|degrees| TEMPERATURES.contains(&i64::from(*degrees)))
}

/// NVML's older calls have no sign for what is below zero.
pub(super) fn unsigned_celsius(degrees: u32) -> Option<i32> {
    celsius(i64::from(degrees.cast_signed()))
}

pub(super) fn flag(number: i64) -> Option<bool> {
    match number {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

pub(super) fn on_or_off(number: u32) -> Option<bool> {
    flag(i64::from(number))
}

pub(super) fn setting((current, pending): (u32, u32)) -> Option<Setting> {
    Some(Setting { current: on_or_off(current)?, pending: on_or_off(pending)? })
}

/// NVML's names for its brands; 0 is its word for unknown.
pub(super) fn brand(raw: Raw<u32>) -> Reading<Line> {
    named(raw, 0, |number| {
        Some(match number {
            1 => "Quadro",
            2 => "Tesla",
            3 => "NVS",
            4 => "GRID",
            5 => "GeForce",
            6 => "Titan",
            7 => "NVIDIA Virtual Applications",
            8 => "NVIDIA Virtual PC",
            9 => "NVIDIA Virtual Compute Server",
            10 => "NVIDIA RTX Virtual Workstation",
            11 => "NVIDIA Cloud Gaming",
            12 => "Quadro RTX",
            13 => "NVIDIA RTX",
            14 => "NVIDIA",
            15 => "GeForce RTX",
            16 => "Titan RTX",
            _ => return None,
        })
    })
}

/// NVML's names for its architectures; all ones is its word for unknown.
pub(super) fn architecture(raw: Raw<u32>) -> Reading<Line> {
    named(raw, u32::MAX, |number| {
        Some(match number {
            2 => "Kepler",
            3 => "Maxwell",
            4 => "Pascal",
            5 => "Volta",
            6 => "Turing",
            7 => "Ampere",
            8 => "Ada",
            9 => "Hopper",
            10 => "Blackwell",
            _ => return None,
        })
    })
}

/// A number that is newer than this release is told as such.
fn named(raw: Raw<u32>, unknown: u32, name: impl FnOnce(u32) -> Option<&'static str>) -> Reading<Line> {
    if raw == Raw::Value(unknown) {
        return Reading::Unsupported;
    }
    reading(raw, |number| match name(number) {
        Some(name) => name.parse().ok(),
        None => format!("number {number}").parse().ok(),
    })
}

/// What the driver recommends; drivers before field 230 ask for a reset by two others.
pub(super) fn recovery(raw: RawRecovery) -> Reading<RecoveryAction> {
    match field(raw.action, |number| u32::try_from(number).ok()) {
        Reading::Unsupported => {}
        action => return action.map(recovery::of_number),
    }
    let (reset, drain) = (field(raw.reset, flag), field(raw.drain_and_reset, flag));
    if reset == Reading::Known(true) {
        return Reading::Known(RecoveryAction::GpuReset);
    }
    if drain == Reading::Known(true) {
        return Reading::Known(RecoveryAction::DrainAndReset);
    }
    match (reset.gap().or(drain.gap()), reset.known().or(drain.known())) {
        (Some(gap), _) => Reading::Unknown(gap),
        (None, Some(_)) => Reading::Known(RecoveryAction::None),
        (None, None) => Reading::Unsupported,
    }
}

/// Debuggable proves nothing, whatever else is on.
pub(super) fn confidential_mode((on, debug): (u32, u32)) -> Option<ConfidentialMode> {
    Some(match (on_or_off(on)?, on_or_off(debug)?) {
        (_, true) => ConfidentialMode::DevTools,
        (true, false) => ConfidentialMode::On,
        (false, false) => ConfidentialMode::Off,
    })
}

/// Processors have some way of it, GPUs have it or not; a later number is a later way.
pub(super) fn confidential_capable((processors, gpus): (u32, u32)) -> Option<bool> {
    Some(processors != 0 && on_or_off(gpus)?)
}
