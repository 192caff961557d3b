//! Where a uri may lead, and what goes along. Real HTTP over loopback, which is as private as addresses are.

#![allow(clippy::unwrap_used, clippy::panic)] // the lint's exception for tests does not see helpers of tests

mod support;

use bytes::Bytes;
use koinon_core::ids::ManifestDigest;
use koinon_weights::Cache;
use koinon_weights::wire::{Failure, FailureReason, ModelState, Source, Token, Want};
use support::{Answer, Origin, digest_of, foreign, open, settings, settled, want};

const WEIGHTS: &[u8] = &[42; 30_000];

fn digest() -> ManifestDigest {
    digest_of("tiny.gguf", WEIGHTS)
}

fn source(prefix: &str, mirror: &str) -> Source {
    Source { prefix: prefix.into(), mirror: mirror.into(), token: Some(Token("hunter2".into())), ca_bundle: None }
}

async fn served(path: &str) -> Origin {
    let origin = Origin::start().await;
    origin.set(path, Answer::Good(Bytes::from_static(WEIGHTS)));
    origin
}

async fn refused(cache: &Cache, want: Want) -> Failure {
    cache.want(digest(), want);
    match settled(cache, digest()).await {
        ModelState::Failed(failure) => failure,
        other => panic!("expected a failure, found {other:?}"),
    }
}

#[tokio::test]
async fn a_foreign_uri_is_not_followed_into_the_owners_networks() {
    let (inside, folder) = (served("/tiny.gguf").await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    let by_name = format!("http://localhost:{}/tiny.gguf", inside.address.port());
    let uris =
        [&inside.uri("/tiny.gguf"), &by_name, "https://kubernetes.default.svc/tiny.gguf", "http://10.0.0.1/tiny.gguf"];
    for uri in uris {
        let failure = refused(&cache, foreign(uri)).await;
        assert_eq!(failure.reason, FailureReason::NoSource, "{uri}");
        assert!(failure.message.contains("spec.sources"), "{}", failure.message);
    }
    assert!(inside.requests("/tiny.gguf").is_empty());
}

#[tokio::test]
async fn an_address_that_the_owner_names_as_a_source_is_fetched_from() {
    let (inside, folder) = (served("/tiny.gguf").await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    cache.want(digest(), want(&inside.uri("/tiny.gguf")));
    assert!(matches!(settled(&cache, digest()).await, ModelState::Ready { .. }));
}

#[tokio::test]
async fn that_an_address_is_a_mirror_for_others_opens_it_to_no_foreign_uri() {
    let (inside, folder) = (served("/tiny.gguf").await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    let sources = vec![source("hf://", &inside.uri("/"))];
    let failure = refused(&cache, Want { sources, ..foreign(&inside.uri("/tiny.gguf")) }).await;
    assert_eq!(failure.reason, FailureReason::NoSource);
    assert!(inside.requests("/tiny.gguf").is_empty());
}

#[tokio::test]
async fn each_redirect_is_looked_at_again() {
    let (mirror, inside, folder) = (Origin::start().await, served("/tiny.gguf").await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    for (path, to) in [
        ("/a/tiny.gguf", "http://169.254.169.254/latest/meta-data/"),
        ("/b/tiny.gguf", &inside.uri("/tiny.gguf")),
        ("/c/tiny.gguf", "https://kubernetes.default.svc/api"),
        ("/d/tiny.gguf", "file:///etc/passwd"),
    ] {
        mirror.set(path, Answer::Redirect(to.to_owned()));
        mirror.set(&format!("/first{path}"), Answer::Redirect(mirror.uri(path)));
        let failure = refused(&cache, want(&mirror.uri(&format!("/first{path}")))).await;
        assert_eq!(failure.reason, FailureReason::NoSource, "{to}");
        assert!(failure.message.contains(to), "{}", failure.message);
        assert_eq!(mirror.requests(path).len(), 1, "it is no source that might answer better the next time");
    }
    assert!(inside.requests("/tiny.gguf").is_empty());
}

#[tokio::test]
async fn a_mirror_may_lead_to_another_mirror_of_the_owner_but_its_token_stays() {
    let (mirror, store, folder) = (Origin::start().await, served("/stored").await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    mirror.set("/org/tiny.gguf", Answer::Redirect("/moved".to_owned()));
    mirror.set("/moved", Answer::Redirect(store.uri("/stored")));
    let sources = vec![source("hf://", &mirror.uri("/")), source("s3://", &store.uri("/"))];
    cache.want(digest(), Want { sources, ..foreign("hf://org/tiny.gguf") });
    assert!(matches!(settled(&cache, digest()).await, ModelState::Ready { .. }));
    for own in ["/org/tiny.gguf", "/moved"] {
        assert_eq!(mirror.requests(own)[0].authorization.as_deref(), Some("Bearer hunter2"));
    }
    assert_eq!(store.requests("/stored")[0].authorization, None);
}

#[tokio::test]
async fn five_redirects_are_followed_and_six_are_not() {
    let (mirror, folder) = (served("/5").await, tempfile::tempdir().unwrap());
    let (cache, _stop) = open(folder.path(), settings());
    for step in 0..5 {
        mirror.set(&format!("/{step}"), Answer::Redirect(format!("/{}", step + 1)));
    }
    mirror.set("/six/tiny.gguf", Answer::Redirect("/0".to_owned()));
    let failure = refused(&cache, want(&mirror.uri("/six/tiny.gguf"))).await;
    assert!(failure.message.contains("more than 5 times"), "{}", failure.message);
    assert!(mirror.requests("/5").is_empty());
    mirror.set("/five/tiny.gguf", Answer::Redirect("/1".to_owned()));
    cache.want(digest(), want(&mirror.uri("/five/tiny.gguf")));
    assert!(matches!(settled(&cache, digest()).await, ModelState::Ready { .. }));
}
