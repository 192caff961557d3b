//! The programs that a datacenter is made of, built or unpacked once and kept in the cache.
//!
//! Kubernetes, etcd, containerd, CoreDNS and Helm are Go modules pinned in `e2e/tools`; runc, the CNI plugins and
//! Prometheus are Debian packages that are unpacked but never installed, so no service of theirs starts.

mod debian;
mod go;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::Cache;
pub use debian::{download as download_package, ensure_python, ensure_system_packages};
pub use go::{GoModule, build as build_go};

/// A program of the toolchain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// etcd.
    Etcd,
    /// kube-apiserver.
    KubeApiserver,
    /// kube-controller-manager.
    KubeControllerManager,
    /// kube-scheduler.
    KubeScheduler,
    /// kubelet.
    Kubelet,
    /// kube-proxy.
    KubeProxy,
    /// kubectl.
    Kubectl,
    /// CoreDNS with the plugins that a cluster needs.
    Coredns,
    /// Helm.
    Helm,
    /// containerd.
    Containerd,
    /// What containerd starts beside every pod.
    ContainerdShim,
    /// containerd's own client.
    Ctr,
    /// runc.
    Runc,
    /// Prometheus.
    Prometheus,
    /// Prometheus' checker of rules and queries.
    Promtool,
    /// kwok, which no [`Toolchain`] has: see [`kwok`].
    Kwok,
}

/// Where each program lies.
#[derive(Debug, Clone)]
pub struct Toolchain {
    programs: BTreeMap<Tool, PathBuf>,
    cni: PathBuf,
}

/// Told what is about to be done and how many minutes it takes on two cores.
pub type Report<'a> = &'a (dyn Fn(&str) + Sync);

impl Toolchain {
    /// Finds every program, building and downloading what the cache lacks.
    pub fn ensure(cache: &Cache, report: Report<'_>) -> Result<Self> {
        let mut programs = BTreeMap::new();
        for module in go::MODULES {
            let bin = go::build(cache, module, report)?;
            programs.extend(module.programs.iter().map(|(tool, name, _)| (*tool, bin.join(name))));
        }
        programs.insert(Tool::Runc, debian::runc(cache, report)?);
        let prometheus = debian::download(cache, "prometheus", report)?;
        programs.insert(Tool::Prometheus, prometheus.join("usr/bin/prometheus"));
        programs.insert(Tool::Promtool, prometheus.join("usr/bin/promtool"));
        let cni = debian::download(cache, "containernetworking-plugins", report)?.join("usr/lib/cni");
        let toolchain = Self { programs, cni };
        for path in toolchain.programs.values().chain([&toolchain.cni.join("ptp"), &toolchain.cni.join("host-local")]) {
            path.metadata().with_context(|| {
                format!("{} is missing from the cache; remove its folder and run `cargo xtask setup`", path.display())
            })?;
        }
        Ok(toolchain)
    }

    /// Whether the cache has what takes long to build.
    pub fn is_built(cache: &Cache) -> bool {
        go::MODULES.iter().all(|module| go::is_built(cache, module))
    }

    /// Makes the cache look so.
    #[cfg(test)]
    pub(crate) fn pretend_built(cache: &Cache) {
        go::MODULES.iter().for_each(|module| go::pretend_built(cache, module));
    }

    /// Where a program lies.
    pub fn path(&self, tool: Tool) -> &Path {
        // `ensure` fills in every variant; a test below holds it to that.
        self.programs.get(&tool).map_or(Path::new(""), PathBuf::as_path)
    }

    /// The folder of the CNI plugins.
    pub fn cni(&self) -> &Path {
        &self.cni
    }

    /// `PATH` for a process that starts other programs of the toolchain: containerd its shim, the shim runc.
    pub fn search_path(&self) -> String {
        let mut dirs: Vec<String> = Vec::new();
        for tool in [Tool::Containerd, Tool::Runc] {
            if let Some(dir) = self.path(tool).parent() {
                dirs.push(dir.display().to_string());
            }
        }
        dirs.push("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        dirs.join(":")
    }
}

/// The program that stands for kubelets in measurements of many nodes.
pub fn kwok(cache: &Cache, report: Report<'_>) -> Result<PathBuf> {
    Ok(go::build(cache, &go::KWOK, report)?.join("kwok"))
}

/// The root of the checkout.
pub fn checkout() -> &'static Path {
    // The crate lies in `e2e/`.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Finds a program on `PATH` or where Debian puts those for root.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|path| path.is_file())
}
