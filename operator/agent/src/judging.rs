//! What a survey amounts to: the agent's side of `core::gpu::health`, with all that it has to remember between two surveys.

use std::collections::BTreeMap;

use koinon_api::gpu_node::GPUNodeStatus;
use koinon_core::gpu::device::Device;
use koinon_core::gpu::health::{
    self, BootId, DeviceReset, History, Inputs, Judgement, Limits, LostDevice, NodeContext, OwnerClear, SurveyFailure,
};
use koinon_core::gpu::reading::Gap;
use koinon_core::gpu::xid::policy::XidPolicy;
use koinon_core::gpu::xid::{Xid, XidClass, XidEvent};
use koinon_core::ids::{Bytes, DeviceId, Line, UnixSeconds};

use crate::events::Report;
use crate::status::memory;
use crate::survey::{Failure, Survey};

/// More reports of one error at once than any rule counts.
const MOST_OF_ONE: usize = 8;
/// Kept between two surveys, which an error hastens: all devices of a node with all codes of the catalogue are fewer.
const MOST_REPORTS: usize = 4096;

/// Judges one survey after another.
pub struct Judge {
    boot: BootId,
    policy: XidPolicy,
    limits: Limits,
    /// None before the node's object was read: what stands against a device there must not be forgotten.
    history: Option<History>,
    /// What was reported since the last judgement.
    events: Vec<XidEvent>,
    /// The kernel log's record after all that was judged in this boot, and after all that was reported.
    log_judged: u64,
    log_heard: u64,
    /// Surveys that failed, one after the other.
    failed: u32,
    /// What each device has drawn since its driver began to count, which a reset begins anew, and when that was read.
    energy: BTreeMap<DeviceId, (u64, UnixSeconds)>,
}

impl Judge {
    /// One for this boot of the node.
    pub fn new(boot: BootId) -> Self {
        Self::by(boot, Limits::default())
    }

    /// One that judges by what its owner has set.
    pub fn by(boot: BootId, limits: Limits) -> Self {
        Self {
            boot,
            policy: XidPolicy::builtin(),
            limits,
            history: None,
            events: Vec::new(),
            log_judged: 0,
            log_heard: 0,
            failed: 0,
            energy: BTreeMap::new(),
        }
    }

    /// From now on reports mean this.
    pub fn follow(&mut self, policy: XidPolicy) {
        self.policy = policy;
    }

    /// From where on something counts.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Keeps what was reported for the next judgement. Of a storm the first few tell as much as all of them.
    pub fn hear(&mut self, report: &Report) {
        let copies = usize::try_from(report.count).unwrap_or(usize::MAX).clamp(1, MOST_OF_ONE);
        let room = MOST_REPORTS.saturating_sub(self.events.len());
        self.events.extend(std::iter::repeat_n(report.event(), copies.min(room)));
    }

    /// What was heard so far tells of the kernel's log up to before this record.
    pub fn heard_log(&mut self, record: u64) {
        self.log_heard = self.log_heard.max(record);
    }

    /// The record of the kernel's log after the last one that was judged in this boot; 0 before any.
    pub fn log_judged(&self) -> u64 {
        self.log_judged
    }

    /// Takes up, before the first judgement, what an earlier agent wrote.
    pub fn resume(&mut self, status: &GPUNodeStatus) {
        if self.history.is_none() {
            self.history = Some(memory::load(status));
            self.log_judged = memory::log_judged(status, &self.boot);
        }
    }

    /// The sort of a code, for metrics.
    pub fn class(&self, xid: Xid) -> XidClass {
        self.policy.class(xid)
    }

    /// Judges a survey, and what was reported since the one before. `status` is what the node's object says so far.
    pub fn judge(
        &mut self,
        survey: &Survey,
        clears: &BTreeMap<DeviceId, OwnerClear>,
        status: &GPUNodeStatus,
    ) -> Judgement {
        self.resume(status);
        let history = self.history.take().unwrap_or_default();
        let events = std::mem::take(&mut self.events);
        self.log_judged = self.log_judged.max(self.log_heard);
        let lost: Vec<LostDevice> = unidentified(survey);
        self.failed = if survey.failure().is_some() { self.failed.saturating_add(1) } else { 0 };
        let read = match survey.failure().map(failure) {
            None => health::Survey::Read { devices: &survey.devices, lost: &lost },
            Some(failure) => health::Survey::Failed { failure, in_a_row: self.failed },
        };
        let node = NodeContext {
            boot: self.boot.clone(),
            uptime_milliseconds: survey.taken.uptime_milliseconds,
            driver: survey.driver.known().and_then(|version| version.as_str().parse().ok()),
            ready_since: None,
        };
        let now = survey.taken.at.seconds();
        let resets = self.resets(&survey.devices, now);
        let judgement = health::judge(
            history,
            &Inputs {
                survey: read,
                node: &node,
                events: &events,
                resets: &resets,
                clears,
                canary: &BTreeMap::new(),
                nominal: &nominal(&survey.devices),
                policy: &self.policy,
                limits: &self.limits,
                now,
            },
        );
        self.history = Some(judgement.history.clone());
        judgement
    }

    /// Devices whose driver counts anew what they draw: they were reset, or the driver was loaded again. When, is not known
    /// better than that it was after the last reading; what was reported since then may have come after the reset.
    fn resets(&mut self, devices: &[Device], now: UnixSeconds) -> Vec<DeviceReset> {
        let mut resets = Vec::new();
        for device in devices {
            let Some(drawn) = device.power.millijoules.get() else { continue };
            if let Some((before, at)) = self.energy.insert(device.id.clone(), (drawn, now))
                && drawn < before
            {
                resets.push(DeviceReset { device: device.id.clone(), at });
            }
        }
        resets
    }
}

fn unidentified(survey: &Survey) -> Vec<LostDevice> {
    let lost = (0..survey.lost_unidentified).map(|index| LostDevice { index, gap: Gap::Lost });
    let other = (0..survey.other_unidentified).map(|index| LostDevice { index, gap: Gap::NotAsked });
    lost.chain(other).collect()
}

fn failure(failure: Failure) -> SurveyFailure {
    match failure {
        Failure::Hung => SurveyFailure::Deadline,
        Failure::Crashed | Failure::Garbled => SurveyFailure::Crashed,
        Failure::Unresponsive => SurveyFailure::Stuck,
        Failure::LibraryMissing
        | Failure::SymbolMissing
        | Failure::DriverNotLoaded
        | Failure::NoPermission
        | Failure::VersionMismatch
        | Failure::NotStarted
        | Failure::Error => SurveyFailure::Unavailable,
    }
}

/// The memory of products whose names say it, as `NVIDIA H100 80GB HBM3`. Drivers report it in powers of two, less a part that
/// stays below the two per cent that are allowed: 81,559 of 81,920 MiB there.
fn nominal(devices: &[Device]) -> BTreeMap<Line, Bytes> {
    let of = |product: &Line| {
        // Of a `GH200 480GB` it is the processor's memory.
        let named = product.as_str().split([' ', '-']).find_map(|word| word.strip_suffix("GB")?.parse::<u64>().ok());
        let gibibytes = named.filter(|_| !product.as_str().contains("GH200"))?;
        Some(Bytes(gibibytes.checked_mul(1 << 30)?))
    };
    let products = devices.iter().filter_map(|device| device.identity.product.known());
    products.filter_map(|product| Some((product.clone(), of(product)?))).collect()
}
