//! An owner who deletes the `Cooperative` of a member that hosts work: what runs is drained first, nobody far away is
//! waited for, and who applies it again is the same member.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use koinon_api::conditions::{self, ConditionType};
use koinon_api::{Cooperative, Placement};
use koinon_core::dsse::Signer as _;
use koinon_e2e::story::look::{get, poll, text, when};
use koinon_e2e::story::serving::{Copy, GUEST_NAMESPACE, routable, the_copy};
use koinon_e2e::story::{Application, Caller, JOB, MEMBERS, RELEASE_NAMESPACE, TEAM, never_backwards};
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::operators::held;
use crate::people::operator_key;
use crate::restore::{Log, log, no_fork_is_known, signs};
use koinon_e2e::ground::{Ground, REPLACED, and_then_cleaned, ground, scale_operator};

/// What every member's `Cooperative` is called.
const NAME: &str = "cooperative";
/// Draining takes seconds; a wait for a peer that is cut off would take minutes.
const SOON: Duration = Duration::from_secs(60);
/// Until a silent host is Lost and another one serves.
const MOVED: Duration = Duration::from_secs(240);

/// What was seen while a membership ended.
#[derive(Debug, Default)]
struct Seen {
    /// What the object said of what is left.
    said: BTreeSet<String>,
    /// What the home held of the copy: its state and why.
    told: BTreeSet<(String, String)>,
}

/// What is still there of foreign work, where a member ends.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    pods: usize,
    gpus: u64,
    deployments: usize,
}

/// Counts it, freshly read.
async fn left(host: &Datacenter) -> Result<Left> {
    let pods = Api::<Pod>::namespaced(host.client(), GUEST_NAMESPACE).list(&ListParams::default()).await?;
    let ended = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let pods = pods.items.iter().filter(|pod| !ended(pod)).count();
    let foreign = |home: &str| home != host.name();
    let gpus = held(host).await?.iter().filter(|((home, ..), _)| foreign(home)).map(|(_, (_, gpus))| gpus).sum();
    let deployments =
        Api::<Deployment>::namespaced(host.client(), GUEST_NAMESPACE).list(&ListParams::default()).await?;
    Ok(Left { pods, gpus, deployments: deployments.items.len() })
}

/// One look at a membership that ends. What decides is read first: what is found later was still there then.
async fn look(home: &Datacenter, host: &Datacenter, copy: &Copy, seen: &Mutex<Seen>) -> Result<Poll<()>> {
    let cooperatives = Api::<Cooperative>::namespaced(host.client(), RELEASE_NAMESPACE);
    let object = cooperatives.get_opt(NAME).await?;
    let ready = object.as_ref().and_then(|object| object.status.as_ref()).and_then(|status| {
        conditions::find(&status.conditions, ConditionType::Ready).filter(|ready| ready.reason == "Deleting").cloned()
    });
    let left = left(host).await?;
    let copies = routable(home).await?;
    let told = Api::<Placement>::namespaced(home.client(), TEAM).list(&ListParams::default()).await?;
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for placement in told.items.iter().filter(|one| one.spec.host == copy.host && one.spec.epoch == copy.epoch) {
        let Some(status) = &placement.status else { continue };
        let state = status.state.map(|state| format!("{state:?}")).unwrap_or_default();
        seen.told.insert((state, status.reason.clone().unwrap_or_default()));
    }
    if copies.len() > 1 {
        return Ok(Poll::Never(format!("two copies are routable: {copies:?}")));
    }
    let nothing = left.pods == 0 && left.gpus == 0;
    match (object, ready) {
        (None, _) if nothing => Ok(Poll::Ready(())),
        (None, _) => Ok(Poll::Never(format!("the Cooperative is gone, and there are {left:?}"))),
        (Some(_), Some(ready)) => {
            let message = ready.message;
            if message.contains("nothing") && !nothing {
                return Ok(Poll::Never(format!("it says \"{message}\", and there are {left:?}")));
            }
            seen.said.insert(message.clone());
            Ok(Poll::not_yet(format!("{message}; {left:?}")))
        }
        (Some(_), None) => Ok(Poll::not_yet(format!("it does not say that it ends; {left:?}"))),
    }
}

/// Waits until a membership has ended as it should, and returns what was seen.
async fn ends(ground: &Ground, copy: &Copy) -> Result<Seen> {
    let (home, host) = (ground.member("aarhus")?, ground.member(&copy.host)?);
    let (seen, began) = (Mutex::new(Seen::default()), Instant::now());
    wait_until(&format!("the Cooperative of {} to go", copy.host), SOON, || async {
        look(home, host, copy, &seen).await.unwrap_or_else(|error| Poll::not_yet(format!("{error:#}")))
    })
    .await?;
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "  gone after {:.1} s; it said {:?}, the home held {:?}",
        began.elapsed().as_secs_f32(),
        seen.said,
        seen.told
    );
    ensure!(
        seen.said.iter().any(|said| said.contains("still draining") && said.contains("guests")),
        "the Cooperative never said that it drains guests: {:?}",
        seen.said
    );
    // The garbage collector takes them with their Placement, in its own time.
    wait_until(&format!("nothing of the guests to be left at {}", copy.host), SOON, || async {
        match left(host).await {
            Ok(left) => Poll::<()>::when(left == Left { pods: 0, gpus: 0, deployments: 0 }, format!("{left:?}")),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    Ok(seen)
}

/// A membership as its owner keeps it in git.
struct Kept {
    member: String,
    object: Value,
    public: String,
    log: Log,
}

async fn keep(ground: &Ground, member: &str) -> Result<Kept> {
    let datacenter = ground.member(member)?;
    let seen = get(datacenter, &["kcoop", NAME, "--namespace", RELEASE_NAMESPACE]).await?;
    let object = json!({
        "apiVersion": seen["apiVersion"], "kind": seen["kind"],
        "metadata": {"name": NAME, "namespace": RELEASE_NAMESPACE},
        "spec": seen["spec"],
    });
    let public = operator_key(datacenter).await?.public_key().to_string();
    Ok(Kept { member: member.to_owned(), object, public, log: log(datacenter, member).await? })
}

/// Applies it again, and finds the same member.
async fn comes_back(ground: &Ground, kept: &Kept) -> Result<()> {
    let datacenter = ground.member(&kept.member)?;
    datacenter.apply(&kept.object.to_string()).await?;
    signs(datacenter).await?;
    ground.all_fresh().await?;
    let cooperative = get(datacenter, &["kcoop", NAME, "--namespace", RELEASE_NAMESPACE]).await?;
    let status = &cooperative["status"];
    ensure!(text(status, "publicKey") == kept.public, "another key was made: {}", text(status, "publicKey"));
    ensure!(text(status, "member") == kept.member && status["active"] == 3, "it is not the same member: {status}");
    for viewer in MEMBERS {
        let seen = get(ground.member(viewer)?, &["kmem", &kept.member, "--namespace", RELEASE_NAMESPACE]).await?;
        ensure!(text(&seen["status"], "state") == "Active", "{viewer} sees {}: {}", kept.member, seen["status"]);
    }
    let now = log(datacenter, &kept.member).await?;
    ensure!(kept.log.iter().all(|(seq, id)| now.get(seq) == Some(id)), "the log of {} began anew", kept.member);
    no_fork_is_known(ground).await
}

/// Waits until the job is served by another member than the one that ended, under a higher epoch.
async fn served_elsewhere(ground: &Ground, old: &Copy) -> Result<Copy> {
    let aarhus = ground.member("aarhus")?;
    let new = wait_until("the job to be routed elsewhere", MOVED, || async {
        match routable(aarhus).await {
            Ok(copies) if copies.len() > 1 => Poll::Never(format!("two copies are routable: {copies:?}")),
            Ok(copies) => match copies.into_iter().find(|copy| copy.host != old.host) {
                Some(copy) => Poll::Ready(copy),
                None => match get(aarhus, &["kjob", JOB, "--namespace", TEAM]).await {
                    Ok(job) => Poll::not_yet(koinon_e2e::ground::conditions(&job)),
                    Err(error) => Poll::not_yet(format!("{error:#}")),
                },
            },
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    ensure!(new.epoch > old.epoch, "the job went from {old:?} to {new:?}");
    wait_until("the job to be Ready", REPLACED, || {
        poll(aarhus, &["kjob", JOB, "--namespace", TEAM], |job| when(job, "Ready", "True"))
    })
    .await?;
    Ok(new)
}

async fn delete(host: &Datacenter) -> Result<()> {
    host.kubectl(["delete", "kcoop", NAME, "--namespace", RELEASE_NAMESPACE, "--wait=false"]).await.map(drop)
}

/// Everybody hears the host: its home is told, moves the job, and the guests go before the object does.
async fn heard(ground: &Ground, old: &Copy) -> Result<Copy> {
    delete(ground.member(&old.host)?).await?;
    let seen = ends(ground, old).await?;
    ensure!(
        seen.told.iter().any(|(_, reason)| reason == "GuestsNotAccepted"),
        "the home was not told before the membership was gone: {:?}",
        seen.told
    );
    served_elsewhere(ground, old).await
}

/// Nobody hears the host, and its operator only comes back when the object is being deleted already.
async fn cut_off(ground: &Ground, old: &Copy) -> Result<Copy> {
    let host = ground.member(&old.host)?;
    scale_operator(host, 0).await?;
    host.cut()?;
    delete(host).await?;
    let before = left(host).await?;
    ensure!(before.pods > 0 && before.gpus > 0, "without an operator nothing ends, yet there are {before:?}");
    let object = get(host, &["kcoop", NAME, "--namespace", RELEASE_NAMESPACE]).await?;
    ensure!(object["metadata"]["deletionTimestamp"].is_string(), "it is not being deleted: {}", object["metadata"]);
    host.kubectl(["scale", "deployment", "koinon-operator", "--namespace", RELEASE_NAMESPACE, "--replicas=1"]).await?;
    ends(ground, old).await?;
    ensure!(host.is_cut()?, "the wire was mended too early");
    served_elsewhere(ground, old).await
}

/// Twice around: the job's host ends while everybody hears it, then the next one while it is cut off.
pub async fn ended(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let aarhus = ground.member("aarhus")?;
    // The story's key is told to nobody but its application.
    ground.koinon("aarhus", &["apikey", "revoke", "app"]).await?;
    let application = Application::introduce(&ground.stage, &ground.narrator).await?;
    let caller = Caller::begin(&ground.stage, &application).await?;
    let found = around(ground, aarhus).await;
    let calls = caller.end().await;
    found?;
    never_backwards(&calls)?;
    let answered = calls.iter().filter(|call| call.answer.is_ok()).count();
    println!("  {answered} of {} calls were answered", calls.len());
    let last = calls.last().context("nothing was called")?;
    ensure!(last.answer.is_ok(), "the last call was not answered: {:?}", last.answer);
    ground.story_still_served().await
}

async fn around(ground: &Ground, aarhus: &Datacenter) -> Result<()> {
    let first = the_copy(aarhus).await?;
    let kept = keep(ground, &first.host).await?;
    let moved = heard(ground, &first).await;
    let back = comes_back(ground, &kept).await;
    let second = match (moved, back) {
        (Ok(second), back) => back.map(|()| second)?,
        (Err(found), back) => return and_then_cleaned(Err(found), back),
    };
    println!("  the job went from {first:?} to {second:?}");

    let kept = keep(ground, &second.host).await?;
    let moved = cut_off(ground, &second).await;
    let host = ground.member(&second.host)?;
    let back = async {
        host.mend()?;
        scale_operator(host, 1).await?;
        comes_back(ground, &kept).await
    };
    let third = match (moved, back.await) {
        (Ok(third), back) => back.map(|()| third)?,
        (Err(found), back) => return and_then_cleaned(Err(found), back),
    };
    println!("  the job went from {second:?} to {third:?}");
    ensure!(third.host == first.host, "the next case expects the job where it was, at {}", first.host);
    ensure!(routable(aarhus).await? == [third], "the route changed when the member came back");
    Ok(())
}
