//! An HTTP listener that hostile clients may reach: every resource a connection can hold is bounded.
//!
//! ```text
//! accept ─ count limits ─ handshake (plain, or TLS by the caller) ─ first byte in time ─ HTTP/1.1 or HTTP/2 ─ router
//!                                                                    └─ a client that takes nothing for too long is cut
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What connections may cost. [`Limits::default`] fits a listener that is open to a cluster or to peers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address.
    pub connections_per_address: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// What of each answer over HTTP/2 may wait here while its client takes it slowly, in bytes.
    pub send_buffer: usize,
    /// From the accepted connection to the end of the handshake, from there to the first byte, and for one request's headers.
    pub patience: Duration,
    /// How long a client may take nothing while we have something to send.
    pub stalled: Duration,
    /// After the stop: how long requests that have begun may go on.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            // An application behind one address (a proxy, a NAT of a whole site) still gets a good share.
            connections_per_address: 1024,
            streams: 256,
            send_buffer: 400 << 10,
            patience: Duration::from_secs(10),
            stalled: Duration::from_secs(60),
            drain: Duration::from_secs(30),
        }
    }
}

/// Serves `app` on plain connections until `stop`, then drains.
pub async fn serve(listener: TcpListener, app: Router, limits: Limits, stop: CancellationToken) -> io::Result<()> {
    serve_with(listener, limits, stop, move |stream, _| {
        let app = app.clone();
        async move { Ok((stream, app)) }
    })
    .await
}

/// As [`serve`], but each connection goes through `handshake`, which returns the stream to speak HTTP on and the router
/// that answers on it (so that what the handshake learned of the client can be put into that router).
///
/// A handshake that fails or takes too long costs that connection alone.
pub async fn serve_with<H, F, S>(
    listener: TcpListener,
    limits: Limits,
    stop: CancellationToken,
    handshake: H,
) -> io::Result<()>
where
    H: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = io::Result<(S, Router)>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = Open::default();
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, or a client gone before it was accepted: others go on after a breath.
                    tracing::warn!(%error, "accepting a connection");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Some(place) = open.enter(address.ip(), &limits) else {
            tracing::debug!(%address, "refusing a connection: too many are open");
            continue;
        };
        // Each event of a stream is a small packet of its own; waiting to fill one would delay every token.
        let _ = stream.set_nodelay(true);
        let shaken = handshake(stream, address);
        let (stop, cut) = (stop.clone(), cut.clone());
        tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                () = cut.cancelled() => {}
                () = connection(shaken, address, limits, stop) => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(limits.drain, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "cutting connections that did not drain in time");
        cut.cancel();
        tasks.wait().await;
    }
    Ok(())
}

async fn connection<F, S>(handshake: F, address: SocketAddr, limits: Limits, stop: CancellationToken)
where
    F: Future<Output = io::Result<(S, Router)>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stream, app) = match tokio::time::timeout(limits.patience, handshake).await {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "handshake failed"),
        Err(_) => return tracing::debug!(%address, "handshake took too long"),
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.patience).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_send_buf_size(limits.send_buffer)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(limits.patience);
    let io = TokioIo::new(Guarded::new(stream, limits));
    let connection = builder.serve_connection(io, TowerToHyperService::new(app)).into_owned();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, error = %error, "connection ended");
    }
}

/// Counts open connections, in all and for each address.
#[derive(Clone, Default)]
struct Open(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Open {
    fn enter(&self, address: IpAddr, limits: &Limits) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= limits.connections {
            return None;
        }
        let here = open.entry(address).or_default();
        if *here >= limits.connections_per_address {
            return None;
        }
        *here += 1;
        Some(Place { open: self.clone(), address })
    }
}

/// One open connection; leaves the count when dropped, however the connection ended.
struct Place {
    open: Open,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = open.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// A stream whose other end must say something in time, and must not stop taking what is sent to it.
struct Guarded<S> {
    stream: S,
    first_byte: Option<Pin<Box<Sleep>>>,
    stalled_after: Duration,
    stall: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    fn new(stream: S, limits: Limits) -> Self {
        Self { stream, first_byte: Some(Box::pin(sleep(limits.patience))), stalled_after: limits.stalled, stall: None }
    }

    fn watch_write<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stall = None;
            return progress;
        }
        let after = self.stalled_after;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + after)));
        match stall.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the client took nothing for {} s", after.as_secs()),
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.stream).poll_read(context, buffer);
        if progress.is_ready() {
            this.first_byte = None;
        } else if let Some(deadline) = &mut this.first_byte
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing")));
        }
        progress
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watch_write(context, progress)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.stream).poll_flush(context);
        this.watch_write(context, progress)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.watch_write(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use futures::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(
        app: Router,
        limits: Limits,
    ) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, app, limits, stop.clone()));
        (address, stop, served)
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        // A cut connection answers nothing; that is what some tests look for.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    fn short() -> Limits {
        Limits { patience: Duration::from_millis(200), stalled: Duration::from_millis(300), ..Limits::default() }
    }

    #[tokio::test]
    async fn clients_that_connect_and_say_nothing_are_cut_and_the_others_served() {
        let limits = Limits { connections: 3, ..short() };
        let (address, _stop, _) = start(Router::new().route("/", get(|| async { "hello" })), limits).await;
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut end = [0; 1];
        for stream in &mut silent {
            assert_eq!(stream.read(&mut end).await.unwrap_or(0), 0);
        }
        assert!(ask(address).await.ends_with("hello"));
    }

    #[tokio::test]
    async fn one_address_cannot_take_more_than_its_share() {
        let limits = Limits { connections_per_address: 1, patience: Duration::from_secs(60), ..short() };
        let (address, _stop, _) = start(Router::new().route("/", get(|| async { "hello" })), limits).await;
        let held = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(address).await, "");
        drop(held);
        for _ in 0..50 {
            if ask(address).await.ends_with("hello") {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("the place of a closed connection was not given back");
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_is_cut() {
        let endless = || async { Body::from_stream(stream::repeat_with(|| io::Result::Ok(vec![0; 16 * 1024]))) };
        let (address, _stop, _) = start(Router::new().route("/", get(endless)), short()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        sleep(Duration::from_secs(1)).await;
        // What was in flight can still be read; after it comes the end, which an endless body has only when it was cut.
        let mut sink = vec![0; 1 << 20];
        let to_the_end = async { while matches!(stream.read(&mut sink).await, Ok(read) if read > 0) {} };
        tokio::time::timeout(Duration::from_secs(10), to_the_end).await.expect("the connection was not cut");
    }

    #[tokio::test]
    async fn a_stop_lets_what_has_begun_end_and_takes_nothing_new() {
        let slow = || async {
            sleep(Duration::from_millis(300)).await;
            "slow"
        };
        let (address, stop, served) = start(Router::new().route("/", get(slow)), Limits::default()).await;
        let begun = tokio::spawn(ask(address));
        sleep(Duration::from_millis(100)).await;
        stop.cancel();
        assert!(begun.await.unwrap().ends_with("slow"));
        served.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn what_does_not_drain_in_time_is_cut() {
        let never = || async { std::future::pending::<&str>().await };
        let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
        let (address, stop, served) = start(Router::new().route("/", get(never)), limits).await;
        let begun = tokio::spawn(ask(address));
        sleep(Duration::from_millis(100)).await;
        stop.cancel();
        served.await.unwrap().unwrap();
        assert_eq!(begun.await.unwrap(), "");
    }
}
