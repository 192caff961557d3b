//! GPUs that a node seems to have: the fake NVML library for the agent, and a device plugin or a DRA driver for the kubelet,
//! all reading the same scenario file, so that tests can make them agree or not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cache::{self, Cache, Key};
use crate::command;
use crate::datacenter::Datacenter;
use crate::node::{CDI_FOLDER, NODE_FILES};
use crate::process::{Daemon, Launch};
use crate::toolchain::{Report, checkout, which};

/// The file name of the library, as the driver's own is called.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// The file name of the scenario, below the node's files.
const SCENARIO: &str = "scenario.json";

/// By which of its two interfaces a kubelet gets a node's GPUs. Never by both: each would give out every device once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The extended resource `nvidia.com/gpu`.
    DevicePlugin,
    /// ResourceSlices of the driver [`DRA_DRIVER`], under a DeviceClass of the same name.
    Dra,
}

/// The name of the DRA driver and of its DeviceClass, which are those of NVIDIA's.
pub const DRA_DRIVER: &str = "gpu.nvidia.com";

/// Whole GPUs of the driver, as NVIDIA's chart defines them.
const DEVICE_CLASS: &str = r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu.nvidia.com}
spec:
  selectors:
  - cel: {expression: "device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'gpu'"}
"#;

/// What is built once for all datacenters.
#[derive(Debug, Clone)]
pub struct FakeGpus {
    library: PathBuf,
    plugin: PathBuf,
    driver: PathBuf,
}

impl FakeGpus {
    /// Builds the library with cargo, the plugin and the driver with Go.
    pub fn ensure(cache: &Cache, report: Report<'_>) -> Result<Self> {
        report("building the fake NVML library");
        let mut cargo = Command::new("cargo");
        cargo.current_dir(checkout()).args(["build", "--quiet", "--package", "fake-nvml", "--lib"]);
        cargo.args(["--message-format", "json-render-diagnostics"]);
        let messages = command::run(&mut cargo)?;
        let library = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            // Procedural macros are shared libraries as well.
            .filter(|message| message["target"]["name"] == "fake_nvml" || message["target"]["name"] == "fake-nvml")
            .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
            .filter_map(|file| file.as_str().map(PathBuf::from))
            // By name: the procedural macros that it needs are shared objects too.
            .find(|file| file.file_name().is_some_and(|name| name == "libfake_nvml.so"))
            .context("cargo built no shared library of fake-nvml")?;
        let (plugin, driver) = (go_program("deviceplugin", cache, report)?, go_program("dradriver", cache, report)?);
        Ok(Self { library, plugin, driver })
    }

    /// The library, for a program of this machine.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Puts a scenario and the library on a node and makes the scenario's GPUs allocatable in its kubelet.
    ///
    /// # Errors
    /// Also if the node has GPUs already: a node has them by one source.
    pub async fn install(&self, datacenter: &Arc<Datacenter>, scenario: &Path, source: Source) -> Result<NodeGpus> {
        let files = datacenter.node_files();
        fs::create_dir_all(files.join("nvml")).with_context(|| format!("making {}", files.display()))?;
        let copied = files.join(SCENARIO);
        ensure!(!copied.exists(), "the node of {} has GPUs already", datacenter.name());
        let library = files.join("nvml").join(LIBRARY);
        fs::copy(&self.library, &library).with_context(|| format!("copying the library to {}", library.display()))?;
        fs::copy(scenario, &copied).with_context(|| format!("copying {}", scenario.display()))?;
        let launch = match source {
            Source::DevicePlugin => self.plugin_launch(datacenter, &copied),
            Source::Dra => {
                datacenter.apply(DEVICE_CLASS).await?;
                self.driver_launch(datacenter).await?
            }
        };
        Ok(NodeGpus { scenario: copied, source: launch.spawn(datacenter.run())? })
    }

    fn plugin_launch(&self, datacenter: &Datacenter, scenario: &Path) -> Launch {
        Launch {
            name: format!("{}-deviceplugin", datacenter.name()),
            program: self.plugin.clone(),
            args: vec![
                format!("--kubelet-dir={}", datacenter.kubelet_dir().display()),
                format!("--scenario={}", scenario.display()),
            ],
            env: Vec::new(),
            home: datacenter.home().clone(),
            log: datacenter.dir().join("log/deviceplugin.log"),
        }
    }

    /// On the node and not beside it: the driver tells the kubelet and containerd where its files are.
    async fn driver_launch(&self, datacenter: &Datacenter) -> Result<Launch> {
        Ok(Launch {
            name: format!("{}-dradriver", datacenter.name()),
            program: self.driver.clone(),
            args: vec![
                format!("--kubeconfig={}", datacenter.kubeconfig().display()),
                format!("--node={}", datacenter.name()),
                format!("--cdi-dir={CDI_FOLDER}"),
                format!("--scenario={NODE_FILES}/{SCENARIO}"),
            ],
            env: Vec::new(),
            home: datacenter.node_home().await?,
            log: datacenter.dir().join("log/dradriver.log"),
        })
    }
}

/// Builds one of our own programs in Go, unless the cache has it.
fn go_program(name: &str, cache: &Cache, report: Report<'_>) -> Result<PathBuf> {
    let source = checkout().join("e2e").join(name);
    let files = cache::contents(&source, &[])?;
    let key = Key::of(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    let entry = cache.get_or_make(name, &key, |draft| {
        report(&format!("building {name} (about 1 min the first time)"));
        let go = which("go").context("Go is not installed; see `cargo xtask setup` for what is needed")?;
        let mut build = Command::new(go);
        build.current_dir(&source).env("CGO_ENABLED", "0").env("GOFLAGS", "");
        build.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]);
        command::run(build.arg(draft.join(name)).arg(".")).map(drop)
    })?;
    Ok(entry.join(name))
}

/// The GPUs of one node.
#[derive(Debug)]
pub struct NodeGpus {
    scenario: PathBuf,
    source: Daemon,
}

impl NodeGpus {
    /// Where pods of the node find the library, below the hostPath of the node's files.
    pub const LIBRARY_FOLDER: &'static str = "nvml";

    /// Changes the scenario; the library and the plugin or driver follow within a second.
    pub fn change(&self, edit: impl FnOnce(&mut Value)) -> Result<()> {
        let text = fs::read(&self.scenario).with_context(|| format!("reading {}", self.scenario.display()))?;
        let mut scenario: Value = serde_json::from_slice(&text)?;
        edit(&mut scenario);
        // Renamed into place, so that a reader never sees half a file.
        let next = self.scenario.with_extension("next");
        fs::write(&next, serde_json::to_vec_pretty(&scenario)?)?;
        fs::rename(&next, &self.scenario).with_context(|| format!("replacing {}", self.scenario.display()))
    }

    /// Fails with the end of its log if the plugin or driver has ended.
    pub fn check(&mut self) -> Result<()> {
        self.source.check()
    }

    /// The process of the plugin or driver.
    pub fn source(&mut self) -> &mut Daemon {
        &mut self.source
    }
}
