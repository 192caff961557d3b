//! The gateway's metrics. Members are the only open label, and a cooperative has few.

use koinon_core::ids::MemberId;
use koinon_telemetry::{Described, Registrar};
use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry, exponential_buckets};

use crate::sse::Usage;

/// From whom a call comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// An application of this cluster; the member is the one that served it.
    App,
    /// Another member's gateway; the member is the one that called.
    Member,
}

impl Side {
    fn label(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Member => "member",
        }
    }
}

/// How sure a count of tokens is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The engine said so.
    Reported,
    /// The stream broke off before the engine said; the pieces that were delivered were counted.
    Estimated,
}

/// Why an attempt at a copy came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Connect,
    /// No first byte in time.
    Timeout,
    /// A status that says so.
    Status,
    /// It has as much work as it takes.
    Busy,
    /// It broke off.
    Broken,
    /// The host says that another epoch counts, or none.
    Fenced,
    /// The host or this member may not work.
    Halted,
    /// The host answers for another model or epoch.
    Mismatch,
}

impl Failure {
    fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Busy => "busy",
            Self::Broken => "broken",
            Self::Fenced => "fenced",
            Self::Halted => "halted",
            Self::Mismatch => "mismatch",
        }
    }
}

/// The gateway's metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    tokens: IntCounterVec,
    in_flight: IntGaugeVec,
    first_token: HistogramVec,
    failures: IntCounterVec,
    /// Copies that applications can be routed to.
    pub routes: IntGauge,
    /// Copies that are held here for homes.
    pub hosted: IntGauge,
    /// When the own certificate ends; 0 while there is none.
    pub certificate_end: IntGauge,
    /// Errors of watches.
    pub watch_errors: IntCounterVec,
    /// Objects that cannot be read.
    pub undecodable: IntGaugeVec,
}

/// Every metric of a gateway, with or without series.
///
/// # Errors
/// When two have one name.
pub fn described() -> Result<Vec<Described>, prometheus::Error> {
    let registry = Registry::new();
    let new = Registrar::new(&registry);
    Metrics::with(&new)?;
    Ok(new.described())
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::with(&Registrar::new(registry))
    }

    fn with(new: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        // From a tiny model's 20 ms to the end of the patience for a long prompt.
        let buckets = exponential_buckets(0.02, 2.0, 14)?;
        Ok(Self {
            requests: new.counters(
                "koinon_gateway_requests_total",
                "Calls that ended, by who called, the member at the other end, and the status of the answer.",
                &["side", "member", "code"],
            )?,
            tokens: new.counters(
                "koinon_gateway_tokens_total",
                "Tokens of prompts and answers; estimated where a stream broke off before the engine reported.",
                &["side", "member", "kind", "source"],
            )?,
            failures: new.counters(
                "koinon_gateway_upstream_failures_total",
                "Attempts at a copy of a model that came to nothing, by the member that runs it.",
                &["member", "reason"],
            )?,
            watch_errors: new.counters(
                "koinon_gateway_watch_errors_total",
                "Errors of watches, by kind.",
                &["kind"],
            )?,
            routes: new.gauge("koinon_gateway_routes", "Copies of models that calls can be routed to.")?,
            hosted: new.gauge("koinon_gateway_hosted", "Copies of models that are held here for homes.")?,
            certificate_end: new.gauge(
                "koinon_gateway_certificate_not_after_timestamp_seconds",
                "When this gateway's certificate ends, in Unix time; 0 while there is none.",
            )?,
            in_flight: new.gauges(
                "koinon_gateway_in_flight",
                "Calls that are being worked on, by who called.",
                &["side"],
            )?,
            first_token: new.histograms(
                "koinon_gateway_time_to_first_token_seconds",
                "From the whole request to the first piece of a streamed answer.",
                &["side", "member"],
                buckets,
            )?,
            undecodable: new.gauges(
                "koinon_gateway_undecodable_objects",
                "Objects that this version cannot read, by kind.",
                &["kind"],
            )?,
        })
    }

    /// Counts a call that ended. `member` is empty where no member had a part in it.
    fn request(&self, side: Side, member: Option<&MemberId>, code: u16) {
        let member = member.map_or("", MemberId::as_str);
        self.requests.with_label_values(&[side.label(), member, &code.to_string()]).inc();
    }

    /// Counts a call's tokens.
    pub fn tokens(&self, side: Side, member: &MemberId, usage: Usage, source: Source) {
        let source = match source {
            Source::Reported => "reported",
            Source::Estimated => "estimated",
        };
        for (kind, count) in [("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)] {
            self.tokens.with_label_values(&[side.label(), member.as_str(), kind, source]).inc_by(count);
        }
    }

    /// Notes how long the first piece of a stream took.
    pub fn first_token(&self, side: Side, member: &MemberId, seconds: f64) {
        self.first_token.with_label_values(&[side.label(), member.as_str()]).observe(seconds);
    }

    /// Counts an attempt that came to nothing.
    pub fn failure(&self, member: &MemberId, failure: Failure) {
        self.failures.with_label_values(&[member.as_str(), failure.label()]).inc();
    }

    /// A call that is being worked on, until what is returned is dropped.
    pub fn enter(&self, side: Side) -> InFlight {
        let gauge = self.in_flight.with_label_values(&[side.label()]);
        gauge.inc();
        InFlight(gauge)
    }
}

/// A call on its way through the gateway: counted with the status it ends with, or with 499 if the client went away before.
#[derive(Debug)]
pub struct Counted {
    metrics: Metrics,
    side: Side,
    /// The member at the other end, once it is known.
    pub member: Option<MemberId>,
    /// The status, once there is one.
    pub code: u16,
}

impl Counted {
    /// A call that has begun.
    pub fn new(metrics: &Metrics, side: Side) -> Self {
        Self { metrics: metrics.clone(), side, member: None, code: 499 }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.request(self.side, self.member.as_ref(), self.code);
    }
}

/// One call in flight; counted down however it ends.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
