//! What is counted over surveys: the driver's own counters, which begin anew with it, and XIDs, which only this agent counts.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::gpu::xid::{Xid, XidClass, XidEvent, XidSource, catalogue};
use koinon_core::ids::DeviceId;
use koinon_telemetry::Kind;

use super::family::{Family, Sample};

pub(super) static XID_EVENTS: Family = Family {
    name: "koinon_gpu_xid_events_total",
    kind: Kind::Counter,
    labels: &["uuid", "xid", "class", "source"],
    help: "XIDs that this agent heard of, by code; codes that nobody knows, and those that find no room, are other.",
};

/// Codes that the alert GPUFatalXID names. Their series are there before the first event, for a counter that is born at 1 never
/// rises.
pub const ALERTED: [u32; 18] = [46, 48, 62, 64, 79, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158, 171, 172];
/// Series of a device's codes that no alert names: as many codes as its status shows, each from two sources.
const MAX_OTHER_SERIES: usize = 32;
/// As `uuid`: the report names no device that is known, so it may be any of the node's.
pub const UNATTRIBUTED: &str = "unattributed";
/// For codes without a series of their own.
const OTHER: &str = "other";
/// More than any node has: reports of more are nobody's.
const MAX_DEVICES: usize = 128 * 9;

/// The class under which alerts look for a code: a voted table may make it stricter, and its series stays where it was.
fn alerted(xid: Xid) -> Option<XidClass> {
    let class = || catalogue::builtin().get(&xid).map_or(XidClass::Unknown, |row| row.meaning.class);
    ALERTED.contains(&xid.0).then(class)
}

fn source_word(source: XidSource) -> &'static str {
    match source {
        XidSource::Nvml => "nvml",
        XidSource::KernelLog => "kmsg",
        XidSource::RecoveryAction => "field230",
    }
}

/// The counters of the driver that are kept level. They name no series: several metrics may show one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub(super) enum DriverCounter {
    EnergyMillijoules,
    PcieReplays,
    VolatileUncorrected,
    VolatileCorrected,
    AggregateUncorrected,
    AggregateCorrected,
    NvlinkReplay,
    NvlinkRecovery,
    NvlinkCrc,
}

#[derive(Clone, Copy, Debug, Default)]
struct Level {
    raw: u64,
    total: u64,
}

type XidSeries = (Option<Xid>, XidClass, XidSource);

/// Everything that is counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    levels: BTreeMap<(DeviceId, DriverCounter), Level>,
    xids: BTreeMap<DeviceId, BTreeMap<XidSeries, u64>>,
    unattributed: BTreeMap<XidSeries, u64>,
    last_xid: BTreeMap<DeviceId, Xid>,
    most_links: BTreeMap<DeviceId, u32>,
}

impl Counters {
    /// The driver's counter without its falls (F27). One that falls began anew, so all that it shows came since; only energy
    /// that falls is a clock that jumped or a driver that restarted, and what it shows is not added a second time.
    pub(super) fn level(&mut self, id: &DeviceId, counter: DriverCounter, raw: u64) -> u64 {
        let level = self.levels.entry((id.clone(), counter)).or_default();
        let step = match raw.checked_sub(level.raw) {
            Some(rise) => rise,
            None if counter == DriverCounter::EnergyMillijoules => 0,
            None => raw,
        };
        *level = Level { raw, total: level.total.saturating_add(step) };
        level.total
    }

    /// The most links that the device had up since this agent started.
    pub(super) fn most_links(&mut self, id: &DeviceId, active: u32) -> u32 {
        let most = self.most_links.entry(id.clone()).or_default();
        *most = active.max(*most);
        *most
    }

    /// So many more.
    pub(super) fn xid(&mut self, event: &XidEvent, class: XidClass, times: u64) {
        let (xid, source) = (event.xid, event.source);
        let named = match &event.device {
            Some(id) if self.xids.contains_key(id) || self.xids.len() < MAX_DEVICES => {
                self.last_xid.insert(id.clone(), xid);
                self.xids.entry(id.clone()).or_default()
            }
            _ => &mut self.unattributed,
        };
        let own = |code: &Option<Xid>| code.is_some_and(|code| !ALERTED.contains(&code.0));
        let room = named.contains_key(&(Some(xid), class, source))
            || named.keys().filter(|(code, _, _)| own(code)).count() < MAX_OTHER_SERIES;
        let series = match (alerted(xid), class) {
            (Some(class), _) => (Some(xid), class, source),
            (None, XidClass::Unknown) => (None, class, source),
            (None, _) => (room.then_some(xid), class, source),
        };
        let count = named.entry(series).or_default();
        *count = count.saturating_add(times);
    }

    /// The last code of a device since this agent started.
    pub(super) fn last_xid(&self, id: &DeviceId) -> Option<Xid> {
        self.last_xid.get(id).copied()
    }

    /// Forgets devices that are gone.
    pub(super) fn retain(&mut self, known: &BTreeSet<&DeviceId>) {
        self.levels.retain(|(id, _), _| known.contains(id));
        self.xids.retain(|id, _| known.contains(id));
        self.last_xid.retain(|id, _| known.contains(id));
        self.most_links.retain(|id, _| known.contains(id));
        // XIDs are the device's; an instance of it is named in its status.
        for id in known.iter().filter(|id| !id.as_str().starts_with("MIG-")) {
            self.xids.entry((*id).clone()).or_default();
        }
        // Each has its series from the first survey on, also those of which nothing was reported.
        for series in self.xids.values_mut().chain([&mut self.unattributed]) {
            for source in [XidSource::Nvml, XidSource::KernelLog] {
                for xid in ALERTED.map(Xid) {
                    if let Some(class) = alerted(xid) {
                        series.entry((Some(xid), class, source)).or_default();
                    }
                }
                for class in XidClass::ALL {
                    series.entry((None, *class, source)).or_default();
                }
            }
        }
    }

    /// The XIDs of all devices.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let named = self.xids.iter().map(|(id, series)| (id.as_str(), series));
        let all = named.chain([(UNATTRIBUTED, &self.unattributed)]);
        all.flat_map(|(uuid, series)| {
            series.iter().map(move |((code, class, source), count)| {
                let code = code.map_or_else(|| OTHER.to_owned(), |code| code.0.to_string());
                Sample::new(&XID_EVENTS, &[uuid, &code, class.as_str(), source_word(*source)], float(*count))
            })
        })
        .collect()
    }
}

/// As a sample: exact up to 2⁵³, which in bytes are nine petabytes.
#[allow(clippy::cast_precision_loss)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
