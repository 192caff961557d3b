//! The one node of a datacenter: containerd, kubelet, kube-proxy and DNS.
//!
//! The node has a mount namespace of its own, in which the places that a kubelet and containerd use on every machine
//! (`/var/lib/kubelet`, `/run/containerd`, …) are folders of the datacenter. So several nodes share a machine without
//! knowing it, `hostPath` volumes find what they find on a real node, and every mount goes with the namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::command;
use crate::control_plane::{ClusterIdentity, Place};
use crate::image::Image;
use crate::mount_points;
use crate::pki::Subject;
use crate::process::{Daemon, Home, Launch};
use crate::run::{Made, Run};
use crate::spec::DatacenterSpec;
use crate::toolchain::Tool;
use crate::wait::{Poll, wait_until};

/// Places inside the node, and the folder of the datacenter that each one is.
const PLACES: &[(&str, &str)] = &[
    ("/var/lib/kubelet", "kubelet"),
    ("/var/lib/containerd", "containerd"),
    ("/run/containerd", "containerd-state"),
    ("/var/lib/cni", "cni-state"),
    ("/etc/cni/net.d", "cni-config"),
    ("/run/netns", "pod-networks"),
    (CDI_FOLDER, "cdi"),
    ("/var/log/pods", "log/pods"),
    ("/var/log/containers", "log/containers"),
    (NODE_FILES, "files"),
];

/// A folder on the node for files of tests, such as a library that a pod mounts by `hostPath`.
pub const NODE_FILES: &str = "/opt/koinon";

/// Where containerd looks for what devices are to a container.
pub const CDI_FOLDER: &str = "/run/cdi";

/// Where DNS answers on the node: an address of its own, so that it takes no port of the node's.
pub const DNS_ADDRESS: &str = "169.254.20.10";

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const STOP_GRACE: Duration = Duration::from_secs(10);
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The running node.
#[derive(Debug)]
pub struct Node {
    containerd: Daemon,
    kubelet: Daemon,
    kube_proxy: Daemon,
    dns: Daemon,
    home: Home,
    ctr: PathBuf,
    search_path: String,
}

impl Node {
    /// Starts containerd, loads the images, then starts the rest. The node registers by itself; wait for it to be Ready.
    pub async fn start(
        spec: &DatacenterSpec,
        place: Place<'_>,
        identity: &ClusterIdentity,
        pause: &Image,
    ) -> Result<Self> {
        let home = make_namespace(spec, place)?;
        write_configuration(spec, place, identity, pause)?;
        let [containerd, kubelet, kube_proxy, dns] = launches(spec, place, &home);
        let mut containerd = containerd.spawn(place.run)?;
        let socket = place.dir.join("containerd-state/containerd.sock");
        wait_until("containerd to listen", START_TIMEOUT, || {
            let look = match containerd.check() {
                Ok(()) => Poll::<()>::when(std::os::unix::net::UnixStream::connect(&socket).is_ok(), "no socket yet"),
                Err(error) => Poll::Never(format!("{error:#}")),
            };
            async move { look }
        })
        .await?;
        add_dns_address(&home, place.run)?;
        let ctr = place.toolchain.path(Tool::Ctr).to_owned();
        let search_path = place.toolchain.search_path();
        import(place.run, &home, &ctr, pause).await?;
        let [kubelet, kube_proxy, dns] = [kubelet, kube_proxy, dns].map(|launch| launch.spawn(place.run));
        Ok(Self { containerd, kubelet: kubelet?, kube_proxy: kube_proxy?, dns: dns?, home, ctr, search_path })
    }

    /// Takes over the node that another process of ours started.
    pub fn attach(spec: &DatacenterSpec, place: Place<'_>) -> Result<Self> {
        let home = node_home(spec, place);
        let [containerd, kubelet, kube_proxy, dns] = launches(spec, place, &home).map(|launch| {
            let name = launch.name.clone();
            launch
                .attach(place.run)?
                .with_context(|| format!("{name} does not run any more; `cargo xtask demo down`, then start again"))
        });
        Ok(Self {
            containerd: containerd?,
            kubelet: kubelet?,
            kube_proxy: kube_proxy?,
            dns: dns?,
            home,
            ctr: place.toolchain.path(Tool::Ctr).to_owned(),
            search_path: place.toolchain.search_path(),
        })
    }

    /// Every process of the node.
    pub fn daemons(&mut self) -> [&mut Daemon; 4] {
        [&mut self.containerd, &mut self.kubelet, &mut self.kube_proxy, &mut self.dns]
    }

    /// Fails if a process has ended.
    pub fn check(&mut self) -> Result<()> {
        self.daemons().into_iter().try_for_each(Daemon::check)
    }

    /// Where the node's processes live: its network, its mounts, its control group.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Makes an image known to containerd, by tag and by digest.
    pub async fn load_image(&self, run: &Run, image: &Image) -> Result<()> {
        import(run, &self.home, &self.ctr, image).await
    }

    /// Stops the kubelet and starts it again; pods run on meanwhile.
    pub fn restart_kubelet(&mut self, run: &Run) -> Result<()> {
        self.kubelet.restart(run, STOP_GRACE)
    }

    /// Restarts what watches the API server and would wait for versions that a restored etcd does not have.
    pub fn restart_watchers(&mut self, run: &Run) -> Result<()> {
        for daemon in [&mut self.kubelet, &mut self.kube_proxy, &mut self.dns] {
            daemon.restart(run, STOP_GRACE)?;
        }
        Ok(())
    }

    /// `PATH` with which programs find the node's containerd and runc.
    pub fn search_path(&self) -> &str {
        &self.search_path
    }
}

fn namespace_file(spec: &DatacenterSpec, place: Place<'_>) -> PathBuf {
    place.run.dir().join("mounts").join(&spec.name)
}

fn node_home(spec: &DatacenterSpec, place: Place<'_>) -> Home {
    Home { mounts: Some(namespace_file(spec, place)), ..place.home.clone() }
}

/// Makes the node's mount namespace and holds it by a file.
fn make_namespace(spec: &DatacenterSpec, place: Place<'_>) -> Result<Home> {
    let file = namespace_file(spec, place);
    fs::write(&file, "").with_context(|| format!("making {}", file.display()))?;
    let mut script = String::new();
    for (inside, folder) in PLACES {
        mount_points::make(Path::new(inside))?;
        let folder = place.dir.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        script.push_str(&format!("mount --bind {} {inside} && ", folder.display()));
    }
    // A pod may ask for volumes that propagate; that needs shared mounts, as systemd makes them.
    script.push_str("mount --make-rshared /");
    place.run.note(&Made::Mount { path: file.clone() })?;
    let mut unshare = place.home.command(place.run, "unshare");
    // As a slave it sees what the machine mounts later, and the machine sees nothing of it.
    unshare.arg(format!("--mount={}", file.display())).args(["--propagation", "slave", "sh", "-c", &script]);
    command::run(&mut unshare).context("making the node's mount namespace")?;
    Ok(node_home(spec, place))
}

/// The folder that holds mount namespaces must be private, or the kernel refuses to mount one there.
pub fn prepare_mount_folder(run: &Run) -> Result<()> {
    let dir = run.dir().join("mounts");
    fs::create_dir_all(&dir)?;
    run.note(&Made::Mount { path: dir.clone() })?;
    command::run(Command::new("mount").arg("--bind").arg(&dir).arg(&dir))?;
    command::run(Command::new("mount").arg("--make-private").arg(&dir)).map(drop)
}

fn add_dns_address(home: &Home, run: &Run) -> Result<()> {
    let address = format!("{DNS_ADDRESS}/32");
    command::run(home.command(run, "ip").args(["address", "add", &address, "dev", "lo"])).map(drop)
}

async fn import(run: &Run, home: &Home, ctr: &Path, image: &Image) -> Result<()> {
    let mut import = home.command(run, ctr);
    import.args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import"]).arg(image.archive());
    let (reference, pinned) = (image.reference(), image.pinned());
    let printed = tokio::task::spawn_blocking(move || command::run(&mut import)).await??;
    for name in [reference, pinned] {
        if !printed.contains(&name) {
            bail!("containerd did not take the image {name}; it said:\n{printed}");
        }
    }
    Ok(())
}

fn write_configuration(
    spec: &DatacenterSpec,
    place: Place<'_>,
    identity: &ClusterIdentity,
    pause: &Image,
) -> Result<()> {
    let dir = place.dir;
    fs::write(dir.join("containerd.toml"), containerd_configuration(place, pause))?;
    fs::write(dir.join("cni-config/10-koinon.conflist"), serde_json::to_vec_pretty(&cni_configuration(spec))?)?;
    fs::write(dir.join("kubelet.json"), serde_json::to_vec_pretty(&kubelet_configuration(spec, place))?)?;
    fs::write(dir.join("kube-proxy.json"), serde_json::to_vec_pretty(&proxy_configuration(spec, dir))?)?;
    fs::write(dir.join("Corefile"), corefile(dir))?;
    // What pods that do not use cluster DNS get: no server at all, since nothing beyond the wire answers.
    fs::write(dir.join("resolv.conf"), "options timeout:1\n")?;
    identity.kubeconfig(&spec.name, &Subject::client("system:kube-proxy", None))?;
    identity.kubeconfig(&spec.name, &Subject::client("coredns", Some("system:masters")))?;
    identity.kubelet_kubeconfig(&spec.name).map(drop)
}

fn containerd_configuration(place: Place<'_>, pause: &Image) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # A process that may not lower its own oom_score_adj, as in most containers, cannot start a sandbox without this.
  restrict_oom_score_adj = true
  enable_cdi = true
  cdi_spec_dirs = ["{CDI_FOLDER}"]
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      SystemdCgroup = false
"#,
        pause = pause.reference(),
        cni = place.toolchain.cni().display(),
        runc = place.toolchain.path(Tool::Runc).display(),
    )
}

/// Point-to-point and not a bridge: every packet between two pods is routed, so a service address is translated back
/// without the kernel's bridge filter, which not every machine has.
fn cni_configuration(spec: &DatacenterSpec) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "koinon",
        "plugins": [{
            "type": "ptp",
            // Other members know the node's address only.
            "ipMasq": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": spec.pod_cidr.to_string()}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }, {
            "type": "portmap",
            "capabilities": {"portMappings": true},
        }],
    })
}

fn kubelet_configuration(spec: &DatacenterSpec, place: Place<'_>) -> serde_json::Value {
    let pki = place.dir.join("pki");
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": pki.join("ca.crt")}, "webhook": {"enabled": true}, "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.join(format!("system-node-{}.crt", spec.name)),
        "tlsPrivateKeyFile": pki.join(format!("system-node-{}.key", spec.name)),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", spec.group(place.run)),
        "failCgroupV1": false,
        "enforceNodeAllocatable": ["pods"],
        "failSwapOn": false,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": place.dir.join("resolv.conf"),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        // The machine's own disk is not ours to judge: a test must not be evicted because a laptop is nearly full.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 100,
        // Half of the default: what tests wait for is seen sooner, at little cost with a dozen pods.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "4s",
        "shutdownGracePeriod": "0s",
        "volumeStatsAggPeriod": "-1s",
        "makeIPTablesUtilChains": false,
        "protectKernelDefaults": false,
        "registerWithTaints": [],
    })
}

fn proxy_configuration(spec: &DatacenterSpec, dir: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": spec.name,
        "clientConnection": {"kubeconfig": dir.join("kubeconfig/system-kube-proxy")},
        "clusterCIDR": spec.pod_cidr.to_string(),
        // Only the root namespace may change these limits, and the defaults are fine.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "200ms", "syncPeriod": "30s"},
    })
}

fn corefile(dir: &Path) -> String {
    format!(
        ".:53 {{\n    bind {DNS_ADDRESS}\n    errors\n    kubernetes cluster.local in-addr.arpa {{\n        kubeconfig {}\n        pods insecure\n        ttl 5\n    }}\n}}\n",
        dir.join("kubeconfig/coredns").display()
    )
}

fn launches(spec: &DatacenterSpec, place: Place<'_>, home: &Home) -> [Launch; 4] {
    let dir = place.dir.display();
    let mut containerd =
        place.launch(spec, "containerd", Tool::Containerd, vec![format!("--config={dir}/containerd.toml")]);
    containerd.home = home.clone();
    containerd.env = vec![("PATH".into(), place.toolchain.search_path())];
    let kubelet_args = vec![
        format!("--config={dir}/kubelet.json"),
        format!("--kubeconfig={dir}/kubeconfig/kubelet"),
        format!("--hostname-override={}", spec.name),
        format!("--node-ip={}", spec.address),
        format!("--node-labels=topology.kubernetes.io/region={}", spec.name),
    ];
    let mut kubelet = place.launch(spec, "kubelet", Tool::Kubelet, kubelet_args);
    kubelet.home = home.clone();
    kubelet.env = vec![("PATH".into(), place.toolchain.search_path())];
    let mut proxy = place.launch(spec, "kube-proxy", Tool::KubeProxy, vec![format!("--config={dir}/kube-proxy.json")]);
    proxy.home = home.clone();
    let mut dns = place.launch(spec, "coredns", Tool::Coredns, vec![format!("-conf={dir}/Corefile")]);
    dns.home = home.clone();
    [containerd, kubelet, proxy, dns]
}
