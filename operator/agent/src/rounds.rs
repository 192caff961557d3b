//! One round after the other: a survey, what it amounts to, and what is said of it in the API server. What happens between two
//! rounds is the caller's, and so is the time.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use koinon_api::gpu_node::Device;
use koinon_core::gpu::health::{BootId, Judgement, Limits};
use koinon_core::gpu::usage::NodeUse;
use koinon_core::gpu::xid::{Xid, XidClass};
use koinon_core::ids::DeviceId;
use tokio::sync::watch;

use crate::events::{KernelLogState, Mailbox, News};
use crate::judging::Judge;
use crate::publish::{PublishError, Publisher, Standing};
use crate::status::{self, Found, Observer};
use crate::survey::{Failure, Survey};
use crate::usage::{self, Observed};
use crate::xid_table::Voted;

/// A driver that crashes or hangs is asked ever less often: each try may make it worse.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Everything that one agent remembers from one round to the next.
pub struct Rounds {
    /// The devices of the last survey that reached NVML.
    found: watch::Sender<Option<BTreeSet<DeviceId>>>,
    mailbox: Mailbox,
    publisher: Publisher,
    observer: Observer,
    judge: Judge,
    boot: BootId,
    usage: usage::Observer,
    /// The record of the kernel's log after the last one that was judged in this boot; none before what was judged is known.
    log_judged: watch::Sender<Option<u64>>,
    /// Whether the kernel's log is read; none if nobody was asked to.
    kernel_log: Option<watch::Receiver<KernelLogState>>,
    voted: Option<watch::Receiver<Option<Voted>>>,
    /// Harmful failures in a row.
    failures: u32,
}

/// One survey and what was made of it.
pub struct Round {
    survey: Survey,
    observed: Option<Observed>,
    /// None until what stands against the devices was read.
    judgement: Option<Judgement>,
}

/// What the API server now says.
pub struct Said {
    /// The Node, to which both objects belong.
    pub owner: OwnerReference,
    /// The devices.
    pub devices: Vec<Device>,
    /// Whether that took a write.
    pub written: bool,
}

/// Why the API server does not say what a round found.
#[derive(Debug, thiserror::Error)]
pub enum Unsaid {
    /// It did not tell what stands there, or did not take the object.
    #[error(transparent)]
    Unread(PublishError),
    /// It did not take the status.
    #[error(transparent)]
    Unwritten(PublishError),
}

impl Round {
    /// What its driver said.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Who uses the devices; none where that was not asked.
    pub fn usage(&self) -> Option<&NodeUse> {
        self.observed.as_ref().map(|observed| &observed.usage)
    }

    /// What it amounts to; none before it was said for the first time.
    pub fn judgement(&self) -> Option<&Judgement> {
        self.judgement.as_ref()
    }

    /// Whether the kubelet was asked who holds what, and did not say.
    pub fn misses_the_kubelet(&self) -> bool {
        self.observed.as_ref().is_some_and(|observed| observed.kubelet.is_some())
    }
}

impl Rounds {
    /// Before the first round. `library` is what the status names, and `boot` tells this boot of the node from the next.
    pub fn new(publisher: Publisher, library: &Path, boot: BootId, usage: usage::Observer, mailbox: Mailbox) -> Self {
        Self {
            found: watch::Sender::new(None),
            mailbox,
            publisher,
            observer: Observer {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                boot_id: boot.to_string(),
                library: library.display().to_string(),
                limits: Default::default(),
                xid_table: None,
            },
            judge: Judge::new(boot.clone()),
            boot,
            usage,
            log_judged: watch::Sender::new(None),
            kernel_log: None,
            voted: None,
            failures: 0,
        }
    }

    /// Tells from now on whether the kernel's log is read.
    pub fn listen(&mut self, kernel_log: watch::Receiver<KernelLogState>) {
        self.kernel_log = Some(kernel_log);
    }

    /// From which record the kernel's log is to be read: none before it is known what an earlier agent has judged.
    pub fn log_judged(&self) -> watch::Receiver<Option<u64>> {
        self.log_judged.subscribe()
    }

    /// Judged by what the owner has set, and by the voted table of XIDs that is heard there.
    #[must_use]
    pub fn by(self, limits: Limits, voted: Option<watch::Receiver<Option<Voted>>>) -> Self {
        let set = limits.set().map(|(bound, here)| (bound.name.to_owned(), here)).collect();
        let observer = Observer { limits: set, ..self.observer };
        let mut rounds = Self { judge: Judge::by(self.boot.clone(), limits), observer, voted, ..self };
        rounds.follow();
        rounds
    }

    fn follow(&mut self) {
        let Some(voted) = self.voted.as_mut().and_then(|voted| voted.borrow_and_update().clone()) else { return };
        self.observer.xid_table = voted.digest;
        self.judge.follow(voted.policy);
    }

    /// The devices that there are to watch; none before the first survey.
    pub fn devices(&self) -> watch::Receiver<Option<BTreeSet<DeviceId>>> {
        self.found.subscribe()
    }

    /// The sort of an error.
    pub fn class(&self, xid: Xid) -> XidClass {
        self.judge.class(xid)
    }

    /// Keeps what was reported for the next judgement. What was voted before it came is how it is judged and counted.
    pub fn hear(&mut self, news: &News) {
        self.follow();
        for report in &news.reports {
            self.judge.hear(report);
        }
        self.judge.heard_log(news.read);
    }

    /// Begins a round with a survey that was just taken: tells those who listen between surveys what is there, and finds out
    /// who uses it.
    pub async fn begin(&mut self, survey: Survey) -> Round {
        self.failures = if harmful(&survey) { self.failures.saturating_add(1) } else { 0 };
        self.learn(&survey);
        let observed = match survey.failure() {
            None => Some(self.usage.observe(&survey.devices, survey.taken).await),
            Some(_) => None,
        };
        Round { survey, observed, judgement: None }
    }

    /// Whether another question soon may harm the driver that failed.
    pub fn is_harmful(&self) -> bool {
        self.failures > 0
    }

    /// From the end of this round to the next survey: doubled with each harmful failure in a row after the first.
    pub fn pause(&self, interval: Duration) -> Duration {
        pause(interval, self.failures)
    }

    /// Says what a round found, if that is not what stands in the API server. May be repeated.
    ///
    /// # Errors
    /// If the API server could not be asked or told: then nobody can vouch for what it says.
    pub async fn say(&mut self, round: &mut Round, now: Time) -> Result<Said, Unsaid> {
        let Standing { owner, generation, clears, status: before } =
            self.publisher.gpu_node().await.map_err(Unsaid::Unread)?;
        let Round { survey, observed, judgement } = round;
        self.judge.resume(&before);
        if self.log_judged.borrow().is_none() {
            self.log_judged.send_replace(Some(self.judge.log_judged()));
        }
        if self.voted.as_ref().is_some_and(|voted| voted.has_changed().unwrap_or(false)) {
            self.follow();
        }
        // Judged once, and not before what stands against the devices was read.
        let judgement = judgement.get_or_insert_with(|| self.judge.judge(survey, &clears, &before));
        let kernel_log = self.kernel_log.as_ref().map(|state| state.borrow().clone());
        let found = Found {
            survey,
            judgement,
            observed: observed.as_ref(),
            kernel_log: kernel_log.as_ref(),
            log_judged: self.judge.log_judged(),
        };
        let next = status::next(&before, &found, &self.observer, generation, &now);
        if let Some(status) = &next {
            self.publisher.write(status).await.map_err(Unsaid::Unwritten)?;
            tracing::info!(installed = status.installed, healthy = status.healthy, "the GPUNode changed");
        }
        Ok(Said { owner, written: next.is_some(), devices: next.unwrap_or(before).devices })
    }

    fn learn(&self, survey: &Survey) {
        self.mailbox.learn(&survey.devices);
        let devices: BTreeSet<DeviceId> = survey.devices.iter().map(|device| device.id.clone()).collect();
        self.found.send_if_modified(|found| {
            // A survey that failed says nothing of which devices there are.
            let other = found.is_none() || (survey.failure().is_none() && found.as_ref() != Some(&devices));
            if other {
                *found = Some(devices);
            }
            other
        });
    }
}

/// Whether asking again soon may make it worse.
fn harmful(survey: &Survey) -> bool {
    matches!(survey.failure(), Some(Failure::Hung | Failure::Crashed | Failure::Unresponsive))
}

fn pause(interval: Duration, failures: u32) -> Duration {
    let doubled = interval.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LONGEST_PAUSE.max(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_fails_harmfully_is_asked_ever_less_often_up_to_five_minutes() {
        let ten = Duration::from_secs(10);
        let pauses: Vec<u64> = (0..8).map(|failures| pause(ten, failures).as_secs()).collect();
        assert_eq!(pauses, [10, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(pause(ten, u32::MAX), LONGEST_PAUSE);
    }
}
