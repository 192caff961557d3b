//! The kernels on a real GPU. Without one the test says so and ends; `KOINON_REAL_GPU=required` makes that a failure.

#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their programs.

use std::process::ExitCode;
use std::time::Instant;

use koinon_challenge::cpu::Cpu;
use koinon_challenge::cuda;
use koinon_challenge::device::Device as _;
use koinon_core::challenge::matrix::{Keys, Rows};
use koinon_core::challenge::tree::leaf;
use koinon_core::challenge::{DEPTH, Salt, Seed, Size, Task};
use koinon_core::ids::Bytes;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    // One at a time: the second fills the GPU.
    let args = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let missing = cuda::open().map_or_else(
        |error| Some(error.to_string()),
        |gpus| gpus.is_empty().then(|| "the driver knows none".to_owned()),
    );
    let required = std::env::var("KOINON_REAL_GPU").as_deref() == Ok("required");
    assert!(missing.is_none() || !required, "KOINON_REAL_GPU is required: {missing:?}");
    let trial = |name, case: fn(cuda::Gpu)| {
        let gpu = || cuda::open().ok().and_then(|mut gpus| gpus.pop()).ok_or("no GPU");
        let trial = Trial::test(name, move || {
            case(gpu()?);
            Ok(())
        });
        match &missing {
            Some(why) => trial.with_kind(format!("skipped: no GPU: {why}")).with_ignored_flag(true),
            None => trial,
        }
    };
    let trials = vec![
        trial("a_real_gpu_makes_the_same_bytes_as_a_processor", same_bytes),
        trial("a_real_gpu_filled_to_nine_tenths_has_the_right_rows", filled),
    ];
    libtest_mimic::run(&args, trials).exit_code()
}

fn same_bytes(mut gpu: cuda::Gpu) {
    for (rows, depth) in [(128, 64), (384, 192), (4096, 1024)] {
        let task = Task { seed: Seed([7; 32]), size: Size::new(rows, depth).unwrap() };
        let mut cpu = Cpu::new(Bytes(64 << 20));
        cpu.compute(&task, 3).unwrap();
        gpu.compute(&task, 3).unwrap();
        let salt = Salt([5; 32]);
        assert_eq!(gpu.digest(&salt, 3).unwrap(), cpu.digest(&salt, 3).unwrap(), "{rows} × {depth}");
    }
}

fn filled(mut gpu: cuda::Gpu) {
    let task = Task { seed: Seed([9; 32]), size: Size::filling(gpu.memory(), DEPTH).unwrap() };
    let begun = Instant::now();
    gpu.compute(&task, 0).unwrap();
    let computed = begun.elapsed();
    let salt = Salt([5; 32]);
    let begun = Instant::now();
    let leaves = gpu.digest(&salt, 0).unwrap();
    let (name, size, recalled) = (gpu.name(), task.size, begun.elapsed());
    println!("{name}: {size:?}, computed in {computed:?}, recalled in {recalled:?}");
    let last = task.size.rows() - 1;
    let asked = [0, 127, 128, last / 2, last];
    let mut rows = Rows::new(&Keys::new(&task.seed, 0, task.size), &asked);
    while rows.step() {}
    for (row, sums) in asked.iter().zip(rows.into_sums()) {
        assert_eq!(leaves[*row as usize], leaf(&salt, 0, *row, &sums), "row {row}");
    }
    assert!(gpu.compute(&task, 0).is_ok(), "what was held is given back before it computes again");
}
