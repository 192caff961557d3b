//! Placing: what this member asks of others, and what it grants them.

pub mod ledger;
pub mod writer;
