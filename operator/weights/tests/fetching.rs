//! What the cache makes of good, bad, slow and dying sources. Real HTTP over loopback.

#![allow(clippy::unwrap_used, clippy::panic)] // the lint's exception for tests does not see helpers of tests

mod support;

use std::time::Duration;

use bytes::Bytes;
use koinon_weights::wire::{Failure, FailureReason, ModelState, Source, Token};
use support::{Answer, Origin, digest_of, files_below, has_bytes, line, open, settings, settled, want};

const WEIGHTS: &[u8] = &[42; 300_000];

fn weights() -> Bytes {
    Bytes::from_static(WEIGHTS)
}

fn failure(state: ModelState) -> Failure {
    match state {
        ModelState::Failed(failure) => failure,
        other => panic!("expected a failure, found {other:?}"),
    }
}

#[tokio::test]
async fn a_gguf_becomes_ready_when_its_one_line_has_the_digest_that_was_asked_for() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/tiny.gguf", Answer::Good(weights()));
    let (cache, _stop) = open(folder.path(), settings());
    let digest = digest_of("tiny.gguf", WEIGHTS);
    cache.want(digest, want(&origin.uri("/tiny.gguf")));
    assert_eq!(settled(&cache, digest).await, ModelState::Ready { bytes: 300_000 });
    assert_eq!(cache.metrics().fetched_bytes.get(), 300_000);
    let held = cache.hold(digest).unwrap();
    let (path, _) = cache.file(digest, &held, "tiny.gguf").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), WEIGHTS);
}

#[tokio::test]
async fn a_folder_is_fetched_file_by_file_as_its_manifest_lists_them() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let digest =
        origin.put_folder("/m", &[("model-1.safetensors", WEIGHTS), ("sub dir/config.json", b"{}"), ("empty", b"")]);
    let (cache, _stop) = open(folder.path(), settings());
    cache.want(digest, want(&origin.uri("/m")));
    assert_eq!(settled(&cache, digest).await, ModelState::Ready { bytes: 300_002 });
    let below = files_below(&folder.path().join("models").join(digest.hex()).join("files"));
    assert_eq!(below, ["empty", "model-1.safetensors", "sub dir/config.json"]);
}

#[tokio::test]
async fn weights_with_a_wrong_digest_are_refused_with_both_digests_and_nothing_is_kept() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/tiny.gguf", Answer::Good(weights()));
    let (cache, _stop) = open(folder.path(), settings());
    let voted = digest_of("tiny.gguf", b"what was voted");
    cache.want(voted, want(&origin.uri("/tiny.gguf")));
    let failure = failure(settled(&cache, voted).await);
    assert_eq!(failure.reason, FailureReason::DigestMismatch);
    assert_eq!(failure.expected, Some(voted.0));
    assert_eq!(failure.seen, Some(digest_of("tiny.gguf", WEIGHTS).0));
    assert_eq!(files_below(folder.path()), Vec::<String>::new());
    assert!(cache.hold(voted).is_none());
}

#[tokio::test]
async fn one_wrong_file_spoils_its_whole_model() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let digest = origin.put_folder("/m", &[("a", WEIGHTS), ("b", b"tokenizer")]);
    origin.set("/m/b", Answer::Good(Bytes::from_static(b"tokenizeR")));
    let (cache, _stop) = open(folder.path(), settings());
    cache.want(digest, want(&origin.uri("/m")));
    let failure = failure(settled(&cache, digest).await);
    assert_eq!(failure.reason, FailureReason::DigestMismatch);
    assert!(failure.message.contains("/m/b"), "{}", failure.message);
    assert_eq!(files_below(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_manifest_of_another_model_or_with_paths_that_climb_is_refused_before_any_file_is_fetched() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    let asked = digest_of("x", b"x");
    origin.put_folder("/other", &[("a", b"a")]);
    cache.want(asked, want(&origin.uri("/other")));
    assert_eq!(failure(settled(&cache, asked).await).reason, FailureReason::DigestMismatch);
    assert!(origin.requests("/other/a").is_empty());

    let climbing = line("../../escaped", b"x");
    origin.set("/climbs/koinon.manifest", Answer::Good(climbing.into()));
    let asked = digest_of("y", b"y");
    cache.want(asked, want(&origin.uri("/climbs")));
    assert_eq!(failure(settled(&cache, asked).await).reason, FailureReason::ManifestInvalid);
    assert!(!folder.path().parent().unwrap().join("escaped").exists());
    assert_eq!(files_below(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_source_that_breaks_off_is_asked_for_the_rest() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/tiny.gguf", Answer::BreaksOff(weights(), 100_000));
    let (cache, _stop) = open(folder.path(), settings());
    let digest = digest_of("tiny.gguf", WEIGHTS);
    cache.want(digest, want(&origin.uri("/tiny.gguf")));
    assert_eq!(settled(&cache, digest).await, ModelState::Ready { bytes: 300_000 });
    let ranges: Vec<_> = origin.requests("/tiny.gguf").into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=200000-".to_owned())]);
    assert_eq!(cache.metrics().fetched_bytes.get(), 300_000);
}

#[tokio::test]
async fn a_source_that_cannot_resume_is_read_again_from_the_beginning() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/tiny.gguf", Answer::WithoutRanges(weights(), 100_000));
    let (cache, _stop) = open(folder.path(), settings());
    let digest = digest_of("tiny.gguf", WEIGHTS);
    cache.want(digest, want(&origin.uri("/tiny.gguf")));
    assert_eq!(settled(&cache, digest).await, ModelState::Ready { bytes: 300_000 });
}

#[tokio::test]
async fn a_restarted_cache_goes_on_by_itself_where_it_was() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let digest = origin.put_folder("/m", &[("a", b"small"), ("b", WEIGHTS)]);
    origin.set("/m/b", Answer::Stalls(weights(), 200_000));
    let patient = || {
        let mut settings = settings();
        settings.patience.idle = Duration::from_secs(60);
        settings
    };
    let (cache, stop) = open(folder.path(), patient());
    cache.want(digest, want(&origin.uri("/m")));
    has_bytes(&cache, digest, 200_005).await;
    stop.cancel();
    cache.ended().await;

    origin.set("/m/b", Answer::Good(weights()));
    let (cache, _stop) = open(folder.path(), patient());
    assert_eq!(settled(&cache, digest).await, ModelState::Ready { bytes: 300_005 });
    assert_eq!(origin.requests("/m/a").len(), 1);
    assert_eq!(origin.requests("/m/b")[1].range.as_deref(), Some("bytes=200000-"));
}

#[tokio::test]
async fn bytes_that_a_crash_garbled_are_fetched_again_before_the_source_is_blamed() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let digest = origin.put_folder("/m", &[("b", WEIGHTS)]);
    let parts = folder.path().join("staging").join(digest.hex()).join("parts");
    std::fs::create_dir_all(&parts).unwrap();
    std::fs::write(parts.join("0"), vec![0; 1000]).unwrap();
    let (cache, _stop) = open(folder.path(), settings());
    cache.want(digest, want(&origin.uri("/m")));
    assert_eq!(settled(&cache, digest).await, ModelState::Ready { bytes: 300_000 });
    let ranges: Vec<_> = origin.requests("/m/b").into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [Some("bytes=1000-".to_owned()), None]);
}

#[tokio::test]
async fn many_requests_for_one_model_fetch_it_once() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/tiny.gguf", Answer::Good(weights()));
    let (cache, _stop) = open(folder.path(), settings());
    let digest = digest_of("tiny.gguf", WEIGHTS);
    let uri = origin.uri("/tiny.gguf");
    let asked = (0..20).map(|_| {
        let (cache, want) = (cache.clone(), want(&uri));
        tokio::spawn(async move { cache.want(digest, want) })
    });
    futures::future::join_all(asked).await;
    assert!(matches!(settled(&cache, digest).await, ModelState::Ready { .. }));
    cache.want(digest, want(&uri));
    assert_eq!(origin.requests("/tiny.gguf").len(), 1);
}

#[tokio::test]
async fn a_source_that_stalls_holds_up_nobody_else_and_is_given_up_in_the_end() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/slow.gguf", Answer::Stalls(weights(), 0));
    origin.set("/tiny.gguf", Answer::Good(weights()));
    let (cache, _stop) = open(folder.path(), settings());
    let (slow, good) = (digest_of("slow.gguf", WEIGHTS), digest_of("tiny.gguf", WEIGHTS));
    cache.want(slow, want(&origin.uri("/slow.gguf")));
    cache.want(good, want(&origin.uri("/tiny.gguf")));
    assert!(matches!(settled(&cache, good).await, ModelState::Ready { .. }));
    assert!(matches!(cache.status(slow).state, ModelState::Fetching { .. }));
    let failure = failure(settled(&cache, slow).await);
    assert_eq!(failure.reason, FailureReason::SourceUnreachable);
    assert!(failure.message.contains("3 times in a row"), "{}", failure.message);
}

#[tokio::test]
async fn sources_that_trickle_give_up_their_turns_to_others_and_are_gone_on_with_later() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let mut settings = koinon_weights::Settings { retry: Duration::from_millis(10), ..settings() };
    (settings.patience.least, settings.patience.window) = (1000, Duration::from_millis(500));
    let (cache, _stop) = open(folder.path(), settings);
    let slow: Vec<_> = ["/one.gguf", "/two.gguf"].map(|path| (path, digest_of(&path[1..], WEIGHTS))).into();
    for (path, digest) in &slow {
        origin.set(path, Answer::Trickles(weights()));
        cache.want(*digest, want(&origin.uri(path)));
        has_bytes(&cache, *digest, 1).await;
    }
    origin.set("/tiny.gguf", Answer::Good(weights()));
    let good = digest_of("tiny.gguf", WEIGHTS);
    cache.want(good, want(&origin.uri("/tiny.gguf")));
    assert!(matches!(settled(&cache, good).await, ModelState::Ready { .. }));
    for (path, digest) in &slow {
        let failure = failure(settled(&cache, *digest).await);
        assert_eq!(failure.reason, FailureReason::SourceUnreachable);
        assert!(failure.message.contains("too slowly"), "{}", failure.message);
        origin.set(path, Answer::Good(weights()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        cache.want(*digest, want(&origin.uri(path)));
        assert!(matches!(settled(&cache, *digest).await, ModelState::Ready { .. }));
        assert!(origin.requests(path)[1].range.is_some(), "what came was kept");
    }
}

#[tokio::test]
async fn a_source_that_sends_too_much_is_cut_whether_it_says_so_or_not() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), koinon_weights::Settings { model_limit: 1_000_000, ..settings() });
    let digest = digest_of("x.gguf", b"x");
    origin.set("/said/x.gguf", Answer::Claims(1 << 50));
    cache.want(digest, want(&origin.uri("/said/x.gguf")));
    let said = failure(settled(&cache, digest).await);
    assert_eq!((said.reason, said.needed, said.allowed), (FailureReason::TooLarge, Some(1 << 50), Some(1_000_000)));

    origin.set("/unsaid/x.gguf", Answer::Endless);
    cache.want(digest, want(&origin.uri("/unsaid/x.gguf")));
    assert_eq!(failure(settled(&cache, digest).await).reason, FailureReason::TooLarge);
    assert_eq!(files_below(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_refusing_source_is_named_with_what_to_check() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    let digest = digest_of("x.gguf", b"x");
    for (code, hint) in [(403, "Secret of the source"), (404, "check the uri")] {
        origin.set(&format!("/{code}/x.gguf"), Answer::Status(code));
        cache.want(digest, want(&origin.uri(&format!("/{code}/x.gguf"))));
        let failure = failure(settled(&cache, digest).await);
        assert_eq!(failure.reason, FailureReason::SourceRefused);
        assert!(failure.message.contains(hint), "{}", failure.message);
    }
    assert_eq!(origin.requests("/404/x.gguf").len(), 1);
}

#[tokio::test]
async fn a_mirror_gets_its_token_and_the_token_stays_off_the_disk() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/mirror/org/tiny.gguf", Answer::Stalls(weights(), 10));
    let (cache, stop) = open(folder.path(), settings());
    let digest = digest_of("tiny.gguf", WEIGHTS);
    let mut want = want("hf://org/tiny.gguf");
    want.sources = vec![Source {
        prefix: "hf://".into(),
        mirror: origin.uri("/mirror/"),
        token: Some(Token("hunter2".into())),
        ca_bundle: None,
    }];
    cache.want(digest, want);
    has_bytes(&cache, digest, 10).await;
    assert_eq!(origin.requests("/mirror/org/tiny.gguf")[0].authorization.as_deref(), Some("Bearer hunter2"));
    for file in files_below(folder.path()) {
        let content = std::fs::read(folder.path().join(&file)).unwrap();
        assert!(!String::from_utf8_lossy(&content).contains("hunter2"), "{file}");
    }
    stop.cancel();
    cache.ended().await;
    // Without its token it is not gone on with; the operator asks again.
    let (cache, _stop) = open(folder.path(), settings());
    assert_eq!(cache.status(digest).state, ModelState::Absent);
}

#[tokio::test]
async fn an_unchanged_request_is_not_tried_again_at_once_and_a_changed_one_is() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/a/tiny.gguf", Answer::Good(Bytes::from_static(b"wrong")));
    origin.set("/b/tiny.gguf", Answer::Good(weights()));
    let (cache, _stop) = open(folder.path(), settings());
    let digest = digest_of("tiny.gguf", WEIGHTS);
    for _ in 0..5 {
        cache.want(digest, want(&origin.uri("/a/tiny.gguf")));
        assert!(failure(settled(&cache, digest).await).retry_in_seconds > 5);
    }
    assert_eq!(origin.requests("/a/tiny.gguf").len(), 1);
    cache.want(digest, want(&origin.uri("/b/tiny.gguf")));
    assert!(matches!(settled(&cache, digest).await, ModelState::Ready { .. }));
}
