//! Waiting for something to become true, and saying what was last seen when it does not.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What one look found.
#[derive(Debug)]
pub enum Poll<T> {
    /// It is so; stop waiting.
    Ready(T),
    /// Not yet, and this is what there was instead.
    NotYet(String),
    /// It cannot become so any more; stop waiting, and this is why.
    Never(String),
}

impl<T> Poll<T> {
    /// Not yet, because of an error or a value that is shown if the wait fails.
    pub fn not_yet(seen: impl fmt::Display) -> Self {
        Poll::NotYet(seen.to_string())
    }

    /// Ready with `()` if `condition` holds, else not yet with what was seen.
    pub fn when(condition: bool, seen: impl fmt::Display) -> Poll<()> {
        if condition { Poll::Ready(()) } else { Poll::NotYet(seen.to_string()) }
    }
}

/// How often to look: often enough that waiting never adds much to a step, rarely enough for two cores.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// How many times longer than usual to wait, from `$KOINON_PATIENCE`: a machine without hardware virtualisation is slow, not broken.
fn patience() -> u32 {
    std::env::var("KOINON_PATIENCE")
        .ok()
        .and_then(|times| times.parse().ok())
        .filter(|times| (1..=100).contains(times))
        .unwrap_or(1)
}

/// Looks again and again until `look` is ready; fails after `timeout`, naming `what` and what was last seen.
pub async fn wait_until<T, F, Fut>(what: &str, timeout: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Poll<T>>,
{
    let timeout = timeout * patience();
    let started = Instant::now();
    let mut last = String::from("nothing yet");
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        // A look that hangs must not outlive the wait.
        match tokio::time::timeout(left.max(BETWEEN_LOOKS), look()).await {
            Ok(Poll::Ready(value)) => return Ok(value),
            Ok(Poll::NotYet(seen)) => last = seen,
            Ok(Poll::Never(why)) => bail!("waiting for {what} is in vain: {why}"),
            Err(_) => last = format!("no answer to the last look; before it: {last}"),
        }
        if started.elapsed() >= timeout {
            bail!("waited {} s for {what}; last seen: {last}", timeout.as_secs());
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_value_is_returned_once_it_is_there() {
        let mut looks = 0;
        let seen = wait_until("the third look", Duration::from_secs(5), || {
            looks += 1;
            let answer = if looks == 3 { Poll::Ready(looks) } else { Poll::not_yet(looks) };
            async move { answer }
        })
        .await;
        assert_eq!(seen.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_failure_names_what_was_awaited_and_last_seen() {
        let look = || async { Poll::<()>::not_yet("2 of 3 members Active") };
        let error = wait_until("three active members", Duration::from_millis(300), look).await.unwrap_err().to_string();
        assert!(error.contains("three active members") && error.contains("2 of 3 members Active"), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_come_any_more_is_not_waited_for() {
        let look = || async { Poll::<()>::Never("etcd ended".into()) };
        let started = Instant::now();
        let error = wait_until("the API server", Duration::from_secs(60), look).await.unwrap_err().to_string();
        assert!(error.contains("etcd ended") && started.elapsed() < Duration::from_secs(5), "{error}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_does_not_outlive_the_wait() {
        let look = || std::future::pending::<Poll<()>>();
        let error = wait_until("an answer", Duration::from_millis(300), look).await.unwrap_err().to_string();
        assert!(error.contains("no answer to the last look"), "{error}");
    }
}
