//! Servers that belong to nobody's datacenter and stand on the wire itself: Prometheus, and mirrors of files.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::json;

use crate::fleet::Fleet;
use crate::network::SERVERS_HOST;
use crate::process::{Daemon, Home, Launch, Signal};
use crate::run::Made;
use crate::toolchain::Tool;
use crate::wait::{Poll, wait_until};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What Prometheus reads metrics from.
#[derive(Debug, Clone)]
pub struct Target {
    /// The part: `operator`, `agent`, `gateway`, `weights`.
    pub job: String,
    /// Whose it is; becomes the label `datacenter`.
    pub datacenter: String,
    /// Where it answers on the wire.
    pub address: SocketAddr,
}

/// One value of a query's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Labels and their values.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// A Prometheus server on the wire.
#[derive(Debug)]
pub struct Prometheus {
    daemon: Daemon,
    address: SocketAddr,
    http: reqwest::Client,
    /// Its configuration, with the targets in it.
    config: PathBuf,
}

impl Prometheus {
    /// Starts a server that scrapes these targets every two seconds.
    pub async fn start(fleet: &Fleet, targets: &[Target]) -> Result<Self> {
        let address = SocketAddr::from((fleet.run().instance().address(SERVERS_HOST), 9090));
        let dir = server_dir(fleet, "prometheus")?;
        let config = dir.join("prometheus.yml");
        configure(&config, targets)?;
        for datacenter in fleet.datacenters() {
            fleet.wire().reach_pods(datacenter.spec())?;
        }
        let args = vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            format!("--web.listen-address={address}"),
            "--web.enable-lifecycle".into(),
            "--log.level=warn".into(),
        ];
        let daemon = launch(fleet, "prometheus", fleet.toolchain().path(Tool::Prometheus), args, &dir)?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        let mut prometheus = Self { daemon, address, http, config };
        let ready = format!("http://{address}/-/ready");
        wait_until("Prometheus to be ready", START_TIMEOUT, || {
            let alive = prometheus.daemon.check();
            let request = prometheus.http.get(&ready).send();
            async move {
                match (alive, request.await) {
                    (Err(error), _) => Poll::Never(format!("{error:#}")),
                    (_, Ok(answer)) => Poll::<()>::when(answer.status().is_success(), answer.status()),
                    (_, Err(error)) => Poll::not_yet(error),
                }
            }
        })
        .await?;
        Ok(prometheus)
    }

    /// Scrapes these instead of those before: a pod that was replaced has another address.
    pub async fn retarget(&self, targets: &[Target]) -> Result<()> {
        if !configure(&self.config, targets)? {
            return Ok(());
        }
        // Told instead of left to watch a file: several fleets use up the inotify instances that a machine allows root.
        let reload = self.http.post(format!("{}/-/reload", self.url())).send().await;
        let reloaded =
            reload.and_then(reqwest::Response::error_for_status).context("telling Prometheus of new targets");
        if reloaded.is_err() {
            // Without it the next call finds a change and tries again.
            let _ = fs::remove_file(&self.config);
        }
        reloaded.map(drop)
    }

    /// Its address, for a person's browser too.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks for the value of an expression now.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let mut url = reqwest::Url::parse(&format!("{}/api/v1/query", self.url()))?;
        url.query_pairs_mut().append_pair("query", expression);
        let answer = self.http.get(url).send().await.with_context(|| format!("asking Prometheus for {expression}"))?;
        let answer: Answer =
            answer.json().await.with_context(|| format!("reading Prometheus' answer to {expression}"))?;
        if answer.status != "success" {
            bail!("Prometheus refuses {expression}: {}", answer.error.unwrap_or_default());
        }
        let results = answer.data.map(|data| data.result).unwrap_or_default();
        results.into_iter().map(sample).collect()
    }

    /// Waits until an expression has at least one value, and returns all.
    pub async fn wait_for(&self, expression: &str, timeout: Duration) -> Result<Vec<Sample>> {
        wait_until(&format!("Prometheus to have {expression}"), timeout, || async {
            match self.query(expression).await {
                Ok(samples) if !samples.is_empty() => Poll::Ready(samples),
                Ok(_) => Poll::not_yet("no value"),
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await
    }

    /// Stops it.
    pub fn stop(&mut self) {
        self.daemon.stop(Duration::from_secs(5));
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    status: String,
    error: Option<String>,
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
struct Data {
    result: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

fn sample(entry: Entry) -> Result<Sample> {
    let value = entry.value.1.parse().with_context(|| format!("Prometheus gave the value {:?}", entry.value.1))?;
    Ok(Sample { labels: entry.metric, value })
}

/// The targets: one group each, under the name of its part.
fn groups(targets: &[Target]) -> serde_json::Value {
    let group = |target: &Target| {
        let labels = json!({"job": target.job, "datacenter": target.datacenter});
        json!({"targets": [target.address.to_string()], "labels": labels})
    };
    targets.iter().map(group).collect()
}

fn configuration(targets: &[Target]) -> serde_json::Value {
    json!({
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
        "scrape_configs": [{"job_name": "koinon", "static_configs": groups(targets)}],
    })
}

/// Writes the configuration; whether it is another one than before.
fn configure(file: &Path, targets: &[Target]) -> Result<bool> {
    let text = serde_yaml::to_string(&configuration(targets))?;
    if fs::read_to_string(file).is_ok_and(|before| before == text) {
        return Ok(false);
    }
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(true)
}

/// A plain HTTP server of one folder on the wire, as a mirror of models would be.
#[derive(Debug)]
pub struct Mirror {
    daemon: Daemon,
    address: SocketAddr,
}

impl Mirror {
    /// Serves a folder on a port of the wire.
    pub async fn start(fleet: &Fleet, folder: &Path, port: u16) -> Result<Self> {
        let address = SocketAddr::from((fleet.run().instance().address(SERVERS_HOST), port));
        let name = format!("mirror-{port}");
        let dir = server_dir(fleet, &name)?;
        let args = [
            "-m",
            "http.server",
            "--bind",
            &address.ip().to_string(),
            "--directory",
            &folder.display().to_string(),
            &port.to_string(),
        ];
        let python = crate::toolchain::which("python3").context("python3 is not installed")?;
        let mut daemon = launch(fleet, &name, &python, args.map(str::to_owned).into(), &dir)?;
        wait_until(&format!("the mirror of {}", folder.display()), START_TIMEOUT, || {
            let look = match daemon.check() {
                Ok(()) => Poll::<()>::when(std::net::TcpStream::connect(address).is_ok(), "it does not listen"),
                Err(error) => Poll::Never(format!("{error:#}")),
            };
            async move { look }
        })
        .await?;
        Ok(Self { daemon, address })
    }

    /// Where it answers, from every datacenter and its pods.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills it.
    pub fn stop(&mut self) {
        self.daemon.signal(Signal::Kill);
    }
}

/// An address of the wire's own servers.
pub fn server_address(fleet: &Fleet) -> Ipv4Addr {
    fleet.run().instance().address(SERVERS_HOST)
}

fn server_dir(fleet: &Fleet, name: &str) -> Result<std::path::PathBuf> {
    let dir = fleet.run().dir().join("wire").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

fn launch(fleet: &Fleet, name: &str, program: &Path, args: Vec<String>, dir: &Path) -> Result<Daemon> {
    let run = fleet.run();
    let group = format!("{}/wire", run.instance().prefix());
    if !run.groups().exists(&group) {
        run.note(&Made::ControlGroup { group: group.clone() })?;
    }
    let system = format!("{group}/system");
    run.groups().create(&system)?;
    let home = Home { group: Some(system), ..fleet.wire().home() };
    let log = dir.join(format!("{name}.log"));
    Launch { name: format!("wire/{name}"), program: program.to_owned(), args, env: Vec::new(), home, log }.spawn(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_bears_its_part_and_its_owner() {
        let target = |job: &str, datacenter: &str, port| Target {
            job: job.into(),
            datacenter: datacenter.into(),
            address: SocketAddr::from(([10, 250, 0, 11], port)),
        };
        let targets = [target("gateway", "aarhus", 9092), target("agent", "cork", 9091)];
        let built = groups(&targets);
        assert_eq!(built.as_array().map(Vec::len), Some(2));
        assert_eq!(
            built[0],
            json!({
                "targets": ["10.250.0.11:9092"], "labels": {"job": "gateway", "datacenter": "aarhus"},
            })
        );
        assert_eq!(built[1]["labels"]["datacenter"], "cork");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prometheus.yml");
        assert!(configure(&file, &targets).unwrap(), "there was none");
        assert!(!configure(&file, &targets).unwrap(), "nothing changed, so nothing is read again");
        assert!(configure(&file, &targets[..1]).unwrap());
    }
}
