//! What each known key has open, and how fast it asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use koinon_core::ids::PublicKey;
use tokio::sync::watch;

use crate::limits::{LimitExceeded, LimitKind, Limits, TokenBucket};
use crate::wire::Bye;

/// Tells a connection to end, and why.
pub(crate) type Ending = watch::Sender<Option<Bye>>;

/// The connections, requests and rates of all known keys.
#[derive(Default)]
pub(crate) struct ConnectionTable {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next_id: u64,
    keys: BTreeMap<PublicKey, KeyState>,
}

struct KeyState {
    bucket: TokenBucket,
    dial_backs: TokenBucket,
    connections: Vec<(u64, Arc<Ending>)>,
    requests: usize,
    streams: usize,
}

/// A place among a key's connections; gives it back when dropped.
pub(crate) struct Place {
    inner: Arc<Mutex<Inner>>,
    key: PublicKey,
    id: u64,
}

/// A request in progress; ends when dropped.
pub(crate) struct Ticket {
    inner: Arc<Mutex<Inner>>,
    key: PublicKey,
    stream: bool,
}

impl ConnectionTable {
    /// Enters a connection. Beyond the limit the *oldest* connection of the key is told to end: after a cut wire the
    /// old ones are dead and only nobody has noticed yet, so refusing the newest would lock a healthy peer out.
    pub(crate) fn enter(&self, key: &PublicKey, limits: &Limits, ending: Arc<Ending>) -> Place {
        let mut inner = lock(&self.inner);
        inner.next_id += 1;
        let id = inner.next_id;
        let state = inner.state(key, limits);
        state.connections.push((id, ending));
        let seen = state.connections.len() as u64;
        if state.connections.len() > limits.connections_per_peer {
            let allowed = limits.connections_per_peer as u64;
            let limit = LimitExceeded { limit: LimitKind::ConnectionsPerPeer, allowed, seen };
            state.connections.remove(0).1.send_replace(Some(Bye::Limit(limit)));
        }
        Place { inner: self.inner.clone(), key: *key, id }
    }

    /// Begins a request of `key`, if its rate and its other requests allow one more.
    pub(crate) fn begin(&self, key: &PublicKey, limits: &Limits) -> Result<Ticket, LimitExceeded> {
        let mut inner = lock(&self.inner);
        let state = inner.state(key, limits);
        if !state.bucket.take() {
            let allowed = u64::from(limits.requests_per_second);
            return Err(LimitExceeded { limit: LimitKind::RequestsPerSecond, allowed, seen: allowed + 1 });
        }
        if state.requests >= limits.concurrent_requests {
            let allowed = limits.concurrent_requests as u64;
            return Err(LimitExceeded { limit: LimitKind::ConcurrentRequests, allowed, seen: allowed + 1 });
        }
        state.requests += 1;
        Ok(Ticket { inner: self.inner.clone(), key: *key, stream: false })
    }

    /// Whether `key` may ask to be dialled back once more.
    pub(crate) fn may_be_dialled_back(&self, key: &PublicKey, limits: &Limits) -> Result<(), LimitExceeded> {
        let allowed = u64::from(limits.dial_backs_per_minute);
        let limit = LimitExceeded { limit: LimitKind::DialBacksPerMinute, allowed, seen: allowed + 1 };
        if lock(&self.inner).state(key, limits).dial_backs.take() { Ok(()) } else { Err(limit) }
    }

    /// Forgets keys that have nothing open and are not known any more.
    pub(crate) fn prune(&self, known: impl Fn(&PublicKey) -> bool) {
        lock(&self.inner).keys.retain(|key, state| !state.connections.is_empty() || state.requests > 0 || known(key));
    }

    /// How many connections the key has.
    #[cfg(test)]
    pub(crate) fn connections(&self, key: &PublicKey) -> usize {
        lock(&self.inner).keys.get(key).map_or(0, |state| state.connections.len())
    }
}

impl Inner {
    fn state(&mut self, key: &PublicKey, limits: &Limits) -> &mut KeyState {
        self.keys.entry(*key).or_insert_with(|| KeyState {
            bucket: TokenBucket::per_second(limits.requests_per_second, limits.request_burst),
            dial_backs: TokenBucket::per_minute(limits.dial_backs_per_minute),
            connections: Vec::new(),
            requests: 0,
            streams: 0,
        })
    }
}

impl Ticket {
    /// Counts this request as one of the key's streams.
    pub(crate) fn into_stream(mut self, limits: &Limits) -> Result<Ticket, LimitExceeded> {
        {
            let mut inner = lock(&self.inner);
            let state = inner.state(&self.key, limits);
            if state.streams >= limits.streams {
                let allowed = limits.streams as u64;
                return Err(LimitExceeded { limit: LimitKind::Streams, allowed, seen: allowed + 1 });
            }
            state.streams += 1;
        }
        self.stream = true;
        Ok(self)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(state) = lock(&self.inner).keys.get_mut(&self.key) {
            state.requests = state.requests.saturating_sub(1);
            state.streams = state.streams.saturating_sub(usize::from(self.stream));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = lock(&self.inner).keys.get_mut(&self.key) {
            state.connections.retain(|(id, _)| *id != self.id);
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { connections_per_peer: 2, concurrent_requests: 2, streams: 1, ..Limits::default() }
    }

    #[tokio::test]
    async fn the_oldest_connection_of_a_key_makes_room_for_the_newest() {
        let (table, key) = (ConnectionTable::default(), PublicKey([1; 32]));
        let endings: Vec<_> = (0..3).map(|_| Arc::new(Ending::new(None))).collect();
        let places: Vec<_> = endings.iter().map(|ending| table.enter(&key, &limits(), ending.clone())).collect();
        let told: Vec<_> = endings.iter().map(|ending| ending.borrow().is_some()).collect();
        assert_eq!(told, [true, false, false]);
        drop(places);
        assert_eq!(table.connections(&key), 0);
    }

    #[tokio::test]
    async fn requests_and_streams_are_counted_until_they_end() {
        let (table, key) = (ConnectionTable::default(), PublicKey([1; 32]));
        let stream = table.begin(&key, &limits()).unwrap().into_stream(&limits()).unwrap();
        let refused = table.begin(&key, &limits()).unwrap().into_stream(&limits());
        assert_eq!(refused.err().unwrap().limit, LimitKind::Streams);
        let _one = table.begin(&key, &limits()).unwrap();
        assert_eq!(table.begin(&key, &limits()).err().unwrap().limit, LimitKind::ConcurrentRequests);
        drop(stream);
        table.begin(&key, &limits()).unwrap().into_stream(&limits()).unwrap();
    }
}
