//! What applications of a cluster see of its gateway. Real sockets, an engine of the test's own.
#![allow(clippy::unwrap_used, clippy::panic)] // the lint's exception for tests does not see helpers of tests

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use support::engine::{Engine, Manner};
use support::{DIGEST, KEY, Site, chat, client, stream};
use tokio::sync::Semaphore;

/// A home whose own cluster runs the model on one engine.
async fn one(manner: Manner, flags: &[&str]) -> (Site, Engine) {
    let (site, engine) = (Site::start("aarhus", flags).await, Engine::start(manner).await);
    site.job();
    site.local(0, 1, engine.address);
    site.settles("koinon_gateway_routes", &[], 1.0).await;
    (site, engine)
}

async fn error_of(answer: reqwest::Response) -> (u16, String, Value) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (status, body["error"]["code"].as_str().unwrap().to_owned(), body["error"].clone())
}

#[tokio::test]
async fn an_answer_names_who_gave_it_and_with_which_weights() {
    let (site, engine) = one(Manner::Friendly, &[]).await;
    let answer = site.post(&chat()).header("x-request-id", "mine-1").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("koinon-member"), "aarhus");
    assert_eq!(header("koinon-model-digest"), DIGEST);
    assert_eq!(header("koinon-epoch"), "1");
    assert_eq!(header("x-request-id"), "mine-1");
    assert!(!answer.headers().contains_key("x-engine-secret"));
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "Three words here");
    assert_eq!(engine.last().0["x-request-id"], "mine-1");
    site.settles("koinon_gateway_requests_total", &["side=\"app\"", "member=\"aarhus\"", "code=\"200\""], 1.0).await;
    site.settles("koinon_gateway_tokens_total", &["kind=\"prompt\"", "source=\"reported\""], 7.0).await;
    site.settles("koinon_gateway_tokens_total", &["kind=\"completion\"", "source=\"reported\""], 3.0).await;
}

#[tokio::test]
async fn a_request_reaches_the_engine_byte_for_byte_and_without_the_clients_credentials() {
    let (site, engine) = one(Manner::Friendly, &[]).await;
    let body =
        "{\"tools\":[{\"x\" : 1.50}],\n \"model\":\"tiny\", \"logit_bias\":{\"b\":1,\"a\":2}, \"extra_body\":null}";
    let request = client().post(site.url("/v1/completions")).bearer_auth(KEY).header("cookie", "c=1");
    assert_eq!(request.header("koinon-epoch", "99").body(body).send().await.unwrap().status(), 200);
    let (headers, seen) = engine.last();
    assert_eq!(seen, body);
    for kept in ["authorization", "cookie", "koinon-epoch"] {
        assert!(!headers.contains_key(kept), "{kept} reached the engine");
    }
    let qualified = body.replace("\"tiny\"", "\"team/tiny\"");
    let request = client().post(site.url("/v1/completions")).bearer_auth(KEY);
    assert_eq!(request.body(qualified).send().await.unwrap().status(), 200);
    assert_eq!(engine.last().1, body);
}

#[tokio::test]
async fn each_event_of_a_stream_arrives_before_the_next_is_made() {
    let steps = Arc::new(Semaphore::new(0));
    let (site, _engine) = one(Manner::Stepwise(steps.clone()), &[]).await;
    steps.add_permits(1);
    let answer = site.post(&stream()).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut events = answer.bytes_stream();
    for piece in support::engine::PIECES {
        let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await.unwrap().unwrap().unwrap();
        assert!(String::from_utf8_lossy(&event).contains(piece), "{event:?}");
        steps.add_permits(1);
    }
    steps.add_permits(2);
    let rest: Vec<_> = events.map(Result::unwrap).collect().await;
    // The chunk with the usage was the gateway's own wish, so only the end is left.
    assert_eq!(rest.concat(), b"data: [DONE]\n\n");
    site.settles("koinon_gateway_tokens_total", &["kind=\"completion\"", "source=\"reported\""], 3.0).await;
    assert_eq!(site.metric("koinon_gateway_time_to_first_token_seconds_count", &["side=\"app\""]), 1.0);
}

#[tokio::test]
async fn a_client_that_asks_for_the_usage_gets_it() {
    let (site, _engine) = one(Manner::Friendly, &[]).await;
    let mut body = stream();
    body["stream_options"] = json!({"include_usage": true});
    let text = site.post(&body).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("\"prompt_tokens\":7"), "{text}");
    let text = site.post(&stream()).send().await.unwrap().text().await.unwrap();
    assert!(!text.contains("prompt_tokens"), "{text}");
}

#[tokio::test]
async fn an_answer_of_any_length_passes_and_is_counted() {
    let (site, _engine) = one(Manner::Long(12 << 20), &[]).await;
    let answer = site.post(&chat()).send().await.unwrap().bytes().await.unwrap();
    assert!(answer.len() > 12 << 20);
    site.settles("koinon_gateway_tokens_total", &["kind=\"completion\"", "source=\"reported\""], 3.0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_engines_work() {
    let (site, engine) = one(Manner::Silent, &[]).await;
    // Before the first byte …
    let waiting = tokio::spawn(site.post(&stream()).send());
    engine.works_on(1).await;
    waiting.abort();
    engine.works_on(0).await;
    site.settles("koinon_gateway_requests_total", &["code=\"499\""], 1.0).await;
    // … and in the middle of an answer.
    engine.behave(Manner::Stalls);
    let answer = site.post(&stream()).send().await.unwrap();
    let mut events = answer.bytes_stream();
    events.next().await.unwrap().unwrap();
    engine.works_on(1).await;
    drop(events);
    engine.works_on(0).await;
    site.settles("koinon_gateway_in_flight", &[], 0.0).await;
    // What was delivered is counted, and marked for what it is.
    site.settles("koinon_gateway_tokens_total", &["kind=\"completion\"", "source=\"estimated\""], 1.0).await;
}

#[tokio::test]
async fn without_a_key_or_with_a_wrong_one_nothing_is_answered() {
    let (site, engine) = one(Manner::Friendly, &[]).await;
    let paths = [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/tiny")];
    for (method, path) in paths {
        for key in [None, Some("kk-wrong"), Some("")] {
            let mut request = client().request(method.parse().unwrap(), site.url(path)).body(chat().to_string());
            if let Some(key) = key {
                request = request.bearer_auth(key);
            }
            let (status, code, _) = error_of(request.send().await.unwrap()).await;
            assert_eq!((status, code.as_str()), (401, "invalid_api_key"), "{method} {path} {key:?}");
        }
    }
    assert_eq!(engine.count(), 0);
    // A key that is revoked is wrong at once.
    site.allow(&[]);
    for _ in 0..100 {
        if site.post(&chat()).send().await.unwrap().status() == 401 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a revoked key still opens");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_its_length_is_announced_or_not() {
    let (site, engine) = one(Manner::Friendly, &["--max-body-bytes=100000"]).await;
    let pad = |length: usize| json!({"model": "tiny", "pad": "x".repeat(length)}).to_string();
    let send = |body: reqwest::Body| client().post(site.url("/v1/chat/completions")).bearer_auth(KEY).body(body).send();
    let (status, code, error) = error_of(send(pad(200_000).into()).await.unwrap()).await;
    assert_eq!((status, code.as_str()), (413, "request_too_large"));
    assert!(error["message"].as_str().unwrap().contains("100000"), "{error}");
    let pieces = futures::stream::iter(vec![std::io::Result::Ok(pad(200_000))]);
    let (status, ..) = error_of(send(reqwest::Body::wrap_stream(pieces)).await.unwrap()).await;
    assert_eq!(status, 413);
    assert_eq!(engine.count(), 0);
    assert_eq!(send(pad(90_000).into()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn errors_of_the_gateway_have_the_shape_of_openai() {
    let (site, engine) = one(Manner::Friendly, &[]).await;
    let (status, code, error) = error_of(site.post(&json!({"model": "gpt-9"})).send().await.unwrap()).await;
    assert_eq!((status, code.as_str(), &error["param"]), (404, "model_not_found", &json!("model")));
    // A model of a namespace that the key may not call is not there either.
    let (status, ..) = error_of(site.post(&json!({"model": "other/tiny"})).send().await.unwrap()).await;
    assert_eq!(status, 404);
    let (status, code, _) = error_of(site.post(&json!({"messages": []})).send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (400, "invalid_request"));
    let answer = client().post(site.url("/v1/embeddings")).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(error_of(answer).await.1, "not_found");
    // An engine's own refusal is the client's to read.
    engine.behave(Manner::Status(400));
    let answer = site.post(&chat()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (400, "{\"engine\":\"says so\"}"));
}

#[tokio::test]
async fn a_model_that_is_asked_for_and_placed_nowhere_is_503_with_the_time_to_come_back() {
    let site = Site::start("aarhus", &[]).await;
    site.job();
    for _ in 0..100 {
        let answer = site.post(&chat()).send().await.unwrap();
        if answer.status() == 503 {
            assert!(answer.headers().contains_key("retry-after"));
            assert_eq!(error_of(answer).await.1, "no_routable_placement");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never 503");
}

#[tokio::test]
async fn the_models_that_can_be_called_are_listed() {
    let (site, _engine) = one(Manner::Friendly, &[]).await;
    let get = async |path: &str| client().get(site.url(path)).bearer_auth(KEY).send().await.unwrap();
    let listed: Value = get("/v1/models").await.json().await.unwrap();
    assert_eq!(listed["object"], "list");
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!((&listed["data"][0]["id"], &listed["data"][0]["owned_by"]), (&json!("tiny"), &json!("team")));
    for id in ["tiny", "team/tiny"] {
        let one: Value = get(&format!("/v1/models/{id}")).await.json().await.unwrap();
        assert_eq!((&one["id"], &one["digest"]), (&json!("tiny"), &json!(DIGEST)));
    }
    assert_eq!(error_of(get("/v1/models/none").await).await.1, "model_not_found");
}

#[tokio::test]
async fn an_attempt_that_fails_before_the_first_byte_is_made_elsewhere_and_after_it_never() {
    let (site, first) = one(Manner::Friendly, &["--idle-seconds=1"]).await;
    let second = Engine::start(Manner::Friendly).await;
    site.local(1, 1, second.address);
    site.settles("koinon_gateway_routes", &[], 2.0).await;
    for manner in [Manner::Status(503), Manner::Status(502), Manner::Status(429)] {
        first.behave(manner);
        for _ in 0..4 {
            assert_eq!(site.post(&chat()).send().await.unwrap().status(), 200);
        }
    }
    assert!(first.count() > 0 && second.count() == 12);
    assert!(site.metric("koinon_gateway_upstream_failures_total", &["reason=\"status\""]) > 0.0);

    for (manner, said) in [(Manner::Breaks, "broke off"), (Manner::Stalls, "nothing came for 1 s")] {
        first.behave(manner.clone());
        second.behave(manner);
        let before = first.count() + second.count();
        let text = site.post(&stream()).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("Three") && text.contains(said) && text.contains("\"error\""), "{text}");
        assert!(!text.contains("[DONE]"));
        assert_eq!(first.count() + second.count(), before + 1);
    }
    site.settles("koinon_gateway_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_copy_that_takes_no_connection_costs_two_seconds_at_most_and_then_nothing() {
    let (site, engine) = one(Manner::Friendly, &[]).await;
    // A port that nobody listens on any more.
    let gone = Engine::start(Manner::Friendly).await.address;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop((gone, closed));
    site.local(1, 1, nobody);
    site.settles("koinon_gateway_routes", &[], 2.0).await;
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(site.post(&chat()).send().await.unwrap().status(), 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    // After two failures it is tried last, so most calls never go there.
    assert_eq!(site.metric("koinon_gateway_upstream_failures_total", &["reason=\"connect\""]), 2.0);
    assert_eq!(engine.count(), 20);
}

#[tokio::test]
async fn no_first_byte_in_time_is_504_and_ends_the_engines_work() {
    let (site, engine) = one(Manner::Silent, &["--first-byte-seconds=1"]).await;
    let (status, code, _) = error_of(site.post(&chat()).send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (504, "timeout"));
    engine.works_on(0).await;
    assert_eq!(engine.count(), 1);
}

#[tokio::test]
async fn only_busy_copies_answer_429() {
    let (site, _engine) = one(Manner::Status(429), &[]).await;
    let answer = site.post(&chat()).send().await.unwrap();
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(error_of(answer).await.1, "rate_limit_exceeded");
}

/// Two keys beside the usual one.
async fn allow_three(site: &Site) {
    site.allow(&[(KEY, &["team"]), ("kk-one", &["team"]), ("kk-two", &["team"])]);
    for _ in 0..100 {
        let models = client().get(site.url("/v1/models")).bearer_auth("kk-two").send().await.unwrap();
        if models.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the new keys never opened");
}

#[tokio::test]
async fn one_key_that_asks_without_end_is_told_of_its_share_and_the_others_are_served() {
    let (site, engine) = one(Manner::Silent, &["--max-in-flight=5"]).await;
    allow_three(&site).await;
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(site.post(&chat()).send())).collect();
    engine.works_on(3).await;
    let refused = site.post(&chat()).send().await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    let (status, code, error) = error_of(refused).await;
    assert_eq!((status, code.as_str()), (429, "rate_limit_exceeded"));
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("--max-in-flight") && said.contains("3 of the 5") && said.contains("2 are free"), "{said}");
    engine.behave(Manner::Friendly);
    assert_eq!(site.post_as("kk-one", &chat()).send().await.unwrap().status(), 200);
    for call in waiting {
        call.abort();
    }
    engine.works_on(0).await;
    site.settles("koinon_gateway_in_flight", &[], 0.0).await;
    assert_eq!(site.post(&chat()).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn more_calls_than_the_gateway_takes_are_refused_at_once_and_the_others_go_on() {
    let (site, engine) = one(Manner::Silent, &["--max-in-flight=2"]).await;
    allow_three(&site).await;
    let waiting = ["kk-one", "kk-two"].map(|key| tokio::spawn(site.post_as(key, &chat()).send()));
    engine.works_on(2).await;
    let refused = site.post(&chat()).send().await.unwrap();
    assert_eq!(error_of(refused).await.1, "overloaded");
    for call in waiting {
        call.abort();
    }
    engine.works_on(0).await;
    engine.behave(Manner::Friendly);
    assert_eq!(site.ask(&chat()).await.status(), 200);
}

#[tokio::test]
async fn a_stop_lets_answers_end_that_have_begun() {
    let steps = Arc::new(Semaphore::new(1));
    let (site, _engine) = one(Manner::Stepwise(steps.clone()), &[]).await;
    let answer = site.post(&stream()).send().await.unwrap();
    site.stop.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(site.post(&chat()).send().await.is_err(), "a new call was taken after the stop");
    steps.add_permits(10);
    assert!(answer.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    site.served.await.unwrap().unwrap();
}
