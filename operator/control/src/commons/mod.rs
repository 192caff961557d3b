//! The commons: what all members hold in common, and this member's part in it.

pub mod publisher;
pub mod api_store;
pub mod envelope;
pub mod store;
pub mod hearing;
pub mod invites;
pub mod candidate;
