//! Placing: what this member asks of others, and what it grants them.

pub mod inventory;
pub mod ledger;
pub mod stores;
pub mod writer;
