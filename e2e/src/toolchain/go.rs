//! Programs built from pinned Go modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Report, Tool, checkout, which};
use crate::cache::{self, Cache, Key};
use crate::command;

/// A Go module of ours and the programs that are built in it.
#[derive(Debug)]
pub struct GoModule {
    /// Its name in the cache and in messages.
    pub name: &'static str,
    /// Its folder below the checkout.
    pub dir: &'static str,
    /// Each program: which tool it is, its file name, its package.
    pub programs: &'static [(Tool, &'static str, &'static str)],
    /// Flags of the Go linker.
    pub ldflags: &'static str,
    /// Build tags, with commas between them.
    pub tags: &'static str,
    /// How long a first build takes on two cores.
    pub minutes: &'static str,
}

/// Without the stamp every server reports `v0.0.0`, which kubectl and Helm read as "older than anything".
const KUBERNETES_STAMP: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34 \
    -X k8s.io/component-base/version.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion=v1.34.4";

/// Every module of the toolchain. Helm and CoreDNS are apart because they need other versions of Kubernetes' libraries.
pub const MODULES: &[GoModule] = &[
    GoModule {
        name: "kubernetes",
        dir: "e2e/tools/kubernetes",
        programs: &[
            (Tool::Etcd, "etcd", "go.etcd.io/etcd/server/v3"),
            (Tool::KubeApiserver, "kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (Tool::KubeControllerManager, "kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            (Tool::KubeScheduler, "kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            (Tool::Kubelet, "kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            (Tool::KubeProxy, "kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            (Tool::Kubectl, "kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
        ldflags: KUBERNETES_STAMP,
        tags: "",
        minutes: "6",
    },
    GoModule {
        name: "coredns",
        dir: "e2e/tools/dns",
        programs: &[(Tool::Coredns, "coredns", ".")],
        ldflags: "-s -w",
        tags: "",
        minutes: "1",
    },
    GoModule {
        name: "helm",
        dir: "e2e/tools/helm",
        programs: &[(Tool::Helm, "helm", "helm.sh/helm/v4/cmd/helm")],
        ldflags: "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
        tags: "",
        minutes: "3",
    },
    // Not Debian's: its 1.6 ignores the CDI devices in which a DRA driver answers.
    GoModule {
        name: "containerd",
        dir: "e2e/tools/containerd",
        programs: &[
            (Tool::Containerd, "containerd", "github.com/containerd/containerd/cmd/containerd"),
            (
                Tool::ContainerdShim,
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/cmd/containerd-shim-runc-v2",
            ),
            (Tool::Ctr, "ctr", "github.com/containerd/containerd/cmd/ctr"),
        ],
        ldflags: "-s -w -X github.com/containerd/containerd/version.Version=v1.7.35",
        // Snapshotters that no node here uses.
        tags: "no_aufs,no_btrfs,no_devmapper,no_zfs",
        minutes: "2",
    },
];

/// What stands for kubelets where there are more nodes than a machine can hold. Only measurements need it, so it is built when one
/// asks.
pub const KWOK: GoModule = GoModule {
    name: "kwok",
    dir: "e2e/tools/kwok",
    programs: &[(Tool::Kwok, "kwok", "sigs.k8s.io/kwok/cmd/kwok")],
    ldflags: "-s -w",
    tags: "",
    minutes: "3",
};

/// Builds a module's programs unless the cache has them; returns the folder that holds them.
pub fn build(cache: &Cache, module: &GoModule, report: Report<'_>) -> Result<PathBuf> {
    if let Some(dir) = assets_of_others(module) {
        return Ok(dir);
    }
    let dir = checkout().join(module.dir);
    let entry = cache.get_or_make(module.name, &key(&dir, module)?, |draft| {
        let go = which("go").context("Go is not installed; see `cargo xtask setup` for what is needed")?;
        let bin = draft.join("bin");
        fs::create_dir(&bin)?;
        for (position, (_, name, package)) in module.programs.iter().enumerate() {
            if position == 0 {
                report(&format!(
                    "building {} from its Go module (about {} min on two cores)",
                    module.name, module.minutes
                ));
            } else {
                report(&format!("building {name}"));
            }
            let mut build = Command::new(&go);
            build
                .current_dir(&dir)
                .env("CGO_ENABLED", "0")
                // A flag set for the user's own work (`-mod=vendor`, say) must not change what the key stands for.
                .env("GOFLAGS", "")
                .args(["build", "-trimpath", "-buildvcs=false", "-tags", module.tags, "-ldflags", module.ldflags, "-o"])
                .arg(bin.join(name))
                .arg(package);
            command::run(&mut build)?;
        }
        Ok(())
    })?;
    Ok(entry.join("bin"))
}

/// Whether nothing of a module has to be built.
pub fn is_built(cache: &Cache, module: &GoModule) -> bool {
    let kept = || key(&checkout().join(module.dir), module).is_ok_and(|key| cache.find(module.name, &key).is_some());
    assets_of_others(module).is_some() || kept()
}

/// Gives a module an empty entry in the cache.
#[cfg(test)]
pub(super) fn pretend_built(cache: &Cache, module: &GoModule) {
    let key = key(&checkout().join(module.dir), module).unwrap();
    cache.get_or_make(module.name, &key, |_| Ok(())).unwrap();
}

fn key(dir: &Path, module: &GoModule) -> Result<Key> {
    let files = cache::contents(dir, &[])?;
    let programs: String = module.programs.iter().map(|(_, name, package)| format!("{name}={package}\n")).collect();
    let parts = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let mut key: Vec<(&str, &[u8])> = parts.collect();
    key.extend([("ldflags", module.ldflags.as_bytes()), ("programs", programs.as_bytes())]);
    // Left out where there are none, so that what was built before there could be any is still found.
    key.extend((!module.tags.is_empty()).then_some(("tags", module.tags.as_bytes())));
    Ok(Key::of(key))
}

/// `$KUBEBUILDER_ASSETS`, if somebody keeps all programs of the module there in the version that we pin.
fn assets_of_others(module: &GoModule) -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    if module.name != "kubernetes" || !module.programs.iter().all(|(_, name, _)| dir.join(name).is_file()) {
        return None;
    }
    let version = command::run(Command::new(dir.join("kube-apiserver")).arg("--version")).ok()?;
    version.contains("v1.34.").then_some(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_pins_or_other_programs_have_another_key() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("go.mod"), "module m").unwrap();
        let before = key(dir.path(), &MODULES[0]).unwrap();
        assert_ne!(before, key(dir.path(), &MODULES[1]).unwrap());
        fs::write(dir.path().join("go.sum"), "another pin").unwrap();
        assert_ne!(before, key(dir.path(), &MODULES[0]).unwrap());
    }
}
