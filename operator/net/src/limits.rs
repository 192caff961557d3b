//! What one peer may cost, and the answer that names the limit.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::Instant;

/// Which limit was met; travels in the answer and labels a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitKind {
    /// Bytes in the body of a request.
    BodyBytes,
    /// Bytes of a join request.
    JoinBytes,
    /// Seconds in which a request's body must have arrived.
    BodySeconds,
    /// Requests of one key over time.
    RequestsPerSecond,
    /// Requests of one key in progress.
    ConcurrentRequests,
    /// Streams of one key.
    Streams,
    /// Connections of one key; the newest stays.
    ConnectionsPerPeer,
    /// Handshakes, and connections of keys that are not known; the oldest goes.
    PendingConnections,
    /// Join requests of everybody together.
    JoinsPerMinute,
    /// Seconds in which a reader must take what its stream has for it.
    ReaderSeconds,
    /// Bytes in one line or answer of a peer that is being read.
    AnswerBytes,
    /// Seconds without any request.
    IdleSeconds,
    /// Requests of one key to be dialled back, over time.
    DialBacksPerMinute,
    /// Streams on which one connection is asked back.
    Reversals,
    /// A limit that a newer peer knows and this version does not.
    #[serde(other)]
    Unknown,
}

impl LimitKind {
    /// Every limit that this version has, in the order of its counters.
    pub const ALL: [LimitKind; 14] = [
        LimitKind::BodyBytes,
        LimitKind::JoinBytes,
        LimitKind::BodySeconds,
        LimitKind::RequestsPerSecond,
        LimitKind::ConcurrentRequests,
        LimitKind::Streams,
        LimitKind::ConnectionsPerPeer,
        LimitKind::PendingConnections,
        LimitKind::JoinsPerMinute,
        LimitKind::ReaderSeconds,
        LimitKind::AnswerBytes,
        LimitKind::IdleSeconds,
        LimitKind::DialBacksPerMinute,
        LimitKind::Reversals,
    ];

    /// The name as it stands on the wire and in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LimitKind::BodyBytes => "bodyBytes",
            LimitKind::JoinBytes => "joinBytes",
            LimitKind::BodySeconds => "bodySeconds",
            LimitKind::RequestsPerSecond => "requestsPerSecond",
            LimitKind::ConcurrentRequests => "concurrentRequests",
            LimitKind::Streams => "streams",
            LimitKind::ConnectionsPerPeer => "connectionsPerPeer",
            LimitKind::PendingConnections => "pendingConnections",
            LimitKind::JoinsPerMinute => "joinsPerMinute",
            LimitKind::ReaderSeconds => "readerSeconds",
            LimitKind::AnswerBytes => "answerBytes",
            LimitKind::IdleSeconds => "idleSeconds",
            LimitKind::DialBacksPerMinute => "dialBacksPerMinute",
            LimitKind::Reversals => "reversals",
            LimitKind::Unknown => "unknown",
        }
    }
}

/// The answer of whoever met a limit: 413 or 429 with this as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("the limit {} allows {allowed} and saw {seen}", limit.as_str())]
pub struct LimitExceeded {
    /// Which limit.
    pub limit: LimitKind,
    /// What it allows.
    pub allowed: u64,
    /// What it saw; where counting stopped at the limit, the first value beyond it.
    pub seen: u64,
}

/// The limits of a peer endpoint. The defaults are generous for members that behave, of whom there are dozens.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Handshakes, and connections of unknown keys, at one time. Whoever floods the door pushes out the oldest of
    /// these, which is mostly itself: an honest handshake takes less than a second.
    pub pending_connections: usize,
    /// Connections of one known key; one is normal, two while both sides dial each other, more after cut wires.
    pub connections_per_peer: usize,
    /// HTTP/2 streams in one connection, as announced in its settings.
    pub streams_per_connection: u32,
    /// Requests of one key in progress, `/v1/stream` included.
    pub concurrent_requests: usize,
    /// `/v1/stream` of one key in progress.
    pub streams: usize,
    /// Requests a second of one key.
    pub requests_per_second: u32,
    /// Requests that may come at once before that rate counts.
    pub request_burst: u32,
    /// Join requests a minute of everybody together, because keys cost nothing before they are known.
    pub joins_per_minute: u32,
    /// How often a minute a key may ask to be dialled back; each time costs us a handshake for every endpoint.
    pub dial_backs_per_minute: u32,
    /// Bytes of a request's headers; HTTP/2 answers 431 by itself.
    pub header_bytes: u32,
    /// Bytes of a request's body: the heads of some 1400 logs.
    pub body_bytes: usize,
    /// Bytes of a join request.
    pub join_bytes: usize,
    /// Bytes of one line of a stream, and of any other answer: an envelope with a document in it.
    pub answer_bytes: usize,
    /// Entries in one answer to `/v1/logs`.
    pub range_entries: usize,
    /// Payload bytes after which an answer to `/v1/logs` ends; at least one entry is in it.
    pub range_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            pending_connections: 128,
            connections_per_peer: 4,
            streams_per_connection: 32,
            concurrent_requests: 16,
            streams: 4,
            requests_per_second: 50,
            request_burst: 100,
            joins_per_minute: 30,
            dial_backs_per_minute: 6,
            header_bytes: 16 * 1024,
            body_bytes: 256 * 1024,
            join_bytes: 32 * 1024,
            answer_bytes: koinon_core::dsse::MAX_ENVELOPE + 1024,
            range_entries: 256,
            range_bytes: 1024 * 1024,
        }
    }
}

/// The deadlines and rhythms of a connection, on both sides of it.
#[derive(Debug, Clone)]
pub struct Timing {
    /// To reach a peer: name, TCP and, if there is one, the proxy's answer.
    pub connect: Duration,
    /// To finish the TLS handshake.
    pub handshake: Duration,
    /// For the beginning of any answer, and for the whole of one that is not a stream.
    pub answer: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// How often a stream says that it is alive.
    pub ping: Duration,
    /// After how long without a line a stream counts as dead; several pings.
    pub silence: Duration,
    /// How long a stream waits for its reader to take a line.
    pub reader: Duration,
    /// How long a connection may be without a request.
    pub idle: Duration,
    /// How long a connection of an unknown key is kept to tell it so.
    pub unknown: Duration,
    /// How long running answers may take to end when a connection is closed.
    pub goodbye: Duration,
    /// First wait before dialling again; doubles up to `backoff_max`, and a random half is taken off.
    pub backoff_min: Duration,
    /// Longest wait before dialling again.
    pub backoff_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            body: Duration::from_secs(10),
            ping: Duration::from_secs(5),
            silence: Duration::from_secs(15),
            reader: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            unknown: Duration::from_secs(5),
            goodbye: Duration::from_secs(1),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// A rate with room for a burst, in whole thousandths so that no float decides.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    capacity: u64,
    milli_per_second: u64,
    milli: u64,
    filled: Instant,
}

impl TokenBucket {
    pub(crate) fn per_second(rate: u32, burst: u32) -> Self {
        Self::new(u64::from(rate) * 1000, burst)
    }

    pub(crate) fn per_minute(rate: u32) -> Self {
        Self::new(u64::from(rate) * 1000 / 60, rate)
    }

    fn new(milli_per_second: u64, burst: u32) -> Self {
        let capacity = u64::from(burst.max(1)) * 1000;
        TokenBucket { capacity, milli_per_second, milli: capacity, filled: Instant::now() }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self) -> bool {
        let now = Instant::now();
        let passed = u64::try_from(now.duration_since(self.filled).as_millis()).unwrap_or(u64::MAX);
        // Only whole thousandths are credited, and only then is their time used up.
        let gained = passed.saturating_mul(self.milli_per_second) / 1000;
        if gained > 0 {
            self.milli = self.milli.saturating_add(gained).min(self.capacity);
            self.filled = now;
        }
        let granted = self.milli >= 1000;
        if granted {
            self.milli -= 1000;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_allows_its_burst_and_then_its_rhythm() {
        let mut bucket = TokenBucket::per_second(2, 3);
        assert_eq!((0..10).filter(|_| bucket.take()).count(), 3);
        tokio::time::advance(Duration::from_millis(499)).await;
        assert!(!bucket.take(), "half a second is needed for one at two a second");
        tokio::time::advance(Duration::from_millis(2)).await;
        assert!(bucket.take());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..10).filter(|_| bucket.take()).count(), 3, "idle hours save up no more than the burst");
    }

    #[test]
    fn a_limit_of_a_newer_peer_is_still_readable() {
        let told: LimitExceeded = serde_json::from_str(r#"{"limit":"moonPhase","allowed":1,"seen":2}"#).unwrap();
        assert_eq!(told.limit, LimitKind::Unknown);
        for limit in LimitKind::ALL {
            assert_eq!(serde_json::to_value(limit).unwrap(), limit.as_str());
        }
    }
}
