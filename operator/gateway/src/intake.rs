//! Taking requests in, without letting anybody fill the memory: so many calls at once, so many bytes each, so many in all.
//!
//! And without letting anybody have it all: **a caller that already has something gets more only while it has less than is
//! free.** So one alone gets half of all; the next gets half of the rest, and more as calls of the first end, for which it
//! gets no others; and whoever comes after both still finds room.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use koinon_core::ids::MemberId;
use koinon_core::placement::ReplicaKey;
use tokio::time::{Instant, timeout};

use crate::keys::KeyId;
use crate::metrics::{InFlight, Metrics, Side};
use crate::openai::ApiError;
use crate::shares::{Share, Shares, Sum};

/// Memory for bodies is given out in pieces of this size.
const PIECE: usize = 64 * 1024;

/// What of a placement's calls may wait while it works on as many as it declared: as many again, and this many at least, so
/// that a small one is not refused its next call between two of its answers.
const LEAST_QUEUE: usize = 16;

/// Who is given a share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// Whoever bears an API key.
    Key(KeyId),
    /// Another member's gateway.
    Member(MemberId),
}

impl Caller {
    fn side(&self) -> Side {
        match self {
            Self::Key(_) => Side::App,
            Self::Member(_) => Side::Member,
        }
    }
}

/// What all callers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Places of calls.
    Calls,
    /// Memory for requests.
    Bytes,
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calls => "calls that this gateway works on (--max-in-flight)",
            Self::Bytes => "bytes of requests that this gateway holds (--max-buffered-bytes)",
        })
    }
}

/// Bounds on what is taken in; clones share them.
#[derive(Clone, Debug)]
pub struct Intake {
    calls: Shares<Caller>,
    most_calls: usize,
    placements: Shares<ReplicaKey>,
    memory: Shares<Caller>,
    pieces: usize,
    limit: usize,
    patience: Duration,
}

/// A call that may be worked on.
#[derive(Debug)]
pub struct Admitted {
    /// Counts it in the metrics.
    pub in_flight: InFlight,
    /// Its places among the calls at once.
    pub places: Places,
    /// When it came; set anew when its body is whole.
    pub begun: Instant,
}

/// What a call occupies, given back when dropped.
#[derive(Debug)]
pub struct Places {
    _call: Share<Caller>,
    placement: Option<Share<ReplicaKey>>,
}

/// A whole body and the memory that it takes, given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    /// The body.
    pub bytes: Bytes,
    _memory: Share<Caller>,
}

impl Intake {
    /// At most `calls` at once, `limit` bytes each and `memory` bytes in all, each whole within `patience`.
    pub fn new(calls: usize, limit: usize, memory: usize, patience: Duration) -> Self {
        // A memory below one body would refuse every large request; it would be a mistake, not a wish.
        let pieces = memory.max(limit).div_ceil(PIECE);
        Self {
            calls: Shares::default(),
            most_calls: calls,
            placements: Shares::default(),
            memory: Shares::default(),
            pieces,
            limit,
            patience,
        }
    }

    /// A place for one more call.
    ///
    /// # Errors
    /// There is none, or the caller has its share.
    pub fn admit(&self, metrics: &Metrics, caller: &Caller) -> Result<Admitted, ApiError> {
        let call = self.calls.take(caller, 1, |Sum { own, all }| {
            let free = self.most_calls.saturating_sub(all);
            match (own, free) {
                (0, 0) => Err(ApiError::Overloaded),
                (1.., _) if own >= free => {
                    Err(ApiError::OverShare { of: Shared::Calls, held: own, free, most: self.most_calls })
                }
                _ => Ok(()),
            }
        })?;
        let places = Places { _call: call, placement: None };
        Ok(Admitted { in_flight: metrics.enter(caller.side()), places, begun: Instant::now() })
    }

    /// A place for one more call to a placement that works on `concurrency` at a time, as part of what a call occupies.
    ///
    /// # Errors
    /// There is none.
    pub fn admit_to(&self, replica: &ReplicaKey, concurrency: u32, places: &mut Places) -> Result<(), ApiError> {
        let concurrency = usize::try_from(concurrency).unwrap_or(usize::MAX);
        let most = concurrency.saturating_add(concurrency.max(LEAST_QUEUE));
        let full = |Sum { own, .. }| {
            let replica = || format!("{}/{}", replica.job, replica.replica);
            if own < most { Ok(()) } else { Err(ApiError::PlacementFull { replica: replica(), most, concurrency }) }
        };
        places.placement = Some(self.placements.take(replica, 1, full)?);
        Ok(())
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// It is too long, too slow, or breaks off; or there is no memory for it at present.
    pub async fn read(&self, caller: &Caller, headers: &HeaderMap, mut body: Body) -> Result<Taken, ApiError> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.limit as u64) {
            return Err(ApiError::TooLarge { limit: self.limit });
        }
        let late = |_| ApiError::SlowRequest { seconds: self.patience.as_secs() };
        timeout(self.patience, self.read_all(caller, &mut body)).await.map_err(late)?
    }

    /// How long a body may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    async fn read_all(&self, caller: &Caller, body: &mut Body) -> Result<Taken, ApiError> {
        let mut bytes = BytesMut::new();
        let mut memory = self.memory.take(caller, 0, |_| Ok::<_, ApiError>(()))?;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::BrokenRequest)?.into_data() else { continue };
            let length = bytes.len() + data.len();
            if length > self.limit {
                return Err(ApiError::TooLarge { limit: self.limit });
            }
            let more = length.div_ceil(PIECE).saturating_sub(memory.amount());
            if more > 0 {
                let here = memory.amount();
                memory.grow(more, |sum| self.has_memory(sum, here, more))?;
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Taken { bytes: bytes.freeze(), _memory: memory })
    }

    /// Whether a body that has `here` pieces may have `more`.
    fn has_memory(&self, Sum { own, all }: Sum, here: usize, more: usize) -> Result<(), ApiError> {
        let free = self.pieces.saturating_sub(all);
        if more > free {
            return Err(ApiError::Overloaded);
        }
        // A caller's only body may be as long as any, or a small memory would never take a long one.
        if own > here && own + more > free - more {
            let [held, free, most] = [own, free, self.pieces].map(|pieces| pieces.saturating_mul(PIECE));
            return Err(ApiError::OverShare { of: Shared::Bytes, held, free, most });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn intake(limit: usize, memory: usize) -> Intake {
        Intake::new(2, limit, memory, Duration::from_secs(1))
    }

    fn caller(number: u32) -> Caller {
        Caller::Member(format!("member-{number}").parse().unwrap())
    }

    fn chunks(count: usize) -> Body {
        Body::from_stream(stream::iter((0..count).map(|_| std::io::Result::Ok(vec![7_u8; 1024]))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_up_to_the_limit_is_taken_and_one_byte_more_is_not() {
        let intake = intake(4096, 1 << 20);
        let none = HeaderMap::new();
        assert_eq!(intake.read(&caller(1), &none, chunks(4)).await.unwrap().bytes.len(), 4096);
        assert_eq!(intake.read(&caller(1), &none, chunks(5)).await.unwrap_err(), ApiError::TooLarge { limit: 4096 });
        let announced = HeaderMap::from_iter([(header::CONTENT_LENGTH, 4097.into())]);
        let never = Body::from_stream(stream::pending::<std::io::Result<Bytes>>());
        assert_eq!(intake.read(&caller(1), &announced, never).await.unwrap_err(), ApiError::TooLarge { limit: 4096 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up() {
        let never = Body::from_stream(stream::pending::<std::io::Result<Bytes>>());
        let error = intake(4096, 1 << 20).read(&caller(1), &HeaderMap::new(), never).await.unwrap_err();
        assert_eq!(error, ApiError::SlowRequest { seconds: 1 });
    }

    #[tokio::test]
    async fn all_bodies_together_take_no_more_than_the_memory_and_give_it_back() {
        let intake = intake(PIECE, 2 * PIECE);
        let none = HeaderMap::new();
        let first = intake.read(&caller(1), &none, chunks(64)).await.unwrap();
        let _second = intake.read(&caller(2), &none, chunks(64)).await.unwrap();
        assert_eq!(intake.read(&caller(3), &none, chunks(1)).await.unwrap_err(), ApiError::Overloaded);
        drop(first);
        assert!(intake.read(&caller(3), &none, chunks(1)).await.is_ok());
    }

    #[tokio::test]
    async fn one_callers_bodies_leave_memory_for_others_and_one_body_may_be_as_long_as_any() {
        let intake = intake(2 * PIECE, 4 * PIECE);
        let none = HeaderMap::new();
        let first = intake.read(&caller(1), &none, chunks(128)).await.unwrap();
        let refused = intake.read(&caller(1), &none, chunks(1)).await.unwrap_err();
        let said = ApiError::OverShare { of: Shared::Bytes, held: 2 * PIECE, free: 2 * PIECE, most: 4 * PIECE };
        assert_eq!(refused, said);
        let _other = intake.read(&caller(2), &none, chunks(128)).await.unwrap();
        drop(first);
        assert!(intake.read(&caller(1), &none, chunks(128)).await.is_ok());
    }

    #[test]
    fn a_caller_gets_half_of_the_places_rounded_up_and_at_least_one() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        for (places, share) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (1024, 512)] {
            let intake = Intake::new(places, 1, 1, Duration::from_secs(1));
            let held: Vec<_> = (0..share).map(|_| intake.admit(&metrics, &caller(1)).unwrap()).collect();
            let refused = intake.admit(&metrics, &caller(1)).unwrap_err();
            let said = ApiError::OverShare { of: Shared::Calls, held: share, free: places - share, most: places };
            assert_eq!(refused, said);
            assert_eq!((refused.status().as_u16(), refused.code()), (429, "rate_limit_exceeded"));
            let other = intake.admit(&metrics, &caller(2));
            assert_eq!(other.is_ok(), places > 1, "{other:?}");
            drop(held);
            assert!(intake.admit(&metrics, &caller(1)).is_ok());
        }
    }

    #[test]
    fn after_several_callers_that_ask_without_end_the_next_one_still_finds_a_place() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let intake = Intake::new(1024, 1, 1, Duration::from_secs(1));
        let mut held = Vec::new();
        for greedy in 0..9 {
            held.extend(std::iter::from_fn(|| intake.admit(&metrics, &caller(greedy)).ok()));
        }
        let newcomer = intake.admit(&metrics, &caller(99));
        assert!(newcomer.is_ok(), "{} places are taken", held.len());
        // The first has more than is free: what it ends goes to others until they are even.
        held.drain(..200);
        assert!(intake.admit(&metrics, &caller(0)).is_err());
        assert!(intake.admit(&metrics, &caller(8)).is_ok());
    }

    #[test]
    fn when_every_place_is_taken_a_newcomer_hears_that_it_is_not_its_fault() {
        let (intake, metrics) = (intake(1, 1), Metrics::register(&prometheus::Registry::new()).unwrap());
        let first = intake.admit(&metrics, &caller(1)).unwrap();
        let _second = intake.admit(&metrics, &caller(2)).unwrap();
        assert_eq!(intake.admit(&metrics, &caller(3)).unwrap_err(), ApiError::Overloaded);
        drop(first);
        assert!(intake.admit(&metrics, &caller(3)).is_ok());
    }

    #[test]
    fn a_placement_gets_what_it_works_on_and_a_short_queue_and_leaves_the_rest_to_others() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let intake = Intake::new(1000, 1, 1, Duration::from_secs(1));
        let replica = |index| ReplicaKey {
            home: "aarhus".parse().unwrap(),
            job: "11111111-1111-1111-1111-111111111111".parse().unwrap(),
            replica: koinon_core::ids::ReplicaIndex(index),
        };
        let call = |index, concurrency| {
            let mut admitted = intake.admit(&metrics, &caller(1)).unwrap();
            intake.admit_to(&replica(index), concurrency, &mut admitted.places).map(|()| admitted)
        };
        for (index, concurrency, most) in [(0, 4, 20), (1, 64, 128)] {
            let held: Vec<_> = (0..most).map(|_| call(index, concurrency).unwrap()).collect();
            let refused = call(index, concurrency).unwrap_err();
            assert_eq!((refused.status().as_u16(), refused.code()), (429, "rate_limit_exceeded"));
            assert!(refused.to_string().contains(&format!("{most} calls")), "{refused}");
            drop(held);
            assert!(call(index, concurrency).is_ok());
        }
    }
}
