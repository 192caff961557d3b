//! The attacks on votes, logs and governance, each under its number, with what is expected of it.
//!
//! What an attack needs of Kubernetes or of the network is tried where those are: here are logs, keys, votes, seals and
//! clocks. A28 and A29 are about images and TLS, A18 to A25 about capacity and metering.

#![allow(clippy::unwrap_used)]

mod keys;
mod kit;
mod logs;
mod operators;
mod votes;
