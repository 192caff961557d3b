//! A set of named tasks that end together: a process with a dead part leaves rather than limps.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Why a set of tasks ended.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task returned an error.
    #[error("{task}: {source}")]
    Failed {
        /// Which one.
        task: &'static str,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A task returned although nobody had asked the process to stop.
    #[error("{task} ended although nothing asked it to")]
    EndedEarly {
        /// Which one.
        task: &'static str,
    },
    /// A task panicked.
    #[error("{task} panicked: {message}")]
    Panicked {
        /// Which one.
        task: &'static str,
        /// The panic's message.
        message: String,
    },
    /// Tasks were still running when the time to drain was over.
    #[error("{tasks} did not end within {seconds} s of being asked to")]
    Stuck {
        /// Which ones.
        tasks: String,
        /// How long they were given.
        seconds: u64,
    },
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Named tasks of one process.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<Outcome>,
    running: Vec<(tokio::task::Id, &'static str)>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task. It must end soon after the `stop` given to [`Tasks::run`] is cancelled.
    pub fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let handle = self.set.spawn(async move { task.await.map_err(Into::into) });
        self.running.push((handle.id(), name));
    }

    /// Runs until `stop` is cancelled or the first task ends, then cancels `stop`, gives the others `drain` to end and
    /// aborts those that have not.
    ///
    /// Returns the first failure. Tasks that end before `stop` are failures; after it they are what was asked for.
    pub async fn run(mut self, stop: CancellationToken, drain: Duration) -> Result<(), TaskError> {
        let mut first = None;
        tokio::select! {
            () = stop.cancelled() => {}
            ended = self.set.join_next_with_id() => {
                if let Some(ended) = ended {
                    let (task, error) = self.outcome(ended);
                    // A task may see the stop and end before this select does.
                    let early = (!stop.is_cancelled()).then_some(TaskError::EndedEarly { task });
                    first = error.or(early);
                }
            }
        }
        stop.cancel();
        let drained = tokio::time::timeout(drain, async {
            while let Some(ended) = self.set.join_next_with_id().await {
                let (_, error) = self.outcome(ended);
                first = first.take().or(error);
            }
        });
        if drained.await.is_err() {
            let tasks = self.running.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
            self.set.abort_all();
            first = first.or(Some(TaskError::Stuck { tasks, seconds: drain.as_secs() }));
        }
        first.map_or(Ok(()), Err)
    }

    fn outcome(
        &mut self,
        ended: Result<(tokio::task::Id, Outcome), tokio::task::JoinError>,
    ) -> (&'static str, Option<TaskError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let task = match self.running.iter().position(|(running, _)| *running == id) {
            Some(at) => self.running.swap_remove(at).1,
            None => "unnamed task",
        };
        let error = match ended {
            Ok((_, Ok(()))) => None,
            Ok((_, Err(source))) => Some(TaskError::Failed { task, source }),
            Err(error) => Some(TaskError::Panicked { task, message: panic_message(error) }),
        };
        if let Some(error) = &error {
            tracing::error!(%error, "a task ended");
        }
        (task, error)
    }
}

fn panic_message(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "cancelled".to_owned();
    };
    match (panic.downcast_ref::<&'static str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "no message".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    async fn until(stop: CancellationToken) -> io::Result<()> {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn ends_without_error_when_all_end_on_being_asked() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new();
        tasks.spawn("a", until(stop.clone()));
        tasks.spawn("b", until(stop.clone()));
        stop.cancel();
        tasks.run(stop, Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_sees_the_stop_first_has_not_ended_early() {
        for _ in 0..100 {
            let stop = CancellationToken::new();
            let mut tasks = Tasks::new();
            tasks.spawn("quick", until(stop.clone()));
            tokio::task::yield_now().await;
            stop.cancel();
            tokio::task::yield_now().await;
            tasks.run(stop, Duration::from_secs(5)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn one_that_fails_stops_the_others_and_is_named() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new();
        tasks.spawn("watch of members", async { Err(io::Error::other("gone")) });
        tasks.spawn("listener", until(stop.clone()));
        let error = tasks.run(stop.clone(), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "watch of members: gone");
        assert!(stop.is_cancelled());
    }

    #[tokio::test]
    async fn one_that_panics_or_just_returns_is_not_silent() {
        let mut tasks = Tasks::new();
        tasks.spawn("fold", async {
            let known: Vec<io::Result<()>> = Vec::new();
            known.into_iter().next().expect("position 7")
        });
        let error = tasks.run(CancellationToken::new(), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "fold panicked: position 7");

        let mut tasks = Tasks::new();
        tasks.spawn("fold", async { io::Result::Ok(()) });
        let error = tasks.run(CancellationToken::new(), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "fold ended although nothing asked it to");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_end_in_time_is_named() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new();
        tasks.spawn("drain", std::future::pending::<io::Result<()>>());
        stop.cancel();
        let error = tasks.run(stop, Duration::from_secs(30)).await.unwrap_err();
        assert_eq!(error.to_string(), "drain did not end within 30 s of being asked to");
    }
}
