//! A processor as a device.

use koinon_core::challenge::matrix::{Keys, Rows};
use koinon_core::challenge::tree::{Node, leaf};
use koinon_core::challenge::{Salt, Task};
use koinon_core::ids::Bytes;

use crate::device::{Device, DeviceError};

/// Rows that are computed together: each word of B is made once for all of them, and their sums of 512 columns stay in the cache.
const BAND: u32 = 32;

/// Computes in the memory of the process, on one thread.
#[derive(Debug)]
pub struct Cpu {
    memory: Bytes,
    rows: usize,
    matrix: Vec<i32>,
}

impl Cpu {
    /// One that holds no more than `memory`.
    #[must_use]
    pub fn new(memory: Bytes) -> Self {
        Self { memory, rows: 0, matrix: Vec::new() }
    }
}

impl Device for Cpu {
    fn name(&self) -> String {
        "a processor in place of a GPU".to_owned()
    }

    fn memory(&self) -> Bytes {
        self.memory
    }

    fn compute(&mut self, task: &Task, index: u8) -> Result<(), DeviceError> {
        self.forget();
        let needed = task.size.memory().0;
        let full = || DeviceError::Memory { needed, free: self.memory.0, device: self.name() };
        if needed > self.memory.0 {
            return Err(full());
        }
        let mut matrix: Vec<i32> = Vec::new();
        matrix.try_reserve_exact(usize::try_from(needed / 4).map_err(|_| full())?).map_err(|_| full())?;
        let keys = Keys::new(&task.seed, index, task.size);
        let all = task.size.rows();
        for first in (0..all).step_by(BAND as usize) {
            let band: Vec<u32> = (first..all.min(first + BAND)).collect();
            let mut rows = Rows::new(&keys, &band);
            while rows.step() {}
            rows.into_sums().iter().for_each(|sums| matrix.extend(sums));
        }
        self.matrix = matrix;
        self.rows = keys.b_columns.len();
        Ok(())
    }

    fn digest(&mut self, salt: &Salt, index: u8) -> Result<Vec<Node>, DeviceError> {
        if self.matrix.is_empty() {
            return Err(DeviceError::Nothing(self.name()));
        }
        Ok((0u32..).zip(self.matrix.chunks(self.rows)).map(|(row, sums)| leaf(salt, index, row, sums)).collect())
    }

    fn forget(&mut self) {
        self.matrix = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use koinon_core::challenge::matrix::sum;
    use koinon_core::challenge::{Seed, Size};

    use super::*;

    #[test]
    fn a_processor_holds_the_matrix_and_gives_it_back() {
        let mut cpu = Cpu::new(Bytes(1 << 20));
        assert_eq!(cpu.digest(&Salt([1; 32]), 0), Err(DeviceError::Nothing(cpu.name())));
        let task = Task { seed: Seed([1; 32]), size: Size::new(256, 64).unwrap() };
        cpu.compute(&task, 3).unwrap();
        let keys = Keys::new(&task.seed, 3, task.size);
        assert_eq!([cpu.matrix[0], cpu.matrix[33 * 256 + 200]], [sum(&keys, 0, 0), sum(&keys, 33, 200)]);
        let leaves = cpu.digest(&Salt([1; 32]), 3).unwrap();
        assert_eq!(leaves.len(), 256);
        assert_eq!(leaves[33], leaf(&Salt([1; 32]), 3, 33, &cpu.matrix[33 * 256..34 * 256]));
        cpu.forget();
        assert!(cpu.digest(&Salt([1; 32]), 3).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut cpu = Cpu::new(Bytes((1 << 20) - 1));
        let task = Task { seed: Seed([1; 32]), size: Size::new(512, 64).unwrap() };
        let refused = cpu.compute(&task, 0).unwrap_err();
        assert!(matches!(refused, DeviceError::Memory { needed: 1_048_576, .. }), "{refused}");
    }
}
