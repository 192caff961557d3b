//! Every fault of the catalogue in every phase: what the agent is expected to make of it, and what it makes of it. The real
//! surveying and watching processes, the real judgement, status and API client run on the fake library, a scripted kubelet and
//! a fake API server.
//!
//! The outcome stands in `TABLE.md`. `KOINON_WRITE=1` writes it; otherwise a line that differs fails the test.
//! `KOINON_FAULT=F06` runs the lines of one fault, and `KOINON_SEEDS=25` runs each line with so many seeds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

mod cases;
mod cell;
#[path = "../common/mod.rs"]
mod common;
mod generated;
mod kubelet;
mod observed;
mod random;
mod scene;
mod stage;
mod table;
mod whole;

use std::sync::Arc;
use std::time::Instant;

use cell::Line;
use scene::Phase;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Most of a cell's time a process starts or something is waited for.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_fault_in_every_phase_has_the_expected_outcome() {
    let began = Instant::now();
    let only = std::env::var("KOINON_FAULT").ok();
    let asked = std::env::var("KOINON_SEEDS").ok().map(|seeds| seeds.parse().expect("KOINON_SEEDS is no number"));
    let wanted = |fault: &str| only.as_deref().is_none_or(|only| only == fault);
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks: JoinSet<(usize, Vec<Line>)> = JoinSet::new();
    let mut places = 0..;
    let mut runs = 0;
    for case in cases::all().into_iter().filter(|case| wanted(case.fault)) {
        for phase in Phase::ALL {
            let (turns, case, place) = (turns.clone(), case.clone(), places.next().unwrap());
            let seeds = case.seeds(phase, asked, u64::try_from(place).unwrap());
            runs += seeds.clone().count();
            tasks.spawn(async move {
                let _turn = turns.acquire_owned().await.unwrap();
                (place, vec![case.run(phase, seeds).await])
            });
        }
    }
    for cell in whole::all().into_iter().filter(|cell| wanted(cell.fault)) {
        runs += 1;
        let (turns, place) = (turns.clone(), places.next().unwrap());
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            (place, vec![cell.run().await])
        });
    }
    for cell in generated::all().into_iter().filter(|cell| wanted(cell.fault())) {
        runs += 2;
        let (turns, place) = (turns.clone(), places.next().unwrap());
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            (place, cell.run().await)
        });
    }
    let mut found = Vec::new();
    while let Some(done) = tasks.join_next().await {
        found.push(done.expect("a cell ended by itself"));
    }
    found.sort_by_key(|(place, _)| *place);
    let lines: Vec<Line> = found.into_iter().flat_map(|(_, lines)| lines).collect();
    assert!(!lines.is_empty(), "no such fault: {only:?}");
    let text = table::text(&lines);
    println!("{text}");
    println!("{} lines in {runs} runs and {:.1} s", lines.len(), began.elapsed().as_secs_f64());
    let wrong: Vec<&Line> = lines.iter().filter(|line| !line.is_ok()).collect();
    for line in &wrong {
        println!("NOT OK {} | {}\n  expected {}\n  observed {}", line.fault, line.phase, line.expected, line.observed);
        line.complaints.iter().for_each(|complaint| println!("  {complaint}"));
    }
    assert!(wrong.is_empty(), "{} of {} lines are not as expected", wrong.len(), lines.len());
    if only.is_none() {
        table::hold(&text);
    }
}
