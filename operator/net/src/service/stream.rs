//! What a reader gets after it has said what it has: entries, Latest statements, heads and pings, without end.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use koinon_core::body::entry::Head;
use koinon_core::ids::{PublicKey, Seq, StatementId};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::connection::{Connection, told};
use crate::commons::{Access, CommonsError, Entry, Heads, Latest};
use crate::limits::LimitKind;
use crate::wire::{Bye, StreamLine};

/// Entries of one log before other logs and the Latest statements have their turn, so that a beacon never waits for a
/// long history.
const BATCH: usize = 32;

/// Why writing stopped.
enum Stop {
    /// The reader is gone.
    Gone,
    /// The reader did not take a line in time.
    Slow,
    /// The connection ends.
    Ending(Bye),
}

struct Writer {
    connection: Arc<Connection>,
    lines: mpsc::Sender<Bytes>,
    ending: tokio::sync::watch::Receiver<Option<Bye>>,
    /// What the reader has of each log: what it said, and what was written since.
    has: Heads,
    /// Ids of the Latest statements that were written.
    latest: BTreeSet<StatementId>,
    /// Ids of the forked entries that were written.
    forks: BTreeSet<StatementId>,
    /// The heads that were written last.
    said: Option<Heads>,
}

/// Writes to one reader until it is gone, too slow, or the connection ends.
pub(super) async fn write(connection: Arc<Connection>, has: Heads, lines: mpsc::Sender<Bytes>) {
    let service = connection.service.clone();
    let key = connection.peer.key;
    let busy = connection.busy();
    service.metrics.peer(&key, |peer| peer.streams += 1);
    let (latest, forks) = (BTreeSet::new(), BTreeSet::new());
    let ending = connection.ending();
    let mut writer = Writer { connection, lines, ending, has, latest, forks, said: None };
    match writer.run().await {
        Stop::Gone => {}
        Stop::Slow => {
            let allowed = service.timing.reader.as_secs();
            let limit = service.limited(LimitKind::ReaderSeconds, allowed, allowed + 1);
            writer.connection.ending.send_replace(Some(Bye::Limit(limit)));
        }
        Stop::Ending(bye) => {
            let line = StreamLine::Bye(bye).to_bytes();
            let _ = tokio::time::timeout(service.timing.goodbye, writer.lines.send(line.into())).await;
        }
    }
    service.metrics.peer(&key, |peer| peer.streams = peer.streams.saturating_sub(1));
    drop(busy);
}

impl Writer {
    async fn run(&mut self) -> Stop {
        match self.write_until_stopped().await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn write_until_stopped(&mut self) -> Result<std::convert::Infallible, Stop> {
        let service = self.connection.service.clone();
        let mut changes = service.commons.changes();
        let mut ping = tokio::time::interval_at(Instant::now() + service.timing.ping, service.timing.ping);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.heads().await?;
        loop {
            changes.mark_unchanged();
            self.latest().await?;
            self.forks().await?;
            while self.entries().await? {
                self.latest().await?;
            }
            let mut ending = self.ending.clone();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return Err(Stop::Ending(Bye::Stopping));
                },
                _ = ping.tick() => self.heads().await?,
                bye = told(&mut ending) => return Err(Stop::Ending(bye)),
                () = self.lines.closed() => return Err(Stop::Gone),
            }
        }
    }

    /// Says where the logs end here, or just that the connection lives.
    async fn heads(&mut self) -> Result<(), Stop> {
        let heads = self.connection.access.cut(self.connection.service.commons.heads());
        let line = if self.said.as_ref() == Some(&heads) { StreamLine::Ping } else { StreamLine::Heads(heads.clone()) };
        self.said = Some(heads);
        self.line(&line).await
    }

    /// Writes the Latest statements that are new.
    async fn latest(&mut self) -> Result<(), Stop> {
        let Access::Member(reader) = &self.connection.access else { return Ok(()) };
        let current = self.connection.service.commons.latest_for(reader);
        let mut ids = BTreeSet::new();
        for Latest { id, envelope } in current {
            ids.insert(id);
            if !self.latest.contains(&id) {
                self.line(&StreamLine::Latest((*envelope).clone())).await?;
            }
        }
        // Only what is current is remembered: ids that were replaced never come back.
        self.latest = ids;
        Ok(())
    }

    /// Writes forked positions, which a reader whose log has gone on beyond them would not ask for.
    async fn forks(&mut self) -> Result<(), Stop> {
        for entry in self.connection.service.commons.forks() {
            let served = self.connection.access.last_seq(&entry.log).is_some_and(|last| entry.seq <= last);
            if served && self.forks.insert(entry.id) {
                self.line(&StreamLine::Entry((*entry.envelope).clone())).await?;
            }
        }
        Ok(())
    }

    /// Writes one batch of each log that goes on; says whether there may be more.
    async fn entries(&mut self) -> Result<bool, Stop> {
        let service = self.connection.service.clone();
        let mut more = false;
        for (log, head) in self.connection.access.cut(service.commons.heads()) {
            let has = self.has.get(&log).copied();
            if has == Some(head) || has.is_some_and(|has| has.seq > head.seq) {
                continue;
            }
            let last = self.connection.access.last_seq(&log).unwrap_or_default();
            let batch = match self.next(&log, has).await {
                Ok(batch) => batch,
                Err(error) => {
                    // The reader asks again with its heads when the store is back; other logs go on.
                    tracing::warn!(%log, %error, "a log cannot be read for a peer");
                    continue;
                }
            };
            for entry in batch.into_iter().filter(|entry| entry.seq <= last) {
                self.line(&StreamLine::Entry((*entry.envelope).clone())).await?;
                self.has.insert(log, Head { seq: entry.seq, id: entry.id });
                more = true;
            }
        }
        Ok(more)
    }

    /// What follows in `log` after what the reader has. Another entry at that very position goes along: the reader is
    /// on another branch then, and this is the proof.
    async fn next(&self, log: &PublicKey, has: Option<Head>) -> Result<Vec<Entry>, CommonsError> {
        let commons = &self.connection.service.commons;
        let mut batch = commons.range(log, has.map_or(Seq(0), |has| has.seq), BATCH).await?;
        batch.retain(|entry| has.is_none_or(|has| entry.id != has.id));
        Ok(batch)
    }

    async fn line(&mut self, line: &StreamLine) -> Result<(), Stop> {
        let service = &self.connection.service;
        // The connection notices a change of access by itself, and perhaps one line too late.
        if !self.connection.still_allowed() {
            return Err(Stop::Ending(Bye::AccessChanged));
        }
        let bytes = Bytes::from(line.to_bytes());
        let length = bytes.len();
        tokio::select! {
            sent = tokio::time::timeout(service.timing.reader, self.lines.send(bytes)) => match sent {
                Ok(Ok(())) => {
                    service.metrics.served(length);
                    Ok(())
                }
                Ok(Err(_)) => Err(Stop::Gone),
                Err(_) => Err(Stop::Slow),
            },
            bye = told(&mut self.ending) => Err(Stop::Ending(bye)),
        }
    }
}
