//! The pure domain of Koinon.
//!
//! Everything that members must agree on is computed here from values: what a statement is, which of them form a
//! log, what was decided, where a job may run, who may hold a GPU. There is no clock, no randomness, no I/O, no
//! Kubernetes and no float in any outcome, so every member computes the same bytes from the same statements.
//!
//! ```text
//! bytes ─▶ dsse ─▶ statement ─▶ log ─▶ policy (tally, sealing)      decisions
//!                      └──────▶ latest ─▶ liveness, planner, placement   work
//! ```

pub mod audit;
pub mod belief;
pub mod body;
pub mod capacity;
pub mod challenge;
pub mod concentration;
pub mod dsse;
pub mod founding;
pub mod gpu;
#[cfg(test)]
mod hostile;
pub mod ids;
pub mod invite;
pub mod json;
pub mod kind;
pub mod latest;
pub mod liveness;
pub mod log;
pub mod manifest;
pub mod merkle;
pub mod placement;
pub mod planner;
pub mod policy;
pub mod presets;
pub mod recovery;
pub mod sealing;
pub mod sizing;
pub mod statement;
pub mod tally;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
