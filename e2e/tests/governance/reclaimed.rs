//! What an owner takes back, and where the job's home finds other GPUs for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::ground::{Ground, and_then_cleaned, conditions, ground};
use koinon_e2e::story::look::{condition, get, poll, text};
use koinon_e2e::story::serving::the_copy;
use koinon_e2e::story::{JOB, RELEASE_NAMESPACE, TEAM};
use koinon_e2e::{Fleet, Poll, wait_until};

use crate::work::{MOVED, drained, served};

/// The pool of all the story's GPUs in a cluster.
const POOL: [&str; 4] = ["gpupool", "all", "--namespace", RELEASE_NAMESPACE];
/// What the host declares for this case. A copy may serve for half of it and has the other half to end.
const NOTICE: Duration = Duration::from_secs(40);

/// The owner of the host that serves the job takes all of its GPUs back. The home says so of its job before the copy ends,
/// has it served by the other host, and the owner has its GPUs within the notice. Then it shares them again.
pub async fn by_its_owner(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let before = served(ground).await?;
    let (aarhus, host) = (ground.member("aarhus")?, ground.member(&before.host)?);
    let pool = get(host, &POOL).await?;
    let class = pool["status"]["classes"][0].clone();
    let (name, installed) = (text(&class, "class").to_owned(), class["installed"].as_i64().context("no devices")?);
    let usual = pool["spec"]["reclaimNoticeSeconds"].as_i64().context("the pool declares no notice")?;
    let result = async {
        declared(ground, &before.host, NOTICE.as_secs().to_string()).await?;
        let taken = Instant::now();
        let reclaim = ["reclaim", "all", "--class", &name, "--gpus", &installed.to_string()];
        ground.koinon(&before.host, &reclaim).await?;
        wait_until("the home to say what its host takes back", NOTICE / 2, || {
            poll(aarhus, &["kjob", JOB, "--namespace", TEAM], |job| {
                let told = condition(job, "Reclaiming")
                    .is_some_and(|told| told["status"] == "True" && text(told, "message").contains(&before.host));
                Poll::<()>::when(told, conditions(job))
            })
        })
        .await?;
        ensure!(the_copy(aarhus).await? == before, "the copy ended before its home had said that it would");
        wait_until("the owner to have its GPUs", NOTICE, || {
            poll(host, &POOL, |pool| {
                let class = &pool["status"]["classes"][0];
                let free = class["leased"] == 0 && class["offered"] == 0;
                Poll::<()>::when(free, class.to_string())
            })
        })
        .await?;
        let took = taken.elapsed();
        println!(
            "  the owner had its {installed} GPUs {:.1} s after it asked, {NOTICE:?} declared",
            took.as_secs_f32()
        );
        ensure!(took < NOTICE, "the owner waited {took:?} for what it gave {NOTICE:?} of notice for");
        wait_until("the job to be served by the other host", MOVED, || async {
            match the_copy(aarhus).await {
                Ok(copy) => {
                    Poll::<()>::when(copy.host != before.host && copy.epoch > before.epoch, format!("{copy:?}"))
                }
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await?;
        println!("  served elsewhere {:.1} s after that", (taken.elapsed() - took).as_secs_f32());
        drained(host).await
    };
    let result = result.await;
    let cleaned = async {
        ground.koinon(&before.host, &["reclaim", "all", "--class", &name, "--undo"]).await?;
        declared(ground, &before.host, usual.to_string()).await
    };
    and_then_cleaned(result, cleaned.await)
}

/// The owner of `member` declares another notice for its pool.
async fn declared(ground: &Ground, member: &str, seconds: String) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"reclaimNoticeSeconds":{seconds}}}}}"#);
    let [kind, name, namespace, release] = POOL;
    let args = ["patch", kind, name, namespace, release, "--type", "merge", "--patch", &patch];
    ground.member(member)?.kubectl(args).await.map(drop)
}
