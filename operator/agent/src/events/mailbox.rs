//! Where all that tells of errors leaves word, and the survey task fetches it. Bounded, and nobody who writes ever waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use koinon_core::gpu::device::Device;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::coalesce::{Coalescer, Heard, Report};
use super::line::{Named, Said};
use super::place::BusMap;
use super::{Recoveries, Voice};
use crate::survey::clock;

/// So long at least lies between two fetches: what comes meanwhile is told together.
const GATHERED: Duration = Duration::from_millis(200);

/// What was heard since the last fetch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Errors, by device and code.
    pub reports: Vec<Report>,
    /// Whether the node should be surveyed now: an error is fresh, or something happened that nobody described.
    pub resurvey: bool,
    /// The number of the kernel log's record after the last one that is told of here or was before; 0 before any.
    pub read: u64,
}

/// What could not be told, since the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Records of the kernel's log that it overwrote before they were read.
    pub lost_records: u64,
    /// Errors with codes beyond the catalogue for which there was no place.
    pub dropped: u64,
}

/// The mailbox; a clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct Mailbox(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    coalescer: Coalescer,
    places: BusMap,
    recoveries: Recoveries,
    resurvey: bool,
    read: u64,
    /// Whether anything was left since the last fetch.
    any: bool,
    counts: Counts,
    fetched: Option<Instant>,
    since: Option<Instant>,
}

impl State {
    fn milliseconds(&mut self) -> u64 {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Mailbox {
    /// Waits for news, and fetches it.
    pub async fn news(&self) -> News {
        loop {
            let left = self.0.left.notified();
            let fetched = {
                let state = self.state();
                state.any.then_some(state.fetched)
            };
            match fetched {
                None => left.await,
                Some(before) => {
                    if let Some(before) = before {
                        tokio::time::sleep_until(before + GATHERED).await;
                    }
                    // Fetched without waiting: who stops listening before loses nothing.
                    return self.fetch();
                }
            }
        }
    }

    /// Learns from a survey where devices sit, and what their drivers now recommend.
    pub fn learn(&self, devices: &[Device]) {
        let at = clock::now().at.seconds();
        let changes = {
            let mut state = self.state();
            state.places.learn(devices);
            state.recoveries.changes(devices, at)
        };
        for change in changes {
            // It was just surveyed, so that nothing is to be learnt from another survey.
            self.leave(|state, now| {
                state.coalescer.hear(change, 1, now);
                false
            });
        }
    }

    /// What could not be told.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    pub(crate) fn hear(&self, heard: Heard, times: u64) {
        self.leave(|state, now| {
            // Of a device that is not known it may be any.
            let unknown = heard.device.is_none();
            state.coalescer.hear(heard, times, now);
            unknown
        });
    }

    /// What record `number` of the kernel's log says.
    pub(super) fn hear_line(&self, said: Said, at: koinon_core::ids::UnixSeconds, number: u64) {
        let Said { named, xid, coded, place, detail } = said;
        self.leave(|state, now| {
            let device = match named {
                Named::Device(device) => Some(device),
                Named::Bus(bus) => state.places.device(bus).cloned(),
            };
            let unknown = device.is_none();
            let voice = if coded { Voice::KernelCode } else { Voice::KernelSentence };
            state.coalescer.hear(Heard { at, device, xid, voice, place, detail }, 1, now);
            state.read = state.read.max(number.saturating_add(1));
            unknown
        });
    }

    /// Something happened of which nobody knows what.
    pub(crate) fn resurvey(&self) {
        self.leave(|_, _| true);
    }

    /// The kernel overwrote so many records before they were read; what they said must be seen otherwise.
    pub(super) fn lost(&self, records: u64) {
        self.leave(|state, _| {
            state.counts.lost_records = state.counts.lost_records.saturating_add(records);
            true
        });
    }

    fn leave(&self, leave: impl FnOnce(&mut State, u64) -> bool) {
        {
            let mut state = self.state();
            let now = state.milliseconds();
            let resurvey = leave(&mut state, now);
            state.resurvey |= resurvey;
            state.any = true;
        }
        self.0.left.notify_one();
    }

    fn fetch(&self) -> News {
        let mut state = self.state();
        let now = state.milliseconds();
        let reports = state.coalescer.take(now);
        let dropped = state.coalescer.take_dropped();
        state.counts.dropped = state.counts.dropped.saturating_add(dropped);
        state.any = false;
        state.fetched = Some(Instant::now());
        let fresh = |report: &Report| report.fresh && !report.sources.iter().all(|source| *source == RECOVERY);
        let resurvey = std::mem::take(&mut state.resurvey) || dropped > 0 || reports.iter().any(fresh);
        News { reports, resurvey, read: state.read }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const RECOVERY: koinon_core::gpu::xid::XidSource = koinon_core::gpu::xid::XidSource::RecoveryAction;

#[cfg(test)]
mod tests {
    use koinon_core::gpu::xid::Xid;
    use koinon_core::ids::UnixSeconds;

    use super::*;

    fn heard(xid: u32) -> Heard {
        let device = Some("GPU-fa4e0000-0000-4000-8000-000000000001".parse().unwrap());
        Heard { at: UnixSeconds(1), device, xid: Xid(xid), voice: Voice::Nvml, place: None, detail: None }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_an_error_asks_for_a_survey_and_its_repetitions_do_not() {
        let mailbox = Mailbox::default();
        mailbox.hear(heard(79), 1);
        let news = mailbox.news().await;
        assert!(news.resurvey && news.reports.len() == 1);
        mailbox.hear(heard(79), 500);
        let again = mailbox.news().await;
        assert!(!again.resurvey);
        assert_eq!(again.reports[0].count, 500);
    }

    #[tokio::test(start_paused = true)]
    async fn news_comes_at_once_and_then_no_more_than_five_times_a_second() {
        let mailbox = Mailbox::default();
        let start = Instant::now();
        for _ in 0..5 {
            mailbox.hear(heard(13), 1);
            mailbox.news().await;
        }
        assert_eq!(start.elapsed().as_millis() / 100, 8);
        let waited = tokio::time::timeout(Duration::from_secs(60), mailbox.news()).await;
        assert!(waited.is_err(), "there was none: {waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_listening_loses_nothing() {
        let mailbox = Mailbox::default();
        mailbox.hear(heard(13), 1);
        mailbox.news().await;
        mailbox.hear(heard(14), 1);
        assert!(tokio::time::timeout(Duration::from_millis(50), mailbox.news()).await.is_err());
        assert_eq!(mailbox.news().await.reports.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_described_and_what_was_lost_ask_for_a_survey() {
        let mailbox = Mailbox::default();
        mailbox.resurvey();
        assert_eq!(mailbox.news().await, News { resurvey: true, ..News::default() });
        mailbox.lost(17);
        assert!(mailbox.news().await.resurvey);
        assert_eq!(mailbox.counts().lost_records, 17);
    }
}
