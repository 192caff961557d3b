//! Whether this cluster enforces NetworkPolicies, shown with real pods.
//!
//! ```text
//! no policy       caller ─▶ pod: reached      caller ─▶ API server: reached     (else nothing is shown)
//! no ingress      caller ─▶ pod: held back?
//! no egress                                   caller ─▶ API server: held back?
//! ```
//!
//! What was reachable a moment before and is not afterwards was held back by the policy, and by nothing else.

pub mod objects;
pub mod verdict;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use koinon_api::common::NetworkPolicyState;
use kube::ResourceExt;
use kube::api::Api;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::placement::metrics::{Part, PlacementMetrics};
use crate::placement::reader::{ReadError, read};
use crate::placement::writer::{WriteError, Writer};
use objects::{EGRESS, INGRESS, NAMESPACE, PORT};
pub use verdict::{Found, Reached};

/// A CNI does not change often, and nobody should notice that it is looked at.
const AGAIN: Duration = Duration::from_secs(6 * 3600);
/// After a probe that showed nothing.
const RETRY: Duration = Duration::from_secs(60);
/// At most so long after several of them.
const RETRY_MOST: Duration = Duration::from_secs(15 * 60);
/// How long a pod may take from its creation to its end; pulling the image is part of it.
const POD: Duration = Duration::from_secs(90);
/// Some CNIs take seconds to put a policy into force, so a call that gets through is made again.
const ROUNDS: usize = 3;
/// Between two such calls.
const PAUSE: Duration = Duration::from_secs(3);
/// How long the listening pod listens: longer than everything that follows.
const LISTEN_SECONDS: u64 = 600;

/// Why a probe showed nothing.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// An object could not be written. An admission policy that refuses the pod shows here.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An object could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A pod did not get there in time.
    #[error("waiting for pod {pod}: not {what} within {seconds} s; see kubectl -n {NAMESPACE} describe pod {pod}", seconds = POD.as_secs())]
    Pod {
        /// Which pod.
        pod: String,
        /// What it was waited for.
        what: &'static str,
    },
    /// The result is none.
    #[error("{0}")]
    Result(String),
}

/// Probes again and again.
#[derive(Debug)]
pub struct Prober {
    ctx: Context,
    writer: Writer,
    metrics: PlacementMetrics,
    found: watch::Sender<Option<Found>>,
}

impl Prober {
    /// A prober, and where its findings are.
    #[must_use]
    pub fn new(ctx: Context, metrics: PlacementMetrics) -> (Self, watch::Receiver<Option<Found>>) {
        let (found, findings) = watch::channel(None);
        let writer = Writer::new(&ctx, "probe");
        (Self { ctx, writer, metrics, found }, findings)
    }

    /// Probes until `stop`, once there is a Cooperative for whose guests it matters.
    ///
    /// # Errors
    /// Never; what fails is tried again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.probe_for_ever() => {}
        }
        Ok(())
    }

    async fn probe_for_ever(&self) {
        let cooperatives = &self.ctx.caches.cooperatives;
        let mut changes = cooperatives.changes();
        while cooperatives.all().is_empty() {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let mut retry = RETRY;
        loop {
            let result = self.probe().await;
            self.clean_up().await;
            let found = result.unwrap_or_else(|error| {
                self.metrics.failed(Part::Probe);
                Found::unknown(format!("the probe could not run: {error}"))
            });
            tracing::info!(state = ?found.state, message = %found.message, "probed NetworkPolicies");
            let known = found.state != NetworkPolicyState::Unknown;
            // A probe that failed once does not take back what an earlier one showed.
            let kept =
                !known && self.found.borrow().as_ref().is_some_and(|old| old.state != NetworkPolicyState::Unknown);
            if !kept {
                self.found.send_replace(Some(found));
            }
            let pause = if known { AGAIN } else { retry };
            retry = if known { RETRY } else { (retry * 2).min(RETRY_MOST) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn probe(&self) -> Result<Found, ProbeError> {
        let namespaces = Api::<Namespace>::all(self.ctx.client.clone());
        self.writer.apply(&namespaces, &objects::namespace(&self.ctx.namespace)).await?;
        self.lift_policies().await?;
        let outside = self.api_server().await?;
        // A name of its own for every probe: a pod of an earlier one may still be on its way out.
        let tag = format!("{:x}", self.ctx.clock.micros().0);
        let pod = self.listener(&format!("listen-{tag}")).await?;
        let call = |round: &'static str| self.call(format!("call-{round}-{tag}"), &pod, &outside);
        let open = self.until(|reached| reached.pod && reached.outside, |at| call(["a0", "a1", "a2"][at])).await?;
        if !open.pod || !open.outside {
            return Ok(verdict::conclude(open, None, None));
        }
        self.lay_on(INGRESS).await?;
        let ingress = self.until(|reached| !reached.pod, |at| call(["b0", "b1", "b2"][at])).await?;
        if ingress.pod {
            return Ok(verdict::conclude(open, Some(ingress), None));
        }
        self.lay_on(EGRESS).await?;
        let egress = self.until(|reached| !reached.outside, |at| call(["c0", "c1", "c2"][at])).await?;
        Ok(verdict::conclude(open, Some(ingress), Some(egress)))
    }

    /// Calls until it is as expected, a few times at most; what came last counts.
    async fn until<F: Future<Output = Result<Reached, ProbeError>>>(
        &self,
        expected: impl Fn(&Reached) -> bool,
        call: impl Fn(usize) -> F,
    ) -> Result<Reached, ProbeError> {
        let mut reached = call(0).await?;
        for round in 1..ROUNDS {
            if expected(&reached) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            reached = call(round).await?;
        }
        Ok(reached)
    }

    async fn call(&self, name: String, pod: &str, outside: &str) -> Result<Reached, ProbeError> {
        let targets = [pod.to_owned(), outside.to_owned()];
        let api = self.pods();
        let caller = self.writer.create(&api, &objects::caller(&name, &self.ctx.args.image, &targets)).await?;
        let ended = self.wait(&name, "ended", |pod| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            statuses.first()?.state.as_ref()?.terminated.clone()
        });
        let ended = ended.await;
        self.writer.delete(&api, &caller).await?;
        let ended = ended?;
        let said = ended.message.unwrap_or_default();
        verdict::read(&said, pod, outside).map_err(|why| {
            ProbeError::Result(format!("pod {name} ended with code {}: {why}: {said:.200}", ended.exit_code))
        })
    }

    /// Starts the pod that is called, and says where it is.
    async fn listener(&self, name: &str) -> Result<String, ProbeError> {
        let pod = objects::listener(name, &self.ctx.args.image, LISTEN_SECONDS);
        self.writer.create(&self.pods(), &pod).await?;
        let ip = self.wait(name, "running", |pod| {
            let status = pod.status.as_ref()?;
            let running = status.container_statuses.as_ref()?.first()?.state.as_ref()?.running.is_some();
            running.then(|| status.pod_ip.clone()).flatten()
        });
        let ip = ip.await?;
        Ok(if ip.contains(':') { format!("[{ip}]:{PORT}") } else { format!("{ip}:{PORT}") })
    }

    async fn wait<T>(&self, name: &str, what: &'static str, look: impl Fn(&Pod) -> Option<T>) -> Result<T, ProbeError> {
        let api = self.pods();
        let deadline = self.ctx.clock.monotonic() + POD;
        while self.ctx.clock.monotonic() < deadline {
            let pod = read("a probe pod", api.get_opt(name)).await?;
            if let Some(found) = pod.as_ref().and_then(&look) {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(ProbeError::Pod { pod: name.to_owned(), what })
    }

    /// The address of the API server as pods see it.
    async fn api_server(&self) -> Result<String, ProbeError> {
        let api = Api::<Service>::namespaced(self.ctx.client.clone(), "default");
        let service = read("Service default/kubernetes", api.get("kubernetes")).await?;
        let spec = service.spec.unwrap_or_default();
        let port = spec.ports.unwrap_or_default().first().map_or(443, |port| port.port);
        match spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None") {
            Some(ip) if ip.contains(':') => Ok(format!("[{ip}]:{port}")),
            Some(ip) => Ok(format!("{ip}:{port}")),
            None => Err(ProbeError::Result("Service default/kubernetes has no address".to_owned())),
        }
    }

    async fn lay_on(&self, name: &str) -> Result<(), ProbeError> {
        let api = Api::<NetworkPolicy>::namespaced(self.ctx.client.clone(), NAMESPACE);
        self.writer.apply(&api, &objects::policy(name)).await?;
        Ok(())
    }

    async fn lift_policies(&self) -> Result<(), ProbeError> {
        let api = Api::<NetworkPolicy>::namespaced(self.ctx.client.clone(), NAMESPACE);
        for name in [INGRESS, EGRESS] {
            if let Some(policy) = read("a NetworkPolicy", api.get_opt(name)).await? {
                self.writer.delete(&api, &policy).await?;
            }
        }
        Ok(())
    }

    /// Leaves nothing behind. What cannot be removed now is removed before the next probe.
    async fn clean_up(&self) {
        let pods = self.pods();
        let listed = read("probe pods", pods.list(&kube::api::ListParams::default())).await;
        let mut failed = listed.as_ref().err().map(ToString::to_string);
        for pod in listed.map(|list| list.items).unwrap_or_default() {
            if let Err(error) = self.writer.delete(&pods, &pod).await {
                failed = Some(format!("{}: {error}", pod.name_any()));
            }
        }
        if let Err(error) = self.lift_policies().await {
            failed = Some(error.to_string());
        }
        if let Some(error) = failed {
            tracing::warn!(%error, "the probe left something behind in {NAMESPACE}");
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.ctx.client.clone(), NAMESPACE)
    }
}
