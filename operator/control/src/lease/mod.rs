//! The leader lease, with fencing.
//!
//! Guarantees: a claim ends, by the holder's own monotonic clock, before anybody else may take the Lease; each change of
//! holder raises `leaseTransitions`, which is the fencing token. Assumption: clocks run at about the same *rate*.
//! Caveat: a request that was sent before the claim ended may still land after it. That is why leadership only chooses
//! who works; what must not happen twice is made impossible by names and resource versions in the API server.

mod election;
mod store;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use election::{Election, Move};
pub use store::{ApiLease, LeaseStore, LeaseStoreError};

/// How long a Lease is valid, how often it is renewed and how early its holder lets go.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// What is written into the Lease: how long others wait.
    pub duration: Duration,
    /// Time between renewals.
    pub renew: Duration,
    /// The holder steps down this long before the end.
    pub slack: Duration,
}

impl LeaseTimes {
    /// The usual proportions: three renewals fit into a duration, and the last fifth of it is not used.
    #[must_use]
    pub fn of(duration: Duration) -> Self {
        LeaseTimes { duration, renew: duration / 3, slack: duration / 5 }
    }
}

/// The right to write, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    token: i32,
    valid_until: Instant,
}

/// This process does not hold the Lease, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this replica does not hold the leader lease")]
pub struct NotLeader;

/// Why work under a [`Fence`] has no result.
#[derive(Debug, Error)]
pub enum Fenced<E> {
    /// The claim ended before the work did. Whether the work took effect is unknown.
    #[error("the leader lease ended before the write was answered")]
    Ended,
    /// The work itself failed.
    #[error(transparent)]
    Failed(E),
}

impl Fence {
    /// The number of this claim. It only rises from one holder to the next.
    #[must_use]
    pub fn token(&self) -> i32 {
        self.token
    }

    /// How long the claim still holds.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.valid_until.saturating_duration_since(Instant::now())
    }

    /// Runs `work`, which is given up when the claim ends.
    ///
    /// # Errors
    /// [`Fenced::Ended`] when the claim ended first; the outcome of the work is then unknown.
    pub async fn within<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, Fenced<E>> {
        match tokio::time::timeout_at(self.valid_until, work).await {
            Ok(done) => done.map_err(Fenced::Failed),
            Err(_) => Err(Fenced::Ended),
        }
    }
}

/// What everybody in the process knows about the own leadership.
#[derive(Clone)]
pub struct LeaseHandle {
    claim: watch::Receiver<Option<Fence>>,
}

impl fmt::Debug for LeaseHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LeaseHandle").field(&*self.claim.borrow()).finish()
    }
}

impl LeaseHandle {
    /// A claim that never ends, for tests and for tools that run alone.
    #[must_use]
    pub fn held_for_ever() -> Self {
        let year = Duration::from_secs(365 * 24 * 3600);
        let (_, claim) = watch::channel(Some(Fence { token: 0, valid_until: Instant::now() + year }));
        LeaseHandle { claim }
    }

    /// Whether this process may write at this moment.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.guard().is_ok()
    }

    /// The right to write. Ask anew before each write; it may be gone by then.
    ///
    /// # Errors
    /// When this process does not hold the Lease.
    pub fn guard(&self) -> Result<Fence, NotLeader> {
        let claim = *self.claim.borrow();
        claim.filter(|fence| !fence.remaining().is_zero()).ok_or(NotLeader)
    }

    /// Waits until this process holds the Lease.
    pub async fn acquired(&mut self) -> Fence {
        loop {
            if let Ok(fence) = self.guard() {
                return fence;
            }
            if self.claim.changed().await.is_err() {
                // Without a sender nothing can ever be acquired; the caller's own stop ends this wait.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until this process no longer holds the Lease.
    pub async fn lost(&mut self) {
        while let Ok(fence) = self.guard() {
            tokio::select! {
                () = tokio::time::sleep(fence.remaining()) => {}
                changed = self.claim.changed() => if changed.is_err() {
                    tokio::time::sleep(fence.remaining()).await;
                }
            }
        }
    }
}

/// Contends for the Lease until it is told to vacate it.
pub struct Claimant<S> {
    store: S,
    times: LeaseTimes,
    election: Election,
    claim: watch::Sender<Option<Fence>>,
}

impl<S: fmt::Debug> fmt::Debug for Claimant<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimant").field("store", &self.store).field("election", &self.election).finish_non_exhaustive()
    }
}

impl<S: LeaseStore> Claimant<S> {
    /// A claimant named `identity`, which must differ between any two processes that ever run.
    pub fn new(store: S, identity: String, times: LeaseTimes) -> (Self, LeaseHandle) {
        let (claim, receiver) = watch::channel(None);
        let election = Election::new(identity, times.duration);
        (Claimant { store, times, election, claim }, LeaseHandle { claim: receiver })
    }

    /// Contends until `vacate` is cancelled, then gives the Lease back so that the next one need not wait.
    pub async fn run(mut self, vacate: CancellationToken) {
        loop {
            let pause = tokio::select! {
                biased;
                () = vacate.cancelled() => break,
                pause = self.turn() => pause,
            };
            tokio::select! {
                () = vacate.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        let held = self.claim.send_replace(None);
        if held.is_some() {
            // If this fails the others simply wait until the Lease runs out.
            let given_back = tokio::time::timeout(self.times.slack, self.vacate()).await;
            tracing::info!(given_back = matches!(given_back, Ok(Ok(()))), "left the leader lease");
        }
    }

    /// One reading and at most one write; returns how long to pause.
    async fn turn(&mut self) -> Duration {
        // A round trip may not eat the whole validity: two thirds of it remain for the next try.
        let outcome = tokio::time::timeout(self.times.renew, self.contend()).await;
        self.expire();
        match outcome {
            Ok(Ok(pause)) => pause,
            Ok(Err(error)) => {
                if !matches!(error, LeaseStoreError::Conflict) {
                    tracing::warn!(%error, "the leader lease could not be read or written");
                }
                self.times.renew / 5
            }
            Err(_) => {
                tracing::warn!("the API server did not answer about the leader lease in time");
                self.times.renew / 5
            }
        }
    }

    async fn contend(&mut self) -> Result<Duration, LeaseStoreError> {
        let lease = self.store.read().await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        // The claim counts from before the write was sent, so that it ends here before it can end for the others.
        let started = Instant::now();
        let next = match (&lease, self.election.next(spec, started)) {
            (Some(_), Move::Create) => Move::Take(1),
            (_, next) => next,
        };
        let token = match next {
            Move::Wait(until) => {
                self.set(None);
                return Ok(until.saturating_duration_since(started).min(self.times.renew));
            }
            Move::Create => 0,
            Move::Take(token) | Move::Renew(token) => token,
        };
        self.store.write(lease.as_ref(), self.spec(token, spec, matches!(next, Move::Renew(_)))).await?;
        self.set(Some(Fence { token, valid_until: started + self.times.duration - self.times.slack }));
        Ok(self.times.renew)
    }

    fn spec(&self, token: i32, before: Option<&LeaseSpec>, renewal: bool) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let acquired = before.filter(|_| renewal).and_then(|spec| spec.acquire_time.clone());
        LeaseSpec {
            holder_identity: Some(self.election.identity().to_owned()),
            lease_duration_seconds: i32::try_from(self.times.duration.as_secs()).ok(),
            lease_transitions: Some(token),
            acquire_time: acquired.or_else(|| Some(now.clone())),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    /// Publishes a new claim, or the loss of the old one.
    fn set(&self, claim: Option<Fence>) {
        let before = self.claim.send_replace(claim);
        match (before, claim) {
            (None, Some(fence)) => tracing::info!(token = fence.token, "holds the leader lease"),
            (Some(_), None) => tracing::warn!("lost the leader lease"),
            _ => {}
        }
    }

    fn expire(&self) {
        let ended = self.claim.borrow().is_some_and(|fence| fence.remaining().is_zero());
        if ended {
            self.set(None);
        }
    }

    async fn vacate(&self) -> Result<(), LeaseStoreError> {
        let Some(lease) = self.store.read().await? else { return Ok(()) };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(self.election.identity()) {
            return Ok(());
        }
        let free = LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..spec };
        self.store.write(Some(&lease), free).await.map(|_: Lease| ())
    }
}

#[cfg(test)]
mod tests;
