//! What the story needs before it begins, and how its people act: each owner at the own cluster, with own key files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Narrator;
use super::calling::Application;
use crate::cache::Cache;
use crate::datacenter::Datacenter;
use crate::fleet::Fleet;
use crate::gpus::{FakeGpus, NodeGpus, Source};
use crate::image::{self, Image};
use crate::model;
use crate::python::Python;
use crate::servers::{Mirror, Prometheus};
use crate::toolchain::{Report, checkout};

/// The three datacenters of the story, in the order of their addresses.
pub const MEMBERS: [&str; 3] = ["aarhus", "bilbao", "cork"];
/// The namespace of Koinon's release in each.
pub const RELEASE_NAMESPACE: &str = "koinon-system";
/// The namespace of the team in aarhus.
pub const TEAM: &str = "team";
/// The name under which the team's model is served.
pub const SERVED_NAME: &str = "tiny-llama";
/// The team's job.
pub const JOB: &str = "tiny-llama";
/// The port of the mirror on the wire.
const MIRROR_PORT: u16 = 8099;

/// What is built before any cluster starts.
#[derive(Debug)]
pub struct Materials {
    /// Koinon's own image.
    pub koinon: Image,
    /// The engine's image.
    pub engine: Image,
    /// The command line for people.
    pub kubectl_koinon: PathBuf,
    /// The language model.
    pub model: PathBuf,
    /// Its identity.
    pub manifest_digest: String,
    /// The fake GPUs.
    pub gpus: FakeGpus,
    /// A Python with the `openai` client.
    pub openai: Python,
}

impl Materials {
    /// Builds or finds everything.
    pub fn ensure(cache: &Cache, report: Report<'_>) -> Result<Self> {
        let programs = image::programs(report)?;
        let model = model::tiny_llama(cache, 1, report)?;
        Ok(Self {
            koinon: image::koinon(cache, report)?,
            engine: image::llama_cpp(cache, report)?,
            kubectl_koinon: programs.kubectl_koinon,
            manifest_digest: manifest_digest(&model)?,
            model,
            gpus: FakeGpus::ensure(cache, report)?,
            openai: Python::with_requirements(cache, &checkout().join("e2e/openai/requirements.txt"), report)?,
        })
    }
}

/// The identity of a model of one file: the digest of its manifest's one line.
fn manifest_digest(model: &Path) -> Result<String> {
    let bytes = fs::read(model).with_context(|| format!("reading {}", model.display()))?;
    let name = model.file_name().and_then(|name| name.to_str()).context("the model's file has no name")?;
    let line = format!("{} {} {name}\n", hex::encode(Sha256::digest(&bytes)), bytes.len());
    Ok(format!("sha256:{}", hex::encode(Sha256::digest(line))))
}

/// The clusters of the story and what runs beside them.
pub struct Stage {
    /// The clusters.
    pub fleet: Arc<Fleet>,
    /// What was built.
    pub materials: Materials,
    /// The GPUs of the members that have some.
    pub gpus: Vec<NodeGpus>,
    /// The web server with the model's weights, on the wire.
    pub mirror: Mirror,
    /// The team's application, once it was introduced.
    pub application: Option<Application>,
    /// What scrapes all parts, once it was started.
    pub prometheus: Option<Arc<Prometheus>>,
    /// The people's key files and signed resources; outside every cluster.
    desk: PathBuf,
}

impl Stage {
    /// Starts what runs beside the clusters.
    pub async fn set(fleet: Arc<Fleet>, materials: Materials) -> Result<Self> {
        let folder = materials.model.parent().context("the model's file has no folder")?;
        let mirror = Mirror::start(&fleet, folder, MIRROR_PORT).await?;
        let desk = fleet.run().dir().join("desk");
        fs::create_dir_all(&desk).with_context(|| format!("making {}", desk.display()))?;
        Ok(Self { fleet, materials, gpus: Vec::new(), mirror, application: None, prometheus: None, desk })
    }

    /// The datacenter of a member.
    pub fn member(&self, name: &str) -> Result<&Arc<Datacenter>> {
        self.fleet.get(name)
    }

    /// A person's folder at home: keys and files that no cluster sees.
    pub fn desk(&self, member: &str) -> PathBuf {
        self.desk.join(member)
    }

    /// Where a member's operator is reached by the others.
    pub fn peer_endpoint(&self, member: &str) -> Result<String> {
        Ok(format!("https://{}:7443", self.member(member)?.spec().address))
    }

    /// Where a member's gateway is reached by the others' gateways.
    pub fn gateway_endpoint(&self, member: &str) -> Result<String> {
        Ok(format!("https://{}:7444", self.member(member)?.spec().address))
    }

    /// `kubectl koinon …` as the owner of `member` types it.
    pub fn koinon<I, S>(&self, member: &str, args: I) -> Result<Command>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let datacenter = self.member(member)?;
        let mut command = datacenter.command(&self.materials.kubectl_koinon);
        command.arg("--kubeconfig").arg(datacenter.kubeconfig());
        command.env("KOINON_KEYS", self.desk(member).join("keys"));
        // The owner of cork protects the key files with a passphrase; the others' machines do it for them.
        command.env("KOINON_PASSPHRASE", "the owner of cork alone knows this");
        command.args(args);
        Ok(command)
    }

    /// Runs `kubectl koinon …` and shows it.
    pub async fn run_koinon<I, S>(&self, narrator: &Narrator, member: &str, args: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        narrator.run(member, self.koinon(member, args)?).await
    }

    /// The chart's values for a member.
    pub fn values(&self, member: &str) -> Result<Value> {
        let has_gpus = member != "aarhus";
        let files = self.member(member)?.node_files_inside();
        let scenario_env = json!([{"name": "FAKE_NVML_SCENARIO", "value": format!("{files}/scenario.json")}]);
        Ok(json!({
            "image": {
                "repository": self.materials.koinon.repository(),
                "digest": self.materials.koinon.digest(),
                "pullPolicy": "IfNotPresent",
            },
            "peer": {"service": {"type": "NodePort", "nodePort": 7443}},
            "gatewayPeer": {"service": {"type": "NodePort", "nodePort": 7444}},
            "agent": if has_gpus {
                json!({
                    "nvmlLibraryPath": format!("{files}/{}/libnvidia-ml.so.1", NodeGpus::LIBRARY_FOLDER),
                    "hostLibraryDir": files,
                    "extraEnv": scenario_env,
                })
            } else {
                json!({})
            },
        }))
    }

    /// Loads the images and installs both charts.
    pub async fn install(&self, member: &str) -> Result<()> {
        let datacenter = self.member(member)?;
        datacenter.load_image(&self.materials.koinon).await?;
        datacenter.load_image(&self.materials.engine).await?;
        let charts = checkout().join("charts");
        let none = json!({});
        datacenter.helm_install("koinon-crds", RELEASE_NAMESPACE, &charts.join("koinon-crds"), &none).await?;
        datacenter.helm_install("koinon", RELEASE_NAMESPACE, &charts.join("koinon"), &self.values(member)?).await?;
        Ok(())
    }

    /// Plugs in the GPUs of every member that has some, before the agents start.
    pub async fn plug_all_gpus(&mut self) -> Result<()> {
        for (member, scenario, _, _) in super::gpus::GPUS {
            self.plug_gpus(member, scenario).await?;
        }
        Ok(())
    }

    /// Gives a member's node the GPUs of a scenario file.
    async fn plug_gpus(&mut self, member: &str, scenario: &str) -> Result<()> {
        let path = checkout().join("e2e/fake-nvml/scenarios").join(scenario);
        let gpus = self.materials.gpus.install(self.fleet.get(member)?, &path, Source::DevicePlugin).await?;
        self.gpus.push(gpus);
        Ok(())
    }
}
