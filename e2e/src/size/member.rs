//! A member of the measured cooperative: a cluster without kubelets, Koinon's install in it, and its operator as a process of
//! this machine, so that the kernel says what it uses.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use super::figures::Memory;
use crate::Datacenter;
use crate::datacenter::run_blocking;
use crate::process::{Daemon, Launch, cpu_ticks};
use crate::run::Run;
use crate::story::RELEASE_NAMESPACE;
use crate::toolchain::checkout;
use crate::wait::{Poll, wait_until};

/// The account of the chart's operator.
const ACCOUNT: &str = "koinon-operator";
/// Where the chart's agents keep their heartbeats.
pub const AGENTS: &str = "koinon-agent";
/// Of what the operator's probe of NetworkPolicies would be run; nothing runs here.
const IMAGE: &str = "registry.example/koinon@sha256:0000000000000000000000000000000000000000000000000000000000000000";
/// The port of the operator's metrics.
const METRICS: u16 = 9090;
/// Linux counts processor time in hundredths of a second towards user space on every architecture.
const MILLIS_PER_TICK: u64 = 10;

/// The programs that are measured.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `koinon`.
    pub koinon: PathBuf,
    /// `kubectl-koinon`.
    pub kubectl_koinon: PathBuf,
}

/// A member whose operator runs.
pub struct Member {
    datacenter: Arc<Datacenter>,
    operator: Daemon,
    programs: Programs,
}

/// Where the API server of a datacenter writes what the operator asks of it.
pub fn audit_log(name: &str) -> Result<PathBuf> {
    Ok(Run::folder()?.join(name).join("log/audit.log"))
}

/// What the API server is to write down: every request of the operator, and nothing else.
pub fn audit_policy() -> String {
    let operator = format!("system:serviceaccount:{RELEASE_NAMESPACE}:{ACCOUNT}");
    format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived, ResponseStarted]\n\
         rules:\n- {{level: Metadata, users: [\"{operator}\"]}}\n- {{level: None}}\n"
    )
}

impl Member {
    /// Installs Koinon and starts its operator with the rights of the chart's account.
    pub async fn start(datacenter: Arc<Datacenter>, programs: &Programs) -> Result<Self> {
        let manifest = checkout().join("manifests/install.yaml");
        let manifest = manifest.display().to_string();
        let apply = ["apply", "--server-side", "--filename", manifest.as_str()];
        // What the definitions define can be applied only once they are served, which the same file cannot wait for.
        wait_until("the install to be applied", Duration::from_secs(60), || async {
            datacenter
                .kubectl(apply)
                .await
                .map_or_else(|error| Poll::not_yet(format!("{error:#}")), |_| Poll::Ready(()))
        })
        .await?;
        datacenter.definitions_served().await?;
        let kubeconfig = account(&datacenter).await?;
        let operator = Launch {
            name: format!("{}/koinon-operator", datacenter.name()),
            program: programs.koinon.clone(),
            args: ["operator", "--agent-namespace", AGENTS, "--image", IMAGE].map(str::to_owned).into(),
            env: vec![
                ("KUBECONFIG".into(), kubeconfig.display().to_string()),
                ("KOINON_LOG".into(), "info,kube_runtime::watcher=error".into()),
                // As the chart sets them.
                ("MALLOC_ARENA_MAX".into(), "1".into()),
                ("MALLOC_TRIM_THRESHOLD_".into(), "262144".into()),
            ],
            home: datacenter.home().clone(),
            log: datacenter.dir().join("log/operator.log"),
        };
        let operator = operator.spawn(datacenter.run())?;
        Ok(Self { datacenter, operator, programs: programs.clone() })
    }

    /// Its cluster.
    pub fn datacenter(&self) -> &Arc<Datacenter> {
        &self.datacenter
    }

    /// The owner's client, straight to the API server: a relay in between would take its share of the machine.
    pub async fn client(&self) -> Result<kube::Client> {
        let kubeconfig = Kubeconfig::read_from(self.datacenter.kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// Stops its operator and starts it again, as an upgrade does.
    pub fn restart(&mut self) -> Result<()> {
        self.operator.restart(self.datacenter.run(), Duration::from_secs(15))
    }

    /// Fails with the end of its log if the operator has ended.
    pub async fn check(&mut self) -> Result<()> {
        self.operator.check()?;
        self.datacenter.check().await
    }

    /// Runs `kubectl koinon …` as its owner.
    pub async fn koinon(&self, args: &[String]) -> Result<String> {
        let mut command = self.datacenter.command(&self.programs.kubectl_koinon);
        command.arg("--kubeconfig").arg(self.datacenter.kubeconfig());
        command.env("KOINON_KEYS", self.datacenter.dir().join("keys"));
        run_blocking(with(command, args)).await
    }

    /// The flags with which it presents itself.
    pub fn flags(&self) -> Vec<String> {
        let (name, address) = (self.datacenter.name(), self.datacenter.spec().address);
        let mut flags: Vec<String> =
            ["--member", name, "--owner", name, "--region", "eu", "--jurisdiction", "DK"].map(str::to_owned).into();
        // Nothing enforces NetworkPolicies where there is no network.
        flags.extend(["--accept-unenforced-network-policy", "--no-passphrase"].map(str::to_owned));
        flags.extend(["--peer-endpoint".to_owned(), format!("https://{address}:7443")]);
        flags.extend(["--gateway-endpoint".to_owned(), format!("https://{address}:7444")]);
        flags
    }

    /// What its operator holds of the machine's memory.
    pub fn memory(&self) -> Result<Memory> {
        let read = |file: &str, line: &str| -> Result<u64> {
            let path = format!("/proc/{}/{file}", self.operator.pid());
            let text = fs::read_to_string(&path).with_context(|| format!("reading {path}; has the operator ended?"))?;
            let found =
                text.lines().find_map(|one| one.strip_prefix(line)).and_then(|rest| rest.split_whitespace().next());
            found.and_then(|number| number.parse().ok()).with_context(|| format!("{path} has no number after {line}"))
        };
        Ok(Memory {
            resident_kib: read("status", "VmRSS:")?,
            peak_kib: read("status", "VmHWM:")?,
            proportional_kib: read("smaps_rollup", "Pss:")?,
        })
    }

    /// Processor time that its operator has used so far, in milliseconds.
    pub fn cpu_millis(&self) -> u64 {
        cpu_ticks(self.operator.pid()).unwrap_or(0) * MILLIS_PER_TICK
    }

    /// The samples of its operator's page of metrics.
    pub async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let relay = self.datacenter.relay(SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS))).await?;
        let page = reqwest::get(format!("http://{}/metrics", relay.local())).await?.error_for_status()?.text().await?;
        Ok(crate::ground::samples(&page))
    }
}

fn with(mut command: Command, args: &[String]) -> Command {
    command.args(args);
    command
}

/// A kubeconfig with a token of the operator's account.
async fn account(datacenter: &Datacenter) -> Result<PathBuf> {
    let args = ["create", "token", ACCOUNT, "--namespace", RELEASE_NAMESPACE, "--duration", "24h"];
    let token = datacenter.kubectl(args).await?;
    let admin = fs::read_to_string(datacenter.kubeconfig()).context("reading the owner's kubeconfig")?;
    let mut config: Value = serde_yaml::from_str(&admin).context("reading the owner's kubeconfig as YAML")?;
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    let path = datacenter.dir().join("kubeconfig/operator");
    crate::kubeconfig::write(&path, &config)?;
    Ok(path)
}

/// How often the operator asked for what, by the audit log from a position on: `verb resource` and how often.
pub fn audited(log: &Path, from: u64) -> Result<BTreeMap<String, u64>> {
    let bytes = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    let from = usize::try_from(from)?;
    ensure!(from <= bytes.len(), "{} is shorter than before", log.display());
    let mut asked = BTreeMap::new();
    for line in bytes[from..].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        // The last line may be half written.
        let Ok(event) = serde_json::from_slice::<Value>(line) else { continue };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (verb, of) = (text(&event["verb"]), &event["objectRef"]);
        let resource = match of["subresource"].as_str() {
            Some(sub) => format!("{}/{sub}", text(&of["resource"])),
            None => text(&of["resource"]),
        };
        *asked.entry(format!("{verb} {resource}")).or_default() += 1;
    }
    Ok(asked)
}

/// Makes the two members one cooperative: the first founds it, the second is admitted.
pub async fn cooperate(founder: &Member, joiner: &Member) -> Result<()> {
    let name = joiner.datacenter.name();
    let args = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    // Its operator makes its key before anything can be founded with it.
    wait_until("the cooperative to be founded", Duration::from_secs(60), || async {
        let found = [args(&["found", "--preset", "trial"]), founder.flags()].concat();
        founder.koinon(&found).await.map_or_else(|error| Poll::not_yet(format!("{error:#}")), |_| Poll::Ready(()))
    })
    .await?;
    active(founder, 1).await?;
    let invite = founder.koinon(&args(&["invite", name])).await?;
    let line = invite.lines().find(|line| line.starts_with("koinon-invite-1.")).context("no invite was printed")?;
    joiner.koinon(&[args(&["join", "--invite", line]), joiner.flags()].concat()).await?;
    let draft = format!("admit-{name}");
    wait_until("the application to reach its sponsor", Duration::from_secs(60), || async {
        let found = founder.datacenter.kubectl(["get", "kprop", &draft, "--namespace", RELEASE_NAMESPACE]).await;
        found.map_or_else(|error| Poll::not_yet(format!("{error:#}")), |_| Poll::Ready(()))
    })
    .await?;
    founder.koinon(&args(&["propose", "--from", &draft, "--vote", "yes"])).await?;
    for member in [founder, joiner] {
        active(member, 2).await?;
    }
    Ok(())
}

/// Waits until a member lists so many as Active.
async fn active(member: &Member, wanted: usize) -> Result<()> {
    let what = format!("{wanted} members to be Active at {}", member.datacenter.name());
    wait_until(&what, Duration::from_secs(120), || {
        crate::story::look::poll(&member.datacenter, &["kmem", "--namespace", RELEASE_NAMESPACE], |list| {
            let all = crate::story::look::items(list);
            let active = all.iter().filter(|one| one["status"]["state"] == "Active").count();
            Poll::<()>::when(active == wanted, format!("{active} of {} are Active", all.len()))
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_is_counted_from_where_the_measurement_began_and_a_half_written_line_is_left_for_later() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = |verb: &str, of: &str| format!("{{\"verb\":\"{verb}\",\"objectRef\":{of}}}\n");
        let before = line("get", "{\"resource\":\"pods\"}");
        let (list, update) = (
            line("list", "{\"resource\":\"configmaps\"}"),
            line("update", "{\"resource\":\"gpupools\",\"subresource\":\"status\"}"),
        );
        fs::write(file.path(), format!("{before}{list}{update}{update}{{\"verb\":\"de")).unwrap();
        let counted = audited(file.path(), before.len() as u64).unwrap();
        let wanted =
            [("list configmaps", 1), ("update gpupools/status", 2)].map(|(what, often)| (what.to_owned(), often));
        assert_eq!(counted, BTreeMap::from(wanted));
    }
}
