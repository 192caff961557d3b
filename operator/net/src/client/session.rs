//! Reading from one peer over one connection: its heads, then a stream from where we are.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use koinon_core::dsse::Envelope;
use koinon_core::ids::{PublicKey, StatementId};
use koinon_core::statement::{Position, Statement};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::error::SessionError;
use super::lines::Lines;
use super::transport::Transport;
use super::{News, PeerEvent};
use crate::commons::Heads;
use crate::service::PeerService;
use crate::wire::{HeadsMessage, StreamLine, to_json};

/// Statements of one session that may fail to hold before it is ended. One is no reason: a newer member may relay
/// what this version cannot read.
const MAX_BAD_STATEMENTS: u32 = 64;

/// Reads on one connection until it ends.
pub(super) struct Session {
    pub(super) service: Arc<PeerService>,
    pub(super) transport: Transport,
    pub(super) events: mpsc::Sender<PeerEvent>,
    /// Asks for a new stream from our present heads.
    pub(super) resync: Arc<Notify>,
    /// Whether the peer was heard: what the caller's backoff goes by.
    pub(super) up: bool,
}

/// Why one stream of a session ended without the session ending.
struct Again;

impl Session {
    fn from(&self) -> PublicKey {
        self.transport.peer.key
    }

    /// Reads until the session ends, and says why it did.
    pub(super) async fn run(&mut self) -> SessionError {
        match self.read().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn read(&mut self) -> Result<std::convert::Infallible, SessionError> {
        let service = self.service.clone();
        let heads = self.transport.heads(&service.limits, &service.timing).await?;
        self.up = true;
        let from = self.from();
        service.metrics.peer(&from, |peer| {
            peer.up = true;
            peer.sessions += 1;
        });
        self.deliver(News::Up).await?;
        self.deliver(News::Heads(heads)).await?;
        let mut progress = Progress::new(&service.timing.silence);
        loop {
            let Again = self.stream(&mut progress).await?;
        }
    }

    async fn stream(&mut self, progress: &mut Progress) -> Result<Again, SessionError> {
        let service = self.service.clone();
        let (limits, timing) = (&service.limits, &service.timing);
        let path = "/v1/stream";
        let has = to_json(&HeadsMessage { heads: service.commons.heads() });
        let answer = self.transport.ask(Method::POST, path, has, limits, timing).await?;
        let mut lines = Lines::new(answer.into_body(), limits.answer_bytes);
        let mut bad = 0;
        let resync = self.resync.clone();
        loop {
            let line = tokio::select! {
                line = timeout(timing.silence, lines.next()) => line,
                () = resync.notified() => return Ok(Again),
            };
            let line = line.map_err(|_| SessionError::Silent { seconds: timing.silence.as_secs() })??;
            let Some(line) = line else {
                return Err(SessionError::Broken("the stream ended without a word".to_owned()));
            };
            let now = service.clock().now();
            if now >= self.transport.peer.not_after {
                return Err(SessionError::LeafExpired(self.from()));
            }
            service.metrics.peer(&self.from(), |peer| {
                peer.last_seen = Some(now);
                peer.bytes_read += line.len() as u64;
            });
            let line = StreamLine::parse(&line, limits.answer_bytes)
                .map_err(|source| SessionError::Garbage { path: path.to_owned(), source })?;
            let taken = match line {
                StreamLine::Entry(envelope) => self.entry(envelope).await?,
                StreamLine::Latest(envelope) => self.latest(envelope).await?,
                StreamLine::Heads(heads) => {
                    progress.peer = heads.clone();
                    self.deliver(News::Heads(heads)).await?;
                    Ok(())
                }
                StreamLine::Bye(bye) => return Err(SessionError::Ended(bye)),
                StreamLine::Ping | StreamLine::Unknown => Ok(()),
            };
            if let Err(last) = taken {
                bad += 1;
                tracing::debug!(peer = %self.from(), reason = %last, "a statement of a peer does not hold");
                service.metrics.peer(&self.from(), |peer| peer.refused += 1);
                if bad >= MAX_BAD_STATEMENTS {
                    return Err(SessionError::BadStatements { count: bad, last });
                }
            }
            let drained = self.events.capacity() == self.events.max_capacity();
            if drained && progress.is_stuck(&service.commons.heads()) {
                tracing::info!(peer = %self.from(), "entries were delivered and not stored: asking for them again");
                return Ok(Again);
            }
        }
    }

    /// Delivers an entry that is not here yet; the inner error says why it is no entry.
    async fn entry(&self, envelope: Envelope) -> Result<Result<(), String>, SessionError> {
        let Ok(digest) = envelope.payload_digest() else { return Ok(Err("its payload is no base64".to_owned())) };
        let from = self.from();
        if self.service.commons.holds(&StatementId(digest)) {
            self.service.metrics.peer(&from, |peer| peer.duplicates += 1);
            return Ok(Ok(()));
        }
        let statement = match Statement::verify(envelope) {
            Ok(statement) if statement.log_seq().is_some() => statement,
            Ok(statement) => return Ok(Err(format!("a {} is no entry of a log", statement.kind()))),
            Err(error) => return Ok(Err(error.to_string())),
        };
        self.service.metrics.peer(&from, |peer| peer.entries += 1);
        self.deliver(News::Entry(Box::new(statement))).await.map(Ok)
    }

    /// Delivers a Latest statement, which counts only over a connection to its author.
    async fn latest(&self, envelope: Envelope) -> Result<Result<(), String>, SessionError> {
        let statement = match Statement::verify(envelope) {
            Ok(statement) => statement,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let from = self.from();
        let Position::Latest { to, .. } = statement.position() else {
            return Ok(Err(format!("a {} is no Latest statement", statement.kind())));
        };
        if statement.header().key != from {
            return Ok(Err(format!("{} is the author's word and came over a connection to {from}", statement.kind())));
        }
        let own = self.service.identity.resolver.identity();
        if !own.is_some_and(|own| to.includes(&own.name.member)) {
            return Ok(Err(format!("it is addressed to {to}")));
        }
        self.service.metrics.peer(&from, |peer| peer.latest += 1);
        self.deliver(News::Latest(Box::new(statement))).await.map(Ok)
    }

    /// Waits for room: as long as the consumer is busy, nothing more is read from this peer.
    async fn deliver(&self, news: News) -> Result<(), SessionError> {
        let event = PeerEvent { from: self.from(), news };
        self.events.send(event).await.map_err(|_| SessionError::Dropped("nobody takes what peers say".to_owned()))
    }
}

/// Notices entries that were delivered and never stored, because the consumer's store failed meanwhile.
struct Progress {
    /// Where the peer's logs end, as it said last.
    peer: Heads,
    /// What we should have reached by now.
    wanted: Heads,
    since: Instant,
    patience: Duration,
    first_patience: Duration,
}

/// Longest wait before a stream is asked for again whose entries are never stored, such as those of an author over
/// its budget.
const MAX_PATIENCE: Duration = Duration::from_secs(600);

impl Progress {
    fn new(silence: &Duration) -> Self {
        let patience = *silence * 2;
        Progress { peer: Heads::new(), wanted: Heads::new(), since: Instant::now(), patience, first_patience: patience }
    }

    /// Whether what the peer had a while ago is still not here.
    fn is_stuck(&mut self, own: &Heads) -> bool {
        let behind =
            |wanted: &Heads| wanted.iter().any(|(log, head)| own.get(log).is_none_or(|own| own.seq < head.seq));
        if !behind(&self.wanted) {
            if !behind(&self.peer) {
                self.patience = self.first_patience;
            }
            self.wanted = self.peer.clone();
            self.since = Instant::now();
            return false;
        }
        if self.since.elapsed() < self.patience {
            return false;
        }
        self.patience = (self.patience * 2).min(MAX_PATIENCE);
        self.since = Instant::now();
        true
    }
}

#[cfg(test)]
mod tests {
    use koinon_core::body::entry::Head;
    use koinon_core::ids::{Digest, Seq};

    use super::*;

    fn heads(seq: u64) -> Heads {
        Heads::from([(PublicKey([1; 32]), Head { seq: Seq(seq), id: StatementId(Digest([0; 32])) })])
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_does_not_move_is_asked_for_again_ever_more_rarely() {
        let mut progress = Progress::new(&Duration::from_secs(5));
        progress.peer = heads(7);
        let mut asked = Vec::new();
        for second in 0..100 {
            if progress.is_stuck(&heads(3)) {
                asked.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(asked, [10, 30, 70]);
        assert!(!progress.is_stuck(&heads(7)), "whoever has caught up is not stuck");
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_grows_faster_than_it_is_read_is_not_stuck() {
        let mut progress = Progress::new(&Duration::from_secs(5));
        for second in 0..100 {
            progress.peer = heads(second + 9);
            assert!(!progress.is_stuck(&heads(second)));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
}
