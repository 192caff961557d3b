//! One datacenter: a cluster with one node, its own authority, and one cable to the wire.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use kube::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::Mutex;

use crate::command;
use crate::control_plane::{API_PORT, ClusterIdentity, ControlPlane, Place};
use crate::image::Image;
use crate::network::{Cable, Wire};
use crate::node::{NODE_FILES, Node};
use crate::pki::Subject;
use crate::process::{self, Home, Signal};
use crate::relay::Relay;
use crate::run::{Made, Run};
use crate::spec::DatacenterSpec;
use crate::toolchain::{Tool, Toolchain};
use crate::wait::{Poll, wait_until};

/// A datacenter that runs.
pub struct Datacenter {
    spec: DatacenterSpec,
    run: Arc<Run>,
    toolchain: Arc<Toolchain>,
    dir: PathBuf,
    cable: Cable,
    home: Home,
    plane: Mutex<ControlPlane>,
    node: Option<Mutex<Node>>,
    api: Relay,
    client: kube::Client,
}

impl fmt::Debug for Datacenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datacenter").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// A copy of a datacenter's etcd.
#[derive(Debug, Clone)]
pub struct EtcdSnapshot(PathBuf);

const NODE_READY_TIMEOUT: Duration = Duration::from_secs(120);

impl Datacenter {
    /// Plugs a new datacenter into the wire and starts it; returns once its node is Ready and pods can be made.
    pub async fn start(
        run: Arc<Run>,
        toolchain: Arc<Toolchain>,
        wire: &Wire,
        spec: DatacenterSpec,
        pause: &Image,
    ) -> Result<Self> {
        let name = spec.name.clone();
        Self::try_start(run, toolchain, wire, spec, pause)
            .await
            .with_context(|| format!("starting the datacenter {name}"))
    }

    async fn try_start(
        run: Arc<Run>,
        toolchain: Arc<Toolchain>,
        wire: &Wire,
        spec: DatacenterSpec,
        pause: &Image,
    ) -> Result<Self> {
        let dir = run.dir().join(&spec.name);
        fs::create_dir_all(dir.join("log")).with_context(|| format!("making {}", dir.display()))?;
        let group = spec.group(&run);
        run.note(&Made::ControlGroup { group: group.clone() })?;
        let system = format!("{group}/system");
        run.groups().create(&system)?;
        let cable = wire.plug(&run, &spec.name, spec.address)?;
        let home = Home { group: Some(system), ..cable.home() };
        let namespace_file = cable.namespace_file();
        let place = Place { run: &run, toolchain: &toolchain, dir: &dir, home: &home, namespace_file: &namespace_file };

        let identity = ClusterIdentity::create(&spec, &dir)?;
        identity.kubeconfig(&spec.name, &Subject::client("admin", Some("system:masters")))?;
        // The node does not wait for the API server: its image is unpacked meanwhile, and the kubelet retries.
        let (plane, node) = tokio::join!(ControlPlane::start(&spec, place, &identity), async {
            if spec.node { Node::start(&spec, place, &identity, pause).await.map(Some) } else { Ok(None) }
        });
        let (plane, node) = (plane?, node?);
        let (api, client) = connect(&dir, &spec.name, namespace_file).await?;
        run.note(&Made::Datacenter { spec: Box::new(spec.clone()) })?;
        let datacenter = Self {
            spec,
            run,
            toolchain,
            dir,
            cable,
            home,
            plane: plane.into(),
            node: node.map(Mutex::new),
            api,
            client,
        };
        datacenter.wait_ready().await?;
        Ok(datacenter)
    }

    /// Takes over a datacenter that another process of ours started.
    pub async fn attach(run: Arc<Run>, toolchain: Arc<Toolchain>, wire: &Wire, spec: DatacenterSpec) -> Result<Self> {
        let dir = run.dir().join(&spec.name);
        let cable = wire.cable(&run, &spec.name, spec.address);
        let home = Home { group: Some(format!("{}/system", spec.group(&run))), ..cable.home() };
        let namespace_file = cable.namespace_file();
        let place = Place { run: &run, toolchain: &toolchain, dir: &dir, home: &home, namespace_file: &namespace_file };
        let plane = ControlPlane::attach(&spec, place)?;
        let node = if spec.node { Some(Node::attach(&spec, place)?) } else { None };
        let (api, client) = connect(&dir, &spec.name, namespace_file).await?;
        Ok(Self {
            spec,
            run,
            toolchain,
            dir,
            cable,
            home,
            plane: plane.into(),
            node: node.map(Mutex::new),
            api,
            client,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it was started with.
    pub fn spec(&self) -> &DatacenterSpec {
        &self.spec
    }

    /// Its own folder: logs, keys, kubeconfigs, disks.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The run that it belongs to.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The owner's kubeconfig. It uses the wire, so it does not work from outside while the datacenter is cut off.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig/admin")
    }

    /// The owner's client. It works also while the datacenter is cut off.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The API server's address for programs in the root namespace, also while the datacenter is cut off, as long as this
    /// value lives.
    pub fn api_address(&self) -> SocketAddr {
        self.api.local()
    }

    /// A local port that leads to an address inside the datacenter, a service's for example.
    pub async fn relay(&self, target: SocketAddr) -> Result<Relay> {
        Relay::open(self.cable.namespace_file(), target).await
    }

    /// A program that runs on the datacenter's network, outside its node and its control group.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.cable.home().command(&self.run, program)
    }

    /// Where the node's own programs live: its network, its mounts, its control group.
    pub async fn node_home(&self) -> Result<Home> {
        Ok(self.node()?.lock().await.home().clone())
    }

    /// A program that runs on the node: its network, its mounts, its control group.
    pub async fn node_command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        Ok(self.node()?.lock().await.home().command(&self.run, program))
    }

    /// `kubectl` with the owner's kubeconfig, on the datacenter's own network, so that it works while cut off.
    pub fn kubectl_command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Command {
        let mut kubectl = self.command(self.toolchain.path(Tool::Kubectl));
        kubectl.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        kubectl
    }

    /// Runs `kubectl` and returns what it printed.
    pub async fn kubectl<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Result<String> {
        run_blocking(self.kubectl_command(args)).await
    }

    /// Waits until every custom resource definition is served.
    ///
    /// # Errors
    /// When one is not within a minute.
    pub async fn definitions_served(&self) -> Result<()> {
        // kubectl does not wait for a definition that is so new that it has no status: it fails.
        let wait = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"];
        wait_until(&format!("the definitions of {} to be served", self.name()), Duration::from_secs(60), || async {
            self.kubectl(wait).await.map_or_else(|error| Poll::not_yet(format!("{error:#}")), |_| Poll::Ready(()))
        })
        .await
    }

    /// Applies YAML, by server-side apply.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        let file = tempfile::NamedTempFile::new().context("making a temporary file")?;
        fs::write(file.path(), yaml)?;
        self.kubectl([OsStr::new("apply"), "--server-side".as_ref(), "--filename".as_ref(), file.path().as_os_str()])
            .await
    }

    /// `helm` with the owner's kubeconfig, on the datacenter's own network.
    pub fn helm_command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Command {
        let mut helm = self.command(self.toolchain.path(Tool::Helm));
        helm.env("KUBECONFIG", self.kubeconfig());
        // What a person keeps in their own Helm folders must not change a test.
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            helm.env(variable, self.dir.join("helm").join(folder));
        }
        helm.args(args);
        helm
    }

    /// Runs `helm` and returns what it printed.
    pub async fn helm<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Result<String> {
        run_blocking(self.helm_command(args)).await
    }

    /// Installs or upgrades a chart with these values and waits until everything of it is ready.
    pub async fn helm_install(
        &self,
        release: &str,
        namespace: &str,
        chart: &Path,
        values: &serde_json::Value,
    ) -> Result<String> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().context("making a temporary file")?;
        fs::write(file.path(), serde_yaml::to_string(values)?)?;
        let mut helm = self.helm_command(["upgrade", "--install", release]);
        helm.arg(chart).args(["--namespace", namespace, "--create-namespace", "--wait", "--timeout", "180s"]);
        helm.arg("--values").arg(file.path());
        let result = run_blocking(helm).await;
        match result {
            Ok(printed) => Ok(printed),
            // Helm says only that it waited; what is wrong stands in the pods and events.
            Err(error) => {
                let pods =
                    self.kubectl(["get", "pods", "--all-namespaces", "--output", "wide"]).await.unwrap_or_default();
                let events = self
                    .kubectl(["get", "events", "--all-namespaces", "--sort-by", ".lastTimestamp"])
                    .await
                    .unwrap_or_default();
                let last: Vec<&str> = events.lines().rev().take(15).collect();
                bail!("{error:#}\n{pods}\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// Makes an image known to the node, by tag and by digest.
    pub async fn load_image(&self, image: &Image) -> Result<()> {
        self.node()?
            .lock()
            .await
            .load_image(&self.run, image)
            .await
            .with_context(|| format!("loading {image} into {}", self.name()))
    }

    /// The folder on this machine that pods on the node find at [`NODE_FILES`] by `hostPath`.
    pub fn node_files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// The kubelet's own folder on this machine; on the node it is `/var/lib/kubelet`.
    pub fn kubelet_dir(&self) -> PathBuf {
        self.dir.join("kubelet")
    }

    /// Pulls the cable. Inside, everything goes on.
    pub fn cut(&self) -> Result<()> {
        self.cable.cut()
    }

    /// Plugs the cable in again.
    pub fn mend(&self) -> Result<()> {
        self.cable.mend()
    }

    /// Whether the cable is pulled.
    pub fn is_cut(&self) -> Result<bool> {
        self.cable.is_cut()
    }

    /// Stops the kubelet and starts it again; pods run on meanwhile.
    pub async fn restart_kubelet(&self) -> Result<()> {
        self.node()?.lock().await.restart_kubelet(&self.run)
    }

    /// Copies etcd as it is now; etcd stops for a moment.
    pub async fn snapshot_etcd(&self) -> Result<EtcdSnapshot> {
        let folder = self.dir.join(format!("etcd-snapshot-{}", fs::read_dir(&self.dir)?.count()));
        self.plane.lock().await.snapshot(&self.run, &folder, &self.dir).await?;
        Ok(EtcdSnapshot(folder))
    }

    /// Puts etcd back to an earlier copy, then restarts what remembers a later state: control plane, kubelet, kube-proxy, DNS.
    /// Pods run on; their own watches start anew.
    pub async fn restore_etcd_snapshot(&self, snapshot: &EtcdSnapshot) -> Result<()> {
        self.plane.lock().await.restore(&self.run, &snapshot.0, &self.dir).await?;
        if let Some(node) = &self.node {
            node.lock().await.restart_watchers(&self.run)?;
        }
        self.wait_ready().await
    }

    /// Kills the API server alone: everything else runs on and cannot reach it.
    pub async fn stop_api_server(&self) {
        self.plane.lock().await.stop_api_server();
    }

    /// Starts the API server that was stopped and waits until it is ready.
    pub async fn start_api_server(&self) -> Result<()> {
        self.plane.lock().await.start_api_server(&self.run, &self.dir).await
    }

    /// Fails with the end of the log of the first process that has ended.
    pub async fn check(&self) -> Result<()> {
        self.plane.lock().await.check()?;
        match &self.node {
            Some(node) => node.lock().await.check(),
            None => Ok(()),
        }
    }

    /// Kills every process and container, as if the power failed. Its disks stay until the run is taken down.
    pub async fn stop(&self) -> Result<()> {
        let group = self.spec.group(&self.run);
        wait_until(&format!("the processes of {} to end", self.name()), Duration::from_secs(20), || {
            let mut left = self.run.groups().processes(&group);
            left.retain(|pid| !process::is_dead(*pid));
            left.iter().for_each(|pid| process::kill(*pid, Signal::Kill));
            std::future::ready(Poll::<()>::when(left.is_empty(), format!("{left:?}")))
        })
        .await
    }

    fn node(&self) -> Result<&Mutex<Node>> {
        self.node.as_ref().with_context(|| format!("{} was started without a node", self.name()))
    }

    async fn wait_ready(&self) -> Result<()> {
        // Without its default service account a namespace refuses every pod.
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), "default");
        wait_until("the default service account", NODE_READY_TIMEOUT, || async {
            if let Err(error) = self.check().await {
                return Poll::Never(format!("{error:#}"));
            }
            match accounts.get_opt("default").await {
                Ok(found) => Poll::<()>::when(found.is_some(), "none yet"),
                Err(error) => Poll::not_yet(error),
            }
        })
        .await?;
        if self.node.is_none() {
            return Ok(());
        }
        let nodes: Api<NodeObject> = Api::all(self.client());
        let what = format!("the node {} to be Ready", self.name());
        let waited = wait_until(&what, NODE_READY_TIMEOUT, || async {
            if let Err(error) = self.check().await {
                return Poll::Never(format!("{error:#}"));
            }
            match nodes.get_opt(self.name()).await {
                Ok(Some(node)) => ready_condition(&node),
                Ok(None) => Poll::not_yet("it has not registered"),
                Err(error) => Poll::not_yet(error),
            }
        });
        waited.await.with_context(|| format!("see {}", self.dir.join("log/kubelet.log").display()))
    }

    /// The path under which pods find [`Self::node_files`].
    pub fn node_files_inside(&self) -> &'static str {
        NODE_FILES
    }

    /// Where the datacenter's own processes live.
    pub fn home(&self) -> &Home {
        &self.home
    }
}

fn ready_condition(node: &NodeObject) -> Poll<()> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    match conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready") {
        Some(ready) => Poll::<()>::when(ready.status == "True", ready.message.clone().unwrap_or_default()),
        None => Poll::not_yet("it has no Ready condition"),
    }
}

/// A relay to the API server and the owner's client through it.
async fn connect(dir: &Path, context: &str, namespace_file: PathBuf) -> Result<(Relay, kube::Client)> {
    // Every binary that talks TLS has to choose; whoever was first, both use the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let relay = Relay::open(namespace_file, SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT))).await?;
    let mut kubeconfig = Kubeconfig::read_from(dir.join("kubeconfig/admin"))?;
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(format!("https://{}", relay.local()));
    }
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok((relay, kube::Client::try_from(config)?))
}

/// Runs a command without holding up the other tasks of this thread.
pub async fn run_blocking(mut command: Command) -> Result<String> {
    tokio::task::spawn_blocking(move || command::run(&mut command)).await?
}
