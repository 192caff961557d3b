//! What the kubelet says of who holds which device: its PodResources API, over the socket in its own folder.
//!
//! A connection for each question, so that a kubelet that was restarted meanwhile needs no care. Whatever goes wrong, the
//! answer is an error and never a shorter list.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use koinon_core::gpu::usage::{Allocation, ClaimRef, DeviceName, DraDevice, Holding, PodRef};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::messages::{AllocatableResponse, ContainerDevices, Empty, ListResponse, PodResources};

/// A node's own kubelet answers in milliseconds.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);
/// What Kubernetes' own client of this API allows.
const MAX_MESSAGE: usize = 16 << 20;
/// More headers than any answer has.
const MAX_HEADERS: u32 = 16 << 10;
/// Eight times as many as the largest nodes run.
const MAX_PODS: usize = 4096;
/// 128 devices, each in shares, and all the other devices of a node.
const MAX_DEVICES: usize = 65_536;
/// Names of resources, drivers, pools and devices are shorter.
const MAX_NAME: usize = 512;
const MAX_SHOWN: usize = 256;

const LIST: &str = "/v1.PodResourcesLister/List";
const ALLOCATABLE: &str = "/v1.PodResourcesLister/GetAllocatableResources";

/// Why the kubelet did not say who holds what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubeletError {
    /// Nobody gave its socket.
    #[error(
        "nobody asks the kubelet who holds which device: no --pod-resources is given; set agent.podResources.enabled in the chart"
    )]
    NotGiven,
    /// No connection.
    #[error("connecting to the kubelet at {}: {kind}; {}", socket.display(), advice(*kind))]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        kind: ErrorKind,
    },
    /// It ended, or does not speak HTTP/2.
    #[error("asking the kubelet at {}: the connection broke: {how}; look whether the kubelet was just restarted", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What the connection said.
        how: String,
    },
    /// It hangs.
    #[error("asking the kubelet at {}: no answer within {within:?}; look at the kubelet's log", socket.display())]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// How long it was given.
        within: Duration,
    },
    /// It answered with an error, or with what is no answer to this question.
    #[error("asking the kubelet for {method}: {code:?}: {message}; look at the kubelet's log")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// The status of gRPC.
        code: Code,
        /// The beginning of what it said.
        message: String,
    },
    /// Names that no pod has, or more of them than there can be.
    #[error("reading the kubelet's answer: {0}; is it a kubelet that listens there?")]
    Malformed(String),
}

fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "is the kubelet's pod-resources folder mounted, and does the kubelet run?",
        ErrorKind::PermissionDenied => {
            "the socket is root's: the agent's container must run as user 0 (the chart sees to it)"
        }
        ErrorKind::ConnectionRefused => "the kubelet does not listen: is it being restarted?",
        _ => "look at the kubelet's log",
    }
}

/// What a kubelet said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who holds what.
    pub allocation: Allocation,
    /// Why it did not also say which devices may be given out.
    pub without_allocatable: Option<KubeletError>,
}

/// Asks everything once.
///
/// # Errors
/// If who holds what is not known for certain.
pub async fn ask(socket: &Path) -> Result<Answer, KubeletError> {
    ask_within(socket, DEADLINE).await
}

pub(super) async fn ask_within(socket: &Path, deadline: Duration) -> Result<Answer, KubeletError> {
    let asked = tokio::time::timeout(deadline, ask_without_deadline(socket)).await;
    asked.unwrap_or_else(|_| Err(KubeletError::TimedOut { socket: socket.to_owned(), within: deadline }))
}

async fn ask_without_deadline(socket: &Path) -> Result<Answer, KubeletError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| KubeletError::Connect { socket: socket.to_owned(), kind: error.kind() })?;
    let broken = |error: hyper::Error| KubeletError::Broken { socket: socket.to_owned(), how: shown(&chain(&error)) };
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // A unix socket has no name; the kubelet does not look at it.
    let origin = http::Uri::from_static("http://localhost");
    let mut grpc = Grpc::with_origin(Connection(sender), origin).max_decoding_message_size(MAX_MESSAGE);
    let questions = async {
        let pods = unary::<ListResponse>(&mut grpc, "List", LIST).await?;
        let allocatable = unary::<AllocatableResponse>(&mut grpc, "GetAllocatableResources", ALLOCATABLE).await;
        let (allocatable, without_allocatable) = match allocatable.and_then(|answer| names(answer.devices)) {
            Ok(names) => (Some(names), None),
            Err(error) => (None, Some(error)),
        };
        Ok(Answer { allocation: Allocation { allocatable, ..allocation(pods)? }, without_allocatable })
    };
    // The questions come first: a connection that ends right behind the last answer has answered.
    tokio::select! {
        biased;
        answer = questions => answer,
        ended = connection => Err(match ended {
            Ok(()) => KubeletError::Broken { socket: socket.to_owned(), how: "it was closed".to_owned() },
            Err(error) => broken(error),
        }),
    }
}

/// A connection as gRPC's library wants it.
struct Connection(http2::SendRequest<Body>);

impl GrpcService<Body> for Connection {
    type ResponseBody = hyper::body::Incoming;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<http::Response<hyper::body::Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn unary<A: prost::Message + Default + 'static>(
    grpc: &mut Grpc<Connection>,
    method: &'static str,
    path: &'static str,
) -> Result<A, KubeletError> {
    let refused =
        |status: Status| KubeletError::Refused { method, code: status.code(), message: shown(status.message()) };
    grpc.ready().await.map_err(|error| refused(Status::unavailable(chain(&error))))?;
    let codec = ProstCodec::<Empty, A>::default();
    let asked = grpc.unary(tonic::Request::new(Empty {}), PathAndQuery::from_static(path), codec).await;
    Ok(asked.map_err(refused)?.into_inner())
}

fn allocation(list: ListResponse) -> Result<Allocation, KubeletError> {
    if list.pods.len() > MAX_PODS {
        return Err(KubeletError::Malformed(format!("it lists {} pods, more than any node runs", list.pods.len())));
    }
    let (mut pods, mut holdings) = (BTreeSet::new(), BTreeSet::new());
    for PodResources { name, namespace, containers } in list.pods {
        let pod = PodRef { namespace: parse(&namespace)?, name: parse(&name)? };
        for container in containers {
            let plugged = names(container.devices)?.into_iter().map(|name| (None, name));
            let mut held: Vec<(Option<ClaimRef>, DeviceName)> = plugged.collect();
            for dynamic in container.dynamic_resources {
                let claim = ClaimRef { namespace: parse(&dynamic.claim_namespace)?, name: parse(&dynamic.claim_name)? };
                for one in dynamic.claim_resources {
                    let device = DraDevice {
                        driver: bounded(one.driver_name)?,
                        pool: bounded(one.pool_name)?,
                        device: bounded(one.device_name)?,
                    };
                    held.push((Some(claim.clone()), DeviceName::Dra(device)));
                }
            }
            // Several containers of a pod may use one claim; it is one holding.
            holdings.extend(held.into_iter().map(|(claim, device)| Holding { pod: pod.clone(), claim, device }));
            if holdings.len() > MAX_DEVICES {
                return Err(too_many());
            }
        }
        pods.insert(pod);
    }
    Ok(Allocation { pods, holdings: holdings.into_iter().collect(), allocatable: None })
}

fn names(devices: Vec<ContainerDevices>) -> Result<Vec<DeviceName>, KubeletError> {
    let mut names = Vec::new();
    for ContainerDevices { resource_name, device_ids } in devices {
        let resource = bounded(resource_name)?;
        if names.len() + device_ids.len() > MAX_DEVICES {
            return Err(too_many());
        }
        for id in device_ids {
            names.push(DeviceName::Plugin { resource: resource.clone(), id: bounded(id)? });
        }
    }
    Ok(names)
}

fn too_many() -> KubeletError {
    KubeletError::Malformed(format!("it lists more than {MAX_DEVICES} devices"))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str) -> Result<T, KubeletError> {
    name.parse().map_err(|error: T::Err| KubeletError::Malformed(error.to_string()))
}

fn bounded(name: String) -> Result<String, KubeletError> {
    if name.len() <= MAX_NAME {
        return Ok(name);
    }
    Err(KubeletError::Malformed(format!("the name {}… has {} bytes", shown(&name), name.len())))
}

/// The beginning of foreign text, without what could break a line.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SHOWN).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "podresources_tests.rs"]
pub(super) mod tests;
