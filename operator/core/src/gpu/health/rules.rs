//! The rules R1 to R14: what the readings of one survey say of one device.
//!
//! Each rule says that something is so, that it is not, or that it cannot be told. What cannot be told changes nothing, so an
//! unread value never makes a device better; and what a device does not have is no fault.

use super::history::{Baseline, Conditions, SLOWDOWN_WINDOW, Span, Steady};
use super::input::PerMille;
use super::limits::Limits;
use crate::capacity::Health;
use crate::gpu::device::{ConfidentialMode, Device, RecoveryAction, Setting, Throttle};
use crate::gpu::reading::{Gap, Reading};
use crate::gpu::words::{Action, Cause, Offer, Work};
use crate::ids::{Bytes, Seconds};

/// What a rule says of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// It is so.
    Raised(Fault),
    /// It is not.
    Clear,
    /// It cannot be told.
    Unknown,
}

/// What a rule makes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub state: Health,
    pub action: Action,
    pub work: Work,
    pub offer: Offer,
    /// Holds during the start-up grace as well (R15).
    pub certain: bool,
}

/// With what a device is compared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Like {
    /// The memory that its product is sold with, or that most of its like on the node have.
    pub memory: Option<Bytes>,
    /// The links that most of its like on the node have up.
    pub nvlink: Option<u32>,
    pub canary: Option<PerMille>,
}

fn unhealthy(action: Action) -> Observed {
    let (state, work, offer) = (Health::Unhealthy, Work::Drain, Offer::Nothing);
    Observed::Raised(Fault { state, action, work, offer, certain: false })
}

fn certain(action: Action) -> Observed {
    let (state, work, offer) = (Health::Unhealthy, Work::Drain, Offer::Nothing);
    Observed::Raised(Fault { state, action, work, offer, certain: true })
}

fn degraded(action: Action) -> Observed {
    let (state, work, offer) = (Health::Degraded, Work::Keep, Offer::Nothing);
    Observed::Raised(Fault { state, action, work, offer, certain: false })
}

fn when(reading: &Reading<bool>, raised: Observed) -> Observed {
    match reading {
        Reading::Known(true) => raised,
        // What a device does not have is no fault of it.
        Reading::Known(false) | Reading::Unsupported => Observed::Clear,
        Reading::Unknown(_) => Observed::Unknown,
    }
}

/// Everything that the readings say, by reason. Baseline and conditions go on to this survey.
pub(super) fn observe(
    device: &Device,
    like: Like,
    baseline: &mut Baseline,
    conditions: &mut Conditions,
    limits: &Limits,
    now: Steady,
) -> Vec<(Cause, Observed)> {
    let mut said = recovery(device);
    said.extend(lost(device));
    said.push((Cause::UncorrectedErrors, uncorrected(device, baseline)));
    said.push((Cause::RemapPending, when(&device.remap.pending, degraded(Action::ResetWhenIdle))));
    said.push((Cause::RemapFailed, when(&device.remap.failed, certain(Action::Replace))));
    said.push((Cause::SramThreshold, when(&device.ecc.sram_threshold_exceeded, certain(Action::Replace))));
    said.push((Cause::ManyRemaps, many_remaps(device, limits)));
    said.push((Cause::Thermal, thermal(device, conditions, limits, now)));
    said.push((Cause::Pcie, pcie(device, conditions, limits, now)));
    said.push((Cause::NvLink, nvlink(device, like, baseline)));
    said.push((Cause::CapacityMismatch, memory(device, like, baseline, limits)));
    said.push((Cause::PendingConfig, pending(device)));
    said.push((Cause::Slow, slow(like.canary, limits)));
    brake(device, conditions, limits, now);
    said
}

/// R1.
fn recovery(device: &Device) -> Vec<(Cause, Observed)> {
    let mut said = vec![
        (Cause::ResetRequired, Observed::Clear),
        (Cause::RebootRequired, Observed::Clear),
        (Cause::DrainP2p, Observed::Clear),
        (Cause::RecoveryUnknown, Observed::Clear),
    ];
    let (reason, observed) = match &device.recovery {
        Reading::Unknown(_) => return Vec::new(),
        Reading::Known(RecoveryAction::None) | Reading::Unsupported => return said,
        Reading::Known(RecoveryAction::GpuReset | RecoveryAction::DrainAndReset) => {
            (Cause::ResetRequired, unhealthy(Action::ResetGpu))
        }
        Reading::Known(RecoveryAction::NodeReboot) => (Cause::RebootRequired, unhealthy(Action::RebootNode)),
        Reading::Known(RecoveryAction::DrainP2p) => (Cause::DrainP2p, degraded(Action::DrainP2p)),
        Reading::Known(RecoveryAction::Other(_)) => (Cause::RecoveryUnknown, degraded(Action::Investigate)),
    };
    said.retain(|(other, _)| *other != reason);
    said.push((reason, observed));
    said
}

/// Whether the driver no longer reaches what it gave this answer about.
pub(super) fn is_lost(gap: Gap) -> bool {
    matches!(gap, Gap::Lost | Gap::Code(15 | 28))
}

/// R6.
fn lost(device: &Device) -> Vec<(Cause, Observed)> {
    let mut said = Vec::new();
    for gap in gaps(device) {
        match gap {
            gap if is_lost(gap) => said.push((Cause::GpuLost, certain(Action::RebootNode))),
            Gap::ResetRequired | Gap::Code(16) => said.push((Cause::ResetRequired, certain(Action::ResetGpu))),
            _ => {}
        }
    }
    said
}

/// R2. Zero at the beginning of a boot; what was cleared or reloaded begins again.
fn uncorrected(device: &Device, baseline: &mut Baseline) -> Observed {
    match &device.ecc.volatile_uncorrected {
        Reading::Known(count) => {
            let before = baseline.volatile_uncorrected.replace(*count).unwrap_or(0);
            if *count > before { unhealthy(Action::ResetGpu) } else { Observed::Clear }
        }
        Reading::Unsupported => Observed::Clear,
        Reading::Unknown(_) => Observed::Unknown,
    }
}

/// R5. Without the failure flag nothing is to be replaced; with it R4 speaks.
fn many_remaps(device: &Device, limits: &Limits) -> Observed {
    match &device.remap.uncorrectable {
        Reading::Known(rows) if *rows >= limits.remaps => degraded(Action::Watch),
        Reading::Known(_) | Reading::Unsupported => Observed::Clear,
        Reading::Unknown(_) => Observed::Unknown,
    }
}

/// Goes on with a condition: `held` says whether it is so now. Answers for how long it has been.
fn lasting(span: &mut Option<Span>, held: Option<bool>, gap: Seconds, now: Steady) -> Option<Span> {
    match held {
        Some(true) => {
            let since = match *span {
                Some(before) if now.is_near(before.last, gap) => before.since,
                // Nobody looked for too long to say that it lasted.
                _ => now,
            };
            *span = Some(Span { since, last: now });
        }
        Some(false) => *span = None,
        None => {}
    }
    span.filter(|_| held == Some(true))
}

/// Whether one value has reached another; none if either was not read, no if the device has no such values.
fn reached(value: &Reading<i32>, limit: &Reading<i32>) -> Option<bool> {
    match (value, limit) {
        (Reading::Known(value), Reading::Known(limit)) => Some(value >= limit),
        (Reading::Unsupported, _) | (_, Reading::Unsupported) => Some(false),
        _ => None,
    }
}

/// R8.
fn thermal(device: &Device, conditions: &mut Conditions, limits: &Limits, now: Steady) -> Observed {
    let minute = now.0.div_euclid(60_000);
    let slowed = match &device.clocks.throttle {
        Reading::Known(bits) => {
            // Drivers that do not tell heat from other reasons set the general bit alone.
            let general = bits.has(Throttle::HW_SLOWDOWN) && !bits.has(Throttle::HW_POWER_BRAKE);
            Some(bits.has(Throttle::HW_THERMAL) || general)
        }
        Reading::Unsupported => Some(false),
        Reading::Unknown(_) => None,
    };
    if slowed == Some(true) && conditions.slowdown.last() != Some(&minute) {
        conditions.slowdown.push(minute);
    }
    conditions.slowdown.retain(|at| at.saturating_add(SLOWDOWN_WINDOW) > minute);
    let often = u32::try_from(conditions.slowdown.len()).unwrap_or(u32::MAX) >= limits.slowdown_minutes.max(1);

    let thermal = &device.thermal;
    let gpu = reached(&thermal.gpu, &thermal.gpu_max_operating);
    let memory = reached(&thermal.memory, &thermal.memory_max_operating);
    let lasts = |span: &mut Option<Span>, held| {
        let span = lasting(span, held, limits.survey_gap, now);
        span.is_some_and(|span| now.is_after(span.since, limits.hot_period))
    };
    let hot = lasts(&mut conditions.gpu_hot, gpu) | lasts(&mut conditions.memory_hot, memory);
    match (often || hot, slowed, gpu, memory) {
        (true, ..) => degraded(Action::CheckCooling),
        (false, Some(_), Some(false), Some(false)) => Observed::Clear,
        // Hot, but not for long enough yet: neither said nor taken back. So too where a value is missing.
        _ => Observed::Unknown,
    }
}

/// The first half of R9; whether others are braked too is seen where all devices are.
fn brake(device: &Device, conditions: &mut Conditions, limits: &Limits, now: Steady) {
    let held = match &device.clocks.throttle {
        Reading::Known(bits) => Some(bits.has(Throttle::HW_POWER_BRAKE)),
        Reading::Unsupported => Some(false),
        Reading::Unknown(_) => None,
    };
    lasting(&mut conditions.brake, held, limits.survey_gap, now);
}

/// The second half of R9: whether the brake is on for long enough here, by the reading of this survey. One that is on, and not
/// for so long, is neither: while nobody could read it, it may have been on all the time.
pub(super) fn is_braked(device: &Device, conditions: &Conditions, limits: &Limits, now: Steady) -> Option<bool> {
    match &device.clocks.throttle {
        Reading::Known(bits) if bits.has(Throttle::HW_POWER_BRAKE) => {
            conditions.brake.is_some_and(|span| now.is_after(span.since, limits.brake_period)).then_some(true)
        }
        Reading::Known(_) | Reading::Unsupported => Some(false),
        Reading::Unknown(_) => None,
    }
}

/// What R9 says of each braked device once there are enough of them.
pub(super) fn node_power() -> Observed {
    degraded(Action::CheckCooling)
}

/// R10. An idle link is slow on purpose, so idleness proves neither.
fn pcie(device: &Device, conditions: &mut Conditions, limits: &Limits, now: Steady) -> Observed {
    let below = |value: &Reading<u32>, max: &Reading<u32>| match (value, max) {
        (Reading::Known(value), Reading::Known(max)) => Some(value < max),
        (Reading::Unsupported, _) | (_, Reading::Unsupported) => Some(false),
        _ => None,
    };
    let link = &device.pcie;
    let slow = match (below(&link.generation, &link.max_generation), below(&link.width, &link.max_width)) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    };
    let busy = match (&device.clocks.sm_megahertz, &device.clocks.sm_max_megahertz) {
        (Reading::Known(clock), Reading::Known(max)) => {
            Some(u64::from(*clock) * 1_000 > u64::from(*max) * u64::from(limits.busy_clock.0))
        }
        (Reading::Unsupported, _) | (_, Reading::Unsupported) => Some(false),
        _ => None,
    };
    let held = match (slow, busy) {
        (Some(true), Some(true)) => Some(true),
        (Some(false), _) | (_, Some(false)) => Some(false),
        _ => None,
    };
    let span = lasting(&mut conditions.pcie, held, limits.survey_gap, now);
    match (span, slow) {
        (Some(span), _) if now.is_after(span.since, limits.pcie_period) => degraded(Action::Investigate),
        (_, Some(false)) => Observed::Clear,
        _ => Observed::Unknown,
    }
}

/// R11. Work of one GPU does not notice; work of several must not come.
fn nvlink(device: &Device, like: Like, baseline: &mut Baseline) -> Observed {
    match &device.nvlink.active {
        Reading::Known(active) => {
            // What its like had up is remembered, because they may not be readable next time.
            let expected = like.nvlink.max(baseline.nvlink).unwrap_or(0).max(*active);
            baseline.nvlink = Some(expected);
            if *active >= expected {
                return Observed::Clear;
            }
            let (state, action, work) = (Health::Degraded, Action::Investigate, Work::Keep);
            Observed::Raised(Fault { state, action, work, offer: Offer::SingleOnly, certain: false })
        }
        Reading::Unsupported => Observed::Clear,
        Reading::Unknown(_) => Observed::Unknown,
    }
}

/// R12.
fn memory(device: &Device, like: Like, baseline: &mut Baseline, limits: &Limits) -> Observed {
    let Reading::Known(total) = device.memory.total else { return Observed::Unknown };
    let before = *baseline.memory_total.get_or_insert(total);
    let strays = like.memory.is_some_and(|nominal| {
        let share = u128::from(total.0) * 1_000;
        let (least, nominal) = (u128::from(limits.memory.0.min(1_000)), u128::from(nominal.0));
        share < nominal * least || share > nominal * (2_000 - least)
    });
    if before != total || strays { unhealthy(Action::Investigate) } else { Observed::Clear }
}

/// R13.
fn pending(device: &Device) -> Observed {
    let waits = |setting: &Reading<Setting>| match setting {
        Reading::Known(setting) => Some(setting.current != setting.pending),
        Reading::Unsupported => Some(false),
        Reading::Unknown(_) => None,
    };
    let off = match device.persistence {
        Reading::Known(on) => Some(!on),
        Reading::Unsupported => Some(false),
        Reading::Unknown(_) => None,
    };
    let all = [waits(&device.ecc.mode), waits(&device.mig), off, unready(device)];
    if all.contains(&Some(true)) {
        return degraded(Action::ApplyConfig);
    }
    if all.contains(&None) { Observed::Unknown } else { Observed::Clear }
}

/// Whether its node computes confidentially and takes no work before its owner allows it.
fn unready(device: &Device) -> Option<bool> {
    match (&device.confidential.mode, &device.confidential.ready) {
        (Reading::Known(ConfidentialMode::On | ConfidentialMode::DevTools), Reading::Known(ready)) => Some(!ready),
        // Where nothing is confidential nothing waits, and what cannot be read is not held against the device.
        _ => Some(false),
    }
}

/// R14.
fn slow(canary: Option<PerMille>, limits: &Limits) -> Observed {
    match canary {
        None => Observed::Unknown,
        Some(share) if share < limits.very_slow => unhealthy(Action::Investigate),
        Some(share) if share < limits.slow => degraded(Action::Investigate),
        Some(_) => Observed::Clear,
    }
}

/// Why values of a device could not be read, of all that a survey asks.
pub(super) fn gaps(device: &Device) -> impl Iterator<Item = Gap> {
    macro_rules! gaps {
        ($($($field:ident).+),+ $(,)?) => { [$(device.$($field).+.gap()),+] };
    }
    let all = gaps![
        identity.product,
        identity.brand,
        identity.architecture,
        identity.compute_capability,
        identity.minor,
        identity.pci_bus_id,
        identity.serial,
        identity.vbios,
        memory.total,
        memory.reserved,
        memory.used,
        mig,
        ecc.mode,
        ecc.volatile_uncorrected,
        ecc.volatile_corrected,
        ecc.aggregate_uncorrected,
        ecc.aggregate_corrected,
        ecc.sram_threshold_exceeded,
        remap.correctable,
        remap.uncorrectable,
        remap.pending,
        remap.failed,
        remap.availability,
        recovery,
        nvlink.links,
        nvlink.active,
        nvlink.replay_errors,
        nvlink.recovery_errors,
        nvlink.crc_errors,
        pcie.generation,
        pcie.max_generation,
        pcie.width,
        pcie.max_width,
        pcie.replays,
        thermal.gpu,
        thermal.memory,
        thermal.margin,
        thermal.gpu_max_operating,
        thermal.memory_max_operating,
        power.milliwatts,
        power.limit_milliwatts,
        power.millijoules,
        clocks.sm_megahertz,
        clocks.sm_max_megahertz,
        clocks.memory_megahertz,
        clocks.throttle,
        utilisation.gpu_percent,
        utilisation.memory_percent,
        persistence,
        confidential.capable,
        confidential.mode,
        confidential.ready,
        processes,
    ];
    all.into_iter().flatten()
}

/// Whether everything was read by which a device may be called healthy: what it is, its memory, and of what it supports
/// all that the rules above look at.
pub(super) fn is_complete(device: &Device) -> bool {
    macro_rules! read {
        ($($($field:ident).+),+ $(,)?) => { [$(device.$($field).+.gap().is_none()),+] };
    }
    let safety = read![
        recovery,
        mig,
        ecc.mode,
        ecc.volatile_uncorrected,
        ecc.sram_threshold_exceeded,
        remap.pending,
        remap.failed,
        remap.uncorrectable,
        nvlink.active,
        thermal.gpu,
        clocks.throttle,
        persistence,
    ];
    device.identity.product.known().is_some()
        && device.memory.total.known().is_some_and(|total| total.0 > 0)
        && safety.iter().all(|read| *read)
}
