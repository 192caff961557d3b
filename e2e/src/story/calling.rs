//! Step 6: an application in aarhus calls its own gateway, and the background caller that watches the later steps.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::Narrator;
use super::look::get;
use super::serving::the_copy;
use super::stage::{RELEASE_NAMESPACE, SERVED_NAME, Stage, TEAM};
use crate::command::command_line;
use crate::datacenter::Datacenter;
use crate::relay::Relay;
use crate::toolchain::checkout;

/// An application's way to the gateway of aarhus.
#[derive(Clone)]
pub struct Application {
    key: String,
    gateway: String,
    address: SocketAddr,
}

impl Application {
    /// Makes an API key for the team and finds the gateway's Service.
    pub async fn introduce(stage: &Stage, narrator: &Narrator) -> Result<Self> {
        let printed = stage.run_koinon(narrator, "aarhus", ["apikey", "create", "app", "--namespace", TEAM]).await?;
        let key = printed.lines().find(|line| line.starts_with("kk-")).context("no key was printed")?.to_owned();
        let service =
            get(stage.member("aarhus")?, &["service", "koinon-gateway", "--namespace", RELEASE_NAMESPACE]).await?;
        let address = service["spec"]["clusterIP"].as_str().context("the gateway's Service has no address")?;
        let address: SocketAddr = format!("{address}:80").parse().context("reading the gateway's address")?;
        Ok(Self { key, gateway: format!("http://{address}"), address })
    }

    /// The gateway's URL, as applications within aarhus use it.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// A call as a person types it at a shell of the machine that all datacenters share, as root: the gateway's address is
    /// one of aarhus' own, so the call is made from within aarhus' network.
    pub fn typed_call(&self, aarhus: &Datacenter) -> String {
        let mut enter = std::process::Command::new("ip");
        enter
            .args(["netns", "exec"])
            .arg(format!("{}-{}", aarhus.run().instance().prefix(), aarhus.name()))
            .arg("curl");
        command_line(with_request(&mut enter, self, false))
    }

    /// A chat request.
    fn chat(stream: bool) -> Value {
        json!({
            "model": SERVED_NAME, "stream": stream, "max_tokens": 16, "temperature": 0,
            "messages": [{"role": "user", "content": "What is a koinon?"}],
        })
    }
}

/// With `curl` and with the `openai` client, streaming and not.
pub async fn call(stage: &Stage, narrator: &Narrator) -> Result<Application> {
    narrator.step("An application in aarhus calls its own gateway, which reaches the host over mutual TLS");
    let aarhus = stage.member("aarhus")?;
    let application = Application::introduce(stage, narrator).await?;
    let copy = the_copy(aarhus).await?;
    let answer = narrator.run("aarhus", curl(aarhus, &application, false)).await?;
    ensure!(answer.contains("\"chat.completion\""), "the gateway did not answer with a completion");
    for (header, value) in
        [("koinon-member", copy.host.as_str()), ("koinon-model-digest", &stage.materials.manifest_digest)]
    {
        let told =
            answer.lines().find_map(|line| line.to_lowercase().strip_prefix(&format!("{header}: ")).map(str::to_owned));
        ensure!(told.as_deref().map(str::trim) == Some(value), "{header} says {told:?}, not {value}");
    }
    let streamed = narrator.run("aarhus", curl(aarhus, &application, true)).await?;
    let events = streamed.lines().filter(|line| line.starts_with("data: ")).count();
    ensure!(
        events > 2 && streamed.contains("data: [DONE]"),
        "the stream had {events} events and did not end as it should"
    );
    narrator.observed(&format!("{events} events were streamed one by one"));
    let mut python = aarhus.command(stage.materials.openai.program());
    python.arg(checkout().join("e2e/openai/ask.py")).arg(format!("{}/v1", application.gateway));
    python.arg(SERVED_NAME).env("OPENAI_API_KEY", &application.key);
    let asked = narrator.run("aarhus", python).await?;
    ensure!(asked.contains("streamed:") && asked.contains("answered:"), "the openai client did not get both answers");
    narrator.observed(&format!(
        "curl and the openai client got the model's answers, served by {} as the headers say",
        copy.host
    ));
    Ok(application)
}

fn curl(aarhus: &Datacenter, application: &Application, stream: bool) -> std::process::Command {
    let mut curl = aarhus.command("curl");
    with_request(&mut curl, application, stream);
    curl
}

fn with_request<'a>(
    curl: &'a mut std::process::Command,
    application: &Application,
    stream: bool,
) -> &'a std::process::Command {
    curl.args(["--silent", "--show-error", "--max-time", "60"]);
    curl.args(if stream { ["--no-buffer"].as_slice() } else { ["--include"].as_slice() });
    curl.arg("--header").arg(format!("Authorization: Bearer {}", application.key));
    curl.args(["--header", "Content-Type: application/json", "--data", &Application::chat(stream).to_string()]);
    curl.arg(format!("{}/v1/chat/completions", application.gateway))
}

/// One call of the background caller.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it was answered.
    pub at: Instant,
    /// The member and epoch that answered, or what went wrong.
    pub answer: Result<(String, i64), String>,
}

/// Calls the gateway all the time, so that no moment of the later steps goes unseen.
pub struct Caller {
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
    _relay: Relay,
}

impl Caller {
    /// Begins to call twice a second.
    pub async fn begin(stage: &Stage, application: &Application) -> Result<Self> {
        let relay = stage.member("aarhus")?.relay(application.address).await?;
        let url = format!("http://{}/v1/chat/completions", relay.local());
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        let (calls, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (recorded, stopped, key) = (calls.clone(), stop.clone(), application.key.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let answer = ask(&client, &url, &key).await;
                recorded.lock().unwrap_or_else(PoisonError::into_inner).push(Call { at: Instant::now(), answer });
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Ok(Self { calls, stop, task, _relay: relay })
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends and returns all calls.
    pub async fn end(self) -> Vec<Call> {
        self.stop.store(true, Ordering::Relaxed);
        // Whether the last call was answered does not matter any more.
        let _ = self.task.await;
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn ask(client: &reqwest::Client, url: &str, key: &str) -> Result<(String, i64), String> {
    let sent = client.post(url).bearer_auth(key).json(&Application::chat(false)).send().await;
    let response =
        sent.map_err(|error| if error.is_timeout() { "no answer within 5 s".to_owned() } else { error.to_string() })?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()));
    }
    let header =
        |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let epoch = header("koinon-epoch").parse().map_err(|_| "the answer names no epoch".to_owned())?;
    Ok((header("koinon-member"), epoch))
}
