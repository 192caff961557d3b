//! Calls that the gateway refuses, in the shape in which OpenAI's clients read errors, and calls whose client goes away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use koinon_e2e::relay::Relay;
use koinon_e2e::story::look::{get, items};
use koinon_e2e::story::serving::{GUEST_NAMESPACE, the_copy};
use koinon_e2e::story::{RELEASE_NAMESPACE, SERVED_NAME, TEAM};
use koinon_e2e::{Fleet, Poll, wait_until};
use serde_json::{Value, json};

use koinon_e2e::ground::{Ground, ground, samples};

/// The most bytes of a request that the gateway takes without being told otherwise.
const MOST: usize = 16 << 20;
/// How much the aborted call asks for: far more than can be made before the client goes.
const LONG: u32 = 1900;

/// A way to aarhus' gateway.
pub struct Door {
    relay: Relay,
    client: reqwest::Client,
}

impl Door {
    /// Opens it.
    pub async fn open(ground: &Ground) -> Result<Self> {
        let aarhus = ground.member("aarhus")?;
        let service = get(aarhus, &["service", "koinon-gateway", "--namespace", RELEASE_NAMESPACE]).await?;
        let address = service["spec"]["clusterIP"].as_str().context("the gateway's Service has no address")?;
        let relay = aarhus.relay(format!("{address}:80").parse()?).await?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build()?;
        Ok(Self { relay, client })
    }

    /// A chat request with this body.
    pub fn post(&self, key: Option<&str>, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        let url = format!("http://{}/v1/chat/completions", self.relay.local());
        let request = self.client.post(url).header("content-type", "application/json").body(body);
        match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

/// A new API key for the jobs of a namespace.
async fn api_key(ground: &Ground, name: &str, namespace: &str) -> Result<String> {
    let printed = ground.koinon("aarhus", &["apikey", "create", name, "--namespace", namespace]).await?;
    Ok(printed.lines().find(|line| line.starts_with("kk-")).context("no key was printed")?.to_owned())
}

/// The body of a short call.
pub fn call(model: &str) -> String {
    json!({"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}).to_string()
}

/// The status of an answer, and the `error` in its body.
async fn error_of(answer: reqwest::Response) -> Result<(u16, Value)> {
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    let body: Value =
        serde_json::from_str(&text).with_context(|| format!("{status} with a body that is no JSON: {text}"))?;
    let error = body["error"].clone();
    ensure!(error["message"].is_string() && error["type"].is_string(), "{status} is not shaped as OpenAI's: {body}");
    Ok((status, error))
}

/// 401, 404, 413, 400: each with its code.
pub async fn refused(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let door = Door::open(ground).await?;
    let key = api_key(ground, "bad-input", TEAM).await?;
    let elsewhere = api_key(ground, "bad-input-elsewhere", "default").await?;
    // A key counts once the gateway has seen it.
    wait_until("the gateway to know the new key", Duration::from_secs(30), || async {
        match door.post(Some(&key), call(SERVED_NAME)).send().await {
            Ok(answer) => Poll::<()>::when(answer.status().is_success(), answer.status()),
            Err(error) => Poll::not_yet(error),
        }
    })
    .await?;
    let long = json!({"model": SERVED_NAME, "messages": [{"role": "user", "content": "x".repeat(MOST)}]}).to_string();
    let twice = format!(r#"{{"model":"{SERVED_NAME}","model":"other","messages":[]}}"#);
    let cases = [
        ("no key", None, call(SERVED_NAME), 401, "invalid_api_key", "kubectl koinon apikey"),
        ("a wrong key", Some("kk-wrong"), call(SERVED_NAME), 401, "invalid_api_key", "kubectl koinon apikey"),
        ("an unknown model", Some(key.as_str()), call("gpt-5"), 404, "model_not_found", "gpt-5"),
        ("another namespace's key", Some(&elsewhere), call(SERVED_NAME), 404, "model_not_found", SERVED_NAME),
        ("a body over the limit", Some(&key), long, 413, "request_too_large", "16777216 bytes"),
        ("a field that stands twice", Some(&key), twice, 400, "invalid_request", "model"),
        ("no JSON", Some(&key), "hello".to_owned(), 400, "invalid_request", "JSON"),
    ];
    for (what, key, body, status, code, says) in cases {
        let answer = door.post(key, body).send().await.with_context(|| format!("calling with {what}"))?;
        let (seen, error) = error_of(answer).await.with_context(|| format!("calling with {what}"))?;
        ensure!(seen == status && error["code"] == code, "{what} should be {status} {code}, it is {seen}: {error}");
        ensure!(error["message"].as_str().unwrap_or_default().contains(says), "{what} should say {says}: {error}");
        ensure!(code != "model_not_found" || error["param"] == "model", "{what} does not name the parameter: {error}");
    }
    for name in ["bad-input", "bad-input-elsewhere"] {
        ground.koinon("aarhus", &["apikey", "revoke", name]).await?;
    }
    wait_until("the gateway to forget the revoked key", Duration::from_secs(30), || async {
        match door.post(Some(&key), call(SERVED_NAME)).send().await {
            Ok(answer) => Poll::<()>::when(answer.status().as_u16() == 401, answer.status()),
            Err(error) => Poll::not_yet(error),
        }
    })
    .await
}

/// The engine's own metrics, at the host that serves the story's job.
async fn engine(ground: &Ground) -> Result<BTreeMap<String, f64>> {
    let host = ground.member(&the_copy(ground.member("aarhus")?).await?.host)?;
    let pods = get(host, &["pod", "--namespace", GUEST_NAMESPACE]).await?;
    let pod = items(&pods).first().context("no engine runs")?;
    let address = pod["status"]["podIP"].as_str().context("the engine has no address")?;
    let relay = host.relay(format!("{address}:8000").parse()?).await?;
    let page = reqwest::get(format!("http://{}/metrics", relay.local())).await?.error_for_status()?.text().await?;
    Ok(samples(&page))
}

async fn engine_sample(ground: &Ground, name: &str) -> Result<f64> {
    let samples = engine(ground).await?;
    samples.get(name).copied().with_context(|| format!("the engine has no metric {name}: {samples:?}"))
}

const PREDICTED: &str = "llamacpp:tokens_predicted_total";
const PROCESSING: &str = "llamacpp:requests_processing";

/// A client that goes away after the first piece ends the engine's work through two gateways.
pub async fn aborted(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let door = Door::open(ground).await?;
    let key = api_key(ground, "abort", TEAM).await?;
    let long = json!({
        "model": SERVED_NAME, "stream": true, "max_tokens": LONG, "ignore_eos": true, "temperature": 0,
        "messages": [{"role": "user", "content": "hello"}],
    });
    // The control: whoever stays gets all that was asked for, so the shorter answer below is the abort's doing.
    let before = engine_sample(ground, PREDICTED).await?;
    let answer = wait_until("the gateway to answer a long call", Duration::from_secs(60), || async {
        match door.post(Some(&key), long.to_string()).send().await {
            Ok(answer) if answer.status().is_success() => Poll::Ready(answer),
            Ok(answer) => Poll::not_yet(answer.status()),
            Err(error) => Poll::not_yet(error),
        }
    })
    .await?;
    let whole = answer.text().await?;
    ensure!(
        whole.contains("data: [DONE]"),
        "the long answer did not end: …{}",
        &whole[whole.len().saturating_sub(200)..]
    );
    let all = wait_for_idle(ground).await? - before;
    ensure!(all >= f64::from(LONG) * 0.9, "the engine made {all} tokens of the {LONG} that a patient client asked for");

    let before = engine_sample(ground, PREDICTED).await?;
    let mut stream = door.post(Some(&key), long.to_string()).send().await?.error_for_status()?.bytes_stream();
    stream.next().await.context("the stream ended before its first piece")??;
    drop(stream);
    let made = wait_for_idle(ground).await? - before;
    ensure!(made < all * 0.75, "the engine went on for a client that was gone: it made {made} of {all} tokens");
    println!("  {made} of {all} tokens were made for the client that went away");
    ground.koinon("aarhus", &["apikey", "revoke", "abort"]).await.map(drop)
}

/// Waits until the engine works on nothing, and returns how many tokens it has made in all.
async fn wait_for_idle(ground: &Ground) -> Result<f64> {
    wait_until("the engine to have nothing to do", Duration::from_secs(60), || async {
        match engine(ground).await {
            Ok(samples) => match (samples.get(PROCESSING), samples.get(PREDICTED)) {
                (Some(0.0), Some(predicted)) => Poll::Ready(*predicted),
                seen => Poll::not_yet(format!("{PROCESSING}, {PREDICTED}: {seen:?}")),
            },
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}
