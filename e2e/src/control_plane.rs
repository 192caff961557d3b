//! etcd, API server, controller manager and scheduler of one datacenter, all in its network namespace.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::kubeconfig;
use crate::pki::{Authority, Credential, Subject, write_token_key};
use crate::process::{Daemon, Home, Launch};
use crate::relay::dial_inside;
use crate::run::Run;
use crate::spec::DatacenterSpec;
use crate::toolchain::{Tool, Toolchain};
use crate::wait::{Poll, wait_until};

/// Port of the API server on every address of the member.
pub const API_PORT: u16 = 6443;
const ETCD: &str = "http://127.0.0.1:2379";
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// etcd needs it to leave its files whole.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The API server would first wait for its watchers to leave, for up to a minute; a crash is as good for it.
const NO_GRACE: Duration = Duration::ZERO;

/// Keys and kubeconfigs of one cluster, as files below `<datacenter>/pki` and `<datacenter>/kubeconfig`.
#[derive(Debug)]
pub struct ClusterIdentity {
    dir: PathBuf,
    server: String,
    authority: Authority,
    kubelet: Credential,
}

impl ClusterIdentity {
    /// Makes the cluster's authorities and keys.
    pub fn create(spec: &DatacenterSpec, dir: &Path) -> Result<Self> {
        let pki = dir.join("pki");
        let authority = Authority::create(&pki, "ca")?;
        let api_names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let api_addresses = vec![Ipv4Addr::LOCALHOST, spec.address, spec.service_cidr.host(1)];
        authority.issue(&Subject::server("kube-apiserver", api_addresses, &api_names))?;
        authority.issue(&Subject::client("kube-apiserver-kubelet-client", Some("system:masters")))?;
        let kubelet = Subject::server(&format!("system:node:{}", spec.name), vec![spec.address], &[spec.name.as_str()]);
        let kubelet = authority.issue(&kubelet.in_group("system:nodes"))?;
        let front_proxy = Authority::create(&pki, "front-proxy-ca")?;
        front_proxy.issue(&Subject::client("front-proxy-client", None))?;
        write_token_key(&pki.join("service-account"))?;
        let server = format!("https://{}:{API_PORT}", spec.address);
        Ok(Self { dir: dir.to_owned(), server, authority, kubelet })
    }

    /// Issues a user's certificate and writes a kubeconfig that uses it, named like the user.
    pub fn kubeconfig(&self, context: &str, subject: &Subject) -> Result<PathBuf> {
        let user = self.authority.issue(subject)?;
        self.write_kubeconfig(context, &subject.common_name.replace(':', "-"), &user)
    }

    /// Writes the kubelet's kubeconfig; its one certificate serves its own port too.
    pub fn kubelet_kubeconfig(&self, context: &str) -> Result<PathBuf> {
        self.write_kubeconfig(context, "kubelet", &self.kubelet)
    }

    fn write_kubeconfig(&self, context: &str, file: &str, user: &Credential) -> Result<PathBuf> {
        let folder = self.dir.join("kubeconfig");
        fs::create_dir_all(&folder)?;
        let path = folder.join(file);
        kubeconfig::write(&path, &kubeconfig::build(context, &self.server, &self.authority.cert_pem(), user))?;
        Ok(path)
    }
}

/// The running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    etcd: Daemon,
    api_server: Daemon,
    controller_manager: Daemon,
    scheduler: Daemon,
    data: PathBuf,
    namespace_file: PathBuf,
}

/// Where the control plane's processes live and what they are started from.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The run.
    pub run: &'a Run,
    /// The programs.
    pub toolchain: &'a Toolchain,
    /// The datacenter's own folder.
    pub dir: &'a Path,
    /// Namespaces and control group.
    pub home: &'a Home,
    /// File of the network namespace.
    pub namespace_file: &'a Path,
}

impl Place<'_> {
    /// A process of the datacenter that logs to `<datacenter>/log/<name>.log`.
    pub fn launch(&self, spec: &DatacenterSpec, name: &str, tool: Tool, args: Vec<String>) -> Launch {
        Launch {
            name: format!("{}/{name}", spec.name),
            program: self.toolchain.path(tool).to_owned(),
            args,
            env: Vec::new(),
            home: self.home.clone(),
            log: self.dir.join("log").join(format!("{name}.log")),
        }
    }
}

impl ControlPlane {
    /// Starts everything and returns once the API server is ready.
    pub async fn start(spec: &DatacenterSpec, place: Place<'_>, identity: &ClusterIdentity) -> Result<Self> {
        for user in ["system:kube-controller-manager", "system:kube-scheduler"] {
            identity.kubeconfig(&spec.name, &Subject::client(user, None))?;
        }
        let [etcd, api_server, controller_manager, scheduler] = launches(spec, place);
        let (mut etcd, mut api_server) = (etcd.spawn(place.run)?, api_server.spawn(place.run)?);
        wait_ready(&mut etcd, &mut api_server, place.dir, place.namespace_file).await?;
        // Not before: the controller manager ends if it has waited ten seconds, which a slow machine's API server needs.
        let (controller_manager, scheduler) = (controller_manager.spawn(place.run)?, scheduler.spawn(place.run)?);
        let (data, namespace_file) = (place.dir.join("etcd"), place.namespace_file.to_owned());
        Ok(Self { etcd, api_server, controller_manager, scheduler, data, namespace_file })
    }

    /// Takes over the control plane that another process of ours started.
    pub fn attach(spec: &DatacenterSpec, place: Place<'_>) -> Result<Self> {
        let [etcd, api_server, controller_manager, scheduler] = launches(spec, place).map(|launch| {
            let name = launch.name.clone();
            launch
                .attach(place.run)?
                .with_context(|| format!("{name} does not run any more; `cargo xtask demo down`, then start again"))
        });
        Ok(Self {
            etcd: etcd?,
            api_server: api_server?,
            controller_manager: controller_manager?,
            scheduler: scheduler?,
            data: place.dir.join("etcd"),
            namespace_file: place.namespace_file.to_owned(),
        })
    }

    /// Every process of the control plane.
    pub fn daemons(&mut self) -> [&mut Daemon; 4] {
        [&mut self.etcd, &mut self.api_server, &mut self.controller_manager, &mut self.scheduler]
    }

    /// Fails if a process has ended.
    pub fn check(&mut self) -> Result<()> {
        self.daemons().into_iter().try_for_each(Daemon::check)
    }

    /// Copies etcd's data into a folder. etcd is stopped for the copy, so that it is of one moment.
    pub async fn snapshot(&mut self, run: &Run, to: &Path, datacenter: &Path) -> Result<()> {
        self.etcd.stop(STOP_GRACE);
        let copied = copy_folder(&self.data, to);
        self.etcd.restart(run, STOP_GRACE)?;
        copied?;
        self.wait_ready(datacenter).await
    }

    /// Puts etcd back to an earlier copy and restarts everything that remembers a later state, as an operator of a real
    /// cluster must.
    pub async fn restore(&mut self, run: &Run, from: &Path, datacenter: &Path) -> Result<()> {
        for daemon in [&mut self.scheduler, &mut self.controller_manager, &mut self.api_server] {
            daemon.stop(NO_GRACE);
        }
        self.etcd.stop(STOP_GRACE);
        fs::remove_dir_all(&self.data).with_context(|| format!("removing {}", self.data.display()))?;
        copy_folder(from, &self.data)?;
        self.etcd.restart(run, NO_GRACE)?;
        self.api_server.restart(run, NO_GRACE)?;
        self.wait_ready(datacenter).await?;
        self.controller_manager.restart(run, NO_GRACE)?;
        self.scheduler.restart(run, NO_GRACE)
    }

    /// Kills the API server.
    pub fn stop_api_server(&mut self) {
        self.api_server.stop(NO_GRACE);
    }

    /// Starts the API server again and waits until it is ready.
    pub async fn start_api_server(&mut self, run: &Run, datacenter: &Path) -> Result<()> {
        self.api_server.restart(run, NO_GRACE)?;
        self.wait_ready(datacenter).await
    }

    async fn wait_ready(&mut self, datacenter: &Path) -> Result<()> {
        wait_ready(&mut self.etcd, &mut self.api_server, datacenter, &self.namespace_file).await
    }
}

/// Waits until the API server says that it is ready.
async fn wait_ready(
    etcd: &mut Daemon,
    api_server: &mut Daemon,
    datacenter: &Path,
    namespace_file: &Path,
) -> Result<()> {
    let client = http_client(datacenter, namespace_file).await?;
    let what = format!("{} to be ready", api_server.name());
    wait_until(&what, START_TIMEOUT, || {
        let alive = etcd.check().and_then(|()| api_server.check());
        let request = client.http.get(format!("https://{}/readyz?verbose", client.relay.local())).send();
        async move {
            if let Err(error) = alive {
                return Poll::Never(format!("{error:#}"));
            }
            match request.await {
                Ok(answer) if answer.status().is_success() => Poll::Ready(()),
                Ok(answer) => {
                    let text = answer.text().await.unwrap_or_default();
                    Poll::NotYet(text.lines().filter(|line| line.starts_with("[-]")).collect::<Vec<_>>().join(", "))
                }
                Err(error) => Poll::not_yet(error),
            }
        }
    })
    .await
}

/// An HTTP client for the API server's health, through a relay.
struct HealthClient {
    http: reqwest::Client,
    relay: crate::relay::Relay,
}

async fn http_client(datacenter: &Path, namespace_file: &Path) -> Result<HealthClient> {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT));
    let relay = crate::relay::Relay::open(namespace_file.to_owned(), target).await?;
    let authority = fs::read(datacenter.join("pki/ca.crt")).context("reading the cluster's authority")?;
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&authority)?])
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()?;
    Ok(HealthClient { http, relay })
}

fn launches(spec: &DatacenterSpec, place: Place<'_>) -> [Launch; 4] {
    let dir = place.dir.display();
    let pki = format!("{dir}/pki");
    let service_cidr = &spec.service_cidr;
    let address = spec.address;
    let name = &spec.name;
    let features =
        if spec.device_taints { vec!["--feature-gates=DRADeviceTaints=true".to_owned()] } else { Vec::new() };
    // The scheduler reads rules of this version before it schedules anything.
    let versions = spec.device_taints.then(|| "--runtime-config=resource.k8s.io/v1alpha3=true".to_owned());
    let etcd = [
        format!("--name={name}"),
        format!("--data-dir={dir}/etcd"),
        // The API server alone reaches it: nothing outside the namespace can, and no pod shares its loopback.
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        // Three etcds on one disk wait for each other's syncs; no test here loses power.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ];
    let api_server = [
        format!("--etcd-servers={ETCD}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={service_cidr}"),
        // Low enough for Koinon's own ports: a NodePort then has the number that the design gives it.
        "--service-node-port-range=7000-32767".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        format!("--client-ca-file={pki}/ca.crt"),
        format!("--tls-cert-file={pki}/kube-apiserver.crt"),
        format!("--tls-private-key-file={pki}/kube-apiserver.key"),
        format!("--kubelet-certificate-authority={pki}/ca.crt"),
        format!("--kubelet-client-certificate={pki}/kube-apiserver-kubelet-client.crt"),
        format!("--kubelet-client-key={pki}/kube-apiserver-kubelet-client.key"),
        // Else `kubectl logs` asks DNS for the node's name.
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--service-account-key-file={pki}/service-account.pub"),
        format!("--service-account-signing-key-file={pki}/service-account.key"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--requestheader-client-ca-file={pki}/front-proxy-ca.crt"),
        format!("--proxy-client-cert-file={pki}/front-proxy-client.crt"),
        format!("--proxy-client-key-file={pki}/front-proxy-client.key"),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        "--profiling=false".into(),
    ];
    let controller_manager = [
        format!("--kubeconfig={dir}/kubeconfig/system-kube-controller-manager"),
        format!("--service-account-private-key-file={pki}/service-account.key"),
        format!("--root-ca-file={pki}/ca.crt"),
        format!("--cluster-cidr={}", spec.pod_cidr),
        format!("--service-cluster-ip-range={service_cidr}"),
        "--use-service-account-credentials=true".into(),
        // There is one of each; electing itself would cost a write every two seconds.
        "--leader-elect=false".into(),
        "--profiling=false".into(),
    ];
    let scheduler = [
        format!("--kubeconfig={dir}/kubeconfig/system-kube-scheduler"),
        "--leader-elect=false".into(),
        "--profiling=false".into(),
    ];
    [
        place.launch(spec, "etcd", Tool::Etcd, etcd.into()),
        place.launch(
            spec,
            "kube-apiserver",
            Tool::KubeApiserver,
            [api_server.into(), features.clone(), Vec::from_iter(versions), spec.flags.api_server.clone()].concat(),
        ),
        place.launch(
            spec,
            "kube-controller-manager",
            Tool::KubeControllerManager,
            [controller_manager.into(), features.clone(), spec.flags.controller_manager.clone()].concat(),
        ),
        place.launch(spec, "kube-scheduler", Tool::KubeScheduler, [scheduler.into(), features].concat()),
    ]
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let mut copy = std::process::Command::new("cp");
    crate::command::run(copy.args(["--archive", "--no-target-directory"]).arg(from).arg(to)).map(drop)
}

/// Whether something listens on a port inside the namespace.
pub fn listens(namespace_file: &Path, address: IpAddr, port: u16) -> bool {
    dial_inside(namespace_file, SocketAddr::new(address, port)).is_ok()
}
