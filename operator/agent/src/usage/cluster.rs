//! What only the API server knows: the uids of the node's pods, and which device a resource slice means by a name.
//!
//! Asked only when something hangs on it, and for the same question at most once a minute: a node in trouble must not
//! become the API server's trouble.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceSlice;
use koinon_core::gpu::usage::{Allocation, DeviceName, DraDevice, Found, Holding, Owner, PodRef, Pods};
use koinon_core::ids::{DeviceId, NodeName, ObjectUid};
use kube::api::{Api, ListParams, ObjectMeta, PartialObjectMeta};
use tokio::time::Instant;

/// For both questions together.
const DEADLINE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_secs(60);
/// The largest nodes run fewer pods, and no driver publishes more slices for one.
const PAGE: u32 = 500;
const MAX_PAGES: usize = 8;
/// Where the kubelet writes by which digest a static pod's control groups are named.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What DRA drivers for GPUs call the id that the driver library gives a device.
const UUID: [&str; 2] = ["uuid", "gpu.nvidia.com/uuid"];

/// Why the API server did not say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// It refused, or could not be reached.
    #[error("listing {what} of the node: {message}; look at the agent's ClusterRole and at the API server")]
    Failed {
        /// Of what kind.
        what: &'static str,
        /// What it said.
        message: String,
    },
    /// It did not answer in time.
    #[error("listing {what} of the node: no answer within {within:?}; look at the API server", within = DEADLINE)]
    TimedOut {
        /// Of what kind.
        what: &'static str,
    },
    /// More pages than a node can fill.
    #[error("listing {what} of the node: more than a node can have; does the API server honour field selectors?")]
    Endless {
        /// Of what kind.
        what: &'static str,
    },
}

type Uids = BTreeMap<PodRef, BTreeSet<ObjectUid>>;
type Devices = BTreeMap<DraDevice, DeviceId>;

/// The API server, asked about one node.
pub(super) struct Cluster {
    client: kube::Client,
    node: NodeName,
    pods: Kept<Asked, Uids>,
    slices: Kept<BTreeSet<DraDevice>, Devices>,
}

/// What pods were asked about.
#[derive(Clone, Default, PartialEq, Eq)]
struct Asked {
    /// Of processes whose pod holds nothing that is known.
    uids: BTreeSet<ObjectUid>,
    /// Of which one device has several: some of them may have ended.
    holders: BTreeSet<PodRef>,
}

/// The last answer, and what it left open.
struct Kept<Q, A> {
    /// How long an answer that leaves nothing open counts; for ever if none.
    counts_for: Option<Duration>,
    last: Option<(Instant, Q, Result<A, ClusterError>)>,
}

impl<Q: PartialEq + Default, A: Clone> Kept<Q, A> {
    fn new(counts_for: Option<Duration>) -> Self {
        Self { counts_for, last: None }
    }

    /// The answer to a question, of which `open` says what an answer leaves open.
    async fn get(
        &mut self,
        open: impl Fn(&A) -> Q,
        ask: impl Future<Output = Result<A, ClusterError>>,
    ) -> Result<A, ClusterError> {
        if let Some(answer) = self.last_answer(&open) {
            return answer;
        }
        let answer = ask.await;
        let left = answer.as_ref().map(open).unwrap_or_default();
        self.last = Some((Instant::now(), left, answer.clone()));
        answer
    }

    fn last_answer(&self, open: impl Fn(&A) -> Q) -> Option<Result<A, ClusterError>> {
        let (at, left_then, answer) = self.last.as_ref()?;
        let age = at.elapsed();
        let good_enough = match answer {
            Ok(known) => {
                let left = open(known);
                let answered = left == Q::default() && self.counts_for.is_none_or(|most| age < most);
                answered || (age < AGAIN && left == *left_then)
            }
            // One that just failed is not asked again with every survey.
            Err(_) => age < DEADLINE * 5,
        };
        good_enough.then(|| answer.clone())
    }
}

impl Cluster {
    pub(super) fn new(client: kube::Client, node: NodeName) -> Self {
        // Drivers number the devices of their slices anew when they restart.
        Self { client, node, pods: Kept::new(None), slices: Kept::new(Some(AGAIN)) }
    }

    /// The pods of the node and the devices of its slices. What nothing in `found` and `allocation` hangs on is not asked, and
    /// unknown.
    pub(super) async fn ask(
        &mut self,
        found: &BTreeMap<u32, Found>,
        allocation: Option<&Allocation>,
    ) -> (Result<Pods, ClusterError>, Result<Devices, ClusterError>) {
        let holdings = allocation.map(|all| all.holdings.as_slice()).unwrap_or_default();
        let uids: BTreeSet<ObjectUid> = found.values().filter_map(pod_of).collect();
        let claimed: BTreeSet<DraDevice> = holdings.iter().filter_map(|one| dra(&one.device)).collect();
        let contested = contested(holdings);
        let left_of_pods = |known: &Uids| {
            let explained: BTreeSet<&ObjectUid> =
                holdings.iter().filter_map(|one| known.get(&one.pod)).flatten().collect();
            let uids = uids.iter().filter(|uid| !explained.contains(uid)).cloned().collect();
            Asked { uids, holders: contested.clone() }
        };
        let left_of_slices =
            |known: &Devices| claimed.iter().filter(|device| !known.contains_key(*device)).cloned().collect();
        let Self { client, node, pods, slices } = self;
        tokio::join!(
            async {
                if uids.is_empty() && contested.is_empty() {
                    return Ok(Pods::Unknown);
                }
                pods.get(left_of_pods, list_pods(client, node)).await.map(Pods::Known)
            },
            async {
                if claimed.is_empty() {
                    return Ok(Devices::new());
                }
                slices.get(left_of_slices, list_slices(client, node)).await
            }
        )
    }
}

/// The pods that hold one device of a device plugin together with another.
fn contested(holdings: &[Holding]) -> BTreeSet<PodRef> {
    let mut holders: BTreeMap<&DeviceName, BTreeSet<&PodRef>> = BTreeMap::new();
    for Holding { pod, claim, device } in holdings {
        if claim.is_none() {
            holders.entry(device).or_default().insert(pod);
        }
    }
    holders.into_values().filter(|pods| pods.len() > 1).flatten().cloned().collect()
}

async fn list_pods(client: &kube::Client, node: &NodeName) -> Result<Uids, ClusterError> {
    let api: Api<Pod> = Api::all(client.clone());
    // Only names and uids: what a pod runs, and with which secrets, is none of the agent's business.
    let fields = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
    let pages = pages("pods", &fields, |params| {
        let api = api.clone();
        Box::pin(async move {
            let page = api.list_metadata(&params).await?;
            Ok((page.items, page.metadata.continue_))
        })
    });
    Ok(pages.await?.iter().filter_map(pod_and_uids).collect())
}

async fn list_slices(client: &kube::Client, node: &NodeName) -> Result<Devices, ClusterError> {
    let api: Api<ResourceSlice> = Api::all(client.clone());
    let fields = format!("spec.nodeName={node}");
    let pages = pages("resource slices", &fields, |params| {
        let api = api.clone();
        Box::pin(async move {
            let page = api.list(&params).await?;
            Ok((page.items, page.metadata.continue_))
        })
    });
    Ok(devices(&pages.await?))
}

/// A page that is being asked for: its items, and what names the next. Boxed, because what asks is sent between threads.
type Page<T> = Pin<Box<dyn Future<Output = Result<(Vec<T>, Option<String>), kube::Error>> + Send>>;

async fn pages<T>(
    what: &'static str,
    fields: &str,
    page: impl Fn(ListParams) -> Page<T>,
) -> Result<Vec<T>, ClusterError> {
    let all = async {
        let mut params = ListParams::default().fields(fields).limit(PAGE);
        let mut items = Vec::new();
        for _ in 0..MAX_PAGES {
            let answer = page(params.clone()).await;
            let (more, next) = answer.map_err(|error| ClusterError::Failed { what, message: shown(&error) })?;
            items.extend(more);
            match next.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(items),
            }
        }
        Err(ClusterError::Endless { what })
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap_or(Err(ClusterError::TimedOut { what }))
}

fn shown(error: &kube::Error) -> String {
    error.to_string().chars().filter(|c| !c.is_control()).take(256).collect()
}

fn pod_of(found: &Found) -> Option<ObjectUid> {
    match &found.owner {
        Owner::Pod { uid, .. } => Some(uid.clone()),
        Owner::Host | Owner::Gone | Owner::Unreadable => None,
    }
}

fn dra(name: &DeviceName) -> Option<DraDevice> {
    match name {
        DeviceName::Dra(device) => Some(device.clone()),
        DeviceName::Plugin { .. } => None,
    }
}

/// A pod by its names and the uids that its control groups may be named by.
fn pod_and_uids(pod: &PartialObjectMeta<Pod>) -> Option<(PodRef, BTreeSet<ObjectUid>)> {
    let ObjectMeta { namespace, name, uid, annotations, .. } = &pod.metadata;
    let pod = PodRef { namespace: namespace.as_deref()?.parse().ok()?, name: name.as_deref()?.parse().ok()? };
    let mirror = annotations.as_ref().and_then(|all| all.get(MIRROR));
    // Only a digest: nobody may pass for another pod by an annotation.
    let mirror = mirror.filter(|digest| !digest.contains('-'));
    let uids = uid.iter().chain(mirror).filter_map(|uid| uid.parse().ok()).collect();
    Some((pod, uids))
}

/// The devices of the newest generation of each pool, by their names there.
fn devices(slices: &[ResourceSlice]) -> BTreeMap<DraDevice, DeviceId> {
    let mut newest: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for slice in slices {
        let generation = newest.entry((&slice.spec.driver, &slice.spec.pool.name)).or_insert(i64::MIN);
        *generation = slice.spec.pool.generation.max(*generation);
    }
    let current = slices.iter().filter(|slice| {
        let pool = (slice.spec.driver.as_str(), slice.spec.pool.name.as_str());
        newest.get(&pool) == Some(&slice.spec.pool.generation)
    });
    let mut known = BTreeMap::new();
    for slice in current {
        for device in slice.spec.devices.iter().flatten() {
            let attributes = device.attributes.as_ref();
            let uuid = UUID.iter().find_map(|name| attributes?.get(*name)?.string.as_ref());
            let Some(id) = uuid.and_then(|uuid| uuid.parse().ok()) else { continue };
            let name = DraDevice {
                driver: slice.spec.driver.clone(),
                pool: slice.spec.pool.name.clone(),
                device: device.name.clone(),
            };
            known.insert(name, id);
        }
    }
    known
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
pub(super) mod tests;
