//! An engine that answers as a test asks for.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, header};
use futures::stream::{self, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// How the engine answers.
#[derive(Clone)]
pub enum Manner {
    /// `Three words here`, streamed if asked to, with the usage.
    Friendly,
    /// As friendly, but each event only when the test lets it go.
    Stepwise(Arc<Semaphore>),
    /// One object with a text of so many bytes, and the usage after it.
    Long(usize),
    /// Nothing, ever.
    Silent,
    /// One event, then nothing.
    Stalls,
    /// One event, then the connection breaks.
    Breaks,
    /// A status, and no more.
    Status(u16),
}

#[derive(Clone)]
pub struct Engine {
    pub address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    pub requests: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    working: watch::Sender<usize>,
}

pub const PIECES: [&str; 3] = ["Three", " words", " here"];

impl Engine {
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let manner = Arc::new(Mutex::new(manner));
        let engine = Self { address, manner, requests: Arc::default(), working: watch::Sender::new(0) };
        let app = Router::new().fallback(answer).with_state(engine.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        engine
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub fn last(&self) -> (HeaderMap, Bytes) {
        self.requests.lock().unwrap().last().cloned().unwrap()
    }

    /// Waits until so many calls are being worked on.
    pub async fn works_on(&self, calls: usize) {
        let mut working = self.working.subscribe();
        let settled = tokio::time::timeout(Duration::from_secs(5), working.wait_for(|now| *now == calls)).await;
        assert!(settled.is_ok(), "the engine works on {} calls and not on {calls}", *self.working.borrow());
    }
}

/// A call that is being worked on. Ends with the answer, or when the caller goes away.
struct Work(watch::Sender<usize>);

impl Work {
    fn begin(engine: &Engine) -> Self {
        engine.working.send_modify(|now| *now += 1);
        Self(engine.working.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.send_modify(|now| *now -= 1);
    }
}

async fn answer(State(engine): State<Engine>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let work = Work::begin(&engine);
    engine.requests.lock().unwrap().push((headers, body.clone()));
    let request: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let manner = engine.manner.lock().unwrap().clone();
    let streamed = request["stream"] == true;
    let wants_usage = request["stream_options"]["include_usage"] == true;
    match manner {
        Manner::Silent => std::future::pending().await,
        Manner::Status(code) => Response::builder().status(code).body(Body::from("{\"engine\":\"says so\"}")).unwrap(),
        Manner::Long(bytes) => {
            let text = "x".repeat(bytes);
            let usage = r#"{"prompt_tokens":7,"completion_tokens":3}"#;
            let answer = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}],"usage":{usage}}}"#);
            Response::builder().header(header::CONTENT_TYPE, "application/json").body(Body::from(answer)).unwrap()
        }
        Manner::Friendly if !streamed => {
            let answer = serde_json::json!({"object": "chat.completion", "model": request["model"],
                "choices": [{"message": {"role": "assistant", "content": PIECES.concat()}}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}});
            let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
            response.header("x-engine-secret", "not for clients").body(Body::from(answer.to_string())).unwrap()
        }
        Manner::Friendly => events(work, wants_usage, None, End::Whole),
        Manner::Stepwise(steps) => events(work, wants_usage, Some(steps), End::Whole),
        Manner::Stalls => events(work, wants_usage, None, End::Stalls),
        Manner::Breaks => events(work, wants_usage, None, End::Breaks),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Whole,
    Stalls,
    Breaks,
}

fn events(work: Work, wants_usage: bool, steps: Option<Arc<Semaphore>>, end: End) -> Response<Body> {
    let usage = if wants_usage { ",\"usage\":null" } else { "" };
    let mut events: Vec<String> = PIECES
        .iter()
        .map(|piece| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{piece}\"}}}}]{usage}}}\n\n"))
        .collect();
    if wants_usage {
        events.push("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n".to_owned());
    }
    events.push("data: [DONE]\n\n".to_owned());
    if end != End::Whole {
        events.truncate(1);
    }
    let whole = stream::iter(events).then(move |event| {
        let steps = steps.clone();
        async move {
            if let Some(steps) = steps {
                steps.acquire().await.unwrap().forget();
            }
            io::Result::Ok(event)
        }
    });
    let tail = stream::once(async move {
        match end {
            End::Whole => Ok(String::new()),
            End::Stalls => std::future::pending().await,
            End::Breaks => {
                // What was sent arrives before the connection is torn down.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(io::Error::other("broken"))
            }
        }
    });
    let body = whole.chain(tail).map(move |event| {
        let _ = &work;
        event
    });
    Response::builder().header(header::CONTENT_TYPE, "text/event-stream").body(Body::from_stream(body)).unwrap()
}
