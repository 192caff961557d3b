//! A vote that stops a member's work, and one that lets it work again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use koinon_e2e::ground::{Ground, and_then_cleaned, conditions, delete, ground, metrics, settled};
use koinon_e2e::said::refused;
use koinon_e2e::story::look::{condition, get, poll, text};
use koinon_e2e::story::serving::the_copy;
use koinon_e2e::story::{Caller, MEMBERS, RELEASE_NAMESPACE, TEAM, never_backwards};
use koinon_e2e::{Fleet, Poll, command, wait_until};

use crate::decisions::{all_vote, ends_as, proposed, tally, vote};
use crate::figures::{METRICS, now};
use crate::work::{MOVED, drained, served};

/// From the enactment until everybody shows it.
pub const SHOWN: Duration = Duration::from_secs(30);
/// From a copy that is routable until the application's next call is answered by it.
const ANSWERED: Duration = Duration::from_secs(10);
/// A job that waits for the suspended host alone.
const WAITING: &str = "waits-for-its-host";
/// A job of the suspended host, for the other host's GPUs.
const ASKING: &str = "asks-the-other-host";

/// The two hosts: the one that serves the story's job, and the other.
pub struct Hosts {
    /// Which may not work.
    pub suspended: String,
    /// Which may.
    pub other: String,
}

/// The host of the story's job is suspended: its work stops and moves, its voice does not. Then it is reinstated.
pub async fn suspended(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let before = served(ground).await?;
    let other = if before.host == "bilbao" { "cork" } else { "bilbao" }.to_owned();
    let aarhus = ground.member("aarhus")?;
    let hosts = Hosts { suspended: before.host.clone(), other };
    let application = ground.stage.application.as_ref().context("the story introduced no application")?;
    let caller = Caller::begin(&ground.stage, application).await?;
    let result = async {
        decided(ground, &hosts, "suspend").await?;
        may_work(ground, &hosts, "False", "Suspended").await?;
        let stopped = Instant::now();
        wait_until("the job to be served by the other host", MOVED, || async {
            match the_copy(aarhus).await {
                Ok(copy) => {
                    let moved = copy.host == hosts.other && copy.epoch > before.epoch;
                    Poll::<()>::when(moved, format!("{copy:?}"))
                }
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await?;
        println!("  moved {:.1} s after everybody showed the suspension", stopped.elapsed().as_secs_f32());
        drained(ground.member(&hosts.suspended)?).await?;
        // The home shows a copy as routable before each of its gateways has heard of it.
        wait_until("the application to be answered by the other host", ANSWERED, || async {
            match caller.calls().last() {
                Some(call) => Poll::<()>::when(answered_by(call, &hosts.other), format!("{:?}", call.answer)),
                None => Poll::not_yet("no call yet"),
            }
        })
        .await?;
        Ok::<_, anyhow::Error>(stopped)
    };
    let result = result.await;
    let calls = caller.end().await;
    let stopped = result?;
    never_backwards(&calls)?;
    let late = calls.iter().find(|call| call.at > stopped && answered_by(call, &hosts.suspended));
    ensure!(late.is_none(), "the gateway still called the suspended host: {late:?}");
    nothing_new(ground, &hosts).await?;
    let result = async {
        it_still_decides(ground, &hosts).await?;
        decided(ground, &hosts, "reinstate").await?;
        may_work(ground, &hosts, "True", "Active").await?;
        let waiting = ["kjob", WAITING, "--namespace", TEAM];
        settled(aarhus, &waiting, "Ready", "True", "Routable", Duration::from_secs(120)).await.map(drop)
    };
    let result = result.await;
    let cleaned = async {
        delete(aarhus, &["kjob", WAITING, "--namespace", TEAM]).await?;
        delete(ground.member(&hosts.suspended)?, &["kjob", ASKING, "--namespace", TEAM]).await
    };
    and_then_cleaned(result, cleaned.await)
}

fn answered_by(call: &koinon_e2e::story::Call, host: &str) -> bool {
    call.answer.as_ref().is_ok_and(|(member, _)| member == host)
}

/// The others vote about the host, which has no vote on itself; everybody shows it as decided.
async fn decided(ground: &Ground, hosts: &Hosts, what: &str) -> Result<()> {
    let proposal = proposed(ground, "aarhus", &["propose", what, &hosts.suspended]).await?;
    let votes = ["aarhus", &hosts.other].map(|member| vote(ground, member, &proposal, "yes"));
    futures::future::try_join_all(votes).await?;
    let says = "its author is not among the electors";
    refused(ground, &hosts.suspended, &["vote", &proposal, "no"], says).await?;
    for member in MEMBERS {
        let seen = ends_as(ground, member, &proposal, "Enacted").await?;
        ensure!(tally(&seen) == [2, 0, 0], "{member} counts {}", seen["status"]["tally"]);
    }
    Ok(())
}

/// Every member says of the host whether it may work.
async fn may_work(ground: &Ground, hosts: &Hosts, status: &str, reason: &str) -> Result<()> {
    for viewer in MEMBERS {
        let shown = ["kmem", &hosts.suspended, "--namespace", RELEASE_NAMESPACE];
        settled(ground.member(viewer)?, &shown, "MayWork", status, reason, SHOWN).await?;
        if viewer != hosts.suspended && status == "False" {
            let offer = ["koffer", &hosts.suspended, "--namespace", RELEASE_NAMESPACE];
            settled(ground.member(viewer)?, &offer, "Usable", status, reason, SHOWN).await?;
        }
    }
    Ok(())
}

/// No work begins at the suspended host, none of its own elsewhere, and no gateway answers it.
async fn nothing_new(ground: &Ground, hosts: &Hosts) -> Result<()> {
    let (aarhus, suspended) = (ground.member("aarhus")?, ground.member(&hosts.suspended)?);
    aarhus.apply(&ground.job(WAITING, 1, &[&hosts.suspended]).to_string()).await?;
    suspended.apply(&ground.job(ASKING, 1, &[&hosts.other]).to_string()).await?;
    let host = &hosts.suspended;
    for (datacenter, job, says) in [
        (aarhus, WAITING, format!("{host} is suspended")),
        (suspended, ASKING, "gets nothing from this member, which is suspended".to_owned()),
    ] {
        wait_until(&format!("{job} to say that it is not placed and why"), SHOWN, || {
            let says = says.clone();
            poll(datacenter, &["kjob", job, "--namespace", TEAM], move |job| {
                let placed = condition(job, "Placed");
                let refused =
                    placed.is_some_and(|placed| placed["status"] == "False" && text(placed, "message").contains(&says));
                Poll::<()>::when(refused, conditions(job))
            })
        })
        .await?;
    }
    wait_until("the other gateway to refuse the suspended host", SHOWN, || async {
        match as_its_gateway(ground, hosts).await {
            Ok((status, answer)) => {
                let refused = status == 403 && answer.contains("member_halted");
                Poll::<()>::when(refused, format!("it answered {status}: {answer}"))
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}

/// A call to the other host's gateway with the certificate of the suspended host's gateway.
pub async fn as_its_gateway(ground: &Ground, hosts: &Hosts) -> Result<(u16, String)> {
    let suspended = ground.member(&hosts.suspended)?;
    let secret = get(suspended, &["secret", "koinon-gateway-tls", "--namespace", RELEASE_NAMESPACE]).await?;
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    for file in ["tls.crt", "tls.key"] {
        let coded = secret["data"][file].as_str().with_context(|| format!("the Secret lacks {file}"))?;
        std::fs::write(folder.path().join(file), base64::engine::general_purpose::STANDARD.decode(coded)?)?;
    }
    let mut curl = suspended.command("curl");
    // The gateway's own certificate is judged by the members' keys, which curl does not know.
    curl.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--http2",
        "--max-time",
        "10",
        "--write-out",
        "\n%{http_code}",
    ]);
    curl.arg("--cert").arg(folder.path().join("tls.crt")).arg("--key").arg(folder.path().join("tls.key"));
    curl.args(["--header", "Content-Type: application/json", "--data", "{}"]);
    curl.arg(format!("{}/v1/chat/completions", ground.stage.gateway_endpoint(&hosts.other)?));
    let printed = tokio::task::spawn_blocking(move || command::run(&mut curl)).await??;
    let (answer, status) = printed.trim_end().rsplit_once('\n').context("curl printed no status")?;
    Ok((status.parse()?, answer.to_owned()))
}

/// The suspended host proposes, its vote is the one that decides, and it seals what was decided.
async fn it_still_decides(ground: &Ground, hosts: &Hosts) -> Result<()> {
    let began = now()?;
    let proposal = ground.propose_release(&hosts.suspended, &format!("sha256:{}", "d7".repeat(32))).await?;
    let choices = MEMBERS.map(|member| if member == hosts.other { "no" } else { "yes" });
    all_vote(ground, &proposal, &choices).await?;
    for member in MEMBERS {
        let enacted = ends_as(ground, member, &proposal, "Enacted").await?;
        ensure!(tally(&enacted) == [2, 1, 0], "{member} counts {}", enacted["status"]["tally"]);
    }
    let sample = format!("koinon_last_seal_timestamp_seconds{{member=\"{}\"}}", hosts.suspended);
    let aarhus = ground.member("aarhus")?;
    wait_until("the suspended host to have sealed it", SHOWN, || async {
        match metrics(aarhus, "operator", METRICS).await {
            Ok(found) => {
                let sealed = found.get(&sample).copied().unwrap_or_default();
                Poll::<()>::when(sealed >= began, format!("it sealed last {:.0} s before the proposal", began - sealed))
            }
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await
}
