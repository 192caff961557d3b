//! GPUs that a node seems to have: the fake NVML library for the agent and a device plugin for the kubelet, both reading
//! the same scenario file, so that tests can make them agree or not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cache::{self, Cache, Key};
use crate::command;
use crate::datacenter::Datacenter;
use crate::process::{Daemon, Launch};
use crate::toolchain::{Report, checkout, which};

/// The file name of the library, as the driver's own is called.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// The file name of the scenario, below the node's files.
const SCENARIO: &str = "scenario.json";

/// What is built once for all datacenters.
#[derive(Debug, Clone)]
pub struct FakeGpus {
    library: PathBuf,
    plugin: PathBuf,
}

impl FakeGpus {
    /// Builds the library with cargo and the plugin with Go.
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
        let source = checkout().join("e2e/deviceplugin");
        let files = cache::contents(&source, &[])?;
        let key = Key::of(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
        let entry = cache.get_or_make("deviceplugin", &key, |draft| {
            report("building the device plugin (about 1 min the first time)");
            let go = which("go").context("Go is not installed; see `cargo xtask setup` for what is needed")?;
            let mut build = Command::new(go);
            build.current_dir(&source).env("CGO_ENABLED", "0").env("GOFLAGS", "");
            build.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]);
            command::run(build.arg(draft.join("deviceplugin")).arg(".")).map(drop)
        })?;
        Ok(Self { library, plugin: entry.join("deviceplugin") })
    }

    /// Puts a scenario and the library on a node and makes the scenario's GPUs allocatable in its kubelet.
    pub async fn install(&self, datacenter: &Arc<Datacenter>, scenario: &Path) -> Result<NodeGpus> {
        let files = datacenter.node_files();
        fs::create_dir_all(files.join("nvml")).with_context(|| format!("making {}", files.display()))?;
        let library = files.join("nvml").join(LIBRARY);
        fs::copy(&self.library, &library).with_context(|| format!("copying the library to {}", library.display()))?;
        let copied = files.join(SCENARIO);
        fs::copy(scenario, &copied).with_context(|| format!("copying {}", scenario.display()))?;
        let launch = Launch {
            name: format!("{}-deviceplugin", datacenter.name()),
            program: self.plugin.clone(),
            args: vec![
                format!("--kubelet-dir={}", datacenter.kubelet_dir().display()),
                format!("--scenario={}", copied.display()),
            ],
            env: Vec::new(),
            home: datacenter.home().clone(),
            log: datacenter.dir().join("log/deviceplugin.log"),
        };
        Ok(NodeGpus { scenario: copied, plugin: launch.spawn(datacenter.run())? })
    }
}

/// The GPUs of one node.
#[derive(Debug)]
pub struct NodeGpus {
    scenario: PathBuf,
    plugin: Daemon,
}

impl NodeGpus {
    /// Where pods of the node find the library, below the hostPath of the node's files.
    pub const LIBRARY_FOLDER: &'static str = "nvml";

    /// Changes the scenario; the library and the plugin follow within a second.
    pub fn change(&self, edit: impl FnOnce(&mut Value)) -> Result<()> {
        let text = fs::read(&self.scenario).with_context(|| format!("reading {}", self.scenario.display()))?;
        let mut scenario: Value = serde_json::from_slice(&text)?;
        edit(&mut scenario);
        // Renamed into place, so that a reader never sees half a file.
        let next = self.scenario.with_extension("next");
        fs::write(&next, serde_json::to_vec_pretty(&scenario)?)?;
        fs::rename(&next, &self.scenario).with_context(|| format!("replacing {}", self.scenario.display()))
    }

    /// Fails with the end of its log if the plugin has ended.
    pub fn check(&mut self) -> Result<()> {
        self.plugin.check()
    }
}
