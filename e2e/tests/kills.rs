//! The whole story while operators are killed at ten points of it, at least one in each chapter: it still ends right.
//!
//! Whose operator, and when, is drawn. The seed is printed; `KOINON_SEED` tells the same kills again.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use koinon_e2e::cache::Cache;
use koinon_e2e::story::{self, Chapter, MEMBERS, Materials, RELEASE_NAMESPACE, Stage};
use koinon_e2e::{Fleet, Narrator, Suite};
use kube::Api;
use kube::api::{DeleteParams, ListParams};

/// How many operators are killed.
const KILLS: usize = 10;
/// Every chapter, and the milliseconds within which a kill of it is drawn. Most chapters are over within a second or two, and a
/// kill has to fall into its own; the cut and its mending take a minute.
const CHAPTERS: [(Chapter, u64); 8] = [
    (Chapter::Datacenters, 1_000),
    (Chapter::Cooperative, 2_000),
    (Chapter::Offers, 400),
    (Chapter::Approval, 400),
    (Chapter::Serving, 3_000),
    (Chapter::Calling, 300),
    (Chapter::Partition, 40_000),
    (Chapter::Stop, 300),
];

/// From this window on a chapter takes more than one kill without being over before the second.
const LONG: u64 = 2_000;
/// Which pods are operators.
const OPERATORS: &str = "app.kubernetes.io/component=operator";

fn main() -> ExitCode {
    Suite::over(&MEMBERS)
        .case("the_story_ends_right_while_operators_are_killed_in_each_chapter_of_it", |fleet| async move {
            let seed = seed()?;
            println!("  KOINON_SEED={seed}");
            let plan = plan(seed);
            for Kill { step, after, victim } in &plan {
                let (chapter, _) = CHAPTERS[step - 1];
                println!(
                    "  to be killed: {victim} in chapter {step} ({chapter:?}), {:.1} s into it",
                    after.as_secs_f32()
                );
            }
            let materials = Materials::ensure(&Cache::from_env()?, &|what| eprintln!("{what}"))?;
            let mut stage = Stage::set(fleet.clone(), materials).await?;
            stage.plug_all_gpus().await?;
            let narrator = Arc::new(Narrator::on_stdout());
            let killed = Arc::new(Mutex::new(Vec::new()));
            let killer = tokio::spawn(carry_out(plan.clone(), fleet, narrator.clone(), killed.clone()));
            let told = story::tell(&mut stage, &narrator, Chapter::Stop).await;
            let all = killed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if killer.is_finished() {
                killer.await?.with_context(|| format!("killing with KOINON_SEED={seed}"))?;
            } else {
                killer.abort();
            }
            told.with_context(|| format!("after {} kills with KOINON_SEED={seed}", all.len()))?;
            ensure!(
                all.len() == KILLS,
                "the story was over after {} of {KILLS} kills, with KOINON_SEED={seed}",
                all.len()
            );
            let missed: Vec<usize> = (1..=CHAPTERS.len()).filter(|step| !all.contains(step)).collect();
            ensure!(missed.is_empty(), "nobody was killed in the chapters {missed:?}, with KOINON_SEED={seed}");
            Ok(())
        })
        .main()
}

/// One operator to be killed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kill {
    /// The number of the chapter in which it falls.
    step: usize,
    /// How long after the chapter's beginning.
    after: Duration,
    /// Whose operator.
    victim: &'static str,
}

/// One kill in each chapter first, then the others at random moments of the chapters that take their time, in their order.
fn plan(seed: u64) -> Vec<Kill> {
    let mut random = Random(seed);
    let mut kills: Vec<Kill> =
        (1..).zip(CHAPTERS).map(|(step, (_, window))| drawn(&mut random, step, window)).collect();
    let long = || (1..).zip(CHAPTERS).filter(|(_, (_, window))| *window >= LONG);
    while kills.len() < KILLS {
        let mut moment = random.next() % long().map(|(_, (_, window))| window).sum::<u64>();
        for (step, (_, window)) in long() {
            if moment < window {
                kills.push(Kill { after: Duration::from_millis(moment), ..drawn(&mut random, step, window) });
                break;
            }
            moment -= window;
        }
    }
    kills.sort();
    kills
}

fn drawn(random: &mut Random, step: usize, window: u64) -> Kill {
    let after = Duration::from_millis(random.next() % window);
    // The remainder is below three.
    let victim = MEMBERS[usize::try_from(random.next() % MEMBERS.len() as u64).unwrap_or(0)];
    Kill { step, after, victim }
}

fn seed() -> Result<u64> {
    match std::env::var("KOINON_SEED") {
        Ok(seed) => seed.parse().context("reading KOINON_SEED"),
        Err(_) => Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() % 100_000),
    }
}

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Kills as planned; notes of each the chapter that the story was in when the operator was ended.
async fn carry_out(
    plan: Vec<Kill>,
    fleet: Arc<Fleet>,
    narrator: Arc<Narrator>,
    killed: Arc<Mutex<Vec<usize>>>,
) -> Result<()> {
    let (mut told, mut began) = (0, Instant::now());
    for (number, Kill { step, after, victim }) in plan.into_iter().enumerate() {
        let operators: Api<Pod> = Api::namespaced(fleet.get(victim)?.client(), RELEASE_NAMESPACE);
        if step > told {
            begun(&narrator, step, &operators).await;
            (told, began) = (step, Instant::now());
        }
        tokio::time::sleep(after.saturating_sub(began.elapsed())).await;
        for pod in operators.list(&ListParams::default().labels(OPERATORS)).await? {
            // As a power cut would: no farewell, the lease stays its own until it runs out.
            let name = pod.metadata.name.context("an operator's pod has no name")?;
            match operators.delete(&name, &DeleteParams::default().grace_period(0)).await {
                Err(kube::Error::Api(refusal)) if refusal.code == 404 => {}
                deleted => drop(deleted.with_context(|| format!("killing {name} of {victim}"))?),
            }
        }
        let now = narrator.steps();
        let (at, number) = (narrator.elapsed().as_secs_f32(), number + 1);
        println!("         ☠ kill {number}: {victim} in chapter {now}, {at:.1} s into the story");
        killed.lock().unwrap_or_else(PoisonError::into_inner).push(now);
    }
    Ok(())
}

/// Waits until a chapter has begun; in the first one, until there is an operator to be killed.
async fn begun(narrator: &Narrator, step: usize, operators: &Api<Pod>) {
    let there = async || {
        let pods = operators.list(&ListParams::default().labels(OPERATORS)).await;
        pods.is_ok_and(|pods| !pods.items.is_empty())
    };
    // The story's end is the end of this: whoever waits here is aborted then.
    while narrator.steps() < step || !there().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
