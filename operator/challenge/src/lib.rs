//! The engine of challenges: an entry of the engine catalogue like any other, that runs in an ordinary confined guest pod and
//! answers over the ordinary route. `koinon_core::challenge` says what is asked and what an answer shows.
//!
//! ```text
//!  POST /v1/completions, `prompt` = a question ─▶ server ─▶ proving (begin, recall, open) ─▶ device ─▶ cuda │ cpu
//! ```
//!
//! It depends on `koinon-core` and `koinon-telemetry` alone, knows no Kubernetes, keeps nothing on disk, and holds at most one
//! challenge. A device of the kind `cpu` really computes, in the memory of the pod: for clusters whose GPUs are pretended.

pub mod cpu;
pub mod cuda;
pub mod device;
pub mod proving;
pub mod server;
