//! The host's cache of model weights.
//!
//! The host alone fetches, from its own mirrors, with its own proxy, certificates and credentials. A model becomes visible only
//! when every byte of it has been verified against its manifest digest, and engine pods copy it from here and verify it again:
//! this cache is the only place that they may reach.
//!
//! ```text
//! operator ─PUT──▶ api ─▶ Cache ──▶ fetch ─▶ download ─▶ way ──HTTP(S)──▶ mirror
//!                          │          └─ staging/<digest>/   resumed after a restart, gone after a wrong digest
//!                          └─ models/<digest>/               renamed here once verified; least recently used goes first
//! init container ─GET─▶ api            (`copy`)
//! ```
//!
//! It knows no Kubernetes, no member and no vote: the operator decides what is asked for.

mod addresses;
pub mod api;
pub mod cache;
pub mod copy;
pub mod disk;
mod download;
mod fetch;
pub mod metrics;
pub mod serve;
mod sources;
mod way;

pub use cache::{Cache, Settings};
pub use copy::{CopyArgs, CopyError, copy};
pub use download::Patience;
pub use koinon_api::weights as wire;
pub use serve::{ServeArgs, ServeError, serve};
