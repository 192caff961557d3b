//! Peers that send rubbish, and peers that send nothing.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::story::look::{get, poll, text};
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use koinon_e2e::ground::{Ground, and_then_cleaned, ground, lives, metrics, scale_operator};

/// How much rubbish is sent on one connection.
const RUBBISH: usize = 2 << 20;
/// How many send at once.
const SENDERS: u32 = 8;

/// Rubbish that is the same every time, and no TLS.
fn rubbish() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..RUBBISH / 8).flat_map(|_| next()).collect()
}

/// Sends until everything is sent or the other end has had enough; waits until it closes.
async fn send(address: &str, bytes: &[u8]) -> Result<(usize, Duration)> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    let mut sent = 0;
    for piece in bytes.chunks(16 << 10) {
        match stream.write_all(piece).await {
            Ok(()) => sent += piece.len(),
            Err(_) => return Ok((sent, began.elapsed())),
        }
    }
    let mut answer = Vec::new();
    // Reset or closed, both end it; an end that never comes is what may not be.
    let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    ensure!(ended.is_ok(), "the operator kept a connection open for 30 s on which {sent} bytes of rubbish came");
    Ok((sent, began.elapsed()))
}

/// Two MiB of rubbish from each of eight: the operator stays ready, and its peers hear it all the time.
pub async fn garbage(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let aarhus = ground.member("aarhus")?;
    let before = lives(aarhus, "operator").await?;
    let counted = failed_handshakes(aarhus).await?;
    let address = format!("{}:7443", aarhus.spec().address);
    let bytes = rubbish();
    let sending = futures::future::try_join_all((0..SENDERS).map(|_| send(&address, &bytes)));
    let (sent, watched) = tokio::join!(sending, others_stay_fresh(ground, "nobody", Duration::from_secs(8)));
    for (bytes, took) in sent? {
        println!("  {bytes} of {RUBBISH} bytes were taken in {:.1} s", took.as_secs_f32());
    }
    watched?;
    // One that begins like TLS and then does not go on.
    let mut hello = vec![22, 3, 1, 0x40, 0];
    hello.extend_from_slice(&bytes[..1000]);
    let (_, took) = send(&address, &hello).await?;
    println!("  half a handshake was given up after {:.1} s", took.as_secs_f32());
    let after = lives(aarhus, "operator").await?;
    ensure!(before == after, "the operator did not live through it: {before:?} became {after:?}");
    // Every sender, and the one that gave up half way. Honest peers fail no handshake meanwhile, and one more would not matter.
    let wanted = counted + f64::from(SENDERS) + 1.0;
    wait_until(&format!("{wanted} failed handshakes to be counted"), Duration::from_secs(20), || async {
        match failed_handshakes(aarhus).await {
            Ok(now) => Poll::<()>::when(now >= wanted, format!("{now}, and {counted} before")),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    ground.all_fresh().await
}

/// How many handshakes a member's operator counts as failed, for whatever reason.
async fn failed_handshakes(datacenter: &Datacenter) -> Result<f64> {
    let found = metrics(datacenter, "operator", 9090).await?;
    let of_reason = found.iter().filter(|(name, _)| name.starts_with("koinon_peer_handshake_failures_total"));
    Ok(of_reason.map(|(_, value)| value).sum())
}

/// For a while, no member but `except` may stop being Fresh for another one.
async fn others_stay_fresh(ground: &Ground, except: &str, during: Duration) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < during {
        for viewer in koinon_e2e::story::MEMBERS.into_iter().filter(|member| *member != except) {
            let list = get(ground.member(viewer)?, &["kmem", "--namespace", RELEASE_NAMESPACE]).await?;
            for member in koinon_e2e::story::look::items(&list) {
                let (name, liveness) = (koinon_e2e::story::look::name(member), text(&member["status"], "liveness"));
                ensure!(
                    name == except || matches!(liveness, "Fresh" | "Self"),
                    "{viewer} calls {name} {liveness} after {:.1} s",
                    began.elapsed().as_secs_f32()
                );
            }
        }
    }
    Ok(())
}

/// A program at a member's peer endpoint that accepts every connection and never says a word.
struct Silent(Child);

/// Prints how many connections are open, each time that changes.
const SILENT: &str = r#"
import selectors, socket
chooser, listener = selectors.DefaultSelector(), socket.create_server(("0.0.0.0", 7443))
chooser.register(listener, selectors.EVENT_READ)
print("listening", flush=True)
open_now = most = taken = 0
while True:
    for key, _ in chooser.select():
        if key.fileobj is listener:
            connection, _ = listener.accept()
            chooser.register(connection, selectors.EVENT_READ)
            open_now, taken = open_now + 1, taken + 1
        else:
            try:
                ended = not key.fileobj.recv(65536)
            except OSError:
                ended = True
            if ended:
                chooser.unregister(key.fileobj)
                key.fileobj.close()
                open_now -= 1
        if open_now > most:
            most = open_now
            print("most", most, flush=True)
        print("taken", taken, flush=True)
"#;

impl Silent {
    fn start(datacenter: &Datacenter) -> Result<Self> {
        let mut command = datacenter.command("python3");
        command.args(["-c", SILENT]).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(command.spawn().context("starting a program that listens")?))
    }

    /// Ends it; the connections that it took, and the most that were open at once.
    fn end(mut self) -> Result<(u64, u64)> {
        self.0.kill()?;
        let printed = self.0.stdout.take().context("the listener's output is gone")?;
        self.0.wait()?;
        let (mut taken, mut most) = (0, 0);
        for line in BufReader::new(printed).lines() {
            match line?.split_once(' ') {
                Some(("taken", count)) => taken = count.parse()?,
                Some(("most", count)) => most = count.parse()?,
                _ => {}
            }
        }
        Ok((taken, most))
    }
}

/// In the place of a member's operator something accepts and is silent: that member alone is Suspect, and connections to it
/// neither pile up nor keep the others from each other.
pub async fn silent(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let idle = ground.member(&ground.idle)?;
    scale_operator(idle, 0).await?;
    let service = get(idle, &["service", "koinon-peer", "--namespace", RELEASE_NAMESPACE]).await?;
    idle.kubectl(["delete", "service", "koinon-peer", "--namespace", RELEASE_NAMESPACE]).await?;
    // The node's own rules lead the port nowhere until they have noticed that the Service is gone.
    let result = while_silent(ground, idle).await;
    let again = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "koinon-peer", "namespace": RELEASE_NAMESPACE,
            "labels": service["metadata"]["labels"], "annotations": service["metadata"]["annotations"],
        },
        "spec": {
            "type": service["spec"]["type"], "ports": service["spec"]["ports"], "selector": service["spec"]["selector"],
            "externalTrafficPolicy": service["spec"]["externalTrafficPolicy"],
        },
    });
    let cleaned = async {
        idle.apply(&again.to_string()).await?;
        scale_operator(idle, 1).await?;
        ground.all_fresh().await
    };
    and_then_cleaned(result, cleaned.await)
}

async fn while_silent(ground: &Ground, idle: &Datacenter) -> Result<()> {
    let silent = Silent::start(idle)?;
    let address = format!("{}:7443", idle.spec().address);
    let result = async {
        wait_until("something silent to accept at the peer endpoint", Duration::from_secs(30), || async {
            // A connection that the old rules led nowhere stays there; the next one is led by the new rules.
            match tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(&address)).await {
                Ok(Ok(_)) => Poll::Ready(()),
                Ok(Err(error)) => Poll::not_yet(error),
                Err(_) => Poll::not_yet("nothing answers"),
            }
        })
        .await?;
        for viewer in koinon_e2e::story::MEMBERS.into_iter().filter(|member| *member != ground.idle) {
            let datacenter = ground.member(viewer)?;
            wait_until(&format!("{viewer} to miss {}", ground.idle), Duration::from_secs(45), || {
                poll(datacenter, &["kmem", &ground.idle, "--namespace", RELEASE_NAMESPACE], |member| {
                    let seen = text(&member["status"], "liveness");
                    Poll::<()>::when(matches!(seen, "Suspect" | "Lost"), seen)
                })
            })
            .await?;
        }
        others_stay_fresh(ground, &ground.idle, Duration::from_secs(10)).await?;
        ground.story_still_served().await
    }
    .await;
    let (taken, most) = silent.end()?;
    println!("  {taken} connections were taken in silence, {most} at most at once");
    result?;
    // Ours to see that it listens, and of each of two operators one session and one that is being made.
    ensure!((2..=5).contains(&most), "{most} connections were open at once to a peer that says nothing");
    Ok(())
}
