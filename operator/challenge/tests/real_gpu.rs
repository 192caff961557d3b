//! The kernels on a real GPU. Without one the test says so and ends; `KOINON_REAL_GPU=required` makes that a failure.

use std::io::Write as _;
use std::time::Instant;

use koinon_challenge::cpu::Cpu;
use koinon_challenge::cuda;
use koinon_challenge::device::Device as _;
use koinon_core::challenge::matrix::{Keys, Rows};
use koinon_core::challenge::tree::leaf;
use koinon_core::challenge::{DEPTH, Salt, Seed, Size, Task};
use koinon_core::ids::Bytes;

fn gpu() -> Option<cuda::Gpu> {
    let why = match cuda::open().map(|mut gpus| gpus.pop()) {
        Ok(Some(gpu)) => return Some(gpu),
        Ok(None) => "the driver knows none".to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var("KOINON_REAL_GPU").as_deref() != Ok("required"), "no GPU: {why}");
    // Past the test harness, which shows what a passed test prints to nobody.
    let _ = std::io::stderr().write_all(format!("skipped: no GPU ({why})\n").as_bytes());
    None
}

#[test]
fn a_real_gpu_makes_the_same_bytes_as_a_processor() {
    let Some(mut gpu) = gpu() else { return };
    for (rows, depth) in [(128, 64), (384, 192), (4096, 1024)] {
        let task = Task { seed: Seed([7; 32]), size: Size::new(rows, depth).unwrap() };
        let mut cpu = Cpu::new(Bytes(64 << 20));
        cpu.compute(&task, 3).unwrap();
        gpu.compute(&task, 3).unwrap();
        let salt = Salt([5; 32]);
        assert_eq!(gpu.digest(&salt, 3).unwrap(), cpu.digest(&salt, 3).unwrap(), "{rows} × {depth}");
    }
}

#[test]
fn a_real_gpu_filled_to_nine_tenths_has_the_right_rows() {
    let Some(mut gpu) = gpu() else { return };
    let task = Task { seed: Seed([9; 32]), size: Size::filling(gpu.memory(), DEPTH).unwrap() };
    let begun = Instant::now();
    gpu.compute(&task, 0).unwrap();
    let computed = begun.elapsed();
    let salt = Salt([5; 32]);
    let begun = Instant::now();
    let leaves = gpu.digest(&salt, 0).unwrap();
    let (name, size, recalled) = (gpu.name(), task.size, begun.elapsed());
    let _ = writeln!(std::io::stderr(), "{name}: {size:?}, computed in {computed:?}, recalled in {recalled:?}");
    let last = task.size.rows() - 1;
    let asked = [0, 127, 128, last / 2, last];
    let mut rows = Rows::new(&Keys::new(&task.seed, 0, task.size), &asked);
    while rows.step() {}
    for (row, sums) in asked.iter().zip(rows.into_sums()) {
        assert_eq!(leaves[*row as usize], leaf(&salt, 0, *row, &sums), "row {row}");
    }
    assert!(gpu.compute(&task, 0).is_ok(), "what was held is given back before it computes again");
}
