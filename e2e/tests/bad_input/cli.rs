//! What people ask: how an installation stands, what would happen to a job, who offers what, and why a job is where it is.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_core::dsse::Signer as _;
use koinon_e2e::story::look::{get, items, name, text};
use koinon_e2e::story::serving::the_copy;
use koinon_e2e::story::{JOB, RELEASE_NAMESPACE, TEAM};
use koinon_e2e::{Fleet, Poll, wait_until};
use serde_json::Value;

use crate::operators::{gpus, held};
use crate::people::operator_key;
use koinon_e2e::ground::{Ground, REPLACED, and_then_cleaned, delete, ground, refused as condition_refused, settled};
use koinon_e2e::said::{Check, Said, check, refused, rows, said, unshown};

/// Peers that have missed an endpoint dial it back a minute later.
const DIALLED_AGAIN: Duration = Duration::from_secs(120);
/// The Deployment of every gateway.
const GATEWAY: &str = "koinon-gateway";

/// `doctor`, `plan`, `digest`, `members`, `offers`, `proposals` and `explain`, against what the objects say.
pub async fn asked(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    ground.all_fresh().await?;
    healthy(ground).await?;
    stopped(ground).await?;
    planned(ground).await?;
    listed(ground).await?;
    explained(ground).await
}

/// A member that serves, in the doctor's eyes: every part by its name, with its numbers.
async fn healthy(ground: &Ground) -> Result<()> {
    let host = &the_copy(ground.member("aarhus")?).await?.host;
    let at = ground.member(host)?;
    let cooperative = ["kcoop", "cooperative", "--namespace", RELEASE_NAMESPACE];
    // Whoever was stopped by the case before is heard again within seconds, and told of at the next look.
    settled(at, &cooperative, "PeersReachable", "True", "AllReachable", DIALLED_AGAIN).await?;
    settled(at, &cooperative, "EndpointReachable", "True", "EndpointReached", DIALLED_AGAIN).await?;
    let found = said(ground, host, &["doctor"]).await?;
    ensure!(found.done, "the doctor finds something wrong with {host}: {}{}", found.out, found.err);
    let gpus_of = format!("GPUs of {host}");
    let (peer, gateway) = (ground.stage.peer_endpoint(host)?, ground.stage.gateway_endpoint(host)?);
    let (peer, gateway) = (format!("own endpoint {peer}"), format!("own endpoint {gateway}"));
    let other = format!("peer {}", ground.idle);
    let parts = [
        ("API server", "answers as v1."),
        ("definitions", "all there"),
        ("koinon-operator", "1 of 1 replicas are ready"),
        (GATEWAY, "1 of 1 replicas are ready"),
        ("koinon-weights", "1 of 1 replicas are ready"),
        ("koinon-agent", "1 of 1 are ready"),
        (&gpus_of, "devices; NVMLAnswers: "),
        ("AcceptingGuests", "foreign work is accepted"),
        ("ClockSynced", "within 30 s of everybody who is heard"),
        ("EndpointReachable", "is reached by "),
        ("Joined", "admitted by a vote"),
        ("PeersReachable", "all 2 others are heard"),
        ("Ready", "a member that signs and hears a quorum"),
        ("Signing", "log entries are signed"),
        ("WeightsCacheReady", "the weights cache answers"),
        (&peer, "answers from here"),
        (&gateway, "answers from here"),
        ("peer aarhus", "heard directly"),
        (&other, "heard directly"),
    ];
    for (what, says) in parts {
        let check = check(&found, what)?;
        ensure!(check.mark == "ok" && check.fix.is_empty(), "{what} is not ok at {host}: {check:?}");
        ensure!(check.found.contains(says), "{what} should say {says:?}: {check:?}");
    }
    let network = check(&found, "NetworkPolicyEnforced")?;
    ensure!(
        network.mark == "note" && network.found.starts_with("AcceptedUnenforced: ") && !network.fix.is_empty(),
        "what the owner chose is a note: {network:?}"
    );
    let key = check(&found, "operator key")?.found;
    ensure!(key == operator_key(at).await?.public_key().to_string(), "the doctor names operator key {key}");
    let installed = get(at, &["kgnode", host]).await?["status"]["devices"].as_array().map_or(0, Vec::len);
    let devices = check(&found, &gpus_of)?.found;
    ensure!(devices.starts_with(&format!("{installed} devices; ")), "{installed} devices are {devices:?}");
    let offered = ground.offered(host, host).await?;
    let pool = check(&found, "pool all")?.found;
    ensure!(pool == format!("{offered} of {installed} GPUs are offered"), "{offered} of {installed} GPUs are {pool:?}");

    // Who shares nothing lacks nothing.
    let home = said(ground, "aarhus", &["doctor"]).await?;
    let gpus = check(&home, "GPUs of aarhus")?;
    ensure!(home.done && gpus.mark == "?" && gpus.fix.contains("if this node has NVIDIA GPUs"), "{gpus:?}");
    Ok(())
}

/// A gateway that somebody scaled to nothing is BAD, with the command that brings it back.
async fn stopped(ground: &Ground) -> Result<()> {
    let (member, at) = (ground.idle.as_str(), ground.member(&ground.idle)?);
    let deployment = format!("deployment/{GATEWAY}");
    at.kubectl(["scale", &deployment, "--namespace", RELEASE_NAMESPACE, "--replicas=0"]).await?;
    let found = wrong(ground, member).await;
    // Whatever the doctor said, the next case needs the gateway; as a rule its own words bring it back.
    let fix = found.as_ref().map_or_else(
        |_| format!("kubectl scale -n {RELEASE_NAMESPACE} {deployment} --replicas=1"),
        |check| check.fix.clone(),
    );
    at.kubectl(fix.split_whitespace().skip(1)).await?;
    let back = wait_until("the doctor to find nothing wrong any more", DIALLED_AGAIN, || async {
        match unshown(ground, member, &["doctor"]).await {
            Ok(found) => Poll::<()>::when(found.done, found.err),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    });
    and_then_cleaned(found.map(drop), back.await)
}

async fn wrong(ground: &Ground, member: &str) -> Result<Check> {
    let own = format!("own endpoint {}", ground.stage.gateway_endpoint(member)?);
    let found = wait_until("the doctor to reach no gateway", REPLACED, || async {
        match unshown(ground, member, &["doctor"]).await {
            Ok(found) => match check(&found, &own) {
                Ok(endpoint) if endpoint.mark == "BAD" => Poll::Ready(found),
                seen => Poll::not_yet(format!("{seen:?}")),
            },
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    println!("    {}", found.out.lines().filter(|line| !line.starts_with("ok")).collect::<Vec<_>>().join("\n    "));
    // A peer that dials back in just this moment makes it three.
    let bad = rows(&found.out).iter().filter(|row| row.first() == Some(&"BAD")).count();
    let counted = format!("checks that failed: {bad}\n");
    ensure!(!found.done && bad >= 2 && found.err.ends_with(&counted), "{bad} are BAD; it ends with: {}", found.err);
    let endpoint = check(&found, &own)?;
    ensure!(endpoint.fix.contains("lead it to the release's Service"), "the endpoint's fix: {endpoint:?}");
    let gateway = check(&found, GATEWAY)?;
    let command = format!("kubectl scale -n {RELEASE_NAMESPACE} deployment/{GATEWAY} --replicas=1");
    ensure!(gateway.mark == "BAD" && gateway.found == "somebody scaled it to 0 replicas", "{gateway:?}");
    ensure!(gateway.fix == command, "{gateway:?}");
    Ok(gateway)
}

/// Writes a job to the owner's desk and asks what would become of it.
async fn plan(ground: &Ground, job: &Value) -> Result<Said> {
    let file = ground.stage.desk("aarhus").join("job.json");
    std::fs::write(&file, job.to_string()).with_context(|| format!("writing {}", file.display()))?;
    said(ground, "aarhus", &["plan", "-f", file.to_str().context("the desk's path is not text")?]).await
}

/// What a plan says of a member.
fn verdict<'a>(said: &'a Said, member: &str) -> Result<Vec<&'a str>> {
    let rows = rows(&said.out);
    rows.into_iter()
        .find(|row| row.first() == Some(&member))
        .with_context(|| format!("the plan does not name {member}:\n{}{}", said.out, said.err))
}

/// Everything that a job could leave behind.
async fn left_behind(ground: &Ground) -> Result<(Vec<String>, u64)> {
    let mut objects = Vec::new();
    let mut gpus_held = 0;
    for member in ["aarhus", "bilbao", "cork"] {
        let at = ground.member(member)?;
        let list = at.kubectl(["get", "kjob,kpl", "--all-namespaces", "--output", "name"]).await?;
        objects.extend(list.lines().map(|line| format!("{member}: {line}")));
        gpus_held += gpus(&held(at).await?);
    }
    Ok((objects, gpus_held))
}

/// A job that fits, some that do not, one that nobody approved and one that the API server refuses: nothing is made of them.
async fn planned(ground: &Ground) -> Result<()> {
    let before = left_behind(ground).await?;
    let idle = ground.idle.as_str();
    let other = if idle == "bilbao" { "cork" } else { "bilbao" };

    let fits = plan(ground, &ground.job("asked", 1, &[idle])).await?;
    ensure!(fits.done, "a job that fits is refused: {}", fits.err);
    ensure!(fits.out.starts_with("the API server would accept team/asked\n"), "{}", fits.out);
    ensure!(fits.out.contains("one replica needs 1 h100-80 on one node"), "the plan names no need: {}", fits.out);
    ensure!(verdict(&fits, idle)?.get(1) == Some(&"would be asked"), "{}", fits.out);
    ensure!(
        verdict(&fits, other)?.get(1..) == Some(["cannot", "is not in placement.members"].as_slice()),
        "{}",
        fits.out
    );
    let last = fits.out.lines().last().unwrap_or_default();
    ensure!(last.starts_with(&format!("{idle} is asked for 1 h100-80 on one node; ")), "the plan ends with: {last}");

    // In the operator's own words, which the case about refused jobs reads from the job.
    let large = plan(ground, &ground.job("asked", 9, &[])).await?;
    ensure!(!large.done && large.err.contains("the job would stay unplaced"), "nine fit: {}", large.err);
    ensure!(verdict(&large, "aarhus")? == ["aarhus", "cannot", "has no GPU of the class"], "{}", large.out);
    ensure!(verdict(&large, "bilbao")? == ["bilbao", "cannot", "its largest node has 8"], "{}", large.out);
    ensure!(verdict(&large, "cork")? == ["cork", "cannot", "its largest node has 4"], "{}", large.out);
    ensure!(
        large.out.contains("asks for 9 h100-80 on one node; the largest has 8 (bilbao)"),
        "nine do not fit because of: {}",
        large.out
    );

    let free = ground.offered("aarhus", "bilbao").await?;
    let many = plan(ground, &ground.job("asked", 8, &["bilbao"])).await?;
    ensure!(!many.done, "eight of {free} fit: {}", many.out);
    let words = format!("has {free} free on one node ({free} in all)");
    ensure!(verdict(&many, "bilbao")?.get(2) == Some(&words.as_str()), "{}", many.out);

    let unknown = format!("sha256:{}", "c1".repeat(32));
    let unapproved = plan(ground, &ground.job_of("asked", &unknown, 1, &[])).await?;
    ensure!(!unapproved.done, "a model that nobody approved would be placed: {}", unapproved.out);
    let approved = verdict(&unapproved, "Approved")?;
    ensure!(
        approved.get(1) == Some(&"NO") && approved.get(2).is_some_and(|why| why.contains(&unknown)),
        "{approved:?}"
    );

    let mut elsewhere = ground.job("asked", 1, &[]);
    elsewhere["metadata"]["namespace"] = "default".into();
    let forbidden = plan(ground, &elsewhere).await?;
    let accepted = verdict(&forbidden, "Accepted")?;
    ensure!(
        !forbidden.done && accepted.get(2).is_some_and(|why| why.contains("kubectl label namespace default")),
        "{accepted:?}"
    );

    let mut invalid = ground.job("asked", 1, &[]);
    invalid["spec"]["servedName"] = "Not A Name".into();
    let invalid = plan(ground, &invalid).await?;
    ensure!(!invalid.done && invalid.err.contains("the API server would refuse it: "), "{}", invalid.err);
    ensure!(invalid.err.matches("spec.servedName").count() <= 2, "the refusal repeats itself: {}", invalid.err);

    let after = left_behind(ground).await?;
    ensure!(before == after, "asking left something behind: {before:?} before, {after:?} after");

    let model = ground.stage.materials.model.to_str().context("the model's path is not text")?;
    let digest = ground.koinon("aarhus", &["digest", model]).await?;
    ensure!(digest.trim() == ground.stage.materials.manifest_digest, "the model's digest is {digest}");
    Ok(())
}

/// The lists say what the objects say.
async fn listed(ground: &Ground) -> Result<()> {
    let aarhus = ground.member("aarhus")?;
    let here = ["--namespace", RELEASE_NAMESPACE];
    let printed = ground.koinon("aarhus", &["members"]).await?;
    let members = get(aarhus, &[&["kmem"], here.as_slice()].concat()).await?;
    let wanted: Vec<[String; 5]> = items(&members)
        .iter()
        .map(|member| {
            let status = &member["status"];
            let region = format!("{}/{}", text(&status["site"], "region"), text(&status["site"], "jurisdiction"));
            let word = |field| text(status, field).to_owned();
            [name(member).to_owned(), word("owner"), region, word("state"), word("liveness")]
        })
        .collect();
    let seen = rows(&printed);
    ensure!(wanted.len() == 3 && seen.len() == 3, "three members, not {seen:?}");
    for (wanted, seen) in wanted.iter().zip(&seen) {
        ensure!(
            seen.get(..5).is_some_and(|cells| cells == wanted) && seen.last() == Some(&"-"),
            "{wanted:?}: {seen:?}"
        );
    }

    let printed = ground.koinon("aarhus", &["offers"]).await?;
    let offers = get(aarhus, &[&["koffer"], here.as_slice()].concat()).await?;
    let seen = rows(&printed);
    ensure!(seen.len() == 3, "three members offer one class at most each: {seen:?}");
    for (offer, seen) in items(&offers).iter().zip(&seen) {
        let class = &offer["status"]["classes"][0];
        let number = |field: &str| class[field].as_i64().unwrap_or_default();
        let wanted = if class.is_object() {
            let memory = format!("{} GiB", number("memoryBytes") >> 30);
            let (offered, block) = (number("offered").to_string(), number("largestBlock").to_string());
            vec![text(class, "class").into(), text(class, "product").into(), memory, offered, block]
        } else {
            ["-", "-", "-", "0", "-"].map(str::to_owned).to_vec()
        };
        ensure!(seen.first() == Some(&name(offer)), "{} comes before {seen:?}", name(offer));
        ensure!(seen.get(1..6).is_some_and(|cells| cells == wanted), "{wanted:?} is offered, not {seen:?}");
        ensure!(seen.get(7..9) == Some(["Accept", "AcceptedUnenforced"].as_slice()), "{seen:?}");
    }

    let printed = ground.koinon("aarhus", &["proposals"]).await?;
    let proposals = get(aarhus, &[&["kprop"], here.as_slice()].concat()).await?;
    let seen = rows(&printed);
    ensure!(!seen.is_empty() && seen.len() == items(&proposals).len(), "{} proposals are listed", seen.len());
    for (proposal, seen) in items(&proposals).iter().zip(&seen) {
        let (status, tally) = (&proposal["status"], &proposal["status"]["tally"]);
        let count = |field: &str| tally[field].as_i64().unwrap_or_default();
        let tally = format!("{}/{}/{}/{}", count("approve"), count("reject"), count("abstain"), count("veto"));
        let electors = count("electors").to_string();
        let title = text(&proposal["spec"], "title");
        let wanted = [name(proposal), title, text(status, "author"), text(status, "state"), &tally, &electors];
        ensure!(seen.get(..6) == Some(wanted.as_slice()), "{wanted:?} is listed as {seen:?}");
    }
    Ok(())
}

/// Every condition of the job and of its copy, in the objects' own words.
async fn explained(ground: &Ground) -> Result<()> {
    let aarhus = ground.member("aarhus")?;
    let printed = ground.koinon("aarhus", &["explain", JOB, "--namespace", TEAM]).await?;
    let job = get(aarhus, &["kjob", JOB, "--namespace", TEAM]).await?;
    let copy = the_copy(aarhus).await?;
    let placements = get(aarhus, &["kpl", "--namespace", TEAM]).await?;
    let of_job = |placement: &&Value| placement["spec"]["job"]["name"] == JOB;
    let placements: Vec<&Value> = items(&placements).iter().filter(of_job).collect();
    for object in placements.iter().copied().chain([&job]) {
        for condition in object["status"]["conditions"].as_array().context("nothing was said yet")? {
            for field in ["type", "reason", "message"] {
                let word = text(condition, field);
                ensure!(printed.contains(word), "explain does not say {word:?} of {}:\n{printed}", name(object));
            }
        }
    }
    let place = format!(" at {}: replica 0 epoch {}, Ready\n", copy.host, copy.epoch);
    ensure!(printed.contains(&place), "explain does not say {place:?}:\n{printed}");
    ensure!(printed.contains("needs 2 h100-80 on one node; as the job asks"), "explain names no need:\n{printed}");
    let missing = refused(ground, "aarhus", &["explain", "no-such-job", "--namespace", TEAM], "not found").await?;
    ensure!(missing.contains("cannot read InferenceJob team/no-such-job"), "{missing}");
    Ok(())
}

/// Nothing new goes to a member that the owner of a home cordoned, and that is said; what runs there stays.
pub async fn cordoned(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let (aarhus, idle) = (ground.member("aarhus")?, ground.idle.as_str());
    let copy = the_copy(aarhus).await?;
    let before = gpus(&held(ground.member(idle)?).await?);
    // The host of the story's job too: what runs stays.
    for member in [idle, &copy.host] {
        ground.koinon("aarhus", &["cordon", member, "--reason", "disks are replaced"]).await?;
    }
    let result = nothing_new(ground, before).await;
    let cleaned = async {
        for member in [idle, &copy.host] {
            ground.koinon("aarhus", &["uncordon", member]).await?;
        }
        Ok(())
    };
    let result = and_then_cleaned(result, cleaned.await);
    let result = match result {
        Ok(()) => again(ground).await,
        Err(error) => Err(error),
    };
    let cleaned = async {
        delete(aarhus, &["kjob", "cordoned", "--namespace", TEAM]).await?;
        let host = ground.member(idle)?;
        wait_until(&format!("{idle} to hold {before} GPUs again"), REPLACED, || async {
            match held(host).await {
                Ok(held) => Poll::<()>::when(gpus(&held) == before, format!("{held:?}")),
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await?;
        ensure!(the_copy(aarhus).await? == copy, "the copy at {} did not stay where it was", copy.host);
        ground.story_still_served().await
    };
    and_then_cleaned(result, cleaned.await)
}

async fn nothing_new(ground: &Ground, before: u64) -> Result<()> {
    let (aarhus, idle) = (ground.member("aarhus")?, ground.idle.as_str());
    let members = ground.koinon("aarhus", &["members"]).await?;
    let stance = rows(&members).into_iter().find(|row| row.first() == Some(&idle));
    ensure!(stance.as_ref().and_then(|row| row.last()) == Some(&"cordoned"), "{members}");
    let job = ground.job("cordoned", 1, &[]);
    let planned = plan(ground, &job).await?;
    ensure!(!planned.done, "the plan asks somebody: {}", planned.out);
    ensure!(verdict(&planned, idle)? == [idle, "cannot", "is cordoned by this member"], "{}", planned.out);
    aarhus.apply(&job.to_string()).await?;
    let args = ["kjob", "cordoned", "--namespace", TEAM];
    let why = condition_refused(aarhus, &args, "Placed", "NoEligibleMember").await?;
    ensure!(why.contains(&format!("{idle} is cordoned by this member")), "the job says: {why}");
    ensure!(
        planned.out.trim_end().ends_with(&why),
        "the plan said something else than the job, {why}: {}",
        planned.out
    );
    // Twice as long as jobs are looked at.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let now = gpus(&held(ground.member(idle)?).await?);
    ensure!(now == before, "{idle} holds {now} GPUs, {before} before the job");
    // It is this owner's stance alone.
    let bilbao = get(ground.member("bilbao")?, &["kmem", "cork", "--namespace", RELEASE_NAMESPACE]).await?;
    ensure!(bilbao["spec"]["cordoned"] != true, "aarhus' stance is bilbao's too: {}", bilbao["spec"]);
    refused(ground, "aarhus", &["cordon", "nobody"], "cannot change member nobody").await.map(drop)
}

/// The same job, not touched again, is placed; where the plan says.
async fn again(ground: &Ground) -> Result<()> {
    let aarhus = ground.member("aarhus")?;
    let planned = plan(ground, &ground.job("cordoned", 1, &[])).await?;
    let args = ["kjob", "cordoned", "--namespace", TEAM];
    let placed = settled(aarhus, &args, "Placed", "True", "AllPlaced", REPLACED).await?;
    ensure!(placed.starts_with("1 of 1 replicas have their GPUs: "), "{placed}");
    println!("  the plan: {}; the job: {placed}", planned.out.lines().last().unwrap_or_default());
    Ok(())
}
