//! The engine's API: as much of OpenAI's as a gateway forwards, and a path that says that the devices are ready.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use koinon_core::challenge::Ask;
use koinon_core::challenge::message::MAX_ASK;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::device::DeviceError;
use crate::proving::{Proving, ProvingError};

/// A question is a JSON text within JSON, where each quotation mark takes two bytes and a hostile one six.
const MAX_BODY: usize = 8 * MAX_ASK;

/// What of a completion is read. Everything else may be there and does nothing.
#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    model: String,
    prompt: String,
    #[serde(default)]
    stream: bool,
}

/// The routes. Whoever asks while another question is being answered is told to come back.
pub fn router(proving: Proving) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok" }))
        .route("/v1/completions", post(complete))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(Mutex::new(proving)))
}

async fn complete(State(proving): State<Arc<Mutex<Proving>>>, Json(asked): Json<Completion>) -> Response {
    if asked.stream {
        return refused(StatusCode::BAD_REQUEST, "a challenge is not answered as a stream");
    }
    let ask = match Ask::read(&asked.prompt) {
        Ok(ask) => ask,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Ok(mut proving) = proving.try_lock_owned() else {
        return refused(StatusCode::TOO_MANY_REQUESTS, "another question is being answered");
    };
    // The lock goes with the work: a client that goes away does not make room before the devices are free.
    let answered = tokio::task::spawn_blocking(move || proving.answer(&ask)).await;
    match answered {
        Ok(Ok(reply)) => Json(completion(&asked.model, &reply.text())).into_response(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "did not answer a question");
            refused(status(&error), &error.to_string())
        }
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "answering broke down"),
    }
}

fn status(error: &ProvingError) -> StatusCode {
    match error {
        ProvingError::Turn { .. } | ProvingError::NotFixed(_) => StatusCode::CONFLICT,
        ProvingError::Devices { .. } | ProvingError::Device(DeviceError::Memory { .. }) => StatusCode::BAD_REQUEST,
        ProvingError::Device(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refused(status: StatusCode, why: &str) -> Response {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    (status, Json(json!({ "error": { "message": why, "type": kind, "param": null, "code": null } }))).into_response()
}

/// No token is read or written, and that is known.
fn completion(model: &str, text: &str) -> Value {
    json!({
        "id": "challenge", "object": "text_completion", "created": 0, "model": model,
        "choices": [{ "index": 0, "text": text, "logprobs": null, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0 },
    })
}
