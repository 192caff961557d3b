//! The attacks on votes, logs and governance, each under its number, with what is expected of it.
//!
//! What an attack needs of Kubernetes or of the network is tried where those are: here are logs, keys, votes, seals and
//! clocks, and of A18 what a member can tell of another's figures. A28 stands beside the operator's conditions
//! (`operator/control`), A29 beside the peer endpoint (`operator/net`). A19 to A25 are about challenges, receipts, the ledger
//! and audits by sampling, none of which exist yet: there is nothing to attack.

#![allow(clippy::unwrap_used)]

mod capacity;
mod keys;
mod kit;
mod logs;
mod operators;
mod votes;
