//! The health listener: `/livez`, `/readyz` and `/metrics`.
//!
//! It has a thread and a runtime of its own, so that a role that is busy, or whose listener is flooded, still answers
//! its kubelet, and stays up while the role drains.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{Encoder, Registry, TextEncoder};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Readiness;

/// Why the health listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address is taken or not ours.
    #[error("listening on {address} for health and metrics: {source}; choose another with --health-listen")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No thread or no runtime could be made.
    #[error("starting the health thread: {0}")]
    Thread(std::io::Error),
}

/// A running health listener; it ends when this is dropped.
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl HealthServer {
    /// Binds `address` (port 0 takes a free one) and serves from a thread of its own.
    pub fn start(address: SocketAddr, registry: Registry, readiness: Readiness) -> Result<Self, HealthError> {
        let bind = |source| HealthError::Bind { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let bound = listener.local_addr().map_err(bind)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HealthError::Thread)?;
        let end = CancellationToken::new();
        let ended = end.clone();
        let app = router(registry, readiness);
        let serve = async move {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => tokio::select! {
                    served = axum::serve(listener, app) => served,
                    () = ended.cancelled() => Ok(()),
                },
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(%error, "the health listener ended");
            }
        };
        let thread = std::thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || runtime.block_on(serve))
            .map_err(HealthError::Thread)?;
        Ok(Self { address: bound, end, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            // The thread never panics on its own account; if it did, the process is ending anyway.
            let _ = thread.join();
        }
    }
}

/// The three routes, for a role that has to put them into a server of its own.
pub fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(metrics).with_state(registry))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let pending = readiness.pending();
    let status = if pending.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": pending.is_empty(), "awaiting": pending }))).into_response()
}

async fn metrics(State(registry): State<Registry>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("encoding metrics: {error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn readyz_is_503_and_names_what_is_awaited_until_it_has_come() {
        let readiness = Readiness::new();
        let crds = readiness.awaiting("crds", "placements.koinon.dev is missing: install the koinon-crds chart");
        let server = HealthServer::start(([127, 0, 0, 1], 0).into(), Registry::new(), readiness).unwrap();
        let answer = ask(server.address(), "/readyz");
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains(r#""crds":"placements.koinon.dev is missing"#), "{answer}");
        assert!(ask(server.address(), "/livez").starts_with("HTTP/1.1 200"));
        crds.met();
        assert!(ask(server.address(), "/readyz").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn metrics_are_prometheus_text() {
        let registry = Registry::new();
        crate::metrics::register(&crate::Registrar::new(&registry), "agent").unwrap();
        let server = HealthServer::start(([127, 0, 0, 1], 0).into(), registry, Readiness::new()).unwrap();
        let answer = ask(server.address(), "/metrics");
        assert!(answer.contains("# TYPE koinon_build_info gauge"), "{answer}");
        assert!(answer.contains(r#"role="agent""#), "{answer}");
    }

    #[test]
    fn a_taken_address_is_named_together_with_the_flag_that_changes_it() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = HealthServer::start(address, Registry::new(), Readiness::new()).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--health-listen"), "{error}");
    }

    #[test]
    fn dropping_the_server_frees_its_address() {
        let server = HealthServer::start(([127, 0, 0, 1], 0).into(), Registry::new(), Readiness::new()).unwrap();
        let address = server.address();
        drop(server);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
