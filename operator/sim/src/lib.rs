//! The operator's own decisions under virtual time, with faults and liars.
//!
//! [`explore`] visits every state of a small cooperative; [`simulation`] runs a large one from a seed; [`capacity`] runs the
//! GPUs of one member, from readings to what guests get.

pub mod capacity;
mod dice;
pub mod explore;
pub mod simulation;
