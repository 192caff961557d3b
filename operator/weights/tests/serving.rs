//! The cache's HTTP interface, and the copy that an engine pod makes through it.

#![allow(clippy::unwrap_used, clippy::panic)] // the lint's exception for tests does not see helpers of tests

mod support;

use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use koinon_core::ids::ManifestDigest;
use koinon_weights::wire::{ModelState, ReadKey, Token};
use koinon_weights::{CopyArgs, copy};
use reqwest::{Client, StatusCode};
use support::{Answer, Origin, digest_of, files_below, line, open, serve, serve_with, settings, settled, want};

const WEIGHTS: &[u8] = &[42; 600_000];

fn client() -> Client {
    Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

/// The key of a model, under the token of the caches of these tests.
fn key(digest: ManifestDigest) -> ReadKey {
    key_of("secret", digest)
}

fn key_of(token: &str, digest: ManifestDigest) -> ReadKey {
    ReadKey::derive(&Token(token.into()), digest)
}

fn args(from: &str, digest: ManifestDigest, to: &Path) -> CopyArgs {
    CopyArgs { from: from.parse().unwrap(), digest, key: key(digest), to: to.to_owned(), patience_seconds: 1 }
}

#[tokio::test]
async fn only_who_holds_the_operators_token_may_ask_for_a_model() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/tiny.gguf", Answer::Good(Bytes::from_static(WEIGHTS)));
    let (cache, _stop) = open(folder.path(), settings());
    let digest = digest_of("tiny.gguf", WEIGHTS);
    let body = want(&origin.uri("/tiny.gguf"));
    let put = |url: &str| client().put(format!("{url}/v1/models/{digest}")).json(&body);

    let closed = serve_with(&cache, None).await;
    assert_eq!(put(&closed).bearer_auth("secret").send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let url = serve(&cache, folder.path()).await;
    assert_eq!(put(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(put(&url).bearer_auth("guess").send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(cache.status(digest).state, ModelState::Absent);

    let accepted = put(&url).bearer_auth("secret").send().await.unwrap();
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    assert_eq!(accepted.json::<serde_json::Value>().await.unwrap()["state"], "Fetching");
    settled(&cache, digest).await;
    let listed: serde_json::Value =
        client().get(format!("{url}/v1/models")).bearer_auth("secret").send().await.unwrap().json().await.unwrap();
    assert_eq!(listed["models"][0]["state"], "Ready");
    assert_eq!(listed["models"][0]["digest"], digest.to_string());
}

#[tokio::test]
async fn an_empty_token_file_or_none_yet_lets_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, _stop) = open(folder.path(), settings());
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    let url = serve_with(&cache, Some(&folder.path().join("empty"))).await;
    let digest = digest_of("x", b"x");
    let put = client().put(format!("{url}/v1/models/{digest}")).header("authorization", "Bearer ");
    let answer = put.json(&serde_json::json!({ "uri": "http://h/x" })).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let early = serve_with(&cache, Some(&folder.path().join("not-there-yet"))).await;
    let answer = client().get(format!("{early}/v1/models")).bearer_auth("").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().contains("a minute or two"));
    let empty = key_of("", digest);
    let read = client().get(format!("{url}/v1/models/{digest}")).bearer_auth(empty.as_str()).send().await.unwrap();
    assert_eq!(read.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_guest_reads_the_model_that_it_was_granted_and_learns_of_no_other() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    let url = serve(&cache, folder.path()).await;
    let granted = origin.put_folder("/m", &[("a", WEIGHTS)]);
    let other = origin.put_folder("/other", &[("b", b"other")]);
    for (digest, path) in [(granted, "/m"), (other, "/other")] {
        cache.want(digest, want(&origin.uri(path)));
        settled(&cache, digest).await;
    }
    let status = async |path: String, key: Option<ReadKey>| {
        let request = client().get(format!("{url}/v1/models{path}"));
        let request = match &key {
            Some(key) => request.bearer_auth(key.as_str()),
            None => request,
        };
        request.send().await.unwrap().status()
    };
    for path in [format!("/{granted}"), format!("/{granted}/files"), format!("/{granted}/files/a")] {
        assert_eq!(status(path.clone(), Some(key(granted))).await, StatusCode::OK, "{path}");
        for wrong in [None, Some(key(other)), Some(key_of("guess", granted))] {
            assert_eq!(status(path.clone(), wrong).await, StatusCode::UNAUTHORIZED, "{path}");
        }
    }
    // Whether it is here or not, the answer is the same.
    let absent = digest_of("x", b"x");
    for path in [String::new(), format!("/{other}"), format!("/{other}/files/b"), format!("/{absent}")] {
        assert_eq!(status(path.clone(), Some(key(granted))).await, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn a_copy_whose_key_the_cache_does_not_know_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, _stop) = open(folder.path(), settings());
    let url = serve(&cache, folder.path()).await;
    let digest = digest_of("x", b"x");
    let args = CopyArgs { key: key_of("renewed", digest), ..args(&url, digest, folder.path()) };
    let error = copy(args).await.unwrap_err().to_string();
    assert!(error.contains("does not know this key"), "{error}");
}

#[tokio::test]
async fn files_are_served_whole_or_in_part_and_no_path_leads_out_of_the_model() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let digest = origin.put_folder("/m", &[("a", WEIGHTS), ("sub/b", b"0123456789")]);
    let (cache, _stop) = open(folder.path(), settings());
    let url = serve(&cache, folder.path()).await;
    let files = format!("{url}/v1/models/{digest}/files");
    let get = |path: &str| client().get(format!("{files}/{path}")).bearer_auth(key(digest).as_str());

    assert_eq!(get("a").send().await.unwrap().status(), StatusCode::CONFLICT);
    cache.want(digest, want(&origin.uri("/m")));
    settled(&cache, digest).await;

    assert_eq!(get("a").send().await.unwrap().bytes().await.unwrap(), WEIGHTS);
    let part = get("sub/b").header("range", "bytes=3-5").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 3-5/10");
    assert_eq!(part.text().await.unwrap(), "345");
    let beyond = get("sub/b").header("range", "bytes=10-").send().await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    for path in ["nothing", "..%2f..%2f..%2ftoken", "sub%2f..%2fa", "%2fetc%2fpasswd", "../koinon.manifest"] {
        assert_eq!(get(path).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(client().get(format!("{url}/v1/models/not-a-digest")).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_file_that_the_disk_damaged_is_not_served_to_its_end_and_its_model_is_fetched_anew() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let digest = origin.put_folder("/m", &[("a", WEIGHTS)]);
    let (cache, _stop) = open(folder.path(), settings());
    let url = serve(&cache, folder.path()).await;
    cache.want(digest, want(&origin.uri("/m")));
    settled(&cache, digest).await;
    let file = folder.path().join("models").join(digest.hex()).join("files/a");
    let mut damaged = WEIGHTS.to_vec();
    damaged[300_000] ^= 1;
    std::fs::write(&file, damaged).unwrap();

    let answer = client().get(format!("{url}/v1/models/{digest}/files/a")).bearer_auth("secret").send().await.unwrap();
    assert!(answer.bytes().await.is_err());
    for _ in 0..200 {
        if cache.status(digest).state == ModelState::Absent {
            cache.want(digest, want(&origin.uri("/m")));
            assert_eq!(settled(&cache, digest).await, ModelState::Ready { bytes: 600_000 });
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the damaged model stayed");
}

#[tokio::test]
async fn a_copy_waits_for_the_fetch_verifies_and_keeps_what_is_already_right() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let digest = origin.put_folder("/m", &[("a", WEIGHTS), ("sub/b", b"0123456789")]);
    origin.set("/m/a", Answer::BreaksOff(Bytes::from_static(WEIGHTS), 250_000));
    let (cache, _stop) = open(folder.path(), settings());
    let url = serve(&cache, folder.path()).await;
    cache.want(digest, want(&origin.uri("/m")));
    let to = tempfile::tempdir().unwrap();
    copy(args(&url, digest, to.path())).await.unwrap();
    assert_eq!(files_below(to.path()), ["a", "sub/b"]);
    assert_eq!(std::fs::read(to.path().join("a")).unwrap(), WEIGHTS);

    std::fs::write(to.path().join("sub/b"), "012345678X").unwrap();
    let before = cache.metrics().served_bytes.get();
    copy(args(&url, digest, to.path())).await.unwrap();
    assert_eq!(std::fs::read(to.path().join("sub/b")).unwrap(), b"0123456789");
    assert_eq!(cache.metrics().served_bytes.get() - before, 10);
}

#[tokio::test]
async fn a_copy_says_why_the_cache_has_no_model() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    origin.set("/tiny.gguf", Answer::Good(Bytes::from_static(b"other weights")));
    let (cache, _stop) = open(folder.path(), settings());
    let url = serve(&cache, folder.path()).await;
    let to = tempfile::tempdir().unwrap();
    let digest = digest_of("tiny.gguf", WEIGHTS);

    let error = copy(args(&url, digest, to.path())).await.unwrap_err().to_string();
    assert!(error.contains("was not asked for"), "{error}");
    cache.want(digest, want(&origin.uri("/tiny.gguf")));
    settled(&cache, digest).await;
    let error = copy(args(&url, digest, to.path())).await.unwrap_err().to_string();
    assert!(error.contains("DigestMismatch") && error.contains(&digest.to_string()), "{error}");
    let error = copy(args("http://127.0.0.1:9", digest, to.path())).await.unwrap_err().to_string();
    assert!(error.contains("could not be reached for 1 s"), "{error}");
}

#[tokio::test]
async fn a_copy_does_not_believe_a_cache_that_lies() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let digest = digest_of("tiny.gguf", b"truth");
    let truth = koinon_core::ids::Digest::of(b"truth");
    let lie = koinon_core::ids::Digest::of(b"liess");
    let listed = |sha256| serde_json::json!({ "digest": digest, "files": [{ "path": "tiny.gguf", "size": 5, "sha256": sha256 }] });
    for (list, said) in [(listed(lie), "files that are not those"), (listed(truth), "arrived with digest")] {
        let status = serde_json::json!({ "digest": digest, "state": "Ready", "bytes": 5 });
        let app = Router::new()
            .route("/v1/models/{digest}", get(|| async move { axum::Json(status) }))
            .route("/v1/models/{digest}/files", get(|| async move { axum::Json(list) }))
            .route("/v1/models/{digest}/files/tiny.gguf", get(|| async { "liess" }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let to = tempfile::tempdir().unwrap();
        let error = copy(args(&url, digest, to.path())).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(files_below(to.path()), Vec::<String>::new());
    }
    assert_ne!(line("tiny.gguf", b"truth"), line("tiny.gguf", b"liess"));
}
