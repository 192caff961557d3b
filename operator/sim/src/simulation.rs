//! A large cooperative, from a seed.
//!
//! Every member is a replica of the real commons with the real operator's decisions ([`koinon_core::sealing::next`],
//! anchoring, recovery) on top; what is made up is the world around them: virtual time, the network, clocks, crashes,
//! people who vote, and liars. Everything random comes from one generator, so a seed replays exactly.
//!
//! ```text
//! plan (what a seed is) ─▶ world (events in virtual time) ─▶ watch (safety, after every fold) ─▶ report (liveness)
//! ```
//!
//! Safety is asserted as long as liars and operators that lost their memory are at most a third: see [`Violation`].
//! Liveness is measured, never asserted: under partitions and lies a proposal may stall.

mod cast;
mod liar;
mod network;
mod node;
mod people;
mod plan;
mod report;
#[cfg(test)]
mod tests;
mod watch;
mod world;

use koinon_core::sealing::Promise;

pub use plan::{Class, Plan, Trick};
pub use report::{Fate, Report, Run};
pub use watch::Violation;

/// What is asked of a run beyond its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How many members, instead of what the seed says.
    pub members: Option<usize>,
    /// Which faults, instead of what the seed says.
    pub class: Option<Class>,
    /// A promise that the honest operators do not keep, to see what it prevents.
    pub without: Option<Promise>,
    /// As many liars as it takes to break the rules, to see that it is noticed.
    pub too_many: bool,
    /// Whether to print what happens.
    pub trace: bool,
}

/// Runs one seed. The same seed and options give the same run everywhere.
pub fn run(seed: u64, options: &Options) -> Run {
    let simulated = std::panic::catch_unwind(|| world::World::new(Plan::of(seed, options), options).run());
    simulated.unwrap_or_else(|_| Run::panicked(Plan::of(seed, options)))
}
