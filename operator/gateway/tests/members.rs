//! Calls between two members' gateways: who is let in, which copy answers, and what happens when the other side misbehaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // the lint's exception for tests does not see helpers of tests

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use koinon_core::ids::UnixSeconds;
use koinon_net::Clock;
use koinon_net::tls::{Alpn, CertUse, LeafResolver, Pins, TlsIdentity, Trust, server_config};
use serde_json::{Value, json};
use support::engine::{Engine, Manner};
use support::peer::{call, connect, connect_to_send, two};
use support::{COOP, DIGEST, JOB, Site, chat, leaf, leaf_at, public_key, stream};
use tokio::sync::Semaphore;

#[tokio::test]
async fn a_call_goes_through_both_gateways_and_both_count_it() {
    let (home, host, engine) = two(Manner::Friendly, &[]).await;
    let answer = home.ask(&chat()).await;
    assert_eq!(answer.headers()["koinon-member"], "bilbao");
    assert_eq!(answer.headers()["koinon-model-digest"], DIGEST);
    assert_eq!(answer.headers()["koinon-epoch"], "1");
    let id = answer.headers()["x-request-id"].clone();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "Three words here");
    let (headers, seen) = engine.last();
    assert_eq!(serde_json::from_slice::<Value>(&seen).unwrap(), chat());
    assert_eq!(headers["x-request-id"], id);
    assert!(!headers.contains_key("authorization") && !headers.contains_key("koinon-placement"));
    home.settles("koinon_gateway_tokens_total", &["side=\"app\"", "member=\"bilbao\"", "kind=\"completion\""], 3.0)
        .await;
    host.settles("koinon_gateway_tokens_total", &["side=\"member\"", "member=\"aarhus\"", "kind=\"completion\""], 3.0)
        .await;
    host.settles("koinon_gateway_requests_total", &["side=\"member\"", "member=\"aarhus\"", "code=\"200\""], 1.0).await;
}

#[tokio::test]
async fn each_event_passes_both_gateways_before_the_next_is_made_and_an_abort_passes_both_too() {
    let steps = Arc::new(Semaphore::new(1));
    let (home, host, engine) = two(Manner::Stepwise(steps.clone()), &[]).await;
    let mut events = home.ask(&stream()).await.bytes_stream();
    for piece in ["Three", " words"] {
        let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await.unwrap().unwrap().unwrap();
        assert!(String::from_utf8_lossy(&event).contains(piece));
        steps.add_permits(1);
    }
    engine.works_on(1).await;
    drop(events);
    engine.works_on(0).await;
    home.settles("koinon_gateway_in_flight", &[], 0.0).await;
    host.settles("koinon_gateway_in_flight", &[], 0.0).await;
    // Before the first byte as well.
    engine.behave(Manner::Silent);
    let waiting = tokio::spawn(home.post(&chat()).send());
    engine.works_on(1).await;
    waiting.abort();
    engine.works_on(0).await;
}

#[tokio::test]
async fn only_gateways_of_members_are_let_in() {
    let (_home, host, engine) = two(Manner::Friendly, &[]).await;
    let placement = format!("{JOB}/0");
    let mut good = connect(&host, &leaf("aarhus", "aarhus", CertUse::Gateway)).await.unwrap();
    assert_eq!(call(&mut good, &placement, "1").await.unwrap().0, 200);
    for (what, wrong) in [
        ("an unknown key", leaf("stranger", "aarhus", CertUse::Gateway)),
        ("a member's key for another member", leaf("aarhus", "cork", CertUse::Gateway)),
        ("the leaf of a peer endpoint", leaf("aarhus", "aarhus", CertUse::Peer)),
        ("an expired leaf", leaf_at("aarhus", UnixSeconds(Clock::system().now().0 - 3 * 86_400))),
    ] {
        // TLS 1.3 lets a client finish before the server has judged it; the refusal comes with the first answer.
        if let Ok(mut sender) = connect(&host, &wrong).await {
            assert!(call(&mut sender, &placement, "1").await.is_err(), "{what} was let in");
        }
    }
    // No certificate at all, and no TLS at all.
    let plain = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    assert!(plain.get(format!("http://{}/v1/models", host.peers)).send().await.is_err());
    assert_eq!(engine.count(), 1);
}

#[tokio::test]
async fn a_host_answers_for_one_exact_epoch_and_names_it_to_all_others() {
    let (home, host, engine) = two(Manner::Friendly, &[]).await;
    home.ask(&chat()).await;
    host.host("aarhus", 0, 2, engine.address);
    let mut sender = connect(&host, &leaf("aarhus", "aarhus", CertUse::Gateway)).await.unwrap();
    let placement = format!("{JOB}/0");
    for _ in 0..100 {
        if call(&mut sender, &placement, "2").await.unwrap().0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let worked = engine.count();
    for stale in ["1", "3"] {
        let (status, body) = call(&mut sender, &placement, stale).await.unwrap();
        assert_eq!((status, &body["error"]["code"], &body["error"]["epoch"]), (409, &json!("epoch_fenced"), &json!(2)));
    }
    let (status, body) = call(&mut sender, &format!("{JOB}/1"), "1").await.unwrap();
    assert_eq!((status, &body["error"]["code"]), (404, &json!("placement_not_found")));
    for (placement, epoch) in [("", "1"), ("x", "1"), (placement.as_str(), "one"), (placement.as_str(), "-1")] {
        assert_eq!(call(&mut sender, placement, epoch).await.unwrap().0, 400);
    }
    // The home still routes to epoch 1: it gets no answer, and its client is told when to come back.
    let answer = home.post(&chat()).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(engine.count(), worked);
    assert!(home.metric("koinon_gateway_upstream_failures_total", &["reason=\"fenced\""]) >= 1.0);
}

#[tokio::test]
async fn a_suspended_member_is_told_so_by_both_gateways_and_what_is_being_answered_is_answered_to_its_end() {
    let steps = Arc::new(Semaphore::new(1));
    let (home, host, engine) = two(Manner::Stepwise(steps.clone()), &[]).await;
    let mut events = home.ask(&stream()).await.bytes_stream();
    let mut next = async || tokio::time::timeout(Duration::from_secs(5), events.next()).await.unwrap();
    assert!(String::from_utf8_lossy(&next().await.unwrap().unwrap()).contains("Three"));
    let mut sender = connect(&host, &leaf("aarhus", "aarhus", CertUse::Gateway)).await.unwrap();
    host.know_as("aarhus", "Suspended", SocketAddr::from(([127, 0, 0, 1], 9)));
    // The host's gateway refuses, on a connection that stands.
    let mut answer = (0, Value::Null);
    for _ in 0..100 {
        answer = call(&mut sender, &format!("{JOB}/1"), "1").await.unwrap();
        if answer.0 == 403 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((answer.0, &answer.1["error"]["code"]), (403, &json!("member_halted")));
    assert!(answer.1["error"]["message"].as_str().unwrap().starts_with("aarhus may not work"), "{}", answer.1);
    // The home, which has not heard of it yet, says what the host said.
    let refused = home.post(&chat()).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    let body: Value = refused.json().await.unwrap();
    assert!(body["error"]["message"].as_str().unwrap().contains("403 Forbidden member_halted"), "{body}");
    assert!(home.metric("koinon_gateway_upstream_failures_total", &["reason=\"halted\""]) >= 1.0);
    steps.add_permits(10);
    let mut rest = String::new();
    while let Some(event) = next().await {
        rest += &String::from_utf8_lossy(&event.unwrap());
    }
    assert!(rest.contains("here") && rest.contains("[DONE]"), "{rest}");
    assert_eq!(engine.count(), 1);
}

#[tokio::test]
async fn a_refusal_waits_for_the_rest_of_the_request_instead_of_resetting_it() {
    let (_home, host, _engine) = two(Manner::Friendly, &[]).await;
    host.know_as("aarhus", "Suspended", SocketAddr::from(([127, 0, 0, 1], 9)));
    let leaf = leaf("aarhus", "aarhus", CertUse::Gateway);
    let mut sender = connect(&host, &leaf).await.unwrap();
    for _ in 0..100 {
        if call(&mut sender, &format!("{JOB}/0"), "1").await.unwrap().0 == 403 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // More than a connection takes without being read, and slower than the refusal.
    let sent = Arc::new(AtomicI64::new(0));
    let counted = sent.clone();
    let pieces = futures::stream::iter(0..40).then(move |_| {
        let counted = counted.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::from(vec![b' '; 64 << 10])))
        }
    });
    let body = http_body_util::StreamBody::new(Box::pin(pieces));
    let mut sender = connect_to_send(&host, &leaf).await.unwrap();
    let request = hyper::Request::post("https://gateway/v1/chat/completions").body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 403);
    let said = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&said).unwrap()["error"]["code"], "member_halted");
    assert_eq!(sent.load(Ordering::Relaxed), 40);
}

#[tokio::test]
async fn applications_hear_which_member_may_not_work() {
    let (home, host, engine) = two(Manner::Friendly, &[]).await;
    home.ask(&chat()).await;
    home.know_as("bilbao", "Suspended", host.peers);
    let mut answer = home.post(&chat()).send().await.unwrap();
    for _ in 0..100 {
        if answer.status() == 503 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        answer = home.post(&chat()).send().await.unwrap();
    }
    assert_eq!(answer.headers()["retry-after"], "5");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["code"], "member_halted");
    assert!(body["error"]["message"].as_str().unwrap().contains("bilbao may not work"), "{body}");
    let calls = engine.count();
    home.know_as("bilbao", "Active", host.peers);
    assert_eq!(home.ask(&chat()).await.status(), 200);
    assert_eq!(engine.count(), calls + 1);
}

#[tokio::test]
async fn no_member_can_call_what_runs_for_another() {
    let (_home, host, engine) = two(Manner::Friendly, &[]).await;
    host.know("cork", SocketAddr::from(([127, 0, 0, 1], 9)));
    let mut answered = None;
    for _ in 0..100 {
        if let Ok(mut sender) = connect(&host, &leaf("cork", "cork", CertUse::Gateway)).await
            && let Ok(answer) = call(&mut sender, &format!("{JOB}/0"), "1").await
        {
            answered = Some(answer);
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (status, body) = answered.expect("cork was never let in");
    assert_eq!((status, &body["error"]["code"]), (404, &json!("placement_not_found")));
    assert_eq!(engine.count(), 0);
}

/// Calls that are on their way, until what is returned is dropped.
fn calls(sender: &SendRequest<Full<Bytes>>, count: usize) -> tokio::task::JoinSet<()> {
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..count {
        let mut sender = sender.clone();
        calls.spawn(async move {
            let _ = call(&mut sender, &format!("{JOB}/0"), "1").await;
        });
    }
    calls
}

#[tokio::test]
async fn a_placement_has_so_many_calls_as_it_declared_and_a_short_queue_and_others_go_on() {
    let (home, host, engine) = two(Manner::Silent, &[]).await;
    let other = Engine::start(Manner::Friendly).await;
    host.host("aarhus", 1, 1, other.address);
    host.settles("koinon_gateway_hosted", &[], 2.0).await;
    let mut sender = connect(&host, &leaf("aarhus", "aarhus", CertUse::Gateway)).await.unwrap();
    // Its maxConcurrency is 4.
    let waiting = calls(&sender, 20);
    engine.works_on(20).await;
    let (status, body) = call(&mut sender, &format!("{JOB}/0"), "1").await.unwrap();
    assert_eq!((status, &body["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    let said = body["error"]["message"].as_str().unwrap();
    assert!(said.contains("20 calls") && said.contains("maxConcurrency"), "{said}");
    assert_eq!(call(&mut sender, &format!("{JOB}/1"), "1").await.unwrap().0, 200);
    // To the home's clients it is a copy that is busy, and not one that failed.
    let answer = home.post(&chat()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    assert_eq!(home.metric("koinon_gateway_upstream_failures_total", &["reason=\"busy\""]), 1.0);
    drop(waiting);
    engine.works_on(0).await;
    engine.behave(Manner::Friendly);
    host.settles("koinon_gateway_in_flight", &[], 0.0).await;
    assert_eq!(call(&mut sender, &format!("{JOB}/0"), "1").await.unwrap().0, 200);
}

#[tokio::test]
async fn one_member_that_asks_without_end_leaves_places_to_the_others() {
    let (_home, host, engine) = two(Manner::Silent, &["--max-in-flight=4"]).await;
    let other = Engine::start(Manner::Friendly).await;
    host.know("cork", SocketAddr::from(([127, 0, 0, 1], 9)));
    host.host("cork", 0, 1, other.address);
    host.settles("koinon_gateway_hosted", &[], 2.0).await;
    let mut greedy = connect(&host, &leaf("aarhus", "aarhus", CertUse::Gateway)).await.unwrap();
    let _waiting = calls(&greedy, 2);
    engine.works_on(2).await;
    let (status, body) = call(&mut greedy, &format!("{JOB}/0"), "1").await.unwrap();
    assert_eq!((status, &body["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    assert!(body["error"]["message"].as_str().unwrap().contains("2 of the 4"), "{body}");
    let mut modest = connect(&host, &leaf("cork", "cork", CertUse::Gateway)).await.unwrap();
    assert_eq!(call(&mut modest, &format!("{JOB}/0"), "1").await.unwrap().0, 200);
}

#[tokio::test]
async fn who_is_no_longer_a_member_is_cut_in_the_middle_of_an_answer() {
    let (home, host, engine) = two(Manner::Stalls, &[]).await;
    let mut events = home.ask(&stream()).await.bytes_stream();
    events.next().await.unwrap().unwrap();
    engine.works_on(1).await;
    host.know_as("aarhus", "Expelled", home.peers);
    engine.works_on(0).await;
    let rest: Vec<_> = events.filter_map(|event| async { event.ok() }).collect().await;
    assert!(String::from_utf8_lossy(&rest.concat()).contains("upstream_failed"));
    // And the other way round: a host that left is not called any more.
    home.know_as("bilbao", "Left", host.peers);
    home.settles("koinon_gateway_routes", &[], 0.0).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let began = Clock::system().now().0;
    let skew = Arc::new(AtomicI64::new(0));
    let later = skew.clone();
    let clock = Clock::from_fn(move || UnixSeconds(Clock::system().now().0 + later.load(Ordering::SeqCst)));
    let host = Site::start_bare("bilbao", &[], clock).await;
    host.certify(&leaf("bilbao", "bilbao", CertUse::Gateway));
    host.know("aarhus", host.peers);
    let engine = Engine::start(Manner::Friendly).await;
    host.host("aarhus", 0, 1, engine.address);
    host.settles("koinon_gateway_hosted", &[], 1.0).await;
    // A leaf that has two seconds left on the host's clock.
    let leaf = leaf_at("aarhus", UnixSeconds(began));
    skew.store(leaf.identity().not_after.0 - began - 2, Ordering::SeqCst);
    let mut sender = connect(&host, &leaf).await.unwrap();
    assert_eq!(call(&mut sender, &format!("{JOB}/0"), "1").await.unwrap().0, 200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(call(&mut sender, &format!("{JOB}/0"), "1").await.is_err());
}

#[tokio::test]
async fn a_gateway_without_a_certificate_yet_says_so_and_works_once_it_has_one() {
    let home = Site::start_bare("aarhus", &[], Clock::system()).await;
    let host = Site::start("bilbao", &[]).await;
    let engine = Engine::start(Manner::Friendly).await;
    home.know("bilbao", host.peers);
    host.know("aarhus", home.peers);
    host.host("aarhus", 0, 1, engine.address);
    home.job();
    home.route("bilbao", 0, 1, Some(host.peers));
    home.settles("koinon_gateway_routes", &[], 1.0).await;
    let answer = home.post(&chat()).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await.unwrap().contains("no certificate"));
    // Nonsense in the Secret changes nothing; a good leaf does.
    home.certify(&leaf("aarhus", "aarhus", CertUse::Gateway));
    assert_eq!(home.ask(&chat()).await.status(), 200);
}

/// A gateway under bilbao's key that answers every call with these headers.
async fn liar(epoch: &'static str, digest: &'static str) -> SocketAddr {
    let identity = TlsIdentity {
        resolver: LeafResolver::with(&leaf("bilbao", "bilbao", CertUse::Gateway)).unwrap(),
        coop: COOP.parse().unwrap(),
        clock: Clock::system(),
    };
    let pins = Pins::default();
    pins.replace([(public_key("aarhus"), "aarhus".parse().unwrap())].into());
    let config = server_config(&identity, CertUse::Gateway, Trust::Pinned(pins), &[Alpn::Http2]).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move || async move {
        let headers = [("koinon-epoch", epoch), ("koinon-model-digest", digest), ("koinon-member", "somebody-else")];
        (headers, axum::Json(json!({"choices": [{"message": {"content": "from other weights"}}]})))
    };
    let app = axum::Router::new().fallback(answer);
    tokio::spawn(async move {
        koinon_telemetry::listen::serve_with(
            listener,
            koinon_telemetry::listen::Limits::default(),
            koinon_telemetry::CancellationToken::new(),
            move |stream, _| {
                let (config, app) = (config.clone(), app.clone());
                async move { Ok((tokio_rustls::TlsAcceptor::from(config).accept(stream).await?, app)) }
            },
        )
        .await
    });
    address
}

#[tokio::test]
async fn an_answer_for_another_model_or_epoch_never_reaches_a_client() {
    let other = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
    for (epoch, digest) in [("1", other), ("2", DIGEST), ("", "")] {
        let home = Site::start("aarhus", &[]).await;
        let address = liar(epoch, digest).await;
        home.know("bilbao", address);
        home.job();
        home.route("bilbao", 0, 1, Some(address));
        home.settles("koinon_gateway_routes", &[], 1.0).await;
        let answer = home.post(&chat()).send().await.unwrap();
        assert_eq!(answer.status(), 502);
        assert!(!answer.text().await.unwrap().contains("from other weights"));
        assert_eq!(home.metric("koinon_gateway_upstream_failures_total", &["reason=\"mismatch\""]), 1.0);
    }
    // One that tells the truth about both is believed, and named by its key and not by what it says of itself.
    let home = Site::start("aarhus", &[]).await;
    let address = liar("1", DIGEST).await;
    home.know("bilbao", address);
    home.route("bilbao", 0, 1, Some(address));
    home.settles("koinon_gateway_routes", &[], 1.0).await;
    assert_eq!(home.ask(&chat()).await.headers()["koinon-member"], "bilbao");
}

#[tokio::test]
async fn a_member_that_accepts_connections_and_answers_nothing_costs_the_others_little() {
    let (home, _host, engine) = two(Manner::Friendly, &["--connect-seconds=1"]).await;
    // The kernel accepts; nobody ever speaks.
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    home.know("cork", hole.local_addr().unwrap());
    home.route("cork", 1, 1, Some(hole.local_addr().unwrap()));
    home.settles("koinon_gateway_routes", &[], 2.0).await;
    let begun = std::time::Instant::now();
    let calls = (0..20).map(|_| home.post(&chat()).send());
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(home.post(&chat()).send().await.unwrap().status(), 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "an ejected copy was tried again: {:?}", begun.elapsed());
    assert_eq!(engine.count(), 30);
}

#[tokio::test]
async fn a_moved_replica_is_called_at_its_new_host_and_never_at_both() {
    let (home, old, engine) = two(Manner::Friendly, &[]).await;
    let new = Site::start("cork", &[]).await;
    let other = Engine::start(Manner::Friendly).await;
    home.know("cork", new.peers);
    new.know("aarhus", home.peers);
    new.host("aarhus", 0, 2, other.address);
    new.settles("koinon_gateway_hosted", &[], 1.0).await;
    assert_eq!(home.ask(&chat()).await.headers()["koinon-member"], "bilbao");
    // Both are routable for a moment; only the higher epoch counts.
    home.route("cork", 0, 2, Some(new.peers));
    for _ in 0..100 {
        if home.ask(&chat()).await.headers()["koinon-member"] == "cork" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (before, after) = (engine.count(), other.count());
    for _ in 0..10 {
        assert_eq!(home.ask(&chat()).await.headers()["koinon-epoch"], "2");
    }
    assert_eq!((engine.count(), other.count()), (before, after + 10));
    drop(old);
}
