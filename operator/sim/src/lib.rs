//! Many members in one process: the operator's own decisions under virtual time, with faults and liars.
//!
//! [`explore`] visits every state of a small cooperative; [`simulation`] runs a large one from a seed.

pub mod explore;
pub mod simulation;
