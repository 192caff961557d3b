//! Who goes when room is needed, and what is said when nobody may.

mod support;

use std::time::Duration;

use bytes::Bytes;
use koinon_core::ids::ManifestDigest;
use koinon_weights::wire::{FailureReason, ModelState, Want};
use koinon_weights::{Cache, Settings};
use support::{Answer, Origin, digest_of, open, settings, settled, want};

/// Room for two models, as the owner says.
const FOR_TWO: Option<u64> = Some(250_000);

/// Asks for what is at `path`, and says how much models may take.
fn ask(cache: &Cache, origin: &Origin, digest: ManifestDigest, path: &str, capacity: Option<u64>) {
    let capacity = capacity.map(koinon_core::ids::Bytes);
    cache.want(digest, Want { capacity, ..want(&origin.uri(path)) });
}

/// A model of 100 000 bytes.
async fn fetch_into(
    cache: &Cache,
    origin: &Origin,
    name: &str,
    fill: u8,
    capacity: Option<u64>,
) -> (ManifestDigest, ModelState) {
    let (content, path) = (vec![fill; 100_000], format!("/{name}.gguf"));
    origin.set(&path, Answer::Good(Bytes::from(content.clone())));
    let digest = digest_of(&path[1..], &content);
    ask(cache, origin, digest, &path, capacity);
    (digest, settled(cache, digest).await)
}

async fn fetch(cache: &Cache, origin: &Origin, name: &str, fill: u8) -> (ManifestDigest, ModelState) {
    fetch_into(cache, origin, name, fill, FOR_TWO).await
}

#[tokio::test]
async fn the_model_of_least_recent_use_makes_room() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    let (first, _) = fetch(&cache, &origin, "first", 1).await;
    let (second, _) = fetch(&cache, &origin, "second", 2).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    drop(cache.hold(first));
    let (_, third) = fetch(&cache, &origin, "third", 3).await;
    assert_eq!(third, ModelState::Ready { bytes: 100_000 });
    assert_eq!(cache.status(second).state, ModelState::Absent);
    assert!(matches!(cache.status(first).state, ModelState::Ready { .. }));
    assert!(!folder.path().join("models").join(second.hex()).exists());
    assert_eq!(cache.metrics().evictions.get(), 1);
}

#[tokio::test]
async fn a_model_in_use_is_never_removed_and_the_refusal_says_what_was_free() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    let (first, _) = fetch(&cache, &origin, "first", 1).await;
    let (second, _) = fetch(&cache, &origin, "second", 2).await;
    let held = [cache.hold(first).unwrap(), cache.hold(second).unwrap()];
    let (third, state) = fetch(&cache, &origin, "third", 3).await;
    let ModelState::Failed(failure) = state else { panic!("{state:?}") };
    assert_eq!(
        (failure.reason, failure.needed, failure.allowed),
        (FailureReason::DiskFull, Some(100_000), Some(50_000))
    );
    assert!(failure.message.contains("spec.weights.size"), "{}", failure.message);
    drop(held);
    // Room alone does not hurry an unchanged request; another address does.
    origin.set("/again/third.gguf", Answer::Good(Bytes::from(vec![3; 100_000])));
    ask(&cache, &origin, third, "/again/third.gguf", FOR_TWO);
    assert!(matches!(settled(&cache, third).await, ModelState::Ready { .. }));
}

#[tokio::test]
async fn a_model_that_was_just_asked_for_is_kept_for_a_while() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), Settings { keep: Duration::from_secs(600), ..settings() });
    fetch(&cache, &origin, "first", 1).await;
    fetch(&cache, &origin, "second", 2).await;
    let (_, third) = fetch(&cache, &origin, "third", 3).await;
    assert!(matches!(third, ModelState::Failed(failure) if failure.reason == FailureReason::DiskFull));
}

#[tokio::test]
async fn nothing_is_removed_for_a_model_that_would_not_fit_even_then() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    let (first, _) = fetch(&cache, &origin, "first", 1).await;
    let huge = digest_of("huge.gguf", b"huge");
    origin.set("/huge.gguf", Answer::Claims(1_000_000));
    ask(&cache, &origin, huge, "/huge.gguf", FOR_TWO);
    let state = settled(&cache, huge).await;
    assert!(matches!(state, ModelState::Failed(failure) if failure.reason == FailureReason::DiskFull));
    assert!(matches!(cache.status(first).state, ModelState::Ready { .. }));
}

#[tokio::test]
async fn the_order_of_use_outlives_a_restart() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, stop) = open(folder.path(), settings());
    let (first, _) = fetch(&cache, &origin, "first", 1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (second, _) = fetch(&cache, &origin, "second", 2).await;
    stop.cancel();
    cache.ended().await;
    let (cache, _stop) = open(folder.path(), settings());
    fetch(&cache, &origin, "third", 3).await;
    assert_eq!(cache.status(first).state, ModelState::Absent);
    assert!(matches!(cache.status(second).state, ModelState::Ready { .. }));
}

#[tokio::test]
async fn more_room_from_the_owner_is_used_at_once() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    let (first, _) = fetch(&cache, &origin, "first", 1).await;
    let (second, _) = fetch(&cache, &origin, "second", 2).await;
    let _held = [cache.hold(first).unwrap(), cache.hold(second).unwrap()];
    let (third, state) = fetch(&cache, &origin, "third", 3).await;
    assert!(matches!(state, ModelState::Failed(_)), "{state:?}");
    ask(&cache, &origin, third, "/third.gguf", Some(300_000));
    assert!(matches!(settled(&cache, third).await, ModelState::Ready { .. }));
    assert_eq!(cache.metrics().evictions.get(), 0);
}

#[tokio::test]
async fn less_room_from_the_owner_holds_for_the_next_model() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    for (name, fill) in [("first", 1), ("second", 2)] {
        fetch(&cache, &origin, name, fill).await;
    }
    let (_, state) = fetch_into(&cache, &origin, "third", 3, Some(90_000)).await;
    let ModelState::Failed(failure) = state else { panic!("{state:?}") };
    assert_eq!((failure.needed, failure.allowed), (Some(100_000), Some(90_000)));
    assert_eq!(cache.metrics().evictions.get(), 0, "it would not fit even then");
    let (_, state) = fetch_into(&cache, &origin, "fourth", 4, Some(100_000)).await;
    assert!(matches!(state, ModelState::Ready { .. }), "{state:?}");
    assert_eq!(cache.metrics().evictions.get(), 2);
}

#[tokio::test]
async fn where_the_volume_is_the_bound_the_refusal_asks_for_a_larger_one() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), Settings { volume: Some(50_000), ..settings() });
    let (_, state) = fetch_into(&cache, &origin, "first", 1, None).await;
    let ModelState::Failed(failure) = state else { panic!("{state:?}") };
    assert_eq!((failure.reason, failure.allowed), (FailureReason::DiskFull, Some(50_000)));
    for told in ["a larger volume", "weights.emptyDirSize", "needs 100000 bytes", "50000 are free"] {
        assert!(failure.message.contains(told), "{told}: {}", failure.message);
    }
}

#[tokio::test]
async fn a_disk_that_is_full_is_told_of_with_numbers_and_nothing_half_written_stays() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (content, digest) = (vec![1; 100_000], digest_of("first.gguf", &[1; 100_000]));
    origin.set("/first.gguf", Answer::Good(Bytes::from(content)));
    let staging = folder.path().join("staging").join(digest.hex());
    std::fs::create_dir_all(staging.join("parts")).unwrap();
    std::fs::write(staging.join("parts/0"), vec![1; 40_000]).unwrap();
    // A write to this device fails as one to a full disk does.
    std::os::unix::fs::symlink("/dev/full", staging.join("request.new")).unwrap();
    let (cache, _stop) = open(folder.path(), settings());
    ask(&cache, &origin, digest, "/first.gguf", None);
    let state = settled(&cache, digest).await;
    let ModelState::Failed(failure) = state else { panic!("{state:?}") };
    assert_eq!((failure.reason, failure.needed), (FailureReason::DiskFull, Some(40_000)));
    assert!(failure.allowed.is_some());
    for told in
        ["the disk is full", "needs 40000 bytes", "are free", "weights.emptyDirSize", "weights.persistence.size"]
    {
        assert!(failure.message.contains(told), "{told}: {}", failure.message);
    }
    assert!(!staging.exists(), "what was half written is gone");
    let (_, state) = fetch_into(&cache, &origin, "second", 2, None).await;
    assert_eq!(state, ModelState::Ready { bytes: 100_000 });
}
