//! Challenges: testing what other members say of their GPUs, and believing what others measured.
//!
//! ```text
//! voted rules ─▶ draw ─▶ challenger ─▶ InferenceJob ─▶ gateway ─▶ host's GPUs
//!                            │  ▲            own answer, times
//!                            ▼  └──────────────────┘
//!                         records (ConfigMap) ─▶ Latest statements ─▶ the others' believers
//! peers' statements ─▶ checker (a few rows each) ─▶ believer ─▶ Beliefs ─▶ planner, GPUOffer
//! ```
//!
//! A challenge is a job as any other: the host is told no more than for any other, grants it as any other, and may refuse,
//! reclaim or drain it, which proves nothing. It can recognise the engine. What is measured is this member's own word;
//! everybody judges it, and its transcript, for itself.

pub mod beliefs;
pub mod believer;
pub mod call;
pub mod challenger;
pub mod checker;
pub mod choose;
pub mod job;
pub mod metrics;
pub mod records;

pub use beliefs::Beliefs;
