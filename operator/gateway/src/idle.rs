//! Connections on which nobody asks anything are closed, however alive they are.
//!
//! HTTP/1.1 ends them by itself: the next request's headers must come in time. A connection of HTTP/2 answers pings for
//! ever and would keep its place for as long.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// A connection's stream and router, so that the stream ends after `most` without a call.
pub fn bounded<S>(stream: S, app: Router, most: Duration) -> (Idle<S>, Router) {
    let activity = Activity(Arc::new(Mutex::new(Calls { running: 0, since: Instant::now() })));
    let calls = activity.clone();
    let app = app.layer(from_fn(move |request: Request, next: Next| {
        let running = calls.begin();
        async move { next.run(request).await.map(|body| Body::new(Answer { body, _running: running })) }
    }));
    let look = Box::pin(sleep_until(Instant::now() + most));
    (Idle { stream, activity, most, look }, app)
}

/// The calls on one connection.
#[derive(Clone, Debug)]
struct Activity(Arc<Mutex<Calls>>);

#[derive(Debug)]
struct Calls {
    running: usize,
    /// When the last one ended.
    since: Instant,
}

impl Activity {
    fn begin(&self) -> Running {
        self.lock().running += 1;
        Running(self.clone())
    }

    /// Since when nothing is asked; `None` while something is.
    fn idle_since(&self) -> Option<Instant> {
        let calls = self.lock();
        (calls.running == 0).then_some(calls.since)
    }

    // A panic under the lock cannot leave a count half changed.
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call, until the end of its answer.
#[derive(Debug)]
struct Running(Activity);

impl Drop for Running {
    fn drop(&mut self) {
        let mut calls = self.0.lock();
        calls.running = calls.running.saturating_sub(1);
        calls.since = Instant::now();
    }
}

/// The body of an answer, with which its call ends.
struct Answer {
    body: Body,
    _running: Running,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that ends when nothing was asked on it for too long.
pub struct Idle<S> {
    stream: S,
    activity: Activity,
    most: Duration,
    look: Pin<Box<Sleep>>,
}

impl<S> Idle<S> {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        while self.look.as_mut().poll(context).is_ready() {
            let (now, since) = (Instant::now(), self.activity.idle_since());
            let until = since.unwrap_or(now) + self.most;
            if until <= now {
                return true;
            }
            self.look.as_mut().reset(until);
        }
        false
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_over(context) {
            let why = format!("nothing was asked for {} s", this.most.as_secs());
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_some_time_after_its_last_call_and_never_during_one() {
        let (_client, server) = tokio::io::duplex(64);
        let most = Duration::from_secs(300);
        let (mut stream, _) = bounded(server, Router::new(), most);
        let calls = stream.activity.clone();
        let call = tokio::spawn(async move {
            sleep(Duration::from_secs(200)).await;
            let _running = calls.begin();
            sleep(Duration::from_secs(1000)).await;
        });
        let begun = Instant::now();
        let ended = timeout(Duration::from_secs(9999), stream.read_u8()).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let after = begun.elapsed().as_secs();
        assert!((1500..1510).contains(&after), "{after}");
        call.await.unwrap();
    }
}
