//! A kubelet that says of its node's devices what a test wants: the PodResources API over a unix socket, with messages of its
//! own, so that a field that the agent misreads is not misread here as well.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tonic::server::UnaryService;
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    pods: Vec<Pod>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pod {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(message, repeated, tag = "3")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Container {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    devices: Vec<Devices>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Devices {
    #[prost(string, tag = "1")]
    resource: String,
    #[prost(string, repeated, tag = "2")]
    ids: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Allocatable {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Devices>,
}

/// What the kubelet says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Says {
    /// Devices that the plugin registered as healthy, as resource and id.
    pub registered: Vec<(String, String)>,
    /// Pods in the namespace `team`, with what they hold.
    pub pods: Vec<(String, Vec<(String, String)>)>,
}

/// The kubelet. It ends with the runtime.
pub struct Kubelet {
    folder: TempDir,
    says: Arc<Mutex<Says>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Answer<A>(A);

impl<A: Clone + Send + 'static> UnaryService<Nothing> for Answer<A> {
    type Response = A;
    type Future = std::future::Ready<Result<tonic::Response<A>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<Nothing>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(self.0.clone())))
    }
}

async fn reply<A: prost::Message + Default + Clone + 'static>(
    request: http::Request<hyper::body::Incoming>,
    answer: A,
) -> http::Response<tonic::body::Body> {
    tonic::server::Grpc::new(ProstCodec::<A, Nothing>::default()).unary(Answer(answer), request).await
}

impl Kubelet {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("kubelet.sock")).unwrap();
        let says: Arc<Mutex<Says>> = Arc::default();
        let shared = says.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let says = shared.lock().unwrap().clone();
                    async move {
                        Ok::<_, Infallible>(match request.uri().path() {
                            "/v1.PodResourcesLister/List" => reply(request, says.list()).await,
                            "/v1.PodResourcesLister/GetAllocatableResources" => {
                                reply(request, Allocatable { devices: devices(&says.registered) }).await
                            }
                            other => panic!("nobody serves {other}"),
                        })
                    }
                });
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { folder, says, task }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("kubelet.sock")
    }

    pub fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Says {
    fn list(&self) -> List {
        let pod = |(name, held): &(String, Vec<(String, String)>)| Pod {
            name: name.clone(),
            namespace: "team".to_owned(),
            containers: vec![Container { name: "main".to_owned(), devices: devices(held) }],
        };
        List { pods: self.pods.iter().map(pod).collect() }
    }
}

fn devices(named: &[(String, String)]) -> Vec<Devices> {
    named.iter().map(|(resource, id)| Devices { resource: resource.clone(), ids: vec![id.clone()] }).collect()
}
