//! How Koinon's operator does in a large cluster: its memory, its processor time, what it asks of the API server, and how soon a
//! failed device is gone from the offer that a peer sees.
//!
//! Real are etcd, the API servers, the operators of two members, the connection between them, and the status of one node, which
//! the real agent wrote from the fake NVML library; all other nodes say the same of devices of their own. kwok stands for the
//! kubelets. This process stands for the agents: it writes their GPUNodes and heartbeats at their pace. All of it shares the
//! machine with what is measured.

pub mod figures;
pub mod fill;
pub mod load;
pub mod member;
pub mod nodes;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use figures::{Delays, Measured};
use fill::Cluster;
use load::Heard;
use member::{Member, Programs};
use nodes::Kind;

use crate::cache::Cache;
use crate::footprint;
use crate::gpus::FakeGpus;
use crate::process::{Daemon, Launch};
use crate::spec::Flags;
use crate::story::RELEASE_NAMESPACE;
use crate::toolchain::{Report, checkout, kwok};
use crate::wait::{Poll, wait_until};
use crate::{Datacenter, Fleet, command};

/// The member with the nodes, and the one that reads its offer.
const HOST: &str = "bilbao";
const PEER: &str = "aarhus";
/// The controllers that a cluster needs in which nothing ends by itself: the others would watch all that is measured. New nodes are
/// tainted until one of them has seen them ready.
const CONTROLLERS: [&str; 2] = [
    "--controllers=serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller,\
     namespace-controller,node-lifecycle-controller",
    "--node-monitor-grace-period=390s",
];
/// kubelets renew their Leases every ten seconds, which no part of Koinon reads; here they do so every hundred.
const KUBELET_LEASE_SECONDS: u32 = 400;
/// What kwok does in their place.
const KUBELETS: &str = include_str!("kubelets.yaml");
/// The most failures of a measurement.
const MOST_FAILURES: usize = 150;
/// What was cached at the start is dropped, and all is quiet.
const SETTLES: Duration = Duration::from_secs(20);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// For how long each size.
    pub length: Duration,
    /// Nodes in a thousand that change within a minute.
    pub changing: usize,
    /// From one heartbeat of an agent to the next.
    pub heartbeat: Duration,
    /// The programs.
    pub programs: Programs,
}

/// Builds the programs as they are released.
pub fn programs(report: Report<'_>) -> Result<Programs> {
    report("building the release of koinon and kubectl-koinon (about 10 min the first time)");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(checkout()).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "koinon",
        "--package",
        "koinon-cli",
    ]);
    let messages = command::run(cargo.args(["--bins", "--message-format", "json-render-diagnostics"]))?;
    let built = |name: &str| {
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut paths = messages.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
        paths.find(|path| path.ends_with(name)).with_context(|| format!("cargo built no program {name}"))
    };
    Ok(Programs { koinon: built("koinon")?, kubectl_koinon: built("kubectl-koinon")? })
}

/// Measures one size in clusters of its own, which are removed afterwards.
pub async fn measure(count: usize, options: &Options, say: Report<'_>) -> Result<Measured> {
    ensure!(count >= 8, "measure at least 8 nodes, so that there is one of each kind");
    let policy = tempfile::NamedTempFile::new().context("making a temporary file")?;
    std::fs::write(policy.path(), member::audit_policy())?;
    let audit = member::audit_log(HOST)?;
    let watched = vec![
        format!("--audit-policy-file={}", policy.path().display()),
        format!("--audit-log-path={}", audit.display()),
    ];
    let fleet = Fleet::start_with(&[PEER, HOST], say, |spec| {
        let api_server = if spec.name == HOST { watched.clone() } else { Vec::new() };
        spec.without_node().with_flags(Flags { api_server, controller_manager: CONTROLLERS.map(str::to_owned).into() })
    })
    .await?;
    let measured = on(&fleet, count, options, &audit, say).await;
    if measured.is_err()
        && let Some(kept) = crate::fleet::keep_logs(fleet.run())
    {
        say(&format!("the logs are kept in {kept}"));
    }
    fleet.down()?;
    measured
}

async fn on(fleet: &Fleet, count: usize, options: &Options, audit: &Path, say: Report<'_>) -> Result<Measured> {
    let cache = Cache::from_env()?;
    say("two members become one cooperative");
    let (mut peer, mut host) = tokio::try_join!(
        Member::start(fleet.get(PEER)?.clone(), &options.programs),
        Member::start(fleet.get(HOST)?.clone(), &options.programs),
    )?;
    member::cooperate(&peer, &host).await?;
    let empty = host.memory()?;
    let (client, abroad) = (host.client().await?, peer.client().await?);
    let cluster = Cluster::new(&client);
    cluster.prepare().await?;
    let template = template(&host, &cluster, &options.programs, FakeGpus::ensure(&cache, say)?).await?;
    let mut kwok = start_kwok(host.datacenter(), &kwok(&cache, say)?)?;

    say(&format!("making {count} nodes with {} GPUs", count * nodes::GPUS));
    let mut said = cluster.fill(&template, count, say).await?;
    // Before anything else is asked of the API server.
    cluster.settled(&mut kwok, count).await?;
    let (beats, changed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (at_host, at_peer) = (Heard::default(), Heard::default());
    let offers = kube::Api::namespaced_with(abroad, RELEASE_NAMESPACE, &fill::koinon("GPUOffer", "gpuoffers"));
    let (mut failing, mut changing): (Vec<_>, Vec<_>) =
        said.drain(..).partition(|one| Kind::of(one.node()) == Kind::Failing);
    let changes_a_minute = (count * options.changing).div_ceil(1000).max(1);

    let measuring = async {
        // What lists a full cluster takes more than what has seen it grow, and every upgrade does.
        host.restart()?;
        let all = load::offered_at_first(count);
        let what = format!("the peer to see {all} GPUs offered");
        wait_until(&what, Duration::from_secs(300), || {
            let seen = (at_host.last(), at_peer.last());
            std::future::ready(Poll::<()>::when(seen == (Some(all), Some(all)), format!("host and peer: {seen:?}")))
        })
        .await?;
        tokio::time::sleep(SETTLES).await;
        say(&format!("measuring for {} s", options.length.as_secs()));
        let before = Moment::of(&host, fleet, audit, &beats, &changed).await?;
        let failures = failing.iter().filter(|said| nodes::free(said.node()) > 0).count().min(MOST_FAILURES);
        // The last ones have time to be heard of.
        let pause = options.length.saturating_sub(Duration::from_secs(15)) / u32::try_from(failures)?.max(1);
        let steady = AtomicU64::new(0);
        let injected = async {
            let failed = load::failures(&cluster, &mut failing, pause, failures, all).await?;
            tokio::time::sleep_until((before.at + options.length).into()).await;
            anyhow::Ok(failed)
        };
        let failed = tokio::select! {
            failed = injected => failed?,
            error = sample(&host, &steady) => return Err(error),
        };
        let after = Moment::of(&host, fleet, audit, &beats, &changed).await?;
        let delays = load::delays(&failed, &at_host, &at_peer);
        ensure!(
            delays.get("peer").is_some_and(|seen| seen.len() == failed.len()),
            "of {} failures only {} reached the peer",
            failed.len(),
            delays.get("peer").map_or(0, Vec::len)
        );
        let of = |who: &str| Delays::of(delays.get(who).map(Vec::as_slice).unwrap_or_default());
        let asked = member::audited(audit, before.audited)?;
        say(&asked.iter().map(|(what, often)| format!("{what}: {often}")).collect::<Vec<_>>().join(", "));
        let minutes = (after.at - before.at).as_secs_f64() / 60.0;
        let a_minute = |value: u64| (value as f64 / minutes) as u64;
        let mut requests = std::collections::BTreeMap::<String, f64>::new();
        for (what, often) in &asked {
            let verb = what.split(' ').next().unwrap_or_default();
            *requests.entry(verb.to_owned()).or_default() += *often as f64 / minutes;
        }
        let writes = ["create", "update", "patch", "delete"].iter().filter_map(|verb| requests.get(*verb)).sum();
        let looks = after.looks.0 - before.looks.0;
        Ok(Measured {
            nodes: count,
            seconds: (after.at - before.at).as_secs(),
            memory: host.memory()?,
            steady_kib: steady.load(Ordering::Relaxed),
            empty_kib: empty.resident_kib,
            cpu_ms_a_minute: a_minute(after.cpu - before.cpu),
            looks_a_minute: a_minute(looks as u64),
            look_us: if looks > 0.0 { ((after.looks.1 - before.looks.1) / looks * 1e6) as u64 } else { 0 },
            requests_a_minute: requests,
            writes_a_minute: writes,
            at_host: of("host"),
            at_peer: of("peer"),
            between: of("between"),
            heartbeats_a_minute: a_minute(after.beats - before.beats),
            changes_a_minute: a_minute(after.changed - before.changed),
            cluster_cpu_ms_a_minute: a_minute(after.cluster.saturating_sub(before.cluster)),
            peer_kib: peer.memory()?.resident_kib,
        })
    };
    let measured = tokio::select! {
        measured = measuring => measured,
        ended = load::heartbeats(&cluster, count, options.heartbeat, &beats) => Err(ended.err().context("the heartbeats ended")?),
        ended = load::changes(&cluster, &mut changing, Duration::from_secs(60) / u32::try_from(changes_a_minute)?, &changed) =>
            Err(ended.err().context("the changes ended")?),
        ended = at_host.follow(cluster.pools.clone(), load::of_pool) => Err(ended.err().context("watching the pool ended")?),
        ended = at_peer.follow(offers, load::of_offer) => Err(ended.err().context("watching the offer ended")?),
    };
    host.check().await?;
    peer.check().await?;
    measured
}

/// The counters at one moment.
struct Moment {
    at: Instant,
    cpu: u64,
    cluster: u64,
    audited: u64,
    beats: u64,
    changed: u64,
    /// How many looks at pools, and how many seconds they took.
    looks: (f64, f64),
}

impl Moment {
    async fn of(host: &Member, fleet: &Fleet, audit: &Path, beats: &AtomicU64, changed: &AtomicU64) -> Result<Self> {
        let metrics = host.metrics().await?;
        let looks = |of: &str| {
            let name = format!("koinon_reconcile_duration_seconds_{of}{{controller=\"pools\"}}");
            metrics.get(&name).copied().with_context(|| format!("the operator shows no {name}"))
        };
        let uses = footprint::look(fleet.run());
        let cluster = uses.iter().filter(|((who, program), _)| who == HOST && !program.starts_with("koinon"));
        Ok(Self {
            at: Instant::now(),
            cpu: host.cpu_millis(),
            cluster: cluster.map(|(_, one)| one.cpu_millis).sum(),
            audited: std::fs::metadata(audit).map_or(0, |file| file.len()),
            beats: beats.load(Ordering::Relaxed),
            changed: changed.load(Ordering::Relaxed),
            looks: (looks("count")?, looks("sum")?),
        })
    }
}

/// Keeps the largest resident size of the host's operator, until it cannot be read.
async fn sample(host: &Member, most: &AtomicU64) -> anyhow::Error {
    loop {
        match host.memory() {
            Ok(memory) => most.fetch_max(memory.resident_kib, Ordering::Relaxed),
            Err(error) => return error,
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What the real agent says of a sound node: it is started on one, and stopped once it has said so.
async fn template(host: &Member, cluster: &Cluster, programs: &Programs, gpus: FakeGpus) -> Result<Value> {
    let datacenter = host.datacenter();
    let scenario = checkout().join("e2e/fake-nvml/scenarios/bilbao.json");
    let mut args = ["agent", "--node-name", fill::TEMPLATE, "--nvml-lib"].map(str::to_owned).to_vec();
    args.push(gpus.library().display().to_string());
    let agent = Launch {
        name: format!("{}/koinon-agent", datacenter.name()),
        program: programs.koinon.clone(),
        args,
        env: vec![
            ("KUBECONFIG".into(), datacenter.kubeconfig().display().to_string()),
            ("FAKE_NVML_SCENARIO".into(), scenario.display().to_string()),
        ],
        home: datacenter.home().clone(),
        log: datacenter.dir().join("log/agent.log"),
    };
    cluster.make_template().await?;
    let mut agent = agent.spawn(datacenter.run())?;
    let said = cluster.template(&mut agent).await;
    agent.stop(Duration::from_secs(5));
    cluster.remove_template().await?;
    said
}

/// Starts what stands for the kubelets.
fn start_kwok(datacenter: &Datacenter, program: &Path) -> Result<Daemon> {
    let home = datacenter.dir().join("kwok");
    std::fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
    let stages = home.join("stages.yaml");
    std::fs::write(&stages, KUBELETS).with_context(|| format!("writing {}", stages.display()))?;
    Launch {
        name: format!("{}/kwok", datacenter.name()),
        program: program.to_owned(),
        args: vec![
            format!("--kubeconfig={}", datacenter.kubeconfig().display()),
            format!("--config={}", stages.display()),
            "--manage-all-nodes=true".into(),
            format!("--node-lease-duration-seconds={KUBELET_LEASE_SECONDS}"),
            format!("--node-ip={}", datacenter.spec().address),
            format!("--cidr={}", datacenter.spec().pod_cidr),
            "--server-address=127.0.0.1:10247".into(),
        ],
        // Where it would look for a person's own settings.
        env: vec![("HOME".into(), home.display().to_string())],
        home: datacenter.home().clone(),
        log: datacenter.dir().join("log/kwok.log"),
    }
    .spawn(datacenter.run())
}
