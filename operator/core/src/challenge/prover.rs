//! A prover in memory, for tests: it computes what a device would, or less.

use super::matrix::{Keys, Rows};
use super::tree::{Tree, leaf};
use super::{Ask, Reply, Salt, Task, asked_rows};

/// Answers questions. What it computes can be spoiled before it is asked to recall.
#[derive(Clone, Debug, Default)]
pub struct Prover {
    task: Option<Task>,
    /// The matrix of each device, row by row.
    pub matrices: Vec<Vec<Vec<i32>>>,
    /// Set to show other rows than were chosen: so many further.
    pub shown_too_far: u32,
    trees: Vec<Tree>,
}

impl Prover {
    /// The answer; none where the question does not fit what was asked before.
    pub fn answer(&mut self, ask: &Ask) -> Option<Reply> {
        match ask {
            Ask::Begin { task, devices, .. } => {
                self.task = Some(*task);
                let rows: Vec<u32> = (0..task.size.rows()).collect();
                let compute = |device| {
                    let mut all = Rows::new(&Keys::new(&task.seed, device, task.size), &rows);
                    while all.step() {}
                    all.into_sums()
                };
                self.matrices = (0..*devices).map(compute).collect();
                Some(Reply::Computed { millis: vec![1; usize::from(*devices)] })
            }
            Ask::Recall { salt } => {
                let trees: Option<Vec<Tree>> = (0u8..)
                    .zip(&self.matrices)
                    .map(|(device, matrix)| Tree::new(leaves(salt, device, matrix)))
                    .collect();
                self.trees = trees?;
                let roots = self.trees.iter().map(Tree::root).collect();
                Some(Reply::Recalled { roots, millis: vec![1; self.trees.len()] })
            }
            Ask::Open { secret } => {
                let Task { seed, size } = self.task?;
                let roots: Vec<_> = self.trees.iter().map(Tree::root).collect();
                let asked = asked_rows(&seed, secret, size, &roots);
                let shown = |(tree, rows): (&Tree, Vec<u32>)| -> Option<Vec<_>> {
                    rows.into_iter().map(|row| tree.path((row + self.shown_too_far) % size.rows())).collect()
                };
                let paths: Option<Vec<_>> = self.trees.iter().zip(asked).map(shown).collect();
                Some(Reply::Opened { paths: paths? })
            }
        }
    }
}

fn leaves(salt: &Salt, device: u8, matrix: &[Vec<i32>]) -> Vec<super::tree::Node> {
    (0u32..).zip(matrix).map(|(row, sums)| leaf(salt, device, row, sums)).collect()
}
