//! One call, to one copy after another until one begins to answer. After its first byte there is no second attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::time::{Instant, timeout_at};

use crate::load::{Entered, Loads};
use crate::metrics::{Failure, Metrics};
use crate::openai::{ApiError, Call, GATEWAY_ERROR};
use crate::routing::choose::order;
use crate::routing::{Route, Target};
use crate::upstream::{UpstreamError, Upstreams};

/// Which replica of which job is called: `<job uid>/<replica>`.
pub const PLACEMENT: &str = "koinon-placement";
/// Which copy of it is called, and which one answered.
pub const EPOCH: &str = "koinon-epoch";
/// Who answered.
pub const MEMBER: &str = "koinon-member";
/// What answered, by content.
pub const MODEL_DIGEST: &str = "koinon-model-digest";
/// Names a call in the logs of all who had a part in it.
pub const REQUEST_ID: &str = "x-request-id";

/// Attempts at most: the first and two alternates.
const ATTEMPTS: usize = 3;
/// What of a client's headers goes on. Its credentials, and whatever else it sends, stay here.
const FORWARDED: [&str; 4] = ["accept", REQUEST_ID, "traceparent", "tracestate"];
/// What of an answer's headers comes back.
const RETURNED: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CACHE_CONTROL, header::RETRY_AFTER];

/// Time limits of a call.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the whole request to the first byte of an answer, over all attempts.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
}

/// What calls are dispatched with; clones share it.
#[derive(Clone)]
pub struct Dispatcher {
    /// Connections.
    pub upstreams: Upstreams,
    /// Load and health.
    pub loads: Loads,
    /// Counters.
    pub metrics: Metrics,
    /// Time limits.
    pub patience: Patience,
    turn: Arc<AtomicUsize>,
}

/// A copy that has begun to answer.
pub struct Answer {
    /// Who answers.
    pub route: Arc<Route>,
    /// Status and those headers that may come back.
    pub head: Response<()>,
    /// The first bytes, unless there are none at all.
    pub first: Option<Bytes>,
    /// The rest.
    pub rest: Incoming,
    /// Counts the call at its copy.
    pub entered: Entered,
}

/// What one attempt came to, where another may do better.
struct Missed {
    failure: Failure,
    why: String,
}

impl Dispatcher {
    /// Nothing dispatched yet.
    pub fn new(upstreams: Upstreams, metrics: Metrics, patience: Patience) -> Self {
        Self { upstreams, loads: Loads::default(), metrics, patience, turn: Arc::default() }
    }

    /// Calls the copies in turn. `headers` are the client's.
    ///
    /// # Errors
    /// None of them began to answer.
    pub async fn call(
        &self,
        call: Call,
        routes: &[Arc<Route>],
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Answer, ApiError> {
        let loaded: Vec<_> = routes.iter().map(|route| (route.as_ref(), self.loads.of(route))).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + self.patience.first_byte;
        let mut last = ApiError::UpstreamFailed("there is none".to_owned());
        for at in order(&loaded, turn).into_iter().take(ATTEMPTS) {
            let route = &routes[at];
            let entered = self.loads.enter(route);
            let attempt = timeout_at(deadline, self.attempt(call, route, headers, body)).await;
            let missed = match attempt {
                Ok(Ok((head, first, rest))) => {
                    self.loads.answered(route);
                    return Ok(Answer { route: route.clone(), head, first, rest, entered });
                }
                Ok(Err(missed)) => missed,
                Err(_) => {
                    self.failed(route, &Missed { failure: Failure::Timeout, why: "no first byte in time".to_owned() });
                    return Err(ApiError::TimedOut { seconds: self.patience.first_byte.as_secs() });
                }
            };
            self.failed(route, &missed);
            let said = format!("{}: {}", route.member, missed.why);
            last = match missed.failure {
                Failure::Connect | Failure::Fenced | Failure::Halted => ApiError::Unreachable(said),
                Failure::Busy => ApiError::Busy,
                _ => ApiError::UpstreamFailed(said),
            };
        }
        Err(last)
    }

    fn failed(&self, route: &Route, Missed { failure, why }: &Missed) {
        tracing::warn!(member = %route.member, replica = %route.replica, epoch = %route.epoch, why, "a copy did not answer");
        // A busy copy is a healthy one.
        if *failure != Failure::Busy {
            self.loads.failed(route);
        }
        self.metrics.failure(&route.member, *failure);
    }

    async fn attempt(
        &self,
        call: Call,
        route: &Route,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(Response<()>, Option<Bytes>, Incoming), Missed> {
        let missed = |failure, why: &dyn ToString| Missed { failure, why: why.to_string() };
        let request = request(call, route, headers, body).map_err(|error| missed(Failure::Broken, &error))?;
        let sent = self.upstreams.send(&route.target, request).await;
        let mut answer = sent.map_err(|error| match error {
            UpstreamError::Connect(_) | UpstreamError::NoIdentity => missed(Failure::Connect, &error),
            UpstreamError::Broken(_) => missed(Failure::Broken, &error),
        })?;
        check(route, &answer)?;
        // The first bytes too: until they are here another copy can still give the whole answer.
        let first = first_bytes(answer.body_mut()).await.map_err(|why| missed(Failure::Broken, &why))?;
        let (parts, rest) = answer.into_parts();
        let mut head = Response::new(());
        *head.status_mut() = parts.status;
        for name in RETURNED {
            if let Some(value) = parts.headers.get(&name) {
                head.headers_mut().insert(name, value.clone());
            }
        }
        Ok((head, first, rest))
    }
}

/// The first bytes of a body, or `None` of one that has none.
pub(crate) async fn first_bytes(body: &mut Incoming) -> Result<Option<Bytes>, String> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| crate::upstream::whole_story(&error))?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn request(
    call: Call,
    route: &Route,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Request<Full<Bytes>>, axum::http::Error> {
    let (scheme, authority) = match &route.target {
        Target::Engine(url) => ("http", url.authority()),
        // The connection is chosen by key and address; this only names it.
        Target::Gateway { addresses, .. } => {
            let first = addresses.first().map_or("gateway", |address| address.as_str());
            ("https", first.trim_start_matches("https://"))
        }
    };
    let mut request = Request::post(format!("{scheme}://{authority}{}", call.path()))
        .header(header::CONTENT_TYPE, "application/json");
    for name in FORWARDED {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    if let Target::Gateway { .. } = route.target {
        request = request
            .header(PLACEMENT, format!("{}/{}", route.replica.job, route.replica.replica))
            .header(EPOCH, route.epoch.0);
    }
    request.body(Full::new(body.clone()))
}

/// Whether an answer is one that the client may get: of this very copy, and not a refusal that another copy may not share.
fn check(route: &Route, answer: &Response<Incoming>) -> Result<(), Missed> {
    let status = answer.status();
    let said = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    if let Target::Gateway { .. } = route.target {
        if let Some(code) = said(GATEWAY_ERROR) {
            let fenced = matches!(code, "epoch_fenced" | "placement_not_found" | "not_ready");
            let failure = match status {
                _ if fenced => Failure::Fenced,
                _ if code == "member_halted" => Failure::Halted,
                // This gateway or the copy has its share there: the copy itself is as healthy as any busy one.
                StatusCode::TOO_MANY_REQUESTS => Failure::Busy,
                _ => Failure::Status,
            };
            let code: String = code.chars().take(64).collect();
            return Err(Missed { failure, why: format!("its gateway refuses with {status} {code}") });
        }
        let same =
            said(EPOCH) == Some(&route.epoch.to_string()) && said(MODEL_DIGEST) == Some(&route.digest.to_string());
        if !same {
            let why = "it does not name the epoch and the model digest that were asked for".to_owned();
            return Err(Missed { failure: Failure::Mismatch, why });
        }
    }
    match status {
        StatusCode::TOO_MANY_REQUESTS => Err(Missed { failure: Failure::Busy, why: format!("it answers {status}") }),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
            Err(Missed { failure: Failure::Status, why: format!("it answers {status}") })
        }
        _ => Ok(()),
    }
}

/// The client's name for a call if it is a decent one, else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|value| {
        let value = value.as_bytes();
        !value.is_empty() && value.len() <= 128 && value.iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        let mut random = [0; 16];
        // Without randomness calls are only harder to tell apart in logs.
        let _ = getrandom::fill(&mut random);
        HeaderValue::from_str(&hex::encode(random)).unwrap_or(HeaderValue::from_static("none"))
    })
}
