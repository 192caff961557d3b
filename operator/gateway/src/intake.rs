//! Taking requests in, without letting anybody fill the memory: so many calls at once, so many bytes each, so many in all.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::metrics::{InFlight, Metrics, Side};
use crate::openai::ApiError;

/// Memory for bodies is given out in pieces of this size.
const PIECE: usize = 64 * 1024;
/// How long what is too long is still read, and thrown away. A connection that is closed on a client that still sends is
/// reset, and the reset overtakes the answer that would have told it why.
const DISCARD_FOR: Duration = Duration::from_secs(3);

/// Bounds on what is taken in; clones share them.
#[derive(Clone, Debug)]
pub struct Intake {
    calls: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    limit: usize,
    patience: Duration,
}

/// A call that may be worked on.
#[derive(Debug)]
pub struct Admitted {
    /// Counts it in the metrics.
    pub in_flight: InFlight,
    /// Its place among the calls at once.
    pub place: OwnedSemaphorePermit,
    /// When it came; set anew when its body is whole.
    pub begun: Instant,
}

/// A whole body and the memory that it takes, given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    /// The body.
    pub bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Intake {
    /// At most `calls` at once, `limit` bytes each and `memory` bytes in all, each whole within `patience`.
    pub fn new(calls: usize, limit: usize, memory: usize, patience: Duration) -> Self {
        // A memory below one body would refuse every large request; it would be a mistake, not a wish.
        let pieces = memory.max(limit).div_ceil(PIECE);
        Self { calls: Arc::new(Semaphore::new(calls)), memory: Arc::new(Semaphore::new(pieces)), limit, patience }
    }

    /// A place for one more call.
    ///
    /// # Errors
    /// There is none.
    pub fn admit(&self, metrics: &Metrics, side: Side) -> Result<Admitted, ApiError> {
        let place = self.calls.clone().try_acquire_owned().map_err(|_| ApiError::Overloaded)?;
        Ok(Admitted { in_flight: metrics.enter(side), place, begun: Instant::now() })
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// It is too long, too slow, or breaks off; or there is no memory for it at present.
    pub async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<Taken, ApiError> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let taken = if announced.is_some_and(|length| length > self.limit as u64) {
            Err(ApiError::TooLarge { limit: self.limit })
        } else {
            let late = |_| ApiError::SlowRequest { seconds: self.patience.as_secs() };
            timeout(self.patience, self.read_all(&mut body)).await.map_err(late)?
        };
        // Who asks before it sends has sent nothing yet, and reading would ask it to.
        let asks_first = headers.contains_key(header::EXPECT);
        if matches!(taken, Err(ApiError::TooLarge { .. })) && !asks_first {
            // Whether it ends in time or not, it is answered now.
            let _ = timeout(DISCARD_FOR, self.discard(body)).await;
        }
        taken
    }

    /// Reads on for as much again as is allowed, and keeps nothing.
    async fn discard(&self, mut body: Body) {
        let mut left = self.limit;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }

    async fn read_all(&self, body: &mut Body) -> Result<Taken, ApiError> {
        let mut bytes = BytesMut::new();
        let mut memory: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::BrokenRequest)?.into_data() else { continue };
            let length = bytes.len() + data.len();
            if length > self.limit {
                return Err(ApiError::TooLarge { limit: self.limit });
            }
            let held = memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = u32::try_from(length.div_ceil(PIECE).saturating_sub(held)).unwrap_or(u32::MAX);
            if more > 0 {
                let pieces = self.memory.clone().try_acquire_many_owned(more).map_err(|_| ApiError::Overloaded)?;
                match &mut memory {
                    Some(memory) => memory.merge(pieces),
                    None => memory = Some(pieces),
                }
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Taken { bytes: bytes.freeze(), _memory: memory })
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn intake(limit: usize, memory: usize) -> Intake {
        Intake::new(2, limit, memory, Duration::from_secs(1))
    }

    fn chunks(count: usize) -> Body {
        Body::from_stream(stream::iter((0..count).map(|_| std::io::Result::Ok(vec![7_u8; 1024]))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_up_to_the_limit_is_taken_and_one_byte_more_is_not() {
        let intake = intake(4096, 1 << 20);
        let none = HeaderMap::new();
        assert_eq!(intake.read(&none, chunks(4)).await.unwrap().bytes.len(), 4096);
        assert_eq!(intake.read(&none, chunks(5)).await.unwrap_err(), ApiError::TooLarge { limit: 4096 });
        let announced = HeaderMap::from_iter([(header::CONTENT_LENGTH, 4097.into())]);
        let never = Body::from_stream(stream::pending::<std::io::Result<Bytes>>());
        assert_eq!(intake.read(&announced, never).await.unwrap_err(), ApiError::TooLarge { limit: 4096 });
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_long_is_read_on_for_a_while_so_that_the_answer_arrives() {
        let intake = intake(4096, 1 << 20);
        let read = async |announced: HeaderMap, chunks: usize| {
            let (seen, count) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), chunks);
            let counted = seen.clone();
            let body = Body::from_stream(stream::iter((0..count).map(move |_| {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                std::io::Result::Ok(vec![7_u8; 1024])
            })));
            assert_eq!(intake.read(&announced, body).await.unwrap_err(), ApiError::TooLarge { limit: 4096 });
            seen.load(std::sync::atomic::Ordering::Relaxed)
        };
        assert_eq!(read(HeaderMap::new(), 6).await, 6, "to the end");
        assert_eq!(read(HeaderMap::new(), 100).await, 10, "as much again and one that is too much");
        let announced = HeaderMap::from_iter([(header::CONTENT_LENGTH, (8 * 1024).into())]);
        assert_eq!(read(announced.clone(), 8).await, 5, "also where the length was announced");
        let mut asks = announced;
        asks.insert(header::EXPECT, "100-continue".parse().unwrap());
        assert_eq!(read(asks, 8).await, 0, "who asks first is not told to go on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up() {
        let never = Body::from_stream(stream::pending::<std::io::Result<Bytes>>());
        let error = intake(4096, 1 << 20).read(&HeaderMap::new(), never).await.unwrap_err();
        assert_eq!(error, ApiError::SlowRequest { seconds: 1 });
    }

    #[tokio::test]
    async fn all_bodies_together_take_no_more_than_the_memory_and_give_it_back() {
        let intake = intake(PIECE, 2 * PIECE);
        let none = HeaderMap::new();
        let first = intake.read(&none, chunks(64)).await.unwrap();
        let _second = intake.read(&none, chunks(64)).await.unwrap();
        assert_eq!(intake.read(&none, chunks(1)).await.unwrap_err(), ApiError::Overloaded);
        drop(first);
        assert!(intake.read(&none, chunks(1)).await.is_ok());
    }

    #[test]
    fn only_so_many_calls_are_worked_on_at_once() {
        let (intake, metrics) = (intake(1, 1), Metrics::register(&prometheus::Registry::new()).unwrap());
        let first = intake.admit(&metrics, Side::App).unwrap();
        let _second = intake.admit(&metrics, Side::App).unwrap();
        assert_eq!(intake.admit(&metrics, Side::App).unwrap_err(), ApiError::Overloaded);
        drop(first);
        assert!(intake.admit(&metrics, Side::App).is_ok());
    }
}
