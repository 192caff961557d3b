//! The whole story while operators are killed at ten random points of it: it still ends right.
//!
//! The seed is printed; `KOINON_SEED` tells the same kills again.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::cache::Cache;
use koinon_e2e::story::{self, Chapter, MEMBERS, Materials, RELEASE_NAMESPACE, Stage};
use koinon_e2e::{Datacenter, Fleet, Narrator, Poll, Suite, wait_until};

/// How many operators are killed.
const KILLS: usize = 10;
/// The time between two kills. The story takes about a hundred seconds, and all kills are to fall into it.
const PAUSES: std::ops::Range<u64> = 2_000..9_000;

fn main() -> ExitCode {
    Suite::over(&MEMBERS)
        .case("the_story_ends_right_while_operators_are_killed_at_ten_random_points", |fleet| async move {
            let seed = seed()?;
            println!("  KOINON_SEED={seed}");
            let materials = Materials::ensure(&Cache::from_env()?, &|what| eprintln!("{what}"))?;
            let mut stage = Stage::set(fleet.clone(), materials).await?;
            stage.plug_all_gpus().await?;
            let killed = Arc::new(AtomicUsize::new(0));
            let killer = tokio::spawn(kill(fleet, Random(seed), killed.clone()));
            let told = story::tell(&mut stage, &Narrator::on_stdout(), Chapter::Stop).await;
            let all = killed.load(Ordering::Relaxed);
            killer.abort();
            told.with_context(|| format!("after {all} kills with KOINON_SEED={seed}"))?;
            ensure!(all == KILLS, "the story was over after {all} of {KILLS} kills, with KOINON_SEED={seed}");
            Ok(())
        })
        .main()
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

    fn within(&mut self, range: &std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }
}

async fn kill(fleet: Arc<Fleet>, mut random: Random, killed: Arc<AtomicUsize>) -> Result<()> {
    // The story begins when Koinon is installed everywhere.
    for datacenter in fleet.datacenters() {
        wait_until("the operators to be there", Duration::from_secs(600), || async {
            match operators(datacenter).await {
                Ok(pods) => Poll::<()>::when(!pods.is_empty(), "none"),
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await?;
    }
    let began = Instant::now();
    for number in 1..=KILLS {
        tokio::time::sleep(Duration::from_millis(random.within(&PAUSES))).await;
        let members = fleet.datacenters();
        let victim = &members[usize::try_from(random.next() % members.len() as u64)?];
        let pods = operators(victim).await?;
        let names: Vec<&str> = pods.iter().map(String::as_str).collect();
        let args =
            ["delete", "pod", "--namespace", RELEASE_NAMESPACE, "--grace-period=0", "--force", "--ignore-not-found"];
        victim.kubectl([&args, names.as_slice()].concat()).await?;
        println!("         ☠ kill {number}: {} at {:.1} s", victim.name(), began.elapsed().as_secs_f32());
        killed.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The names of the operators' pods.
async fn operators(datacenter: &Datacenter) -> Result<Vec<String>> {
    let selector = "app.kubernetes.io/component=operator";
    let args = ["get", "pod", "--namespace", RELEASE_NAMESPACE, "--selector", selector, "--output", "name"];
    let printed = datacenter.kubectl(args).await?;
    Ok(printed.lines().map(|line| line.trim_start_matches("pod/").to_owned()).collect())
}
