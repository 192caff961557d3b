//! The story that the demo tells, and what it is told with.

mod narrator;

pub use narrator::Narrator;
