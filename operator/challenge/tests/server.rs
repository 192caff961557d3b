//! Whole challenges through the engine's routes, as a gateway would forward them.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

use std::sync::mpsc::{Receiver, Sender, channel};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use koinon_challenge::cpu::Cpu;
use koinon_challenge::device::{Device, DeviceError};
use koinon_challenge::proving::Proving;
use koinon_challenge::server::router;
use koinon_core::challenge::tree::Node;
use koinon_core::challenge::{
    Ask, Asking, Check, Checked, Nonce, Occasion, Salt, Secret, Seed, Size, Task, Transcript,
};
use koinon_core::ids::{Bytes, CoopId, Digest, StatementId};
use serde_json::{Value, json};
use tower::ServiceExt as _;

fn engine(devices: usize) -> Router {
    let devices = (0..devices).map(|_| Box::new(Cpu::new(Bytes(16 << 20))) as Box<dyn Device>).collect();
    router(Proving::new(devices))
}

async fn send(engine: &Router, request: Request<Body>) -> (u16, Value) {
    let answer = engine.clone().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn post(engine: &Router, body: &Value) -> (u16, Value) {
    let request = Request::post("/v1/completions").header("content-type", "application/json");
    send(engine, request.body(Body::from(body.to_string())).unwrap()).await
}

async fn ask(engine: &Router, ask: &Ask) -> (u16, String) {
    let (status, answer) = post(engine, &json!({ "model": "challenge", "prompt": ask.text() })).await;
    let text = if status == 200 { &answer["choices"][0]["text"] } else { &answer["error"]["message"] };
    (status, text.as_str().unwrap_or_default().to_owned())
}

fn asking(devices: u8, rows: u32, depth: u32) -> Asking {
    let occasion = Occasion {
        coop: CoopId(Digest::of(b"coop")),
        challenger: "athens".parse().unwrap(),
        host: "bilbao".parse().unwrap(),
        class: "h100-80".parse().unwrap(),
        after: StatementId(Digest::of(b"entry")),
        nonce: Nonce([1; 32]),
    };
    Asking { occasion, size: Size::new(rows, depth).unwrap(), devices, secret: Secret([2; 32]) }
}

#[tokio::test]
async fn a_challenge_passes_over_http() {
    let engine = engine(2);
    let (computing, first) = asking(2, 256, 128).begin().unwrap();
    let (status, text) = ask(&engine, &first).await;
    assert_eq!(status, 200, "{text}");
    let (recalling, second) = computing.computed(&text, 1000).unwrap();
    let (opening, third) = recalling.recalled(&ask(&engine, &second).await.1, 10).unwrap();
    let transcript = opening.opened(&ask(&engine, &third).await.1).unwrap();
    let read = Transcript::read(transcript.text().as_bytes()).unwrap();
    assert_eq!(Check::all(&read).unwrap().finish(), Ok(Checked { devices: 2, rows: 16 }));
}

#[tokio::test]
async fn what_is_no_question_is_refused_with_its_reason() {
    let engine = engine(1);
    assert_eq!(send(&engine, Request::get("/health").body(Body::empty()).unwrap()).await.0, 200);
    let task = Task { seed: Seed([1; 32]), size: Size::new(4096, 64).unwrap() };
    let commitment = Secret([1; 32]).salt().commitment();
    let begin = |devices| Ask::Begin { task, devices, commitment };
    for (question, status, why) in [
        (begin(2), 400, "2 devices are asked for"),
        (begin(1), 400, "does not fit"),
        (Ask::Recall { salt: Secret([1; 32]).salt() }, 409, "begin comes next"),
    ] {
        let (seen, text) = ask(&engine, &question).await;
        assert_eq!(seen, status, "{text}");
        assert!(text.contains(why), "{text}");
    }
    for body in [
        json!({ "model": "challenge", "prompt": "What is a GPU?" }),
        json!({ "model": "challenge", "prompt": begin(1).text(), "stream": true }),
        json!({ "model": "challenge", "prompt": " ".repeat(1025) }),
    ] {
        assert_eq!(post(&engine, &body).await.0, 400, "{body}");
    }
    let (status, _) = post(&engine, &json!({ "model": "challenge", "prompt": " ".repeat(8192) })).await;
    assert_eq!(status, 413);
    assert_eq!(post(&engine, &json!({ "model": "challenge" })).await.0, 422);
}

/// Says that it computes, and does so until it is told to end.
struct Waiting {
    begun: Sender<()>,
    end: Receiver<()>,
}

impl Device for Waiting {
    fn name(&self) -> String {
        "waiting".to_owned()
    }
    fn memory(&self) -> Bytes {
        Bytes(0)
    }
    fn compute(&mut self, _: &Task, _: u8) -> Result<(), DeviceError> {
        self.begun.send(()).unwrap();
        self.end.recv().unwrap();
        Ok(())
    }
    fn digest(&mut self, _: &Salt, _: u8) -> Result<Vec<Node>, DeviceError> {
        Err(DeviceError::Nothing(self.name()))
    }
    fn forget(&mut self) {}
}

#[tokio::test]
async fn one_question_is_answered_at_a_time_also_when_its_client_goes_away() {
    let ((said, begun), (ending, end)) = (channel(), channel());
    let engine = router(Proving::new(vec![Box::new(Waiting { begun: said, end })]));
    let (_, first) = asking(1, 128, 64).begin().unwrap();
    let slow = tokio::spawn({
        let (engine, first) = (engine.clone(), first.clone());
        async move { ask(&engine, &first).await }
    });
    tokio::task::spawn_blocking(move || begun.recv().map(|()| begun)).await.unwrap().unwrap();
    assert_eq!(ask(&engine, &first).await.0, 429);
    slow.abort();
    assert!(slow.await.is_err());
    assert_eq!(ask(&engine, &first).await.0, 429, "the devices are not free yet");
    ending.send(()).unwrap();
    let recall = Ask::Recall { salt: Secret([2; 32]).salt() };
    let mut status = 429;
    while status == 429 {
        tokio::task::yield_now().await;
        status = ask(&engine, &recall).await.0;
    }
    assert_eq!(status, 500, "what was begun is there, and this device has no digests");
}
