//! Owners that take their GPUs back, and devices that fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use koinon_api::Placement;
use koinon_api::placement::PlacementState;
use koinon_core::body::latest::{Grant, GrantState, RefusalReason, Request};
use koinon_core::ids::Seconds;
use koinon_e2e::{Fleet, Poll, wait_until};
use kube::ResourceExt;
use serde_json::json;

use crate::cases::{answer, host, of, run_by_hand, state, until_live};
use crate::host::Shared;
use crate::operator::{Operator, SOON, request};

/// A copy of one GPU for job `job`, under a lease that outlasts a case.
fn one(job: u8) -> Request {
    Request { lease_seconds: Seconds(60), ..request(job, 1, 1) }
}

/// Asks for one copy after the other, so that each is a second younger than the one before, and returns what is asked.
async fn granted(operator: &Operator, host: &Shared, asked: &[(usize, u8)]) -> Result<Vec<(String, Vec<Request>)>> {
    let mut lists: Vec<(String, Vec<Request>)> = host.homes.iter().map(|home| (home.clone(), Vec::new())).collect();
    for (home, job) in asked {
        lists[*home].1.push(one(*job));
        hears(operator, &lists);
        let home = host.homes[*home].clone();
        let grant = answer(operator, &home, &one(*job)).await?;
        ensure!(grant.state != GrantState::Refused, "job {job}: {grant:?}");
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    until_live(host, asked.len()).await?;
    Ok(lists)
}

fn hears(operator: &Operator, lists: &[(String, Vec<Request>)]) {
    let lists: Vec<(&str, Vec<Request>)> = lists.iter().map(|(home, list)| (home.as_str(), list.clone())).collect();
    operator.hears(&lists);
}

/// The job of a Placement, as [`one`] numbers them.
fn job(placement: &Placement) -> String {
    placement.spec.job.uid.chars().take(2).collect()
}

/// The jobs of the copies that are told to go.
async fn told(host: &Shared) -> Result<Vec<String>> {
    let placements = host.placements().await?;
    let told = placements.iter().filter(|one| one.annotations().contains_key("koinon.dev/reclaim"));
    let mut jobs: Vec<String> = told.map(job).collect();
    jobs.sort();
    Ok(jobs)
}

async fn until_told(host: &Shared, jobs: &[&str]) -> Result<()> {
    wait_until("those that are told to go", SOON, || async {
        match told(host).await {
            Ok(told) if told == jobs => Poll::Ready(()),
            other => Poll::not_yet(format!("{other:?}")),
        }
    })
    .await
}

async fn until_reserved(host: &Shared, gpus: u32, within: Duration) -> Result<()> {
    wait_until("the GPUs", within, || async {
        match host.reserved().await {
            Ok(reserved) if reserved == gpus => Poll::Ready(()),
            other => Poll::not_yet(format!("{other:?} reserved")),
        }
    })
    .await
}

async fn grant(operator: &Operator, home: &str, job: u8, is: impl Fn(&Grant) -> bool) -> Result<Grant> {
    wait_until("its word", SOON, || async {
        match operator.grants(home).map(|grants| of(&grants, &one(job))) {
            Ok(Some(grant)) if is(&grant) => Poll::Ready(grant),
            other => Poll::not_yet(format!("{other:?}")),
        }
    })
    .await
}

fn limit(gpus: u32) -> serde_json::Value {
    json!({"limits": [{"class": "h100-80", "gpus": gpus}]})
}

pub async fn limited(fleet: Arc<Fleet>) -> Result<()> {
    const NOTICE: u64 = 26;
    let host = host(&fleet, "limited", 8).await?;
    host.wants(json!({"reclaimNoticeSeconds": NOTICE})).await?;
    let operator = Operator::start(&host, "Accept")?;
    // The first home holds three, the second one.
    let lists = granted(&operator, &host, &[(0, 1), (0, 2), (1, 3), (0, 4)]).await?;
    let a = host.homes[0].clone();
    // Whoever holds most gives its youngest.
    let asked_at = Instant::now();
    host.wants(limit(3)).await?;
    until_told(&host, &["04"]).await?;
    let word = grant(&operator, &a, 4, |grant| grant.ending.is_some()).await?;
    ensure!(word.ending.is_some_and(|ending| ending.reason == RefusalReason::Reclaimed), "{word:?}");
    ensure!(!matches!(word.state, GrantState::Draining | GrantState::Released), "it is ended at once: {word:?}");
    host.wants(limit(2)).await?;
    until_told(&host, &["02", "04"]).await?;
    grant(&operator, &a, 2, |grant| grant.ending.is_some()).await?;
    wait_until("the pool's word", SOON, || async {
        match host.pool_says("Reclaiming").await {
            Ok((value, message)) if value == "True" && message.starts_with("2 of 4 GPUs") => Poll::Ready(()),
            other => Poll::not_yet(format!("{other:?}")),
        }
    })
    .await?;
    // The owner thinks again about one of them, before it goes.
    host.wants(limit(3)).await?;
    until_told(&host, &["04"]).await?;
    grant(&operator, &a, 2, |grant| grant.ending.is_none()).await?;
    // What was decided outlives who decided it.
    drop(operator);
    let operator = Operator::start(&host, "Accept")?;
    hears(&operator, &lists);
    // Half of the notice is the copy's.
    let its_own = Duration::from_secs(NOTICE / 2);
    ensure!(asked_at.elapsed() < its_own, "too late to prove that it stays until then");
    tokio::time::sleep(its_own.saturating_sub(asked_at.elapsed())).await;
    ensure!(host.reserved().await? == 4, "it was taken before its time");
    until_reserved(&host, 3, SOON).await?;
    let took = asked_at.elapsed();
    println!("  {:.1} s after it was asked for, with a notice of {NOTICE} s, the GPU was free", took.as_secs_f32());
    ensure!(took < Duration::from_secs(NOTICE), "it took {took:?}");
    let word = grant(&operator, &a, 4, |grant| grant.state == GrantState::Released).await?;
    ensure!(word.reason == Some(RefusalReason::Reclaimed), "{word:?}");
    ensure!((word.numbers.get("limit"), word.numbers.get("held")) == (Some(&3), Some(&4)), "{word:?}");
    let mut live: Vec<String> = until_live(&host, 3).await?.iter().map(job).collect();
    live.sort();
    ensure!(live == ["01", "02", "03"], "{live:?} are left");
    // Four GPUs are free, and the owner lets others have none of them.
    let mut more = lists.clone();
    more[1].1.push(one(5));
    hears(&operator, &more);
    let refused = answer(&operator, &host.homes[1], &one(5)).await?;
    ensure!(refused.reason == Some(RefusalReason::InsufficientGPUs), "{refused:?}");
    ensure!((refused.numbers.get("limit"), refused.numbers.get("held")) == (Some(&3), Some(&3)), "{refused:?}");
    Ok(())
}

pub async fn emptied(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "emptied", 4).await?;
    host.wants(json!({"reclaimNoticeSeconds": 2})).await?;
    let operator = Operator::start(&host, "Accept")?;
    let lists = granted(&operator, &host, &[(0, 1), (1, 2)]).await?;
    host.wants(json!({"drain": {"nodes": [host.name]}})).await?;
    until_reserved(&host, 0, SOON).await?;
    let mut more = lists.clone();
    more[0].1.push(one(3));
    hears(&operator, &more);
    let refused = answer(&operator, &host.homes[0], &one(3)).await?;
    ensure!(refused.reason == Some(RefusalReason::InsufficientGPUs), "{refused:?}");
    // With the wish gone the node takes work again.
    host.wants(json!({"drain": null})).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    more[0].1.push(one(4));
    hears(&operator, &more);
    let grant = answer(&operator, &host.homes[0], &one(4)).await?;
    ensure!(grant.state != GrantState::Refused, "{grant:?}");
    Ok(())
}

pub async fn raised(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "raised", 4).await?;
    host.wants(json!({"reclaimNoticeSeconds": 1})).await?;
    let operator = Operator::start(&host, "Accept")?;
    granted(&operator, &host, &[(0, 1)]).await?;
    host.wants(limit(0)).await?;
    let home = host.homes[0].clone();
    let began = Instant::now();
    let mut epoch = 1;
    while host.reserved().await? > 0 {
        ensure!(began.elapsed() < SOON, "it holds on under epoch {epoch}");
        epoch += 1;
        operator.hears(&[(&home, vec![Request { lease_seconds: Seconds(60), ..request(1, epoch, 1) }])]);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    ensure!(epoch > 5, "it asked too seldom to prove anything");
    Ok(())
}

/// Two homes with a copy each, whose engines run on the first two devices.
async fn on_devices(fleet: &Fleet, case: &str) -> Result<(Shared, Vec<k8s_openapi::api::core::v1::Pod>)> {
    let host = host(fleet, case, 4).await?;
    let operator = Operator::start(&host, "Accept")?;
    granted(&operator, &host, &[(0, 1), (1, 2)]).await?;
    let mut placements = host.placements().await?;
    placements.sort_by_key(job);
    let mut pods = Vec::new();
    for placement in &placements {
        run_by_hand(&host, placement).await?;
        pods.push(host.pods(placement).await?.pop().context("its pod is gone")?);
    }
    Ok((host, pods))
}

fn both(host: &Shared) -> Vec<(String, Vec<Request>)> {
    vec![(host.homes[0].clone(), vec![one(1)]), (host.homes[1].clone(), vec![one(2)])]
}

/// Neither copy has begun to end after some looks.
async fn stay(host: &Shared, why: &str) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(4)).await;
    for placement in host.placements().await? {
        let state = state(&placement);
        let runs = !matches!(state, PlacementState::Draining | PlacementState::Released);
        ensure!(runs, "{why}: {} is {state:?}", placement.name_any());
    }
    Ok(())
}

pub async fn sick(fleet: Arc<Fleet>) -> Result<()> {
    let (host, pods) = on_devices(&fleet, "sick").await?;
    let sound = || (json!({"state": "Healthy"}), Some(&pods[1]));
    let failed = |work: &str| (json!({"state": "Unhealthy", "reasons": ["XID48"], "guestWork": work}), Some(&pods[0]));
    let operator = Operator::start(&host, "Accept")?;
    hears(&operator, &both(&host));
    for work in ["Keep", "RestartWorkload"] {
        host.surveys(&[failed(work), sound()]).await?;
        stay(&host, work).await?;
    }
    drop(operator);
    host.silence().await?;
    host.surveys(&[failed("Drain"), sound()]).await?;
    let operator = Operator::start(&host, "Accept")?;
    hears(&operator, &both(&host));
    stay(&host, "the agent is silent").await?;
    host.speak().await?;
    let word = grant(&operator, &host.homes[0], 1, |grant| grant.state == GrantState::Draining).await?;
    // Its pod has a grace of its own, which nothing here cuts short.
    wait_until("its GPU", SOON * 3, || async {
        // The other home goes on renewing.
        hears(&operator, &both(&host));
        match host.reserved().await {
            Ok(1) => Poll::Ready(()),
            other => Poll::not_yet(format!("{other:?} reserved")),
        }
    })
    .await?;
    ensure!(word.reason == Some(RefusalReason::DeviceUnhealthy), "{word:?}");
    let ended = host.placements().await?.into_iter().find(|one| job(one) == "01").context("it is forgotten")?;
    let said = ended.status.unwrap_or_default().conditions.into_iter().find(|one| one.type_ == "Granted");
    let said = said.map(|granted| granted.message).unwrap_or_default();
    let named = format!("GPU GPU-{}-0 of {} must not be used (XID48)", host.name, host.name);
    ensure!(said == named, "{said}");
    let other = grant(&operator, &host.homes[1], 2, |_| true).await?;
    ensure!(!matches!(other.state, GrantState::Draining | GrantState::Released), "{other:?}");
    Ok(())
}

pub async fn breaker(fleet: Arc<Fleet>) -> Result<()> {
    let (host, pods) = on_devices(&fleet, "breaker").await?;
    let operator = Operator::start(&host, "Accept")?;
    hears(&operator, &both(&host));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let failed = json!({"state": "Unhealthy", "guestWork": "DrainNode", "sinceTime": now});
    host.surveys(&[(failed.clone(), Some(&pods[0])), (failed.clone(), Some(&pods[1])), (failed, None)]).await?;
    stay(&host, "three of four GPUs failed at once").await?;
    let (value, message) = host.pool_says("Quarantining").await?;
    ensure!(value == "False" && message.starts_with("3 of 4 GPUs"), "{value}: {message}");
    // The owner has looked.
    drop(operator);
    let operator = Operator::start_reset(&host)?;
    hears(&operator, &both(&host));
    let word = grant(&operator, &host.homes[0], 1, |grant| grant.state == GrantState::Draining).await?;
    ensure!(word.reason == Some(RefusalReason::DeviceUnhealthy), "{word:?}");
    Ok(())
}

/// Copies at a time, on one node: as many as its processors let run.
const ROUND: u8 = 52;
/// So that at least 100 reclaims are measured.
const ROUNDS: u8 = 2;
/// The shortest that leaves a whole minute to the copies' ends.
const MEASURED_NOTICE: i64 = 120;

/// Reclaims all copies of two homes, whose engines do not heed that they are told to end, and prints how long that took.
pub async fn measured(fleet: Arc<Fleet>) -> Result<()> {
    let mut took: Vec<i64> = Vec::new();
    for round in 0..ROUNDS {
        let host = host(&fleet, &format!("measured{round}"), usize::from(ROUND)).await?;
        host.wants(json!({"reclaimNoticeSeconds": MEASURED_NOTICE})).await?;
        let operator = Operator::start(&host, "Accept")?;
        let of_home = |odd: u8| (0..ROUND).filter(|job| job % 2 == odd).map(one).collect();
        let lists: Vec<(String, Vec<Request>)> =
            vec![(host.homes[0].clone(), of_home(0)), (host.homes[1].clone(), of_home(1))];
        let said = std::sync::Mutex::new(None::<Instant>);
        let renew = || {
            let mut said = said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if said.is_none_or(|said| said.elapsed() > Duration::from_secs(5)) {
                hears(&operator, &lists);
                *said = Some(Instant::now());
            }
        };
        let placements = wait_until("the Placements", Duration::from_secs(120), || async {
            renew();
            match host.placements().await {
                Ok(placements) if placements.len() == usize::from(ROUND) => Poll::Ready(placements),
                other => Poll::not_yet(format!("{:?}", other.map(|placements| placements.len()))),
            }
        })
        .await?;
        for placement in &placements {
            renew();
            run_by_hand(&host, placement).await?;
        }
        host.wants(limit(0)).await?;
        let longest = Duration::from_secs(MEASURED_NOTICE.unsigned_abs() * 2);
        wait_until("all GPUs", longest, || async {
            renew();
            match host.reserved().await {
                Ok(0) => Poll::Ready(()),
                other => Poll::not_yet(format!("{other:?} reserved")),
            }
        })
        .await?;
        // The last of them says so a look later.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for placement in host.placements().await? {
            let asked = placement.annotations().get("koinon.dev/reclaim").context("it was not told to go")?;
            let asked: k8s_openapi::jiff::Timestamp = asked.parse()?;
            let conditions = placement.status.unwrap_or_default().conditions;
            let released = conditions.iter().find(|one| one.type_ == "Released").context("it is not released")?;
            took.push(koinon_api::time::to_unix(&released.last_transition_time) - asked.as_second());
        }
    }
    took.sort_unstable();
    let at = |percent: usize| took.get((took.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
    let (count, max) = (took.len(), took.last().copied().unwrap_or(0));
    println!(
        "  {count} reclaims with a notice of {MEASURED_NOTICE} s: p50 {} s, p99 {} s, max {max} s",
        at(50),
        at(99)
    );
    let late = |seconds: i64| seconds - MEASURED_NOTICE;
    println!("  against the notice: p50 {:+} s, p99 {:+} s, max {:+} s", late(at(50)), late(at(99)), late(max));
    ensure!(count >= 100, "only {count} reclaims were measured");
    Ok(())
}
