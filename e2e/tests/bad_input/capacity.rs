//! One GPU is never granted twice: not to two members at once, not by an operator that dies in between, not by two that lead.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use koinon_e2e::story::look::{condition, get, items, name, poll, text};
use koinon_e2e::story::{RELEASE_NAMESPACE, TEAM};
use koinon_e2e::{Datacenter, Fleet, Poll, process, process::Signal, wait_until};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde_json::Value;

use crate::operators::{Watch, asked_by_pods, gpus, held};
use koinon_e2e::ground::{
    Ground, REPLACED, and_then_cleaned, conditions, delete, ground, kill_operators, operator_processes,
    operators_ready, scale_operator,
};

/// The member whose GPUs are fought for, and how many it offers: it has eight and keeps one.
const HOST: &str = "bilbao";
const OFFERED: u64 = 7;

/// The uid of a job, which is its name in the host's record.
async fn uid(home: &Datacenter, job: &str) -> Result<String> {
    let job = get(home, &["kjob", job, "--namespace", TEAM]).await?;
    Ok(text(&job["metadata"], "uid").to_owned())
}

/// Whether a job is placed, and its conditions.
async fn placed(home: &Datacenter, job: &str) -> Result<(bool, String, Value)> {
    let seen = get(home, &["kjob", job, "--namespace", TEAM]).await?;
    let placed = condition(&seen, "Placed").cloned().unwrap_or_default();
    Ok((placed["status"] == "True", conditions(&seen), placed))
}

/// Waits until a job has its GPUs.
async fn wait_placed(home: &Datacenter, job: &str, patience: Duration) -> Result<()> {
    wait_until(&format!("{job} of {} to be placed", home.name()), patience, || {
        poll(home, &["kjob", job, "--namespace", TEAM], |seen| {
            let placed = condition(seen, "Placed").is_some_and(|placed| placed["status"] == "True");
            Poll::<()>::when(placed, conditions(seen))
        })
    })
    .await
}

/// Waits until every member sees so many GPUs of the host free.
async fn wait_offered(ground: &Ground, viewers: &[&str], free: u64) -> Result<()> {
    for viewer in viewers {
        let what = format!("{viewer} to see {free} free GPUs of {HOST}");
        wait_until(&what, Duration::from_secs(60), || async {
            match ground.offered(viewer, HOST).await {
                Ok(seen) => Poll::<()>::when(u64::try_from(seen) == Ok(free), format!("{seen} are offered")),
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await?;
    }
    Ok(())
}

/// Deletes jobs and waits until the host's record holds only what it held before them.
async fn end(ground: &Ground, jobs: &[(&str, &str)], before: u64) -> Result<()> {
    for (home, job) in jobs {
        delete(ground.member(home)?, &["kjob", job, "--namespace", TEAM]).await?;
    }
    let host = ground.member(HOST)?;
    wait_until(&format!("{HOST} to hold {before} GPUs again"), REPLACED, || async {
        match (held(host).await, asked_by_pods(host).await) {
            (Ok(held), Ok(pods)) => {
                let free = gpus(&held) == before && pods.values().sum::<u64>() == before;
                Poll::<()>::when(free, format!("it holds {held:?}, pods ask for {pods:?}"))
            }
            (Err(error), _) | (_, Err(error)) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    wait_offered(ground, &["aarhus", "cork"], OFFERED - before).await
}

/// Aarhus and cork ask for bilbao's last GPU in the same instant, three times.
pub async fn last_gpu(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let (aarhus, cork, host) = (ground.member("aarhus")?, ground.member("cork")?, ground.member(HOST)?);
    let before = gpus(&held(host).await?);
    let most = u32::try_from(OFFERED - before - 1)?;
    aarhus.apply(&ground.job("most-of-it", most, &[HOST]).to_string()).await?;
    wait_placed(aarhus, "most-of-it", REPLACED).await?;
    for round in 1..=3 {
        wait_offered(ground, &["aarhus", "cork"], 1).await?;
        let watch = Watch::begin(host, OFFERED);
        let (ours, theirs) = (ground.job("last-of-aarhus", 1, &[HOST]), ground.job("last-of-cork", 1, &[HOST]));
        let (ours, theirs) = (ours.to_string(), theirs.to_string());
        let (one, two) = tokio::join!(aarhus.apply(&ours), cork.apply(&theirs));
        one.and(two)?;
        let (winner, loser, said) = one_of(aarhus, cork).await?;
        ensure!(
            said["message"].as_str().is_some_and(|said| said.contains(HOST) && said.contains('0')),
            "the job that lost is not told the numbers: {said}"
        );
        let seen = watch.end().await?;
        ensure!(seen.most == OFFERED, "{} GPUs were held at most, not all {OFFERED}", seen.most);
        println!("  round {round}: {winner} got the last GPU, {loser} is told: {}", text(&said, "message"));
        end(ground, &[("aarhus", "last-of-aarhus"), ("cork", "last-of-cork")], OFFERED - 1).await?;
    }
    end(ground, &[("aarhus", "most-of-it")], before).await?;
    ground.story_still_served().await
}

/// Waits until one job is placed and the other says why not; the winner, the loser, and the loser's Placed condition.
async fn one_of(aarhus: &Datacenter, cork: &Datacenter) -> Result<(&'static str, &'static str, Value)> {
    wait_until("one of the two to be placed and the other to say why not", REPLACED, || async {
        let both = (placed(aarhus, "last-of-aarhus").await, placed(cork, "last-of-cork").await);
        let (Ok((ours, our_words, our_condition)), Ok((theirs, their_words, their_condition))) = both else {
            return Poll::not_yet("one of the jobs cannot be read");
        };
        let explained = |c: &Value| matches!(text(c, "reason"), "RefusedByHosts" | "NoCapacity");
        match (ours, theirs) {
            (true, true) => Poll::Never(format!("both were granted the last GPU: {our_words} | {their_words}")),
            (true, false) if explained(&their_condition) => Poll::Ready(("aarhus", "cork", their_condition)),
            (false, true) if explained(&our_condition) => Poll::Ready(("cork", "aarhus", our_condition)),
            _ => Poll::not_yet(format!("aarhus: {our_words} | cork: {their_words}")),
        }
    })
    .await
}

/// How often it is tried to hit the milliseconds between a reservation and its grant.
const ROUNDS: usize = 8;

/// The host's operator is killed the moment its record shows the reservation, until it was once before anything was granted.
pub async fn killed_after_reserving(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let (aarhus, host) = (ground.member("aarhus")?, ground.member(HOST)?);
    let before = gpus(&held(host).await?);
    let mut ungranted = false;
    for round in 1..=ROUNDS {
        let watch = Watch::begin(host, OFFERED);
        let job = format!("interrupted-{round}");
        let yaml = ground.job(&job, 2, &[HOST]).to_string();
        let (applied, killed) = tokio::join!(aarhus.apply(&yaml), kill_at_reservation(host));
        applied?;
        ensure!(killed? > 0, "there was no operator to kill in {HOST}");
        // Nobody leads there now until the lease of the one that was killed runs out: what stands, stands still.
        let uid = uid(aarhus, &job).await?;
        let reserved = held(host).await?.iter().any(|((_, job, _), _)| *job == uid);
        let granted = placements(host).await?.iter().any(|placement| placement["spec"]["job"]["uid"] == uid.as_str());
        println!("  round {round}: killed with a reservation ({reserved}) and a Placement ({granted})");
        ensure!(reserved, "the reservation was not in the record any more when its operator was killed");
        ungranted |= !granted;
        operators_ready(host, 1).await?;
        wait_placed(aarhus, &job, REPLACED).await?;
        let settled = held(host).await?;
        let of_job: Vec<_> = settled.iter().filter(|((_, job, _), _)| *job == uid).collect();
        ensure!(
            of_job.len() == 1 && gpus(&settled) == before + 2,
            "the host holds {settled:?} for one job of two GPUs"
        );
        watch.end().await?;
        end(ground, &[("aarhus", &job)], before).await?;
        ground.all_fresh().await?;
        if ungranted {
            break;
        }
    }
    ensure!(ungranted, "in {ROUNDS} rounds no operator was killed between its reservation and its grant");
    ground.story_still_served().await
}

/// Kills the host's operators as soon as its record holds one more than now.
async fn kill_at_reservation(host: &Datacenter) -> Result<usize> {
    let records: Api<ConfigMap> = Api::namespaced(host.client(), RELEASE_NAMESPACE);
    // There is none before the first reservation.
    let only = format!("metadata.name=koinon-reservations-{}", host.name());
    let listed = records.list(&ListParams::default().fields(&only)).await?;
    let before = listed.items.first().map_or(0, reservations);
    let version = listed.metadata.resource_version.context("the list of records has no version")?;
    let only = WatchParams::default().fields(&only);
    let changes = records.watch(&only, &version).await?;
    let reserved = async {
        futures::pin_mut!(changes);
        while let Some(change) = changes.next().await {
            if let WatchEvent::Modified(record) | WatchEvent::Added(record) = change?
                && reservations(&record) > before
            {
                return Ok(());
            }
        }
        bail!("the watch of {HOST}'s record ended before anything was reserved")
    };
    // Looked up before: the grant follows the reservation within milliseconds.
    let victims = operator_processes(host);
    tokio::time::timeout(REPLACED, reserved).await.context("nothing was reserved")??;
    victims.iter().for_each(|pid| process::kill(*pid, Signal::Kill));
    kill_operators(host).await?;
    Ok(victims.len())
}

/// How many reservations a record holds.
fn reservations(record: &ConfigMap) -> usize {
    let text = record.data.as_ref().and_then(|data| data.get("reservations.json"));
    let read = text.and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default();
    read["held"].as_array().map_or(0, Vec::len)
}

/// The host's own Placements.
async fn placements(host: &Datacenter) -> Result<Vec<Value>> {
    let list = get(host, &["kpl", "--all-namespaces"]).await?;
    Ok(items(&list).iter().filter(|placement| placement["spec"]["side"] == "Host").cloned().collect())
}

/// Two operators of the host take leadership from each other all the time while four jobs are placed.
pub async fn two_leaders(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let (aarhus, cork, host) = (ground.member("aarhus")?, ground.member("cork")?, ground.member(HOST)?);
    let before = gpus(&held(host).await?);
    scale_operator(host, 2).await?;
    let watch = Watch::begin(host, OFFERED);
    let jobs = [("aarhus", "pair-1"), ("cork", "pair-2"), ("aarhus", "pair-3"), ("cork", "pair-4")];
    let raced = race(ground, host, &jobs).await;
    let result = match raced {
        Ok(()) => counted(aarhus, cork, host, &jobs, before).await,
        Err(error) => Err(error),
    };
    let seen = watch.end().await;
    let cleaned = async {
        scale_operator(host, 1).await?;
        end(ground, &jobs, before).await
    };
    and_then_cleaned(result, cleaned.await)?;
    let seen = seen?;
    println!("  {} states of the record were seen, at most {} GPUs held", seen.states, seen.most);
    ground.all_fresh().await?;
    ground.story_still_served().await
}

/// Applies the jobs one after the other, and takes the lease away in between.
async fn race(ground: &Ground, host: &Datacenter, jobs: &[(&str, &str)]) -> Result<()> {
    let lease = ["delete", "lease", "koinon-operator", "--namespace", RELEASE_NAMESPACE, "--ignore-not-found"];
    for (home, job) in jobs {
        let job = ground.job(job, 1, &[HOST]).to_string();
        let (applied, taken) = tokio::join!(ground.member(home)?.apply(&job), host.kubectl(lease));
        applied.and(taken)?;
        // Whoever led may still believe so, and the other one may take over at once: both see the request now.
        host.kubectl(lease).await?;
    }
    for (home, job) in jobs {
        wait_placed(ground.member(home)?, job, REPLACED).await?;
    }
    Ok(())
}

async fn counted(
    aarhus: &Datacenter,
    cork: &Datacenter,
    host: &Datacenter,
    jobs: &[(&str, &str)],
    before: u64,
) -> Result<()> {
    let settled = held(host).await?;
    let placements = placements(host).await?;
    for (home, job) in jobs {
        let uid = uid(if *home == "aarhus" { aarhus } else { cork }, job).await?;
        let of_job: Vec<_> = settled.iter().filter(|((_, of, _), _)| *of == uid).collect();
        ensure!(of_job.len() == 1, "{job} is held {} times: {settled:?}", of_job.len());
        let (_, (epoch, _)) = of_job.first().context("nothing is held")?;
        let alive: Vec<&str> = placements
            .iter()
            .filter(|p| {
                p["spec"]["job"]["uid"] == uid.as_str()
                    && !matches!(text(&p["status"], "state"), "Released" | "Draining")
            })
            .map(name)
            .collect();
        ensure!(alive.len() == 1, "{job} has the Placements {alive:?}, its record is at epoch {epoch}");
    }
    let wanted = before + u64::try_from(jobs.len())?;
    ensure!(gpus(&settled) == wanted, "{} GPUs are held, not {wanted}: {settled:?}", gpus(&settled));
    Ok(())
}
