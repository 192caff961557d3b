//! The commons: what all members hold in common, and this member's part in it.

pub mod api_store;
pub mod candidate;
pub mod desk;
pub mod ending;
pub mod engine;
pub mod envelope;
pub mod gauges;
pub mod hearing;
pub mod inputs;
pub mod invites;
pub mod joining;
pub mod logs;
pub mod node;
pub mod people;
pub mod publisher;
pub mod reach;
pub mod run;
pub mod session;
pub mod shelf;
pub mod store;
pub mod view;

pub use run::{CommonsError, run};

#[cfg(test)]
mod tests;
