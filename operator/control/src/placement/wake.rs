//! Waking a loop that looks at the whole state: at any change, and every so often.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use koinon_telemetry::Tasks;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::passes::Passing;

/// Changes come in bursts; one look answers a whole burst.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Looks are at least this far apart: on a busy cluster some pod changes all the time, and a look reads from the API server.
const SPACING: Duration = Duration::from_millis(250);
/// In a large cluster a look takes longer and something changes all the time: looks take at most one part in so many of the time,
/// so that what they cost grows with the nodes and not with their changes as well.
const SHARE: u32 = 10;
/// … but nobody waits longer than that for the next one.
const MOST_SPACING: Duration = Duration::from_secs(1);

/// Rings whenever something that it listens to changes. Clones share it.
#[derive(Clone, Debug)]
pub struct Bell {
    passing: Passing,
    rung: Arc<Notify>,
    /// When somebody was last woken, and how long after that the next look may begin.
    woken: Arc<Mutex<Option<(Instant, Duration)>>>,
}

impl Bell {
    /// One for this loop.
    #[must_use]
    pub fn new(passing: Passing) -> Self {
        Self { passing, rung: Arc::default(), woken: Arc::default() }
    }

    /// Rings whenever `source` changes, until `stop`.
    pub fn listen<T: Send + Sync + 'static>(
        &self,
        tasks: &mut Tasks,
        name: &'static str,
        stop: &CancellationToken,
        mut source: watch::Receiver<T>,
    ) {
        let (bell, stop) = (self.clone(), stop.clone());
        tasks.spawn(name, async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok::<(), Infallible>(()),
                    changed = source.changed() => match changed {
                        Ok(()) => bell.ring(),
                        // Its sender is gone with the part that owned it; nothing more will change.
                        Err(_) => stop.cancelled().await,
                    },
                }
            }
        });
    }

    /// Rings.
    pub fn ring(&self) {
        self.passing.waits();
        self.rung.notify_one();
    }

    /// Waits for a ring, or for `longest`, from the end of one look to the beginning of the next. Returns whether to go on: not
    /// after `stop`.
    pub async fn wait(&self, longest: Duration, stop: &CancellationToken) -> bool {
        self.passing.ends();
        self.looked();
        let rung = tokio::select! {
            () = stop.cancelled() => return false,
            () = self.rung.notified() => true,
            () = tokio::time::sleep(longest) => false,
        };
        let spaced = self.woken().map(|(woken, spacing)| woken + spacing);
        let due = Instant::now() + if rung { DEBOUNCE } else { Duration::ZERO };
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep_until(spaced.map_or(due, |spaced| due.max(spaced))) => {}
        }
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), SPACING));
        self.passing.begins();
        true
    }

    /// A look has ended: the next one keeps the distance that this one earned.
    fn looked(&self) {
        if let Some((woken, spacing)) = &mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner) {
            *spacing = woken.elapsed().saturating_mul(SHARE).clamp(SPACING, MOST_SPACING);
        }
    }

    fn woken(&self) -> Option<(Instant, Duration)> {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn bell() -> Bell {
        let metrics = crate::placement::register(&prometheus::Registry::new()).unwrap();
        Bell::new(metrics.passes.of(crate::placement::metrics::Part::Pools))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_changes_is_one_wake() {
        let (stop, mut tasks, bell) = (CancellationToken::new(), Tasks::new(), bell());
        let (sender, receiver) = watch::channel(0);
        bell.listen(&mut tasks, "source", &stop, receiver);
        for number in 1..10 {
            sender.send_replace(number);
            tokio::task::yield_now().await;
        }
        let before = Instant::now();
        assert!(bell.wait(Duration::from_secs(60), &stop).await);
        assert_eq!(before.elapsed(), DEBOUNCE);
        assert!(bell.wait(Duration::from_secs(60), &stop).await);
        assert_eq!(before.elapsed(), DEBOUNCE + Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_without_end_do_not_wake_without_end() {
        let (stop, bell) = (CancellationToken::new(), bell());
        let before = Instant::now();
        for _ in 0..5 {
            bell.ring();
            assert!(bell.wait(Duration::from_secs(60), &stop).await);
        }
        assert_eq!(before.elapsed(), DEBOUNCE + 4 * SPACING);
    }

    #[tokio::test(start_paused = true)]
    async fn looks_that_take_long_are_further_apart_and_never_further_than_a_change_may_wait() {
        for (takes, apart) in [(1, SPACING), (60, Duration::from_millis(600)), (5_000, MOST_SPACING)] {
            let (stop, bell, takes) = (CancellationToken::new(), bell(), Duration::from_millis(takes));
            bell.ring();
            assert!(bell.wait(Duration::from_secs(60), &stop).await);
            let woken = Instant::now();
            tokio::time::advance(takes).await;
            bell.ring();
            assert!(bell.wait(Duration::from_secs(60), &stop).await);
            assert_eq!(woken.elapsed(), apart.max(takes + DEBOUNCE), "{takes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let (stop, bell) = (CancellationToken::new(), bell());
        stop.cancel();
        assert!(!bell.wait(Duration::from_secs(60), &stop).await);
    }
}
