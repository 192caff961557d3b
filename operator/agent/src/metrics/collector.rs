//! What a scrape finds of the devices: what the last survey left, and nothing of devices that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use koinon_core::gpu::device::Device;
use koinon_core::gpu::health::Judgement;
use koinon_core::gpu::usage::NodeUse;
use koinon_core::gpu::xid::XidClass;
use koinon_core::ids::{DeviceId, NodeName};
use koinon_telemetry::{Kind, Registrar};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::counters::Counters;
use super::devices::{self, Shown};
use super::family::{Family, Sample, desc, gathered};
use super::{dcgm, names};
use crate::events::Report;
use crate::survey::{Survey, Version};

/// Whether values are shown under dcgm-exporter's names too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DcgmNames {
    /// No.
    Off,
    /// Yes, as of this host.
    Of(NodeName),
}

/// The metrics of a node's devices. Clones share them.
#[derive(Clone, Debug)]
pub struct DeviceMetrics {
    descs: Arc<[Desc]>,
    dcgm: DcgmNames,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    counters: Counters,
    read: Shown,
    judged: Shown,
}

impl State {
    /// A device that is neither read nor judged any more is gone, and what was counted of it.
    fn forget(&mut self) {
        let known: BTreeSet<&DeviceId> = self.read.of.union(&self.judged.of).collect();
        self.counters.retain(&known);
    }
}

impl DeviceMetrics {
    /// Registers them. Of devices nothing is there before the first survey.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn register(new: &Registrar<'_>, dcgm: DcgmNames) -> Result<Self, prometheus::Error> {
        let more = match dcgm {
            DcgmNames::Off => &[],
            DcgmNames::Of(_) => dcgm::ALL,
        };
        let families: Vec<&'static Family> = names::ALL.iter().chain(more).copied().collect();
        let kinds: BTreeMap<&str, Kind> = families.iter().map(|family| (family.name, family.kind)).collect();
        let descs = families.iter().map(|family| desc(family)).collect::<Result<Arc<[Desc]>, _>>()?;
        let mut state = State::default();
        // Those of no known device are there from the start.
        state.forget();
        let metrics = Self { descs, dcgm, state: Arc::new(Mutex::new(state)) };
        new.keep(metrics, |name| kinds.get(name).copied().unwrap_or(Kind::Gauge))
    }

    /// After each survey, also after those that failed, with who uses the devices if that was found out.
    pub fn seen(&self, survey: &Survey, usage: Option<&NodeUse>) {
        self.read(&survey.devices, survey.driver.known().map(Version::as_str), usage);
    }

    pub(super) fn read(&self, devices: &[Device], driver: Option<&str>, usage: Option<&NodeUse>) {
        let mut state = self.lock();
        let mut read = devices::read(devices, driver, usage, &mut state.counters);
        if let DcgmNames::Of(node) = &self.dcgm {
            read.samples.extend(dcgm::samples(devices, driver, node, &mut state.counters));
        }
        state.read = read;
        state.forget();
    }

    /// After each judgement. It holds until the next: a device that nobody can judge is not one without a state.
    pub fn judged(&self, judgement: &Judgement) {
        let mut state = self.lock();
        state.judged = devices::judged(judgement);
        state.forget();
    }

    /// Errors that the driver reported, with the sort of their code. What several sources say of one is counted once; one that
    /// names no device is counted as nobody's.
    pub fn reported(&self, report: &Report, class: XidClass) {
        self.lock().counters.xid(&report.event(), class, report.count);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a thread that panicked left behind is whole: samples are replaced at once.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for DeviceMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let samples = {
            let state = self.lock();
            let told = state.read.samples.iter().chain(&state.judged.samples).cloned();
            told.chain(state.counters.samples()).collect::<Vec<Sample>>()
        };
        gathered(samples)
    }
}
