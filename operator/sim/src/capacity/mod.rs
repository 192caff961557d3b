//! The GPUs of one member, from a seed: what is offered of them, and what guests get in the end.
//!
//! Devices work or do not; that is the truth, and nobody sees it. A driver reads them badly, an agent judges what it read, a
//! device plugin has an opinion of its own, a kubelet hands out what that plugin lists, a scheduler counts, and two operators
//! decide on caches that lag. Everything that Koinon decides is decided by the real functions of `core`; the world around
//! them is made up, and so is the glue between them, which in the agent and the operator is bound to Kubernetes' types.
//!
//! ```text
//!  hardware ─▶ driver ─▶ agent ─▶ status ─┐ (late)
//!     ▲                                   ├─▶ view ─▶ operator ─▶ reservation ─▶ pod ─▶ scheduler ─▶ kubelet ─▶ device
//!  people, kubelet, scheduler ─▶ objects ─┘                                                            │
//!  watch: the invariants, after every step ◀───────────────────────────────────────────────────────────┘
//! ```
//!
//! What is promised of a guest's device is said at [`Violation::Unfit`]; what lag makes of it is counted in [`Lag`].

mod agent;
mod api;
mod driver;
mod hardware;
mod kubelet;
mod metamorphic;
mod operator;
mod people;
mod plan;
mod report;
mod status;
#[cfg(test)]
mod tests;
mod view;
mod watch;
mod world;

use std::collections::BTreeSet;

pub use plan::{Fault, Plan, UnknownFault};
pub use report::{Lag, Report, Run};
pub use watch::Violation;

/// What is asked of a run beyond its seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which faults, instead of what the seed says.
    pub faults: Option<BTreeSet<Fault>>,
    /// For how many minutes of the run's own time; 40 where none is said.
    pub minutes: Option<u32>,
    /// Whether to print what happens.
    pub trace: bool,
}

/// Runs one seed. The same seed and options give the same run everywhere.
pub fn run(seed: u64, options: &Options) -> Run {
    let plan = Plan::of(seed, options);
    let simulated = std::panic::catch_unwind(|| world::World::new(plan.clone(), options.trace).run());
    simulated.unwrap_or_else(|_| Run::panicked(plan))
}

/// A fixed name.
// One that does not parse is a mistake in the simulation itself.
#[allow(clippy::unwrap_used)]
fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}
