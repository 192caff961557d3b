//! A door from the root namespace into a member's: a local port whose connections are dialled inside.
//!
//! It works while the member is cut off, because it does not use the wire: a socket belongs to the namespace in which
//! it was made, whoever uses it.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Dials `target` inside the namespace that a file holds.
pub fn dial_inside(namespace: &Path, target: SocketAddr) -> io::Result<StdStream> {
    let file = File::open(namespace)?;
    // Entering a namespace changes the calling thread, so it is one that ends right after.
    let dialler = std::thread::spawn(move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))?;
        StdStream::connect_timeout(&target, DIAL_TIMEOUT)
    });
    dialler.join().map_err(|_| io::Error::other("the dialling thread failed"))?
}

/// A local port that leads to one address inside a namespace. It closes when dropped.
#[derive(Debug)]
pub struct Relay {
    local: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Opens a port on the root namespace's loopback.
    pub async fn open(namespace: PathBuf, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("opening a relay port on the loopback")?;
        let local = listener.local_addr()?;
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let namespace = namespace.clone();
                // A dial that fails closes the client's connection, as a refusal would.
                tokio::spawn(async move { join_ends(client, namespace, target).await });
            }
        });
        Ok(Self { local, task })
    }

    /// The local end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn join_ends(mut client: TcpStream, namespace: PathBuf, target: SocketAddr) -> io::Result<()> {
    let dialled =
        tokio::task::spawn_blocking(move || dial_inside(&namespace, target)).await.map_err(io::Error::other)??;
    dialled.set_nonblocking(true)?;
    let mut inside = TcpStream::from_std(dialled)?;
    // Small requests and answers pass through here; waiting to fill packets would only slow them.
    client.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut inside).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_through_the_relay() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = server.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(b"pong").await.unwrap();
        });
        // The own namespace: entering it needs root all the same, as every end-to-end test does.
        let relay = Relay::open(PathBuf::from("/proc/self/ns/net"), target).await.unwrap();
        let mut client = TcpStream::connect(relay.local()).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        client.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"pong");
    }
}
