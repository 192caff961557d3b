//! Claimants on one Lease, in paused time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::*;

/// A Lease in memory; a claimant whose wire is cut hears nothing and can write nothing.
#[derive(Clone, Default)]
struct Shared {
    lease: Arc<Mutex<(u64, Option<Lease>)>>,
    cut: Arc<AtomicBool>,
}

impl Shared {
    fn another(&self) -> Shared {
        Shared { lease: self.lease.clone(), cut: Arc::default() }
    }

    async fn wire(&self) {
        if self.cut.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn spec(&self) -> LeaseSpec {
        self.lease.lock().unwrap().1.clone().unwrap().spec.unwrap()
    }
}

impl LeaseStore for Shared {
    async fn read(&self) -> Result<Option<Lease>, LeaseStoreError> {
        self.wire().await;
        Ok(self.lease.lock().unwrap().1.clone())
    }

    async fn write(&self, before: Option<&Lease>, spec: LeaseSpec) -> Result<Lease, LeaseStoreError> {
        self.wire().await;
        let mut lease = self.lease.lock().unwrap();
        let read = before.and_then(|lease| lease.metadata.resource_version.clone());
        if lease.1.as_ref().and_then(|lease| lease.metadata.resource_version.clone()) != read {
            return Err(LeaseStoreError::Conflict);
        }
        lease.0 += 1;
        let mut written = Lease { spec: Some(spec), ..Lease::default() };
        written.metadata.resource_version = Some(lease.0.to_string());
        lease.1 = Some(written.clone());
        Ok(written)
    }
}

const TIMES: Duration = Duration::from_secs(15);

fn start(store: &Shared, name: &str) -> (LeaseHandle, CancellationToken, tokio::task::JoinHandle<()>) {
    let (claimant, handle) = Claimant::new(store.clone(), name.to_owned(), LeaseTimes::of(TIMES));
    let vacate = CancellationToken::new();
    let task = tokio::spawn(claimant.run(vacate.clone()));
    (handle, vacate, task)
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_claimants_one_leads_and_a_vacated_lease_passes_on_at_once() {
    let store = Shared::default();
    let (mut first, vacate, task) = start(&store, "first");
    assert_eq!(first.acquired().await.token(), 0);
    let (mut second, _keep, _task) = start(&store.another(), "second");
    seconds(60).await;
    assert!(first.is_leader() && !second.is_leader());

    vacate.cancel();
    task.await.unwrap();
    assert!(!first.is_leader());
    let before = Instant::now();
    assert_eq!(second.acquired().await.token(), 1, "the fencing token rises");
    assert!(before.elapsed() <= Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_steps_down_before_another_can_take_over() {
    let store = Shared::default();
    let (mut first, ..) = start(&store, "first");
    first.acquired().await;
    let (mut second, _keep, _task) = start(&store.another(), "second");
    seconds(7).await;
    store.cut.store(true, Ordering::SeqCst);
    let cut = Instant::now();
    first.lost().await;
    let stepped_down = Instant::now();
    assert!(!second.is_leader());
    second.acquired().await;
    let gap = stepped_down.elapsed();
    assert!(gap >= Duration::from_secs(1), "only {gap:?} between the two");
    assert!(cut.elapsed() <= Duration::from_secs(25), "{:?}", cut.elapsed());

    store.cut.store(false, Ordering::SeqCst);
    seconds(60).await;
    assert!(!first.is_leader() && second.is_leader(), "the old holder does not take it back");
    assert_eq!(store.spec().lease_transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_outlives_the_claim_is_given_up() {
    let store = Shared::default();
    let (mut handle, ..) = start(&store, "only");
    let fence = handle.acquired().await;
    let done = fence.within(std::future::pending::<Result<(), std::io::Error>>()).await;
    assert!(matches!(done, Err(Fenced::Ended)));
    let done = handle.guard().unwrap().within(async { Ok::<_, std::io::Error>(7) }).await;
    assert_eq!(done.unwrap(), 7);
}
