//! The body of an answer on its way to the client: event by event, with the tokens counted as they pass.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, header};
use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use koinon_core::ids::MemberId;
use tokio::time::{Instant, timeout};

use crate::intake::{Admitted, Places};
use crate::load::Entered;
use crate::metrics::{InFlight, Metrics, Side, Source};
use crate::openai::ApiError;
use crate::sse::{Cut, Event, Events, Usage};
use crate::usage::UsageScan;

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Events; `strip_usage` takes out the chunk that only the gateway asked for.
    Stream {
        /// Whether to take it out.
        strip_usage: bool,
    },
    /// One JSON object.
    Whole,
    /// Anything else, such as an engine's error.
    Plain,
}

/// What is counted of a call. Told to the metrics when dropped, so also when the client goes away in the middle.
#[derive(Debug)]
pub struct Account {
    /// Where it is told.
    pub metrics: Metrics,
    /// Who called.
    pub side: Side,
    /// The member at the other end.
    pub member: MemberId,
    /// When the whole request was here.
    pub begun: Instant,
    /// Ends with the call.
    pub in_flight: InFlight,
    /// The call's places among those that are worked on at once.
    pub places: Places,
    /// Ends with the call; only where this gateway chose the copy.
    pub entered: Option<Entered>,
    usage: Option<Usage>,
    pieces: u64,
}

impl Account {
    /// Nothing counted yet.
    pub fn new(metrics: Metrics, side: Side, member: MemberId, admitted: Admitted) -> Self {
        let Admitted { in_flight, places, begun } = admitted;
        Self { metrics, side, member, begun, in_flight, places, entered: None, usage: None, pieces: 0 }
    }

    fn piece(&mut self) {
        if self.pieces == 0 {
            self.metrics.first_token(self.side, &self.member, self.begun.elapsed().as_secs_f64());
        }
        self.pieces += 1;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        match self.usage {
            Some(usage) => self.metrics.tokens(self.side, &self.member, usage, Source::Reported),
            // Engines send one token a piece. What they read is not known, and unknown is not zero.
            None if self.pieces > 0 => {
                let usage = Usage { prompt_tokens: 0, completion_tokens: self.pieces };
                self.metrics.tokens(self.side, &self.member, usage, Source::Estimated);
            }
            None => {}
        }
    }
}

/// What kind of answer a head announces.
pub fn form_of<B>(head: &Response<B>, strip_usage: bool) -> Form {
    let kind = head.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        "text/event-stream" => Form::Stream { strip_usage },
        "application/json" if head.status().is_success() => Form::Whole,
        _ => Form::Plain,
    }
}

/// An answer whose first bytes have come, so that nothing can be tried elsewhere any more.
pub struct Relay {
    upstream: Incoming,
    first: Option<Bytes>,
    idle: Duration,
    form: Form,
    account: Account,
    events: Events,
    ready: VecDeque<Bytes>,
    scan: UsageScan,
    ended: bool,
}

impl Relay {
    /// `first` is what has already been read of `upstream`.
    pub fn new(upstream: Incoming, first: Option<Bytes>, form: Form, idle: Duration, account: Account) -> Self {
        let (events, ready) = (Events::default(), VecDeque::new());
        Self { upstream, first, idle, form, account, events, ready, scan: UsageScan::default(), ended: false }
    }

    /// The body. Dropping it drops the upstream's, which ends the work there.
    pub fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(self, |mut relay| async move {
            let next = relay.next().await?;
            Some((next, relay))
        }))
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(Ok(ready));
            }
            if self.ended {
                return None;
            }
            match self.read().await {
                Ok(Some(bytes)) => self.take(&bytes),
                Ok(None) => self.end(),
                Err(why) => {
                    self.ended = true;
                    tracing::warn!(member = %self.account.member, why, "an answer broke off");
                    let error = ApiError::UpstreamFailed(format!("the answer broke off: {why}"));
                    return Some(match self.form {
                        // A stream can still say why it ends; anything else can only be cut, so that nobody takes it for whole.
                        Form::Stream { .. } => Ok(error.event()),
                        Form::Whole | Form::Plain => Err(io::Error::other(why)),
                    });
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, String> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        loop {
            let frame = timeout(self.idle, self.upstream.frame()).await;
            match frame.map_err(|_| format!("nothing came for {} s", self.idle.as_secs()))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(crate::upstream::whole_story(&error)),
                Some(Ok(frame)) => {
                    // Trailers say nothing that the client could use.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    fn take(&mut self, bytes: &Bytes) {
        match self.form {
            Form::Plain => self.ready.push_back(bytes.clone()),
            Form::Whole => {
                self.scan.push(bytes);
                self.ready.push_back(bytes.clone());
            }
            Form::Stream { strip_usage } => {
                self.events.push(bytes);
                while let Some(cut) = self.events.cut() {
                    self.pass(cut, strip_usage);
                }
            }
        }
    }

    fn pass(&mut self, cut: Cut, strip_usage: bool) {
        let event = match cut {
            Cut::Raw(raw) => return self.ready.push_back(raw),
            Cut::Whole(event) => event,
        };
        match Event::read(&event) {
            Event::UsageOnly(usage) => {
                self.account.usage = Some(usage);
                if strip_usage {
                    return;
                }
            }
            Event::Piece(usage) => {
                self.account.piece();
                self.account.usage = usage.or(self.account.usage);
            }
            Event::Done | Event::Other => {}
        }
        self.ready.push_back(event);
    }

    fn end(&mut self) {
        self.ended = true;
        match self.form {
            Form::Plain | Form::Whole => {}
            Form::Stream { .. } => self.ready.extend(self.events.rest()),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Not at the end of the body: a server that knows the length does not ask for more once it has sent that many bytes.
        if self.form == Form::Whole {
            self.account.usage = self.scan.usage();
        }
    }
}
