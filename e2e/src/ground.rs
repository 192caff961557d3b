//! What every case stands on: three members, one cooperative, one served job; and how to look at it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::story::look::{condition, get, items, name, poll, text};
use crate::story::{self, Chapter, MODEL_URI, Materials, QUANTIZATION, RELEASE_NAMESPACE, REVISION, Stage, TEAM};
use crate::{Datacenter, Fleet, Narrator, Poll, wait_until};
use crate::{cache::Cache, process, process::Signal};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;
use tokio::sync::OnceCell;

/// The Deployment of every operator.
pub const OPERATOR: &str = "koinon-operator";
/// Long enough for an operator that was killed to be replaced: its lease of 15 s has to run out first.
pub const REPLACED: Duration = Duration::from_secs(60);

/// The cooperative, told of up to the application's calls.
pub struct Ground {
    /// The clusters and what runs beside them.
    pub stage: Stage,
    /// Says what is done.
    pub narrator: Narrator,
    /// The other member with GPUs; cases that stop an operator stop this one's.
    pub idle: String,
}

static GROUND: OnceCell<Result<Ground, String>> = OnceCell::const_new();

/// The ground, prepared by whichever case comes first.
pub async fn ground(fleet: Arc<Fleet>) -> Result<&'static Ground> {
    let ground = GROUND.get_or_init(|| async { prepare(fleet).await.map_err(|error| format!("{error:#}")) }).await;
    ground.as_ref().map_err(|error| anyhow!("the cooperative did not come to serve its job: {error}"))
}

async fn prepare(fleet: Arc<Fleet>) -> Result<Ground> {
    let narrator = Narrator::on_stdout();
    let materials = Materials::ensure(&Cache::from_env()?, &|what| println!("  {what}"))?;
    let mut stage = Stage::set(fleet, materials).await?;
    stage.plug_all_gpus().await?;
    story::tell(&mut stage, &narrator, Chapter::Calling).await?;
    let host = story::serving::the_copy(stage.member("aarhus")?).await?.host;
    let idle = if host == "bilbao" { "cork" } else { "bilbao" }.to_owned();
    for member in ["bilbao", "cork"] {
        let open = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {TEAM}, labels: {{koinon.dev/jobs: allowed}}}}}}"
        );
        stage.member(member)?.apply(&open).await?;
    }
    Ok(Ground { stage, narrator, idle })
}

impl Ground {
    /// The datacenter of a member.
    pub fn member(&self, name: &str) -> Result<&Arc<Datacenter>> {
        self.stage.member(name)
    }

    /// Runs `kubectl koinon …` as the owner of `member`, and shows it.
    pub async fn koinon(&self, member: &str, args: &[&str]) -> Result<String> {
        self.stage.run_koinon(&self.narrator, member, args).await
    }

    /// A job of the approved model. `count` GPUs at one of `members`.
    pub fn job(&self, job: &str, count: u32, members: &[&str]) -> Value {
        self.job_of(job, &self.stage.materials.manifest_digest, count, members)
    }

    /// A job of the model with this digest.
    pub fn job_of(&self, job: &str, digest: &str, count: u32, members: &[&str]) -> Value {
        serde_json::json!({
            "apiVersion": "koinon.dev/v1alpha1",
            "kind": "InferenceJob",
            "metadata": {"name": job, "namespace": TEAM},
            "spec": {
                "servedName": job,
                "model": {
                    "uri": MODEL_URI, "revision": REVISION, "manifestDigest": digest, "quantization": QUANTIZATION,
                },
                "engine": {"name": "llama-cpp"},
                "maxModelLen": 512,
                "maxConcurrency": 1,
                "gpu": {"class": "h100-80", "count": count},
                "placement": {"members": members},
            },
        })
    }

    /// Proposes, as `by`, to approve a model under `digest`, and returns the proposal's name once all three list it.
    pub async fn propose_release(&self, by: &str, digest: &str) -> Result<String> {
        let printed = self
            .koinon(
                by,
                &[
                    "propose",
                    "add-model-release",
                    "--uri",
                    MODEL_URI,
                    "--revision",
                    REVISION,
                    "--manifest-digest",
                    digest,
                    "--quantization",
                    QUANTIZATION,
                    "--license",
                    "Apache-2.0",
                ],
            )
            .await?;
        let line = printed.lines().find_map(|line| line.strip_prefix("proposed ")).context("nothing was proposed")?;
        let name = line.split_whitespace().next().context("the proposal has no name")?.to_owned();
        Ok(name)
    }

    /// Waits until `member` shows the proposal in a state.
    pub async fn proposal_is(&self, member: &str, proposal: &str, state: &str) -> Result<Value> {
        let datacenter = self.member(member)?;
        wait_until(&format!("{proposal} to be {state} at {member}"), Duration::from_secs(60), || {
            poll(datacenter, &["kprop", proposal, "--namespace", RELEASE_NAMESPACE], |seen| {
                if text(&seen["status"], "state") == state {
                    Poll::Ready(seen.clone())
                } else {
                    Poll::not_yet(format!("{} {}", text(&seen["status"], "state"), conditions(seen)))
                }
            })
        })
        .await
    }

    /// How many GPUs of `member` are free, as `viewer` sees its offer.
    pub async fn offered(&self, viewer: &str, member: &str) -> Result<i64> {
        let offer = get(self.member(viewer)?, &["koffer", member, "--namespace", RELEASE_NAMESPACE]).await?;
        offer["status"]["offered"].as_i64().with_context(|| format!("{viewer} knows no offer of {member}"))
    }

    /// Waits until every member calls every other one Fresh.
    pub async fn all_fresh(&self) -> Result<()> {
        for viewer in story::MEMBERS {
            let datacenter = self.member(viewer)?;
            wait_until(&format!("{viewer} to hear everybody"), REPLACED, || {
                poll(datacenter, &["kmem", "--namespace", RELEASE_NAMESPACE], |list| {
                    let seen: Vec<String> = items(list)
                        .iter()
                        .map(|member| format!("{} {}", name(member), text(&member["status"], "liveness")))
                        .collect();
                    let fresh = seen.iter().filter(|one| one.ends_with(" Fresh") || one.ends_with(" Self")).count();
                    Poll::<()>::when(fresh == 3, seen.join(", "))
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Fails unless the story's own job is still served.
    pub async fn story_still_served(&self) -> Result<()> {
        let job = get(self.member("aarhus")?, &["kjob", story::JOB, "--namespace", TEAM]).await?;
        let ready = condition(&job, "Ready").is_some_and(|ready| ready["status"] == "True");
        ensure!(ready, "the story's job is no longer served: {}", conditions(&job));
        Ok(())
    }
}

/// All conditions of a resource in a line, for messages.
pub fn conditions(resource: &Value) -> String {
    let all = resource["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |c: &Value| {
        format!("{}={} ({}: {})", text(c, "type"), text(c, "status"), text(c, "reason"), text(c, "message"))
    };
    if all.is_empty() { "without conditions".to_owned() } else { all.iter().map(one).collect::<Vec<_>>().join("; ") }
}

/// What a case found, and how its cleaning up went: neither hides the other.
pub fn and_then_cleaned(found: Result<()>, cleaned: Result<()>) -> Result<()> {
    match (found, cleaned) {
        (Err(found), Err(cleaned)) => Err(anyhow!("{found:#}; cleaning up failed too: {cleaned:#}")),
        (found, cleaned) => found.and(cleaned),
    }
}

/// Waits until a condition is False for exactly this reason, and returns its message.
pub async fn refused(datacenter: &Datacenter, args: &[&str], type_: &str, reason: &str) -> Result<String> {
    settled(datacenter, args, type_, "False", reason, Duration::from_secs(45)).await
}

/// Waits until a condition has this status and reason, and returns its message.
pub async fn settled(
    datacenter: &Datacenter,
    args: &[&str],
    type_: &str,
    status: &str,
    reason: &str,
    patience: Duration,
) -> Result<String> {
    let what = format!("{} of {} to say {type_}={status} ({reason})", args.join(" "), datacenter.name());
    wait_until(&what, patience, || {
        poll(datacenter, args, |seen| match condition(seen, type_) {
            Some(found) if found["status"] == status && found["reason"] == reason => {
                Poll::Ready(text(found, "message").to_owned())
            }
            _ => Poll::not_yet(conditions(seen)),
        })
    })
    .await
}

/// Applies something that the API server must refuse, and returns its words.
pub async fn rejected(datacenter: &Datacenter, object: &Value) -> Result<String> {
    match datacenter.apply(&object.to_string()).await {
        Ok(_) => bail!("{} took {object}", datacenter.name()),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// Deletes resources, and waits until they are gone.
pub async fn delete(datacenter: &Datacenter, args: &[&str]) -> Result<()> {
    let mut all = vec!["delete", "--ignore-not-found", "--wait", "--timeout=90s"];
    all.extend_from_slice(args);
    datacenter.kubectl(all).await.map(drop)
}

/// The pods of a part of Koinon.
pub async fn pods(datacenter: &Datacenter, component: &str) -> Result<Vec<Value>> {
    let selector = format!("app.kubernetes.io/part-of=koinon,app.kubernetes.io/component={component}");
    let list = get(datacenter, &["pod", "--namespace", RELEASE_NAMESPACE, "--selector", &selector]).await?;
    Ok(items(&list).iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect())
}

/// The only pod of a part.
pub async fn the_pod(datacenter: &Datacenter, component: &str) -> Result<Value> {
    let mut pods = pods(datacenter, component).await?;
    ensure!(pods.len() == 1, "{} {component} pods in {}", pods.len(), datacenter.name());
    pods.pop().context("no pod")
}

/// How often the containers of a part were restarted, and under which pod names, so that a crash shows.
pub async fn lives(datacenter: &Datacenter, component: &str) -> Result<BTreeMap<String, i64>> {
    let pods = pods(datacenter, component).await?;
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or_default();
    Ok(pods.iter().map(|pod| (name(pod).to_owned(), restarts(pod))).collect())
}

/// The metrics of a part: every sample by its name with labels, as it is written.
pub async fn metrics(datacenter: &Datacenter, component: &str, port: u16) -> Result<BTreeMap<String, f64>> {
    let pod = the_pod(datacenter, component).await?;
    let address = pod["status"]["podIP"].as_str().with_context(|| format!("{} has no address", name(&pod)))?;
    let relay = datacenter.relay(format!("{address}:{port}").parse()?).await?;
    let page = reqwest::get(format!("http://{}/metrics", relay.local())).await?.error_for_status()?.text().await?;
    Ok(samples(&page))
}

/// The samples of a page of metrics.
pub fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, v)| Some((name.to_owned(), v.parse().ok()?)))
        .collect()
}

/// Waits until a metric of the operator has a value.
pub async fn operator_metric(datacenter: &Datacenter, sample: &str, wanted: f64) -> Result<()> {
    wait_until(&format!("{sample} of {} to be {wanted}", datacenter.name()), Duration::from_secs(45), || async {
        match metrics(datacenter, "operator", 9090).await {
            Ok(found) => {
                let seen = found.get(sample).copied();
                Poll::<()>::when(seen == Some(wanted), format!("{seen:?}"))
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// Sets how many operators there are, and waits until that is so and they are ready.
pub async fn scale_operator(datacenter: &Datacenter, replicas: u32) -> Result<()> {
    let to = format!("--replicas={replicas}");
    datacenter.kubectl(["scale", "deployment", OPERATOR, "--namespace", RELEASE_NAMESPACE, &to]).await?;
    operators_ready(datacenter, replicas).await
}

/// Waits until there are so many operators, ready.
pub async fn operators_ready(datacenter: &Datacenter, replicas: u32) -> Result<()> {
    wait_until(&format!("{replicas} ready operators in {}", datacenter.name()), REPLACED, || async {
        match pods(datacenter, "operator").await {
            Ok(pods) => {
                let ready = pods.iter().filter(|pod| is_ready(pod)).count();
                let right = pods.len() == replicas as usize && ready == pods.len();
                Poll::<()>::when(right, format!("{ready} of {} pods are ready", pods.len()))
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True")
}

/// Kills the operators of a datacenter as a power cut would: no farewell, the lease stays theirs until it runs out. Their pods
/// go too, so that the kubelet's pause before a restart is not what is measured.
pub async fn kill_operators(datacenter: &Datacenter) -> Result<usize> {
    let victims = operator_processes(datacenter);
    victims.iter().for_each(|pid| process::kill(*pid, Signal::Kill));
    let selector = "app.kubernetes.io/component=operator";
    let namespace = ["--namespace", RELEASE_NAMESPACE];
    let mut args = vec!["delete", "pod", "--selector", selector, "--grace-period=0", "--force", "--wait=false"];
    args.extend(namespace);
    datacenter.kubectl(args).await?;
    Ok(victims.len())
}

/// The processes `koinon operator` of a datacenter.
pub fn operator_processes(datacenter: &Datacenter) -> Vec<u32> {
    let run = datacenter.run();
    let all = run.groups().processes(&datacenter.spec().group(run));
    let is_operator = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"koinon")) && words.next() == Some(b"operator")
    };
    all.into_iter().filter(is_operator).collect()
}
