//! What computes.

use koinon_core::challenge::tree::Node;
use koinon_core::challenge::{Salt, Task};
use koinon_core::ids::Bytes;

/// Why a device did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The matrix does not fit.
    #[error("a matrix of {needed} bytes does not fit into the {free} free bytes of {device}")]
    Memory {
        /// What it takes.
        needed: u64,
        /// What there is.
        free: u64,
        /// Where.
        device: String,
    },
    /// The driver refused.
    #[error("{call} on {device} failed: {why}; see the node's kernel log and `nvidia-smi`")]
    Driver {
        /// Which function.
        call: &'static str,
        /// Where.
        device: String,
        /// What it said.
        why: String,
    },
    /// Asked for digests of a matrix that it does not hold.
    #[error("{0} holds no matrix")]
    Nothing(String),
}

/// One device. Calls come from one thread at a time, and not always from the same.
pub trait Device: Send {
    /// What it is, for people.
    fn name(&self) -> String;

    /// All its memory.
    fn memory(&self) -> Bytes;

    /// Computes the matrix of `task` for the device at `index`, and holds it.
    ///
    /// # Errors
    /// It does not fit, or the device failed.
    fn compute(&mut self, task: &Task, index: u8) -> Result<(), DeviceError>;

    /// The digests of all rows that it holds, in their order.
    ///
    /// # Errors
    /// It holds none, or the device failed.
    fn digest(&mut self, salt: &Salt, index: u8) -> Result<Vec<Node>, DeviceError>;

    /// Gives the matrix's memory back.
    fn forget(&mut self);
}
