//! The cases.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use koinon_api::placement::PlacementState;
use koinon_api::{Placement, names};
use koinon_core::body::latest::{Grant, GrantState, RefusalReason, Request};
use koinon_core::ids::{Epoch, ReplicaIndex};
use koinon_core::placement::ReplicaKey;
use koinon_core::placement::reservations::NodeReservations;
use koinon_e2e::{Datacenter, Fleet, Poll, wait_until};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};

use crate::host::{Host, Shared, create};
use crate::operator::{Operator, SOON, request};

/// A host of its own for each case, on the one API server.
pub async fn host(fleet: &Fleet, case: &str, gpus: usize) -> Result<Shared> {
    let datacenter = fleet.get("bilbao")?;
    definitions(datacenter).await?;
    Ok(Arc::new(Host::new(datacenter, case, gpus).await?))
}

async fn definitions(datacenter: &Datacenter) -> Result<()> {
    let folder = koinon_e2e::toolchain::checkout().join("crds");
    let folder = folder.to_str().context("the checkout's path is not text")?;
    datacenter.kubectl(["apply", "--server-side", "-f", folder]).await?;
    datacenter.definitions_served().await
}

pub fn of(grants: &[Grant], request: &Request) -> Option<Grant> {
    let same = |grant: &&Grant| grant.job_uid == request.job.uid && grant.epoch == request.epoch;
    grants.iter().find(same).cloned()
}

/// Waits until the operator has answered, and returns its answer.
pub async fn answer(operator: &Operator, home: &str, request: &Request) -> Result<Grant> {
    wait_until("an answer", SOON, || async {
        match operator.grants(home) {
            Ok(grants) => match of(&grants, request) {
                Some(grant) => Poll::Ready(grant),
                None => Poll::not_yet(format!("{} other grants", grants.len())),
            },
            Err(error) => Poll::Never(error.to_string()),
        }
    })
    .await
}

pub async fn until_live(host: &Host, count: usize) -> Result<Vec<Placement>> {
    wait_until("the Placements", SOON, || async {
        match host.placements().await {
            Ok(placements) => {
                let live: Vec<Placement> =
                    placements.into_iter().filter(|one| state(one) != PlacementState::Released).collect();
                if live.len() == count {
                    Poll::Ready(live)
                } else {
                    Poll::not_yet(format!("{} Placements", live.len()))
                }
            }
            Err(error) => Poll::not_yet(error),
        }
    })
    .await
}

pub fn state(placement: &Placement) -> PlacementState {
    placement.status.as_ref().and_then(|status| status.state).unwrap_or_default()
}

pub async fn last_gpus(fleet: Arc<Fleet>) -> Result<()> {
    for round in 0..5_u8 {
        let host = host(&fleet, &format!("last{round}"), 2).await?;
        let operator = Operator::start(&host, "Accept")?;
        let [a, c] = &host.homes;
        let (first, second) = (request(1, 1, 2), request(2, 1, 2));
        operator.hears(&[(a, vec![first.clone()]), (c, vec![second.clone()])]);
        let answers = [answer(&operator, a, &first).await?, answer(&operator, c, &second).await?];
        let refused: Vec<&Grant> = answers.iter().filter(|grant| grant.state == GrantState::Refused).collect();
        ensure!(refused.len() == 1, "answers: {answers:?}");
        ensure!(refused[0].reason == Some(RefusalReason::InsufficientGPUs), "refused: {refused:?}");
        ensure!(host.reserved().await? == 2, "reserved: {}", host.reserved().await?);
        until_live(&host, 1).await?;
    }
    Ok(())
}

pub async fn two_leaders(fleet: Arc<Fleet>) -> Result<()> {
    for round in 0..5_u8 {
        let host = host(&fleet, &format!("two{round}"), 2).await?;
        let operators = [Operator::start(&host, "Accept")?, Operator::start(&host, "Accept")?];
        let [a, c] = &host.homes;
        let (first, second) = (request(1, 1, 2), request(2, 1, 2));
        // Both hear both in the same instant; neither knows of the other.
        for operator in &operators {
            operator.hears(&[(a, vec![first.clone()]), (c, vec![second.clone()])]);
        }
        let mut granted = 0;
        for (home, request) in [(a, &first), (c, &second)] {
            let told = [answer(&operators[0], home, request).await?, answer(&operators[1], home, request).await?];
            let refused = told.iter().filter(|grant| grant.state == GrantState::Refused).count();
            ensure!(refused == 0 || refused == 2, "one leader grants what the other refuses: {told:?}");
            granted += usize::from(refused == 0);
        }
        ensure!(granted == 1, "{granted} homes were granted the same two GPUs");
        let record = host.record().await?.context("there is no record")?;
        ensure!(record.held().len() == 1 && record.reserved() == 2, "record: {record:?}");
        until_live(&host, 1).await?;
    }
    Ok(())
}

pub async fn killed(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "killed", 4).await?;
    let home = host.homes[0].clone();
    let asked = request(1, 1, 2);
    let mut seen = Vec::new();
    // From before the first look to well after the last write, in steps shorter than a write.
    for round in 0..40_u64 {
        let operator = Operator::start(&host, "Accept")?;
        operator.hears(&[(&home, vec![asked.clone()])]);
        tokio::time::sleep(Duration::from_millis(60 + round * 7)).await;
        drop(operator);
        let (reserved, placements) = (host.reserved().await?, host.placements().await.unwrap_or_default().len());
        ensure!(reserved == 0 || reserved == 2, "round {round}: {reserved} GPUs are reserved");
        ensure!(placements <= 1, "round {round}: {placements} Placements");
        seen.push((reserved, placements));
    }
    ensure!(seen.first() == Some(&(0, 0)), "the first operator lived too long to prove anything: {seen:?}");
    let operator = Operator::start(&host, "Accept")?;
    operator.hears(&[(&home, vec![asked.clone()])]);
    let grant = answer(&operator, &home, &asked).await?;
    ensure!(grant.state != GrantState::Refused, "in the end: {grant:?}");
    until_live(&host, 1).await?;
    ensure!(host.reserved().await? == 2, "in the end {} GPUs are reserved", host.reserved().await?);
    Ok(())
}

/// All that an operator had written when it was killed while it granted `asked`.
async fn leave_reserved(host: &Host, home: &str, asked: &Request) -> Result<()> {
    let mut record = NodeReservations::new(host.name.parse()?);
    let replica = ReplicaKey { home: home.parse()?, job: asked.job.uid.clone(), replica: ReplicaIndex(0) };
    record.reserve(&replica, asked.epoch, asked.gpu.count, 4, None)?;
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::reservations(&host.name)),
            labels: Some([("koinon.dev/part".to_owned(), "reservations".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([("reservations.json".to_owned(), serde_json::to_string(&record)?)].into()),
        ..ConfigMap::default()
    };
    create(&Api::<ConfigMap>::namespaced(host.client.clone(), &host.name), &map).await
}

/// A home that asks for more under an epoch for which less is reserved gets neither.
pub async fn changed(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "changed", 4).await?;
    let home = host.homes[0].clone();
    leave_reserved(&host, &home, &request(1, 3, 1)).await?;
    let operator = Operator::start(&host, "Accept")?;
    let more = request(1, 3, 4);
    operator.hears(&[(&home, vec![more.clone()])]);
    let grant = answer(&operator, &home, &more).await?;
    ensure!(grant.state == GrantState::Refused, "{grant:?}");
    ensure!(grant.reason == Some(RefusalReason::InvalidRequest), "{grant:?}");
    ensure!((grant.numbers.get("asked"), grant.numbers.get("held")) == (Some(&4), Some(&1)), "{grant:?}");
    ensure!(host.reserved().await? == 0, "what nothing runs on is still reserved");
    Ok(())
}

pub async fn unfinished(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "unfinished", 4).await?;
    let home = host.homes[0].clone();
    let asked = request(1, 3, 2);
    leave_reserved(&host, &home, &asked).await?;
    let operator = Operator::start(&host, "Accept")?;
    operator.hears(&[(&home, vec![asked.clone()])]);
    let grant = answer(&operator, &home, &asked).await?;
    ensure!(grant.state != GrantState::Refused, "{grant:?}");
    let placements = until_live(&host, 1).await?;
    ensure!(
        placements[0].annotations().get("koinon.dev/node") == Some(&host.name),
        "{:?}",
        placements[0].annotations()
    );
    ensure!(host.reserved().await? == 2, "the reservation was made twice");
    Ok(())
}

pub async fn fenced(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "fenced", 4).await?;
    let home = host.homes[0].clone();
    let operator = Operator::start(&host, "Accept")?;
    let high = request(1, 7, 2);
    operator.hears(&[(&home, vec![high.clone()])]);
    answer(&operator, &home, &high).await?;
    until_live(&host, 1).await?;
    // Left out, it drains; its epoch stays known.
    operator.hears(&[(&home, vec![])]);
    wait_until("the GPUs", SOON * 2, || async {
        match host.reserved().await {
            Ok(0) => Poll::Ready(()),
            other => Poll::not_yet(format!("{other:?}")),
        }
    })
    .await?;
    // A new process, as after a crash: nothing but the record remembers.
    drop(operator);
    let operator = Operator::start(&host, "Accept")?;
    let low = request(1, 6, 2);
    operator.hears(&[(&home, vec![low.clone()])]);
    let refused = answer(&operator, &home, &low).await?;
    ensure!(
        refused.reason == Some(RefusalReason::StaleEpoch) && refused.numbers.get("highest") == Some(&7),
        "{refused:?}"
    );
    Ok(())
}

pub async fn taken_over(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "taken", 4).await?;
    let home = host.homes[0].clone();
    let operator = Operator::start(&host, "Accept")?;
    // All of the node's GPUs: there is no room for a second copy beside the first.
    operator.hears(&[(&home, vec![request(1, 1, 4)])]);
    let before = until_live(&host, 1).await?.remove(0);
    let higher = request(1, 5, 4);
    operator.hears(&[(&home, vec![higher.clone()])]);
    let grant = answer(&operator, &home, &higher).await?;
    ensure!(grant.state != GrantState::Refused, "{grant:?}");
    let after = wait_until("the higher epoch", SOON, || async {
        match host.placements().await {
            Ok(mut all) if all.len() == 1 && all[0].spec.epoch == 5 => Poll::Ready(all.remove(0)),
            Ok(all) => Poll::not_yet(format!("{:?}", all.iter().map(|one| one.spec.epoch).collect::<Vec<_>>())),
            Err(error) => Poll::not_yet(error),
        }
    })
    .await?;
    ensure!(after.uid() == before.uid() && after.spec.template == before.spec.template, "the copy is another one");
    let record = host.record().await?.context("there is no record")?;
    ensure!(record.held().len() == 1 && record.held()[0].epoch == Epoch(5) && record.reserved() == 4, "{record:?}");
    Ok(())
}

pub async fn lapsed(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "lapsed", 4).await?;
    let home = host.homes[0].clone();
    let operator = Operator::start(&host, "Accept")?;
    let mut short = request(1, 1, 2);
    short.lease_seconds = koinon_core::ids::Seconds(3);
    operator.hears(&[(&home, vec![short.clone()])]);
    answer(&operator, &home, &short).await?;
    until_live(&host, 1).await?;
    // The same statement, over and over, is no renewal.
    wait_until("the end of the lease", SOON, || async {
        match host.reserved().await {
            Ok(0) => Poll::Ready(()),
            other => Poll::not_yet(format!("{other:?}")),
        }
    })
    .await?;
    let placements = host.placements().await?;
    let reason = placements.first().and_then(|one| one.status.as_ref()?.reason.clone());
    ensure!(reason.as_deref() == Some("LeaseLapsed"), "{reason:?}");
    Ok(())
}

pub async fn stopped(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "stopped", 4).await?;
    let [a, c] = &host.homes;
    let operator = Operator::start(&host, "Accept")?;
    operator.hears(&[(a, vec![request(1, 1, 2)]), (c, vec![request(2, 1, 2)])]);
    let placements = until_live(&host, 2).await?;
    ensure!(host.reserved().await? == 4, "not everything is reserved");
    // Pods that nobody will ever end by themselves, as those of an engine that hangs.
    for placement in &placements {
        run_by_hand(&host, placement).await?;
    }
    drop(operator);
    // The owner presses stop while no peer is heard, and the operator is started anew for good measure.
    let operator = Operator::start(&host, "Stop")?;
    operator.hears_nobody();
    wait_until("all GPUs", Duration::from_secs(120), || async {
        match host.reserved().await {
            Ok(0) => Poll::Ready(()),
            other => Poll::not_yet(format!("{other:?} reserved")),
        }
    })
    .await?;
    for placement in &placements {
        ensure!(host.pods(placement).await?.is_empty(), "a pod of {} is left", placement.name_any());
    }
    Ok(())
}

/// A record that somebody broke is no reason to keep an owner's GPUs from it, and nothing is granted on a guess.
pub async fn stopped_without_records(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "broken", 4).await?;
    let [a, c] = &host.homes;
    let operator = Operator::start(&host, "Accept")?;
    operator.hears(&[(a, vec![request(1, 1, 2)])]);
    let placements = until_live(&host, 1).await?;
    for placement in &placements {
        run_by_hand(&host, placement).await?;
    }
    host.break_record().await?;
    operator.hears(&[(a, vec![request(1, 1, 2)]), (c, vec![request(2, 1, 2)])]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(operator.grants(c)?.is_empty(), "something was granted although nobody knows what is reserved");
    drop(operator);
    let operator = Operator::start(&host, "Stop")?;
    operator.hears_nobody();
    wait_until("every pod to be gone", Duration::from_secs(120), || async {
        for placement in &placements {
            match host.pods(placement).await {
                Ok(pods) if pods.is_empty() => {}
                other => return Poll::not_yet(format!("{:?} pods", other.map(|pods| pods.len()))),
            }
        }
        Poll::Ready(())
    })
    .await
}

/// What the operator would do once the weights are there: the Deployment, whose pod the controller manager makes.
pub async fn run_by_hand(host: &Host, placement: &Placement) -> Result<()> {
    let template = placement.spec.template.as_ref().context("no template")?;
    let owned = koinon_control::render::workload::Owned {
        name: placement.name_any(),
        namespace: placement.namespace().unwrap_or_default(),
        uid: placement.uid().unwrap_or_default(),
    };
    let template = serde_json::from_str(template)?;
    let up = koinon_control::render::workload::Scale::Up;
    let deployment = koinon_control::render::workload::deployment(&owned, template, up);
    let api = Api::<Deployment>::namespaced(host.client.clone(), &owned.namespace);
    api.patch(&owned.name, &PatchParams::apply("koinon/placement").force(), &Patch::Apply(&deployment)).await?;
    wait_until("its pod", SOON, || async {
        match host.pods(placement).await {
            Ok(pods) if !pods.is_empty() => Poll::Ready(()),
            other => Poll::not_yet(format!("{:?}", other.map(|pods| pods.len()))),
        }
    })
    .await
}

pub async fn refused(fleet: Arc<Fleet>) -> Result<()> {
    let host = host(&fleet, "refused", 4).await?;
    let home = host.homes[0].clone();
    let operator = Operator::start(&host, "Accept")?;
    let (large, fits) = (request(1, 1, 9), request(2, 1, 2));
    let mut unknown = request(3, 1, 1);
    unknown.gpu.class = "b200-192".parse()?;
    operator.hears(&[(&home, vec![large.clone(), unknown.clone(), fits.clone()])]);
    let told = answer(&operator, &home, &large).await?;
    ensure!(told.reason == Some(RefusalReason::InsufficientGPUs), "{told:?}");
    ensure!(told.numbers.get("largestNode") == Some(&4) && told.numbers.get("asked") == Some(&9), "{told:?}");
    let told = answer(&operator, &home, &unknown).await?;
    ensure!(told.reason == Some(RefusalReason::UnknownClass), "{told:?}");
    // What is wrong with one request is nothing to the others.
    let told = answer(&operator, &home, &fits).await?;
    ensure!(told.state != GrantState::Refused, "{told:?}");
    Ok(())
}
