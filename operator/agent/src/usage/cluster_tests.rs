use std::sync::{Arc, Mutex};

use http::{Request, Response};
use koinon_core::gpu::usage::ClaimRef;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

pub(in crate::usage) const ONE: &str = "11111111-1111-4111-8111-111111111111";
pub(in crate::usage) const TWO: &str = "22222222-2222-4222-8222-222222222222";
const DIGEST: &str = "0123456789abcdef0123456789abcdef";

/// An API server that answers lists, and remembers what it was asked.
#[derive(Clone, Default)]
pub(in crate::usage) struct Api {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    asked: Vec<String>,
    /// What it answers of each kind, page after page; the last one again and again.
    pods: Vec<Value>,
    slices: Vec<Value>,
    fails: Option<u16>,
    hangs: bool,
}

impl Api {
    pub(in crate::usage) fn with_pods(pods: Value) -> Self {
        let api = Self::default();
        api.state.lock().unwrap().pods = vec![list(pods, None)];
        api
    }

    pub(in crate::usage) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    pub(in crate::usage) fn client(&self) -> kube::Client {
        let state = self.state.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let state = state.clone();
            async move {
                let (code, answer, hangs) = {
                    let mut state = state.lock().unwrap();
                    state.asked.push(request.uri().to_string());
                    let pages =
                        if request.uri().path().ends_with("/pods") { &mut state.pods } else { &mut state.slices };
                    let page = if pages.len() > 1 {
                        pages.remove(0)
                    } else {
                        pages.first().cloned().unwrap_or_else(|| list(json!([]), None))
                    };
                    let failure = json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "not you"});
                    let failed = state.fails.map(|code| (code, failure));
                    let (code, answer) = failed.unwrap_or((200, page));
                    (code, answer, state.hangs)
                };
                if hangs {
                    std::future::pending::<()>().await;
                }
                let text = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(text).unwrap())
            }
        });
        kube::Client::new(service, "koinon-agent")
    }

    pub(in crate::usage) fn forbid(&self) {
        self.state.lock().unwrap().fails = Some(403);
    }

    fn cluster(&self) -> Cluster {
        Cluster::new(self.client(), "node-1".parse().unwrap())
    }
}

fn list(items: Value, next: Option<&str>) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"continue": next}, "items": items})
}

pub(in crate::usage) fn pod(name: &str, uid: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": name, "namespace": "team", "uid": uid}})
}

fn of(name: &str) -> PodRef {
    PodRef { namespace: "team".parse().unwrap(), name: name.parse().unwrap() }
}

fn uid(text: &str) -> ObjectUid {
    text.parse().unwrap()
}

fn found(uids: &[&str]) -> BTreeMap<u32, Found> {
    let owner = |text: &&str| Owner::Pod { uid: uid(text), container: None };
    (1..).zip(uids.iter().map(|uid| Found { started_milliseconds: Some(5), owner: owner(uid) })).collect()
}

fn holds(name: &str) -> Allocation {
    let device = DeviceName::Plugin { resource: "nvidia.com/gpu".into(), id: "GPU-a".into() };
    Allocation { holdings: vec![Holding { pod: of(name), claim: None, device }], ..Allocation::default() }
}

fn claims(device: &str) -> Allocation {
    let claim = ClaimRef { namespace: "team".parse().unwrap(), name: "c".parse().unwrap() };
    let device = DeviceName::Dra(slice_device("node-1", device));
    Allocation { holdings: vec![Holding { pod: of("one"), claim: Some(claim), device }], ..Allocation::default() }
}

fn slice_device(pool: &str, device: &str) -> DraDevice {
    DraDevice { driver: "gpu.nvidia.com".into(), pool: pool.into(), device: device.into() }
}

fn slice(name: &str, generation: i64, devices: &[(&str, &str)]) -> Value {
    let devices: Vec<Value> =
        devices.iter().map(|(name, uuid)| json!({"name": name, "attributes": {"uuid": {"string": uuid}}})).collect();
    json!({"kind": "ResourceSlice", "apiVersion": "resource.k8s.io/v1", "metadata": {"name": name},
        "spec": {"driver": "gpu.nvidia.com", "nodeName": "node-1", "devices": devices,
            "pool": {"name": "node-1", "generation": generation, "resourceSliceCount": 1}}})
}

#[tokio::test]
async fn the_uids_of_the_nodes_living_pods_are_asked_for_and_nothing_else_of_them() {
    let api = Api::with_pods(json!([pod("one", ONE), pod("two", TWO)]));
    let (pods, _) = api.cluster().ask(&found(&[ONE]), Some(&holds("one"))).await;
    let expected = [(of("one"), [uid(ONE)].into()), (of("two"), [uid(TWO)].into())].into();
    assert_eq!(pods.unwrap(), Pods::Known(expected));
    let asked = api.asked();
    assert_eq!(asked.len(), 1);
    for part in [
        "/api/v1/pods?",
        "spec.nodeName%3Dnode-1",
        "status.phase%21%3DSucceeded",
        "status.phase%21%3DFailed",
        "limit=500",
    ] {
        assert!(asked[0].contains(part), "{}", asked[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_while_nothing_hangs_on_it_or_the_last_answer_explains_all() {
    let api = Api::with_pods(json!([pod("one", ONE)]));
    let mut cluster = api.cluster();
    let (pods, _) = cluster.ask(&BTreeMap::new(), Some(&holds("one"))).await;
    assert_eq!((pods.unwrap(), api.asked().len()), (Pods::Unknown, 0), "no process is in a pod");
    for _ in 0..10 {
        cluster.ask(&found(&[ONE]), Some(&holds("one"))).await.0.unwrap();
        tokio::time::advance(AGAIN).await;
    }
    assert_eq!(api.asked().len(), 1, "the first answer says whose process it is");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stays_unexplained_is_asked_for_once_a_minute_and_a_new_one_at_once() {
    let api = Api::with_pods(json!([pod("one", ONE)]));
    let mut cluster = api.cluster();
    for _ in 0..12 {
        cluster.ask(&found(&[TWO]), Some(&holds("one"))).await.0.unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    assert_eq!(api.asked().len(), 2, "two minutes, every ten seconds");
    cluster.ask(&found(&[TWO, DIGEST]), Some(&holds("one"))).await.0.unwrap();
    assert_eq!(api.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn of_which_of_two_holders_lives_the_api_server_is_asked_once_a_minute() {
    let api = Api::with_pods(json!([pod("two", TWO)]));
    let mut cluster = api.cluster();
    let mut both = holds("one");
    both.holdings.extend(holds("two").holdings);
    for _ in 0..12 {
        let (pods, _) = cluster.ask(&BTreeMap::new(), Some(&both)).await;
        assert_eq!(pods.unwrap(), Pods::Known([(of("two"), [uid(TWO)].into())].into()));
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    assert_eq!(api.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_no_answer_and_is_not_provoked_with_every_survey() {
    let api = Api::default();
    api.forbid();
    let mut cluster = api.cluster();
    for _ in 0..3 {
        let (pods, _) = cluster.ask(&found(&[ONE]), Some(&holds("one"))).await;
        assert!(matches!(pods, Err(ClusterError::Failed { what: "pods", .. })), "{pods:?}");
    }
    assert_eq!(api.asked().len(), 1);
    let state = api.state.clone();
    *state.lock().unwrap() = State { pods: vec![list(json!([pod("one", ONE)]), None)], ..State::default() };
    tokio::time::advance(DEADLINE * 5).await;
    assert!(cluster.ask(&found(&[ONE]), Some(&holds("one"))).await.0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_or_never_ends_is_given_up() {
    let api = Api::default();
    api.state.lock().unwrap().hangs = true;
    let (pods, _) = api.cluster().ask(&found(&[ONE]), None).await;
    assert_eq!(pods.unwrap_err(), ClusterError::TimedOut { what: "pods" });
    let api = Api::default();
    api.state.lock().unwrap().pods = vec![list(json!([pod("one", ONE)]), Some("more"))];
    let (pods, _) = api.cluster().ask(&found(&[ONE]), None).await;
    assert_eq!(pods.unwrap_err(), ClusterError::Endless { what: "pods" });
    assert_eq!(api.asked().len(), MAX_PAGES);
}

#[tokio::test]
async fn all_pages_are_read() {
    let api = Api::default();
    api.state.lock().unwrap().pods =
        vec![list(json!([pod("one", ONE)]), Some("next")), list(json!([pod("two", TWO)]), None)];
    let Pods::Known(pods) = api.cluster().ask(&found(&[ONE]), None).await.0.unwrap() else { unreachable!() };
    assert_eq!(pods.len(), 2);
    assert!(api.asked()[1].contains("continue=next"), "{:?}", api.asked());
}

#[tokio::test]
async fn a_static_pod_also_goes_by_its_digest_and_nobody_by_another_pods_uid() {
    let with = |name: &str, annotation: &str| {
        let mut pod = pod(name, ONE);
        pod["metadata"]["annotations"] = json!({MIRROR: annotation});
        pod
    };
    let api = Api::with_pods(json!([with("static", DIGEST), with("liar", TWO)]));
    let Pods::Known(pods) = api.cluster().ask(&found(&[TWO]), None).await.0.unwrap() else { unreachable!() };
    assert_eq!(pods[&of("static")], [uid(ONE), uid(DIGEST)].into());
    assert_eq!(pods[&of("liar")], [uid(ONE)].into());
}

#[tokio::test(start_paused = true)]
async fn the_devices_of_the_newest_slices_are_named_by_their_uuid() {
    let api = Api::default();
    api.state.lock().unwrap().slices = vec![list(
        json!([
            slice("old", 1, &[("gpu-0", "GPU-old"), ("gpu-9", "GPU-gone")]),
            slice("new", 2, &[("gpu-0", "GPU-a")])
        ]),
        None,
    )];
    let mut cluster = api.cluster();
    let (_, slices) = cluster.ask(&BTreeMap::new(), Some(&claims("gpu-0"))).await;
    assert_eq!(slices.unwrap(), [(slice_device("node-1", "gpu-0"), "GPU-a".parse().unwrap())].into());
    assert!(api.asked()[0].contains("/apis/resource.k8s.io/v1/resourceslices?"), "{:?}", api.asked());
    cluster.ask(&BTreeMap::new(), Some(&claims("gpu-0"))).await.1.unwrap();
    assert_eq!(api.asked().len(), 1);
    // Drivers number anew.
    tokio::time::advance(AGAIN).await;
    cluster.ask(&BTreeMap::new(), Some(&claims("gpu-0"))).await.1.unwrap();
    assert_eq!(api.asked().len(), 2);
}
