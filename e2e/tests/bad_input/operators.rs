//! What the host's records and objects say about GPUs, watched while operators race and die.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use koinon_e2e::Datacenter;
use koinon_e2e::story::RELEASE_NAMESPACE;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;
use tokio::task::JoinHandle;

/// How often the host's record is read: a reservation lives for seconds, the way from it to a grant takes tens of milliseconds.
const BETWEEN_READS: Duration = Duration::from_millis(20);

/// What a node's record holds: GPUs by home, job and replica, with the epoch.
pub type Held = BTreeMap<(String, String, u64), (u64, u64)>;

/// What the record of a host's only node holds now.
pub async fn held(host: &Datacenter) -> Result<Held> {
    let records: Api<ConfigMap> = Api::namespaced(host.client(), RELEASE_NAMESPACE);
    let Some(record) = records.get_opt(&format!("koinon-reservations-{}", host.name())).await? else {
        return Ok(Held::new());
    };
    let text = record.data.as_ref().and_then(|data| data.get("reservations.json")).context("the record is empty")?;
    let record: Value = serde_json::from_str(text).with_context(|| format!("reading {text}"))?;
    let mut held = Held::new();
    for one in record["held"].as_array().into_iter().flatten() {
        let word = |pointer: &str| one.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |pointer: &str| one.pointer(pointer).and_then(Value::as_u64);
        let key = (word("/replica/home"), word("/replica/job"), number("/replica/replica").unwrap_or_default());
        let value = (number("/epoch").context("no epoch")?, number("/gpus").context("no GPUs")?);
        if held.insert(key.clone(), value).is_some() {
            bail!("{key:?} is held twice: {text}");
        }
    }
    Ok(held)
}

/// How many GPUs a record holds in all.
pub fn gpus(held: &Held) -> u64 {
    held.values().map(|(_, gpus)| gpus).sum()
}

/// GPUs that pods of guests ask for, by namespace and the Placement that they belong to.
pub async fn asked_by_pods(host: &Datacenter) -> Result<BTreeMap<(String, String), u64>> {
    let pods: Api<Pod> = Api::all(host.client());
    let mut asked = BTreeMap::new();
    for pod in pods.list(&ListParams::default().labels("koinon.dev/part=engine")).await? {
        let (meta, spec) = (pod.metadata, pod.spec.unwrap_or_default());
        let label = meta.labels.unwrap_or_default().remove("koinon.dev/placement").unwrap_or_default();
        let of_container = |c: &k8s_openapi::api::core::v1::Container| {
            let requests = c.resources.as_ref()?.requests.as_ref()?;
            requests.get("nvidia.com/gpu")?.0.parse::<u64>().ok()
        };
        let gpus: u64 = spec.containers.iter().filter_map(of_container).sum();
        *asked.entry((meta.namespace.unwrap_or_default(), label)).or_default() += gpus;
    }
    Ok(asked)
}

/// Reads a host's record all the time and remembers the most that was held and everything that may never be.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// What a watch saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// The most GPUs that were held at once.
    pub most: u64,
    /// How many different states of the record were seen.
    pub states: usize,
    /// What may never be.
    pub wrong: Vec<String>,
    last: Held,
}

impl Watch {
    /// Begins; more than `allowed` GPUs held at once are wrong.
    pub fn begin(host: &Arc<Datacenter>, allowed: u64) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let task = {
            let (host, seen, stop) = (host.clone(), seen.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let read = held(&host).await;
                    note(&mut seen.lock().unwrap_or_else(PoisonError::into_inner), read, allowed);
                    tokio::time::sleep(BETWEEN_READS).await;
                }
            })
        };
        Self { seen, stop, task }
    }

    /// Ends, and fails if anything was wrong.
    pub async fn end(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if seen.wrong.is_empty() { Ok(seen) } else { bail!("the host's record was wrong: {}", seen.wrong.join("; ")) }
    }
}

fn note(seen: &mut Seen, read: Result<Held>, allowed: u64) {
    match read {
        Ok(held) if held != seen.last => {
            let gpus = gpus(&held);
            if gpus > allowed {
                seen.wrong.push(format!("{gpus} GPUs of {allowed} were held at once: {held:?}"));
            }
            for (key, (epoch, _)) in &held {
                let before = seen.last.get(key).map_or(0, |(epoch, _)| *epoch);
                if *epoch < before {
                    seen.wrong.push(format!("epoch {epoch} of {key:?} was held after epoch {before}"));
                }
            }
            seen.most = seen.most.max(gpus);
            seen.states += 1;
            seen.last = held;
        }
        Ok(_) => {}
        Err(error) if error.to_string().contains("twice") => seen.wrong.push(error.to_string()),
        // The API server may be slow for a moment; the next read sees it.
        Err(_) => {}
    }
}
