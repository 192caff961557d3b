//! The cache's HTTP interface; what is said over it stands in [`crate::wire`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path as UrlPath, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::stream;
use koinon_core::ids::{Digest, ManifestDigest};
use koinon_core::manifest::FileFacts;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::cache::{Cache, Held};
use crate::wire::{FileEntry, FileList, ModelList, ModelStatus, ReadKey, Token, Want};

/// Largest request: a want with a few certificate bundles.
const MAX_WANT: usize = 1 << 20;
/// Read from disk at a time: large enough for spinning disks, small enough for many readers.
const CHUNK: usize = 256 * 1024;

#[derive(Clone)]
struct Api {
    cache: Cache,
    token_file: Option<Arc<Path>>,
}

/// The routes. Whoever can read `token_file` may ask for models and see them all; who holds a model's key may read that one.
pub fn router(cache: Cache, token_file: Option<PathBuf>) -> Router {
    Router::new()
        .route("/v1/models", get(list))
        .route("/v1/models/{digest}", get(status).put(want))
        .route("/v1/models/{digest}/files", get(files))
        .route("/v1/models/{digest}/files/{*path}", get(file))
        .layer(DefaultBodyLimit::max(MAX_WANT))
        .with_state(Api { cache, token_file: token_file.map(Into::into) })
}

/// A refusal, with the words of the one who refuses.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "message": self.1 }))).into_response()
    }
}

fn parse(digest: &str) -> Result<ManifestDigest, Refusal> {
    digest.parse().map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("{error}")))
}

async fn list(State(api): State<Api>, _: FromOperator) -> Json<ModelList> {
    Json(ModelList { models: api.cache.list() })
}

async fn status(
    State(api): State<Api>,
    UrlPath(digest): UrlPath<String>,
    headers: HeaderMap,
) -> Result<Json<ModelStatus>, Refusal> {
    let digest = api.readable(&digest, &headers).await?;
    Ok(Json(api.cache.status(digest)))
}

async fn want(
    State(api): State<Api>,
    UrlPath(digest): UrlPath<String>,
    _: FromOperator,
    Json(want): Json<Want>,
) -> Result<(StatusCode, Json<ModelStatus>), Refusal> {
    Ok((StatusCode::ACCEPTED, Json(api.cache.want(parse(&digest)?, want))))
}

async fn files(
    State(api): State<Api>,
    UrlPath(digest): UrlPath<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let digest = api.readable(&digest, &headers).await?;
    let Some(held) = api.cache.hold(digest) else {
        return Ok((StatusCode::CONFLICT, Json(api.cache.status(digest))).into_response());
    };
    let entry = |(path, facts): (&str, FileFacts)| FileEntry {
        path: path.to_owned(),
        size: facts.size.0,
        sha256: facts.digest,
    };
    Ok(Json(FileList { digest, files: held.manifest().files().map(entry).collect() }).into_response())
}

async fn file(
    State(api): State<Api>,
    UrlPath((digest, path)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let digest = api.readable(&digest, &headers).await?;
    let Some(held) = api.cache.hold(digest) else {
        return Ok((StatusCode::CONFLICT, Json(api.cache.status(digest))).into_response());
    };
    let Some((location, facts)) = api.cache.file(digest, &held, &path) else {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("the model has no file {path:?}")));
    };
    let size = facts.size.0;
    let etag = format!("\"{}\"", facts.digest.hex());
    let same = headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    let range = headers.get(header::RANGE).filter(|_| same).and_then(|range| range.to_str().ok());
    let part = match range.map_or(Part::Whole, |range| Part::read(range, size)) {
        Part::Nothing => {
            let of = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, of).into_response());
        }
        part => part,
    };
    let failed = |error: io::Error| {
        tracing::error!(%error, file = %location.display(), "opening a file of a model");
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("opening {path:?}: {error}"))
    };
    let mut opened = File::open(&location).await.map_err(failed)?;
    let (from, length) = match part {
        Part::Some { from, length } => (from, length),
        Part::Whole | Part::Nothing => (0, size),
    };
    opened.seek(io::SeekFrom::Start(from)).await.map_err(failed)?;
    let whole = (length == size).then(|| (Sha256::new(), facts.digest));
    let body = Reading { cache: api.cache, digest, _held: held, file: opened, left: length, whole }.into_body();
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, length)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, etag);
    let response = match part {
        Part::Some { from, length } => response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", from + length - 1)),
        Part::Whole | Part::Nothing => response,
    };
    response.body(body).map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

impl Api {
    /// The operator's token, read each time: a renewed Secret needs no restart.
    async fn token(&self) -> Result<Token, Refusal> {
        let Some(path) = &self.token_file else {
            let why = "this cache answers nobody: it was started without --token-file";
            return Err(Refusal(StatusCode::FORBIDDEN, why.to_owned()));
        };
        let unreadable = |why: String| {
            tracing::error!(why, file = %path.display(), "reading the token file");
            Refusal(StatusCode::SERVICE_UNAVAILABLE, "the cache cannot read its own token file; see its log".to_owned())
        };
        let text = match tokio::fs::read_to_string(path).await {
            Ok(text) => text,
            // As after each installation, and the operator asks every two seconds: nothing for the log.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why =
                    "the operator's token has not reached this pod; Kubernetes takes a minute or two with a new Secret";
                return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, why.to_owned()));
            }
            Err(error) => return Err(unreadable(error.to_string())),
        };
        match text.trim() {
            "" => Err(unreadable("it is empty".to_owned())),
            token => Ok(Token(token.to_owned())),
        }
    }

    /// The model of a request, if whoever sent it may read it. One without a key learns nothing, not even whether it is here.
    async fn readable(&self, digest: &str, headers: &HeaderMap) -> Result<ManifestDigest, Refusal> {
        let digest = parse(digest)?;
        let token = self.token().await?;
        let key = ReadKey::derive(&token, digest);
        // Both are compared in each case, so that the time taken tells nothing.
        let (operator, guest) = (carries(headers, &token.0), carries(headers, key.as_str()));
        if operator | guest {
            return Ok(digest);
        }
        let why = "only a copy that was granted this model may read it: wrong or no key";
        Err(Refusal(StatusCode::UNAUTHORIZED, why.to_owned()))
    }
}

fn carries(headers: &HeaderMap, secret: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // Digests have one length, so that the comparison tells nothing of the secret's.
    given.is_some_and(|given| Sha256::digest(given).ct_eq(&Sha256::digest(secret)).into())
}

/// A request that carries the token of the operator. Checked before the body is read.
struct FromOperator;

impl FromRequestParts<Api> for FromOperator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let token = api.token().await?;
        let wrong = "only the operator may ask for models and see them all: wrong or no token";
        let known = carries(&parts.headers, &token.0);
        if known { Ok(Self) } else { Err(Refusal(StatusCode::UNAUTHORIZED, wrong.to_owned())) }
    }
}

/// Which part of a file a `Range` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Some { from: u64, length: u64 },
    Nothing,
}

impl Part {
    /// One range in bytes. Anything else is ignored, as HTTP allows.
    fn read(range: &str, size: u64) -> Self {
        let Some((from, to)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
            return Self::Whole;
        };
        let bounds = match (from.parse::<u64>(), to.parse::<u64>()) {
            (Ok(from), Ok(to)) if from <= to => (from, to.saturating_add(1).min(size)),
            (Ok(from), Err(_)) if to.is_empty() => (from, size),
            (Err(_), Ok(last)) if from.is_empty() => (size.saturating_sub(last), size),
            _ => return Self::Whole,
        };
        match bounds {
            (from, end) if from >= end => Self::Nothing,
            (from, end) => Self::Some { from, length: end - from },
        }
    }
}

/// A file on its way out. Keeps the model from being removed, and notices when the disk has damaged it.
struct Reading {
    cache: Cache,
    digest: ManifestDigest,
    _held: Arc<Held>,
    file: File,
    left: u64,
    whole: Option<(Sha256, Digest)>,
}

impl Reading {
    fn into_body(self) -> Body {
        Body::from_stream(stream::try_unfold(self, |mut reading| async move {
            if reading.left == 0 {
                return Ok(None);
            }
            let take = usize::try_from(reading.left).unwrap_or(CHUNK).min(CHUNK);
            let mut chunk = vec![0; take];
            let read = reading.file.read(&mut chunk).await?;
            chunk.truncate(read);
            reading.left -= read as u64;
            if let Some((hash, _)) = &mut reading.whole {
                hash.update(&chunk);
            }
            let ended = reading.left == 0;
            let right = match reading.whole.take_if(|_| ended) {
                Some((hash, expected)) => Digest(hash.finalize().into()) == expected,
                None => read > 0,
            };
            if !right {
                // Spawned, because the reader may go away at this moment, and the damage must not stay.
                let (cache, digest) = (reading.cache.clone(), reading.digest);
                tokio::spawn(async move { cache.damaged(digest).await });
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is damaged on the cache's disk"));
            }
            reading.cache.metrics().served_bytes.inc_by(read as u64);
            Ok(Some((chunk, reading)))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_http_defines_it() {
        for (range, part) in [
            ("bytes=0-", Part::Some { from: 0, length: 10 }),
            ("bytes=4-", Part::Some { from: 4, length: 6 }),
            ("bytes=2-3", Part::Some { from: 2, length: 2 }),
            ("bytes=8-99", Part::Some { from: 8, length: 2 }),
            ("bytes=-3", Part::Some { from: 7, length: 3 }),
            ("bytes=-99", Part::Some { from: 0, length: 10 }),
            ("bytes=10-", Part::Nothing),
            ("bytes=3-2", Part::Whole),
            ("bytes=0-1,4-5", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("bytes=-", Part::Whole),
        ] {
            assert_eq!(Part::read(range, 10), part, "{range}");
        }
    }
}
