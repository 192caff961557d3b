//! What a client still sends when its answer is known already.
//!
//! A request that is dropped before its end resets its stream, or its connection, and the reset overtakes the answer that
//! would have told why. So what is left of it is read and thrown away first: for a while, and up to as much as any request
//! may hold.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, header};
use axum::middleware::{Next, from_fn};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::timeout;

/// How long a client may take for the rest. Then it is answered all the same.
const READ_FOR: Duration = Duration::from_secs(3);

/// The router, whose answers wait for what is left of their requests, up to `most` bytes of each.
pub fn read_on(app: Router, most: usize) -> Router {
    app.layer(from_fn(move |request: Request, next: Next| async move {
        // Who asks before it sends has sent nothing yet, and reading would ask it to.
        let asks_first = request.headers().contains_key(header::EXPECT);
        let left = Left::default();
        let request = request.map(|body| Body::new(Lent { body: Some(body), begun: !asks_first, left: left.clone() }));
        let answer: Response<Body> = next.run(request).await;
        if let Some(rest) = left.take() {
            // Whether it ends in time or not, it is answered now.
            let _ = timeout(READ_FOR, discard(rest, most)).await;
        }
        answer
    }))
}

/// Reads to the end, or `most` bytes, and keeps nothing.
async fn discard(mut body: Body, most: usize) {
    let mut left = most;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// Where a body is left by whoever did not read it to its end.
#[derive(Clone, Default)]
struct Left(Arc<Mutex<Option<Body>>>);

impl Left {
    // A panic under the lock cannot leave half a body.
    fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, body: Option<Body>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = body;
    }
}

/// A body that outlives whoever reads it.
struct Lent {
    body: Option<Body>,
    /// Whether its client sends, or was asked to.
    begun: bool,
    left: Left,
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.begun = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.left.put(self.body.take().filter(|body| self.begun && !body.is_end_stream()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream;
    use tokio::time::Instant;

    use super::*;

    const MOST: usize = 4096;

    /// Pieces of 1 KiB, and how many of them were read after the first `taken` by whoever answered.
    async fn read(asks_first: bool, taken: usize, pieces: usize) -> usize {
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let pieces = (0..pieces).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::io::Result::Ok(vec![7_u8; 1024])
        });
        answered(asks_first, taken, Body::from_stream(stream::iter(pieces))).await;
        seen.load(Ordering::Relaxed) - taken
    }

    async fn answered(asks_first: bool, taken: usize, body: Body) {
        let app = Router::new().fallback(async move |request: Request| {
            let mut body = request.into_body();
            for _ in 0..taken {
                body.frame().await.unwrap().unwrap();
            }
            "an answer"
        });
        let mut request = Request::new(body);
        if asks_first {
            request.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
        }
        let answer =
            hyper::service::Service::call(&hyper_util::service::TowerToHyperService::new(read_on(app, MOST)), request);
        let answer = answer.await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(answer, "an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_is_read_on_for_a_while_so_that_the_answer_arrives() {
        assert_eq!(read(false, 0, 3).await, 3, "to the end");
        assert_eq!(read(false, 2, 6).await, 4, "from where it was left");
        assert_eq!(read(false, 0, 100).await, 5, "as much as a request may hold, and one piece that is too much");
        assert_eq!(read(true, 0, 3).await, 0, "who asks first is not told to go on");
        assert_eq!(read(true, 1, 3).await, 2, "unless it was told before");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_go_on_sending_is_answered_all_the_same() {
        let begun = Instant::now();
        answered(false, 0, Body::from_stream(stream::pending::<std::io::Result<Bytes>>())).await;
        assert_eq!(begun.elapsed(), READ_FOR);
    }
}
