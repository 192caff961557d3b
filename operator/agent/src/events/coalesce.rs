//! From what was heard to reports: many of one error are one report with a number, and what two sources say of one error within
//! five seconds is counted once. Pure; the time is the caller's.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::gpu::device::InstancePlace;
use koinon_core::gpu::xid::{Xid, XidEvent, XidSource};
use koinon_core::ids::{DeviceId, UnixSeconds};

/// How long after its last report an error is still the same one. NVML and the kernel's log tell of one within moments.
const SAME_MILLISECONDS: u64 = 5_000;
/// NVIDIA's catalogue ends below. Each of its codes has a place for each device, so that no other can crowd it out.
const CATALOGUE: u32 = 256;
/// Codes beyond the catalogue that one device may have at a time.
const MAX_OTHERS: usize = 32;

/// Who speaks. The plain sentence of the kernel's log is told apart from the line with a code: drivers write both of one error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Voice {
    /// An event of NVML.
    Nvml,
    /// A line with a code.
    KernelCode,
    /// A line without.
    KernelSentence,
    /// A recovery action that changed between surveys.
    Recovery,
}

impl Voice {
    fn source(self) -> XidSource {
        match self {
            Self::Nvml => XidSource::Nvml,
            Self::KernelCode | Self::KernelSentence => XidSource::KernelLog,
            Self::Recovery => XidSource::RecoveryAction,
        }
    }
}

/// One error as it was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) at: UnixSeconds,
    /// None if it may be any.
    pub(crate) device: Option<DeviceId>,
    pub(crate) xid: Xid,
    pub(crate) voice: Voice,
    pub(crate) place: Option<InstancePlace>,
    pub(crate) detail: Option<String>,
}

/// An error of a device, once or many times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Of which device. None: of one that is not known, so it may be any of the node's.
    pub device: Option<DeviceId>,
    /// Which error.
    pub xid: Xid,
    /// In which instance, where the first to report it names one. All ones stand for a number that is not named.
    pub place: Option<InstancePlace>,
    /// What follows the number in the kernel's line; at most 128 printable characters.
    pub detail: Option<String>,
    /// The earliest time of those counted here, by the node's clock.
    pub first: UnixSeconds,
    /// The latest.
    pub last: UnixSeconds,
    /// How often, beyond what an earlier report of the same error counted. 0: another source confirms it.
    pub count: u64,
    /// All who have reported it.
    pub sources: BTreeSet<XidSource>,
    /// Whether nothing was heard of it in the five seconds before.
    pub fresh: bool,
}

impl Report {
    /// As an event of the source that tells most: the kernel's log before NVML, which loses some.
    pub fn event(&self) -> XidEvent {
        let source = if self.sources.contains(&XidSource::KernelLog) {
            XidSource::KernelLog
        } else {
            self.sources.first().copied().unwrap_or(XidSource::Nvml)
        };
        XidEvent {
            at: self.last,
            device: self.device.clone(),
            xid: self.xid,
            source,
            place: self.place,
            detail: self.detail.clone(),
            // The driver names a process, whose pod may be gone by the time that somebody looks.
            workload: None,
        }
    }
}

/// Errors by device and code, those of which was just heard.
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    episodes: BTreeMap<(Option<DeviceId>, Xid, bool), Episode>,
    ready: Vec<Report>,
    /// Heard, and dropped for lack of place.
    dropped: u64,
}

#[derive(Debug)]
struct Episode {
    place: Option<InstancePlace>,
    detail: Option<String>,
    first: UnixSeconds,
    last: UnixSeconds,
    counts: BTreeMap<Voice, u64>,
    /// How many of them were reported, and by whom.
    told: u64,
    told_of: usize,
    /// Whether any report was made.
    begun: bool,
    heard_at: u64,
}

impl Coalescer {
    /// Takes in one error, or several of the same kind.
    pub(super) fn hear(&mut self, heard: Heard, times: u64, now: u64) {
        let Heard { at, device, xid, voice, place, detail } = heard;
        // A change of the recovery action is told by itself, also where the kernel's log has the same code.
        let key = (device, xid, voice == Voice::Recovery);
        if !self.episodes.contains_key(&key) && xid.0 >= CATALOGUE && self.others(&key.0) >= MAX_OTHERS {
            self.dropped = self.dropped.saturating_add(times);
            return;
        }
        let over = |episode: &Episode| now.saturating_sub(episode.heard_at) > SAME_MILLISECONDS;
        if self.episodes.get(&key).is_some_and(over)
            && let Some(old) = self.episodes.remove(&key)
        {
            self.ready.extend(old.report(&key));
        }
        let episode = self.episodes.entry(key).or_insert_with(|| Episode {
            place: None,
            detail: None,
            first: at,
            last: at,
            counts: BTreeMap::new(),
            told: 0,
            told_of: 0,
            begun: false,
            heard_at: now,
        });
        episode.place = episode.place.or(place);
        if episode.detail.is_none() {
            episode.detail = detail;
        }
        episode.first = episode.first.min(at);
        episode.last = episode.last.max(at);
        episode.heard_at = now;
        let count = episode.counts.entry(voice).or_default();
        *count = count.saturating_add(times);
    }

    /// What has changed since it was last asked.
    pub(super) fn take(&mut self, now: u64) -> Vec<Report> {
        let mut reports = std::mem::take(&mut self.ready);
        self.episodes.retain(|key, episode| {
            if let Some(report) = episode.report(key) {
                episode.tell();
                reports.push(report);
            }
            now.saturating_sub(episode.heard_at) <= SAME_MILLISECONDS
        });
        reports
    }

    /// How many were dropped since it was last asked.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn others(&self, device: &Option<DeviceId>) -> usize {
        self.episodes.keys().filter(|(of, xid, _)| of == device && xid.0 >= CATALOGUE).count()
    }
}

impl Episode {
    /// What its report would say, if there is anything new.
    fn report(&self, (device, xid, _): &(Option<DeviceId>, Xid, bool)) -> Option<Report> {
        let sources: BTreeSet<XidSource> = self.counts.keys().map(|voice| voice.source()).collect();
        // Each voice tells of the same errors, and one may have missed some.
        let heard = self.counts.values().copied().max().unwrap_or(0);
        let count = heard.saturating_sub(self.told);
        (count > 0 || sources.len() > self.told_of).then(|| Report {
            device: device.clone(),
            xid: *xid,
            place: self.place,
            detail: self.detail.clone(),
            first: self.first,
            last: self.last,
            count,
            sources,
            fresh: !self.begun,
        })
    }

    fn tell(&mut self) {
        self.told = self.counts.values().copied().max().unwrap_or(0).max(self.told);
        let sources: BTreeSet<XidSource> = self.counts.keys().map(|voice| voice.source()).collect();
        self.told_of = sources.len();
        self.begun = true;
        // The next report speaks of what comes from here on.
        self.first = self.last;
    }
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
