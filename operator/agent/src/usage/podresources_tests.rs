use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::service::service_fn;
use prost::Message as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tonic::server::UnaryService;

use super::super::messages::{ClaimResource, ContainerResources, DynamicResource};
use super::*;

/// Soon enough for a test, and long for an answer over a socket of the same machine.
const SHORT: Duration = Duration::from_millis(1500);

type Reply<A> = Result<A, Status>;

/// A kubelet that speaks gRPC: the library's own server over HTTP/2 on a unix socket.
pub(in crate::usage) struct Kubelet {
    folder: TempDir,
    task: Option<JoinHandle<()>>,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Says<A>(Reply<A>);

impl<A: Clone + Send + 'static> UnaryService<Empty> for Says<A> {
    type Response = A;
    type Future = std::future::Ready<Result<tonic::Response<A>, Status>>;

    fn call(&mut self, _: tonic::Request<Empty>) -> Self::Future {
        std::future::ready(self.0.clone().map(tonic::Response::new))
    }
}

async fn reply<A: prost::Message + Default + Clone + 'static>(
    request: http::Request<hyper::body::Incoming>,
    says: Reply<A>,
) -> http::Response<Body> {
    tonic::server::Grpc::new(ProstCodec::<A, Empty>::default()).unary(Says(says), request).await
}

impl Kubelet {
    fn folder() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), task: None, asked: Arc::default() }
    }

    pub(in crate::usage) fn socket(&self) -> PathBuf {
        self.folder.path().join("kubelet.sock")
    }

    fn listener(&self) -> UnixListener {
        // A restarted kubelet removes what the one before left.
        let _ = std::fs::remove_file(self.socket());
        UnixListener::bind(self.socket()).unwrap()
    }

    fn says(list: Reply<ListResponse>, allocatable: Reply<AllocatableResponse>) -> Self {
        let mut kubelet = Self::folder();
        kubelet.start(list, allocatable);
        kubelet
    }

    /// One that lists these pods, and devices of nobody.
    pub(in crate::usage) fn listing(pods: Vec<PodResources>) -> Self {
        Self::says(list(pods), nothing())
    }

    fn start(&mut self, list: Reply<ListResponse>, allocatable: Reply<AllocatableResponse>) {
        let (listener, asked) = (self.listener(), self.asked.clone());
        self.task = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::SeqCst);
                let (list, allocatable) = (list.clone(), allocatable.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (list, allocatable) = (list.clone(), allocatable.clone());
                    async move {
                        Ok::<_, std::convert::Infallible>(match request.uri().path() {
                            LIST => reply(request, list).await,
                            ALLOCATABLE => reply(request, allocatable).await,
                            other => panic!("nobody serves {other}"),
                        })
                    }
                });
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
            }
        }));
    }

    pub(in crate::usage) fn stop(&mut self) {
        self.task.take().unwrap().abort();
    }

    /// A kubelet whose connections are given to `hostile`.
    fn hostile<F: Future<Output = ()> + Send + 'static>(hostile: impl Fn(UnixStream) -> F + Send + 'static) -> Self {
        let mut kubelet = Self::folder();
        let listener = kubelet.listener();
        kubelet.task = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(hostile(stream));
            }
        }));
        kubelet
    }

    async fn ask(&self) -> Result<Answer, KubeletError> {
        ask_within(&self.socket(), SHORT).await
    }
}

fn pod(name: &str, devices: &[(&str, &[&str])]) -> PodResources {
    let devices = devices.iter().map(|(resource, ids)| plugin(resource, ids)).collect();
    let containers = vec![ContainerResources { devices, dynamic_resources: Vec::new() }];
    PodResources { name: name.to_owned(), namespace: "team".to_owned(), containers }
}

/// A pod that holds these GPUs.
pub(in crate::usage) fn holding_pod(name: &str, ids: &[&str]) -> PodResources {
    pod(name, &[("nvidia.com/gpu", ids)])
}

fn plugin(resource: &str, ids: &[&str]) -> ContainerDevices {
    ContainerDevices { resource_name: resource.to_owned(), device_ids: ids.iter().map(|id| (*id).to_owned()).collect() }
}

fn list(pods: Vec<PodResources>) -> Reply<ListResponse> {
    Ok(ListResponse { pods })
}

fn nothing() -> Reply<AllocatableResponse> {
    Ok(AllocatableResponse::default())
}

fn of(name: &str) -> PodRef {
    PodRef { namespace: "team".parse().unwrap(), name: name.parse().unwrap() }
}

fn named(id: &str) -> DeviceName {
    DeviceName::Plugin { resource: "nvidia.com/gpu".to_owned(), id: id.to_owned() }
}

#[tokio::test]
async fn pods_their_devices_and_what_may_be_given_out_are_read() {
    let pods = vec![pod("engine-0", &[("nvidia.com/gpu", &["GPU-a", "GPU-b"])]), pod("web", &[])];
    let allocatable = AllocatableResponse { devices: vec![plugin("nvidia.com/gpu", &["GPU-a", "GPU-b", "GPU-c"])] };
    let answer = Kubelet::says(list(pods), Ok(allocatable)).ask().await.unwrap();
    let holding = |id| Holding { pod: of("engine-0"), claim: None, device: named(id) };
    assert_eq!(answer.allocation.holdings, [holding("GPU-a"), holding("GPU-b")]);
    assert_eq!(answer.allocation.pods, [of("engine-0"), of("web")].into());
    assert_eq!(answer.allocation.allocatable.unwrap(), ["GPU-a", "GPU-b", "GPU-c"].map(named));
    assert_eq!(answer.without_allocatable, None);
}

#[tokio::test]
async fn a_claim_that_two_containers_use_is_one_holding() {
    let claimed = ContainerResources {
        devices: Vec::new(),
        dynamic_resources: vec![DynamicResource {
            claim_name: "engine-0-gpu".to_owned(),
            claim_namespace: "team".to_owned(),
            claim_resources: vec![ClaimResource {
                driver_name: "gpu.nvidia.com".to_owned(),
                pool_name: "node-1".to_owned(),
                device_name: "gpu-3".to_owned(),
            }],
        }],
    };
    let twice = PodResources { containers: vec![claimed.clone(), claimed], ..pod("engine-0", &[]) };
    let answer = Kubelet::says(list(vec![twice]), nothing()).ask().await.unwrap();
    let device = DraDevice { driver: "gpu.nvidia.com".into(), pool: "node-1".into(), device: "gpu-3".into() };
    let claim = ClaimRef { namespace: "team".parse().unwrap(), name: "engine-0-gpu".parse().unwrap() };
    let holding = Holding { pod: of("engine-0"), claim: Some(claim), device: DeviceName::Dra(device) };
    assert_eq!(answer.allocation.holdings, [holding]);
}

#[tokio::test]
async fn an_empty_list_is_an_answer_and_an_error_is_none() {
    let answer = Kubelet::says(list(Vec::new()), nothing()).ask().await.unwrap();
    assert_eq!(answer.allocation, Allocation { allocatable: Some(Vec::new()), ..Allocation::default() });
    let refused = Kubelet::says(Err(Status::resource_exhausted("rejected by\nrate limit")), nothing()).ask().await;
    let expected = KubeletError::Refused {
        method: "List",
        code: Code::ResourceExhausted,
        message: "rejected by rate limit".to_owned(),
    };
    assert_eq!(refused.unwrap_err(), expected);
}

#[tokio::test]
async fn a_kubelet_that_does_not_say_what_it_may_give_out_still_says_who_holds_what() {
    let pods = vec![pod("engine-0", &[("nvidia.com/gpu", &["GPU-a"])])];
    let answer = Kubelet::says(list(pods), Err(Status::unimplemented("no such method"))).ask().await.unwrap();
    assert_eq!((answer.allocation.holdings.len(), answer.allocation.allocatable), (1, None));
    assert!(matches!(answer.without_allocatable, Some(KubeletError::Refused { code: Code::Unimplemented, .. })));
}

#[tokio::test]
async fn a_kubelet_that_comes_back_is_asked_again() {
    let mut kubelet = Kubelet::says(list(Vec::new()), nothing());
    kubelet.ask().await.unwrap();
    kubelet.stop();
    // The socket file is still there, and nobody listens.
    while kubelet.ask().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(
        kubelet.ask().await.unwrap_err(),
        KubeletError::Connect { kind: ErrorKind::ConnectionRefused, .. }
    ));
    std::fs::remove_file(kubelet.socket()).unwrap();
    let absent = kubelet.ask().await.unwrap_err();
    assert!(matches!(absent, KubeletError::Connect { kind: ErrorKind::NotFound, .. }), "{absent}");
    kubelet.start(list(vec![pod("engine-0", &[])]), nothing());
    assert_eq!(kubelet.ask().await.unwrap().allocation.pods, [of("engine-0")].into());
}

#[tokio::test]
async fn one_that_hangs_before_or_after_the_handshake_is_given_up() {
    let silent = Kubelet::hostile(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    });
    assert!(matches!(silent.ask().await.unwrap_err(), KubeletError::TimedOut { .. }));
    // An empty SETTINGS frame: it speaks HTTP/2, and no more.
    let mute = Kubelet::hostile(|mut stream| async move {
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let error = mute.ask().await.unwrap_err();
    assert!(matches!(error, KubeletError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn garbage_and_a_connection_that_ends_are_told_as_such() {
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0xff; 4096], b""] {
        let kubelet = Kubelet::hostile(move |mut stream| async move {
            // It may have hung up already.
            let _ = stream.write_all(garbage).await;
        });
        let error = kubelet.ask().await.unwrap_err();
        assert!(matches!(error, KubeletError::Broken { .. } | KubeletError::Refused { .. }), "{garbage:?}: {error}");
    }
}

#[tokio::test]
async fn one_that_ends_in_the_middle_of_its_answer_has_not_answered() {
    // All that the real server says, but for the last bytes of what it sends.
    let pods: Vec<PodResources> =
        (0..500).map(|n| pod(&format!("pod-{n}"), &[("nvidia.com/gpu", &["GPU-a"])])).collect();
    let whole = Arc::new(Kubelet::says(list(pods), nothing()));
    let relayed = Arc::new(Mutex::new(0));
    for limit in [2_000, 12_000] {
        let (whole, relayed) = (whole.clone(), relayed.clone());
        let kubelet = Kubelet::hostile(move |near| {
            let (whole, relayed) = (whole.clone(), relayed.clone());
            async move {
                let far = UnixStream::connect(whole.socket()).await.unwrap();
                let (mut near_in, mut near_out) = near.into_split();
                let (far_in, mut far_out) = far.into_split();
                let forth = tokio::spawn(async move { tokio::io::copy(&mut near_in, &mut far_out).await });
                let passed = tokio::io::copy(&mut far_in.take(limit), &mut near_out).await.unwrap();
                *relayed.lock().unwrap() += passed;
                forth.abort();
            }
        });
        let error = kubelet.ask().await.unwrap_err();
        assert!(matches!(error, KubeletError::Refused { .. } | KubeletError::Broken { .. }), "{error}");
    }
    assert!(*relayed.lock().unwrap() >= 10_000, "the answers were cut off, not refused");
    assert_eq!(whole.ask().await.unwrap().allocation.pods.len(), 500);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_before_it_is_read() {
    let huge = "x".repeat(MAX_MESSAGE);
    let answer = Kubelet::says(list(vec![pod(&huge, &[])]), nothing()).ask().await.unwrap_err();
    assert!(matches!(answer, KubeletError::Refused { code: Code::OutOfRange, .. }), "{answer}");
    let many: Vec<PodResources> = (0..=MAX_PODS).map(|n| pod(&format!("pod-{n}"), &[])).collect();
    let answer = Kubelet::says(list(many), nothing()).ask().await.unwrap_err();
    assert!(matches!(&answer, KubeletError::Malformed(text) if text.contains("4097 pods")), "{answer}");
    let ids: Vec<String> = (0..=MAX_DEVICES).map(|n| n.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let answer = Kubelet::says(list(vec![pod("one", &[("r", &ids)])]), nothing()).ask().await.unwrap_err();
    assert!(matches!(&answer, KubeletError::Malformed(text) if text.contains("65536 devices")), "{answer}");
}

#[tokio::test]
async fn a_name_that_no_pod_has_makes_the_whole_answer_worthless() {
    // Left out, it would be a holder that nobody knows of.
    for wrong in ["", "Upper", "a/b", "line\nbreak"] {
        let pods = vec![pod("engine-0", &[]), pod(wrong, &[("nvidia.com/gpu", &["GPU-a"])])];
        let answer = Kubelet::says(list(pods), nothing()).ask().await;
        assert!(matches!(answer, Err(KubeletError::Malformed(_))), "{wrong:?}: {answer:?}");
    }
    let long = "d".repeat(MAX_NAME + 1);
    let answer = Kubelet::says(list(vec![pod("one", &[("nvidia.com/gpu", &[&long])])]), nothing()).ask().await;
    assert!(matches!(answer, Err(KubeletError::Malformed(_))), "{answer:?}");
}

#[tokio::test]
async fn a_newer_kubelets_fields_are_skipped() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Newer {
        #[prost(message, repeated, tag = "1")]
        pods: Vec<PodResources>,
        #[prost(string, tag = "9")]
        more: String,
    }
    let newer = Newer { pods: vec![pod("engine-0", &[])], more: "x".to_owned() };
    let read = ListResponse::decode(newer.encode_to_vec().as_slice()).unwrap();
    assert_eq!(allocation(read).unwrap().pods, [of("engine-0")].into());
}

#[tokio::test]
async fn whoever_floods_the_connection_is_given_up_with_it() {
    let flooded = Arc::new(AtomicBool::new(false));
    let mark = flooded.clone();
    let kubelet = Kubelet::hostile(move |mut stream| {
        let mark = mark.clone();
        async move {
            let mut hello = [0; 24];
            stream.read_exact(&mut hello).await.unwrap();
            // Settings without end, each of which asks for an acknowledgement.
            while stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0].repeat(100)).await.is_ok() {
                mark.store(true, Ordering::SeqCst);
            }
        }
    });
    let error = kubelet.ask().await.unwrap_err();
    assert!(
        matches!(error, KubeletError::TimedOut { .. } | KubeletError::Broken { .. } | KubeletError::Refused { .. }),
        "{error}"
    );
    assert!(flooded.load(Ordering::SeqCst));
}
