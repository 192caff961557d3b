//! The source of the kernels, compiled for the processor of this machine, against what the core says they have to come to. It
//! shows that indices and arithmetic are right. It does not show that a GPU runs them: `real_gpu` does, where there is one.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use koinon_challenge::cpu::Cpu;
use koinon_challenge::cuda::{head, node};
use koinon_challenge::device::Device as _;
use koinon_core::challenge::matrix::{Keys, Rows};
use koinon_core::challenge::{Salt, Seed, Size, Task};
use koinon_core::ids::Bytes;
use sha2::{Digest as _, Sha256};

fn kernel(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel").join(file)
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words_of(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().copied().map(u32::from_le_bytes).collect()
}

/// What the kernels make: the matrix as it lies in the GPU's memory, and the digests.
fn run(program: &Path, task: &Task, salt: &Salt, index: u8) -> (Vec<u32>, Vec<u32>) {
    let keys = Keys::new(&task.seed, index, task.size);
    let input = [
        &[task.size.rows(), task.size.words()][..],
        &keys.a_rows,
        &keys.a_columns,
        &keys.b_rows,
        &keys.b_columns,
        &head(salt, index),
    ]
    .concat();
    let mut running = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(&bytes_of(&input)).unwrap();
    let done = running.wait_with_output().unwrap();
    assert!(done.status.success());
    let words = words_of(&done.stdout);
    let rows = task.size.rows() as usize;
    assert_eq!(words.len(), rows * rows + 4 * rows);
    let (matrix, leaves) = words.split_at(rows * rows);
    (matrix.to_vec(), leaves.to_vec())
}

#[test]
fn the_kernels_make_the_matrix_and_the_digests_of_the_core() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("on_cpu");
    let built = Command::new("g++")
        .args(["-std=c++20", "-O1", "-pthread", "-Wno-unknown-pragmas", "-o"])
        .args([&program, &kernel("on_cpu.cpp")])
        .output()
        .expect("this test needs g++: install build-essential");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    // Several tiles along both sides, and several pieces of depth.
    for (rows, depth) in [(128_u32, 64), (384, 192)] {
        let task = Task { seed: Seed([rows.to_le_bytes()[0]; 32]), size: Size::new(rows, depth).unwrap() };
        let (salt, index) = (Salt([5; 32]), 3);
        let (matrix, leaves) = run(&program, &task, &salt, index);
        let keys = Keys::new(&task.seed, index, task.size);
        let mut all = Rows::new(&keys, &(0..rows).collect::<Vec<_>>());
        while all.step() {}
        for (row, sums) in all.into_sums().iter().enumerate() {
            let made: Vec<i32> =
                (0..rows as usize).map(|column| matrix[column * rows as usize + row].cast_signed()).collect();
            assert_eq!(&made, sums, "row {row} of {rows}");
        }
        let mut cpu = Cpu::new(Bytes(1 << 20));
        cpu.compute(&task, index).unwrap();
        let made: Vec<_> = leaves.as_chunks().0.iter().map(node).collect();
        assert_eq!(made, cpu.digest(&salt, index).unwrap());
    }
}

#[test]
fn the_ptx_was_made_from_this_source() {
    let source = std::fs::read(kernel("challenge.cu")).unwrap();
    let ptx = std::fs::read_to_string(kernel("challenge.ptx")).unwrap();
    let made = format!("// Made by make.py from challenge.cu, sha256:{}", hex::encode(Sha256::digest(source)));
    assert_eq!(ptx.lines().next(), Some(made.as_str()), "run kernel/make.py");
    for needed in [".version 7.8", ".target sm_70", ".visible .entry product(", ".visible .entry digest("] {
        assert!(ptx.contains(needed), "{needed}");
    }
}
