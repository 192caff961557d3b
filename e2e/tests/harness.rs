//! The datacenters themselves, without anything of Koinon in them: what every other end-to-end test relies on.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use koinon_e2e::cache::Cache;
use koinon_e2e::{Datacenter, Fleet, Poll, Suite, footprint, image, wait_until};
use kube::api::{Api, ObjectMeta, PostParams};

const MINUTE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == START_AND_HANG) {
        return start_and_hang();
    }
    if std::env::args().any(|arg| arg == TAKE_DOWN) {
        return match koinon_e2e::fleet::down() {
            Ok(true) => ExitCode::SUCCESS,
            other => {
                eprintln!("{other:?}");
                ExitCode::FAILURE
            }
        };
    }
    Suite::over(&["aarhus", "bilbao", "cork"])
        .case("three_datacenters_have_a_ready_node_each_of_the_pinned_version", nodes)
        .case("a_restricted_pod_answers_over_its_service_name_and_its_node_port", web)
        .case("a_privileged_pod_is_refused_in_a_restricted_namespace", privileged)
        .case("a_pod_may_name_its_image_by_digest", digest)
        .case("a_cut_datacenter_runs_on_inside_and_is_out_of_reach_outside", cut)
        .case("a_mended_datacenter_is_in_reach_again", mended)
        .case("pods_run_on_while_the_api_server_and_the_kubelet_are_away", without_api_server)
        .case("a_restored_snapshot_forgets_what_came_after_it", restored)
        .case("what_a_crashed_process_left_is_removed_completely", crashed)
        .case("all_of_it_fits_in_four_gibibytes", memory)
        .main()
}

async fn nodes(fleet: Arc<Fleet>) -> Result<()> {
    ensure!(fleet.datacenters().len() == 3);
    for datacenter in fleet.datacenters() {
        let nodes = datacenter.kubectl(["get", "nodes", "--no-headers"]).await?;
        ensure!(nodes.lines().count() == 1 && nodes.starts_with(datacenter.name()), "{nodes}");
        ensure!(nodes.contains(" Ready ") && nodes.contains("v1.34.4"), "{nodes}");
    }
    Ok(())
}

/// A namespace in which only confined pods may run, a pod there that serves HTTP, its service, and a pod that asks.
const WEB: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: web, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 7444}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: web, labels: {app: web}}
spec:
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: web
    image: koinon.test/busybox:e2e
    command: [sh, -c, 'hostname > /tmp/index.html && exec httpd -f -p 8080 -h /tmp']
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: tmp, mountPath: /tmp}]
  volumes: [{name: tmp, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: asker, namespace: web}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: asker
    image: koinon.test/busybox:e2e
    command: [sleep, "86400"]
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
"#;

async fn web(fleet: Arc<Fleet>) -> Result<()> {
    let cache = Cache::from_env()?;
    let busybox = image::busybox(&cache, &|_| {})?;
    for datacenter in fleet.datacenters() {
        datacenter.load_image(&busybox).await?;
    }
    let bilbao = fleet.get("bilbao")?;
    bilbao.apply(WEB).await?;
    wait_for_pod(bilbao, "web", "web").await?;
    wait_for_pod(bilbao, "web", "asker").await?;
    for url in ["http://web", "http://web.web.svc.cluster.local", "http://10.250.0.12:7444"] {
        let url = url.replace("10.250.0.12", &bilbao.spec().address.to_string());
        let answer = ask_inside(bilbao, &url).await?;
        ensure!(answer.trim() == "web", "{url} answered {answer:?}");
    }
    // From another member, as its gateway would, and from the machine itself.
    let url = format!("http://{}:7444", bilbao.spec().address);
    ensure!(fetch_from(fleet.get("aarhus")?, &url).await?.trim() == "web");
    ensure!(reqwest::get(&url).await?.text().await?.trim() == "web");
    // The service has an address of the same number in another cluster, where it is nobody's.
    let elsewhere = fetch_from(fleet.get("cork")?, &format!("http://{}:7444", fleet.get("cork")?.spec().address)).await;
    ensure!(elsewhere.is_err(), "cork answers on a port that only bilbao opened");
    Ok(())
}

async fn privileged(fleet: Arc<Fleet>) -> Result<()> {
    let pod = WEB.replace("runAsNonRoot: true", "runAsNonRoot: false").replace("name: asker", "name: intruder");
    let Err(refusal) = fleet.get("bilbao")?.apply(&pod).await else { bail!("it was admitted") };
    ensure!(refusal.to_string().contains("violates PodSecurity \"restricted"), "{refusal}");
    Ok(())
}

async fn digest(fleet: Arc<Fleet>) -> Result<()> {
    let busybox = image::busybox(&Cache::from_env()?, &|_| {})?;
    let bilbao = fleet.get("bilbao")?;
    let asker = WEB.split("---").last().context("no pod")?;
    bilbao
        .apply(&asker.replace("name: asker", "name: pinned").replace("koinon.test/busybox:e2e", &busybox.pinned()))
        .await?;
    wait_for_pod(bilbao, "web", "pinned").await?;
    // What the node says that it runs is what was asked for, byte for byte.
    let runs = bilbao
        .kubectl(["get", "pod", "pinned", "-n", "web", "-o", "jsonpath={.status.containerStatuses[0].imageID}"])
        .await?;
    ensure!(runs.ends_with(busybox.digest()), "it runs {runs}, not {}", busybox.digest());
    Ok(())
}

async fn cut(fleet: Arc<Fleet>) -> Result<()> {
    let bilbao = fleet.get("bilbao")?;
    let url = format!("http://{}:7444", bilbao.spec().address);
    bilbao.cut()?;
    ensure!(bilbao.is_cut()?);
    ensure!(fetch_from(fleet.get("aarhus")?, &url).await.is_err(), "aarhus still reaches it");
    ensure!(dial(bilbao).await.is_err(), "the machine still reaches its API server");
    // Inside: the pod answers, kubectl and the client work, and new pods start.
    ensure!(ask_inside(bilbao, "http://web").await?.trim() == "web");
    ensure!(ask_inside(bilbao, &url).await?.trim() == "web");
    let asker = WEB.split("---").last().context("no pod")?;
    bilbao.apply(&asker.replace("name: asker", "name: born-in-the-dark")).await?;
    wait_for_pod(bilbao, "web", "born-in-the-dark").await?;
    // The others do not notice.
    let between =
        fetch_from(fleet.get("aarhus")?, &format!("https://{}:6443/livez", fleet.get("cork")?.spec().address)).await?;
    ensure!(between == "ok", "{between}");
    Ok(())
}

async fn mended(fleet: Arc<Fleet>) -> Result<()> {
    let bilbao = fleet.get("bilbao")?;
    bilbao.mend()?;
    ensure!(!bilbao.is_cut()?);
    let url = format!("http://{}:7444", bilbao.spec().address);
    let aarhus = fleet.get("aarhus")?;
    wait_until("aarhus to reach bilbao", Duration::from_secs(20), || async {
        match fetch_from(aarhus, &url).await {
            Ok(answer) => Poll::<()>::when(answer.trim() == "web", answer),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    dial(bilbao).await
}

async fn without_api_server(fleet: Arc<Fleet>) -> Result<()> {
    let bilbao = fleet.get("bilbao")?;
    let started = started_at(bilbao, "web").await?;
    bilbao.stop_api_server().await;
    ensure!(bilbao.kubectl(["get", "--raw", "/livez"]).await.is_err(), "the API server still answers");
    let answer = fetch_from(bilbao, &format!("http://{}:7444", bilbao.spec().address)).await?;
    ensure!(answer.trim() == "web", "{answer}");
    bilbao.start_api_server().await?;
    bilbao.restart_kubelet().await?;
    wait_for_pod(bilbao, "web", "web").await?;
    ensure!(started_at(bilbao, "web").await? == started, "the pod was started again");
    Ok(())
}

async fn restored(fleet: Arc<Fleet>) -> Result<()> {
    let bilbao = fleet.get("bilbao")?;
    let maps: Api<ConfigMap> = Api::namespaced(bilbao.client(), "default");
    let named = |name: &str| ConfigMap {
        metadata: ObjectMeta { name: Some(name.into()), ..Default::default() },
        ..Default::default()
    };
    maps.create(&PostParams::default(), &named("before")).await?;
    let snapshot = bilbao.snapshot_etcd().await?;
    wait_until("the API server to write again", MINUTE, || async {
        match maps.create(&PostParams::default(), &named("after")).await {
            Ok(_) => Poll::Ready(()),
            Err(error) => Poll::not_yet(error),
        }
    })
    .await?;
    bilbao.restore_etcd_snapshot(&snapshot).await?;
    ensure!(maps.get_opt("before").await?.is_some(), "what was there before the snapshot is gone");
    ensure!(maps.get_opt("after").await?.is_none(), "what came after the snapshot is still there");
    // The cluster works on: a new pod is scheduled, started and becomes ready.
    let asker = WEB.split("---").last().context("no pod")?;
    bilbao.apply(&asker.replace("name: asker", "name: after-the-restore")).await?;
    wait_for_pod(bilbao, "web", "after-the-restore").await
}

/// Argument with which this program starts a datacenter and never ends.
const START_AND_HANG: &str = "--start-and-hang";
/// Argument with which this program removes the run that stands.
const TAKE_DOWN: &str = "--take-down";
/// A run beside the suite's own.
const OTHER_INSTANCE: &str = "9";

fn start_and_hang() -> ExitCode {
    let started = tokio::runtime::Runtime::new().map(|runtime| {
        runtime.block_on(async {
            let fleet = Fleet::start(&["esbjerg"], &|_| {}).await;
            eprintln!("{:?}", fleet.as_ref().map(|_| "up"));
            std::future::pending::<()>().await;
        });
    });
    eprintln!("{started:?}");
    ExitCode::FAILURE
}

async fn crashed(_: Arc<Fleet>) -> Result<()> {
    let list = format!("/var/lib/koinon{OTHER_INSTANCE}-run/made.jsonl");
    let mut victim = std::process::Command::new(std::env::current_exe()?)
        .arg(START_AND_HANG)
        .env("KOINON_INSTANCE", OTHER_INSTANCE)
        .env_remove("KOINON_RUN")
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let begun = wait_until("the other run to have processes and mounts", MINUTE, || {
        let text = std::fs::read_to_string(&list).unwrap_or_default();
        std::future::ready(Poll::<()>::when(text.contains("esbjerg/kubelet"), text.lines().count()))
    });
    let begun = begun.await;
    victim.kill()?;
    victim.wait()?;
    begun?;
    let namespace = format!("/run/netns/koinon{OTHER_INSTANCE}-esbjerg");
    ensure!(std::path::Path::new(&namespace).exists(), "nothing was left to remove");
    let mut down = std::process::Command::new(std::env::current_exe()?);
    down.arg(TAKE_DOWN).env("KOINON_INSTANCE", OTHER_INSTANCE).env_remove("KOINON_RUN");
    koinon_e2e::datacenter::run_blocking(down).await?;
    ensure!(!std::path::Path::new(&namespace).exists(), "{namespace} is still there");
    ensure!(!std::path::Path::new(&list).exists(), "{list} is still there");
    Ok(())
}

async fn memory(fleet: Arc<Fleet>) -> Result<()> {
    let uses = footprint::look(fleet.run());
    let total = footprint::total_memory(&uses) >> 20;
    println!("{}  together {total} MiB", footprint::table(&uses, |_| true));
    ensure!(total > 500, "only {total} MiB: are these whole clusters?");
    ensure!(total < 4096, "{total} MiB");
    Ok(())
}

async fn wait_for_pod(datacenter: &Datacenter, namespace: &str, name: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(datacenter.client(), namespace);
    wait_until(&format!("the pod {name} to be ready"), MINUTE, || async {
        let pod = match pods.get_opt(name).await {
            Ok(pod) => pod,
            Err(error) => return Poll::not_yet(error),
        };
        let status = pod.and_then(|pod| pod.status).unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        Poll::<()>::when(ready, format!("{:?} {:?}", status.phase, status.container_statuses))
    })
    .await
}

async fn started_at(datacenter: &Datacenter, pod: &str) -> Result<String> {
    let path = "jsonpath={.status.containerStatuses[0].state.running.startedAt}";
    datacenter.kubectl(["get", "pod", pod, "--namespace", "web", "--output", path]).await
}

/// What a URL answers to a pod.
async fn ask_inside(datacenter: &Datacenter, url: &str) -> Result<String> {
    datacenter
        .kubectl(["exec", "--namespace", "web", "asker", "--", "timeout", "5", "wget", "-q", "-O", "-", url])
        .await
}

/// What a URL answers to a program on a datacenter's network.
async fn fetch_from(datacenter: &Datacenter, url: &str) -> Result<String> {
    let mut curl = datacenter.command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--insecure", "--noproxy", "*", "--max-time", "3", url]);
    koinon_e2e::datacenter::run_blocking(curl).await
}

/// Whether the machine reaches the API server over the wire.
async fn dial(datacenter: &Datacenter) -> Result<()> {
    let address = (datacenter.spec().address, 6443);
    tokio::time::timeout(Duration::from_secs(3), tokio::net::TcpStream::connect(address)).await??;
    Ok(())
}
