//! The commons: what all members hold in common, and this member's part in it.

pub mod publisher;
