//! Where connections wait until their key is known.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connections that are not yet known to be a known key's: in their handshake, or strangers.
///
/// When it is full, the oldest has to go. An honest handshake takes less than a second, so whoever floods the door
/// pushes out itself before it pushes out anybody else.
#[derive(Clone)]
pub struct Lobby {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    room: usize,
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// A place in the lobby, given back when dropped.
pub struct Place {
    lobby: Lobby,
    number: u64,
}

impl Lobby {
    /// A lobby for so many connections.
    pub fn new(room: usize) -> Self {
        Lobby { inner: Arc::new(Mutex::new(Inner { room, next: 0, waiting: BTreeMap::new() })) }
    }

    /// Enters, and gets what is cancelled when somebody else needs the place.
    pub fn enter(&self) -> (Place, CancellationToken) {
        let pushed_out = CancellationToken::new();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let number = inner.next;
        inner.next += 1;
        inner.waiting.insert(number, pushed_out.clone());
        while inner.waiting.len() > inner.room {
            if let Some((_, oldest)) = inner.waiting.pop_first() {
                oldest.cancel();
            }
        }
        (Place { lobby: self.clone(), number }, pushed_out)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.lobby.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leaves_a_full_lobby_and_places_are_given_back() {
        let lobby = Lobby::new(2);
        let (first, first_out) = lobby.enter();
        let (second, second_out) = lobby.enter();
        let (_third, third_out) = lobby.enter();
        assert_eq!([&first_out, &second_out, &third_out].map(CancellationToken::is_cancelled), [true, false, false]);
        drop((first, second));
        let (_fourth, _) = lobby.enter();
        assert!(!third_out.is_cancelled(), "a place that was given back is free again");
    }
}
