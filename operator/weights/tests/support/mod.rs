//! A source of models that behaves as badly as a test asks for, and a cache in a temporary folder.
#![allow(dead_code)] // each test file uses its own part
#![allow(clippy::unwrap_used, clippy::expect_used)] // the lint's exception for tests does not see helpers of tests

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use koinon_core::ids::{Digest, ManifestDigest};
use koinon_core::manifest::{FileFacts, Manifest};
use koinon_telemetry::{CancellationToken, listen};
use koinon_weights::metrics::Metrics;
use koinon_weights::wire::{ModelState, Source, Want};
use koinon_weights::{Cache, Patience, Settings, api};
use prometheus::Registry;
use tokio::net::TcpListener;

/// How the source answers for one path.
#[derive(Clone)]
pub enum Answer {
    /// As it should, ranges included.
    Good(Bytes),
    /// Promises all bytes, breaks off after so many of each answer.
    BreaksOff(Bytes, usize),
    /// Sends so many bytes, then nothing more, without ending.
    Stalls(Bytes, usize),
    /// Sends a byte now and then.
    Trickles(Bytes),
    /// Ignores ranges.
    WithoutRanges(Bytes, usize),
    /// Says how long it is, and sends nothing.
    Claims(u64),
    /// Never ends, and does not say so.
    Endless,
    /// Refuses.
    Status(u16),
    /// Leads elsewhere.
    Redirect(String),
}

/// A source of models on loopback.
#[derive(Clone)]
pub struct Origin {
    pub address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    requests: Arc<Mutex<Vec<Seen>>>,
}

/// One request as the source saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let origin = Self { address, answers: Arc::default(), requests: Arc::default() };
        let app = Router::new().fallback(answer).with_state(origin.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        origin
    }

    pub fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    pub fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self, path: &str) -> Vec<Seen> {
        self.requests.lock().unwrap().iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// Serves `files` below `folder` together with their manifest.
    pub fn put_folder(&self, folder: &str, files: &[(&str, &[u8])]) -> ManifestDigest {
        let lines: String = files.iter().map(|(path, content)| line(path, content)).collect();
        for (path, content) in files {
            self.set(&format!("{folder}/{path}").replace(' ', "%20"), Answer::Good(Bytes::copy_from_slice(content)));
        }
        self.set(&format!("{folder}/koinon.manifest"), Answer::Good(lines.clone().into()));
        Manifest::parse(lines.as_bytes()).unwrap().digest()
    }
}

pub fn line(path: &str, content: &[u8]) -> String {
    format!("{} {} {path}\n", Digest::of(content).hex(), content.len())
}

async fn answer(State(origin): State<Origin>, request: Request) -> Response<Body> {
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let path = request.uri().path().to_owned();
    let range = text(header::RANGE);
    let seen = Seen { path: path.clone(), range: range.clone(), authorization: text(header::AUTHORIZATION) };
    origin.requests.lock().unwrap().push(seen);
    let Some(answer) = origin.answers.lock().unwrap().get(&path).cloned() else {
        return status(404);
    };
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let ranged = |all: &Bytes, most: usize, end: End| {
        let from = from.unwrap_or(0);
        partial(all, from, most, end, from > 0)
    };
    match answer {
        Answer::Good(all) => ranged(&all, usize::MAX, End::Proper),
        Answer::BreaksOff(all, most) => ranged(&all, most, End::Broken),
        Answer::Stalls(all, most) => ranged(&all, most, End::Never),
        Answer::Trickles(all) => {
            let bytes = stream::unfold(from.unwrap_or(0), move |at| {
                let byte = all.slice(at..at + 1);
                async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Some((io::Result::Ok(byte), at + 1))
                }
            });
            Response::new(Body::from_stream(bytes))
        }
        Answer::WithoutRanges(all, most) => {
            partial(&all, 0, if from.is_some() { usize::MAX } else { most }, End::Broken, false)
        }
        Answer::Claims(length) => {
            let body = Body::from_stream(stream::pending::<io::Result<Bytes>>());
            Response::builder().header(header::CONTENT_LENGTH, length).body(body).unwrap()
        }
        Answer::Endless => {
            Response::new(Body::from_stream(stream::repeat_with(|| io::Result::Ok(Bytes::from_static(&[7; 8192])))))
        }
        Answer::Status(code) => status(code),
        Answer::Redirect(to) => {
            Response::builder().status(302).header(header::LOCATION, to).body(Body::empty()).unwrap()
        }
    }
}

enum End {
    Proper,
    Broken,
    Never,
}

fn partial(all: &Bytes, from: usize, most: usize, end: End, ranged: bool) -> Response<Body> {
    let rest = all.slice(from.min(all.len())..);
    let length = rest.len();
    let sent = rest.slice(..length.min(most));
    let whole = sent.len() == length;
    let first = stream::iter([Ok(sent)]);
    let body = match end {
        _ if whole => Body::from_stream(first),
        End::Proper => Body::from_stream(first),
        // The pause lets what was sent arrive before the connection is torn down.
        End::Broken => Body::from_stream(first.chain(stream::once(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(io::Error::other("broken off"))
        }))),
        End::Never => Body::from_stream(first.chain(stream::pending::<io::Result<Bytes>>())),
    };
    let mut response = Response::builder().header(header::CONTENT_LENGTH, length);
    if ranged {
        let range = format!("bytes {from}-{}/{}", all.len().saturating_sub(1), all.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
    }
    response.body(body).unwrap()
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

/// The digest of a model that is one file.
pub fn digest_of(path: &str, content: &[u8]) -> ManifestDigest {
    let facts = FileFacts { digest: Digest::of(content), size: koinon_core::ids::Bytes(content.len() as u64) };
    Manifest::single(path, facts).unwrap().digest()
}

/// What an owner says whose mirror is the site of this uri.
pub fn want(uri: &str) -> Want {
    let site = uri.find("://").and_then(|scheme| uri[scheme + 3..].find('/').map(|path| &uri[..=scheme + 3 + path]));
    let source = |site: &str| Source { prefix: site.into(), mirror: site.into(), token: None, ca_bundle: None };
    Want { sources: site.map(source).into_iter().collect(), ..foreign(uri) }
}

/// What is asked for where the owner has said nothing.
pub fn foreign(uri: &str) -> Want {
    Want { uri: uri.parse().unwrap(), revision: None, sources: Vec::new(), capacity: None }
}

/// Impatient, so that tests of failures are short.
pub fn settings() -> Settings {
    let (idle, pause) = (Duration::from_millis(300), Duration::from_millis(10));
    let patience = Patience { idle, pause, fruitless: 3, ..Patience::default() };
    Settings { patience, keep: Duration::ZERO, ..Settings::default() }
}

pub fn open(folder: &Path, settings: Settings) -> (Cache, CancellationToken) {
    // reqwest asks for the process' provider; the binary installs it, and so does each test process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let stop = CancellationToken::new();
    let metrics = Metrics::register(&Registry::new()).unwrap();
    (Cache::open(folder, settings, metrics, stop.clone()).unwrap(), stop)
}

/// Waits until the model is ready or has failed.
pub async fn settled(cache: &Cache, digest: ManifestDigest) -> ModelState {
    let settled = async {
        loop {
            match cache.status(digest).state {
                ModelState::Fetching { .. } => tokio::time::sleep(Duration::from_millis(10)).await,
                state => return state,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled).await.expect("the fetch did not end")
}

/// Waits until so many bytes have come.
pub async fn has_bytes(cache: &Cache, digest: ManifestDigest, least: u64) {
    let arrived = async {
        while !matches!(cache.status(digest).state, ModelState::Fetching { bytes, .. } if bytes >= least) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("the bytes did not come");
}

/// The cache's own HTTP interface on loopback; the token is `secret`.
pub async fn serve(cache: &Cache, folder: &Path) -> String {
    let token_file = folder.join("token");
    std::fs::write(&token_file, "secret\n").unwrap();
    serve_with(cache, Some(&token_file)).await
}

pub async fn serve_with(cache: &Cache, token_file: Option<&Path>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = api::router(cache.clone(), token_file.map(Path::to_owned));
    tokio::spawn(listen::serve(listener, app, listen::Limits::default(), CancellationToken::new()));
    format!("http://{address}")
}

/// Every file below a folder, relative to it.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}
