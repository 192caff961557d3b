//! Every state that a small cooperative can come to.

mod safety;
mod scenario;
pub mod scenarios;
mod search;
mod stage;
mod tape;
#[cfg(test)]
mod tests;
mod trace;
mod views;

pub use safety::Broken;
pub use scenario::Scenario;
pub use search::{Report, explore};
pub use trace::Trace;
