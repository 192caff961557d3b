//! Every state that a small cooperative can come to, with the operator's own functions.
//!
//! A state is what every honest member has *said* since the start, and what time it is. From there an honest operator
//! - holds any part of what was said: any beginning of every other log, and one of the liar's tales;
//! - folds that ([`koinon_core::policy::State`]) and signs any one body that [`koinon_core::sealing::next`] gives.
//!
//! Nothing else happens: time passes, and in some scenarios a member is restored from a backup. So this covers, without
//! saying so each time,
//! - loss, delay and reordering: what an operator holds is chosen anew whenever it acts;
//! - crashes, and a lost store whose own log was taken back from peers: nothing but its log binds an operator;
//! - two leaders of one member: whichever appends, it has read the own log up to there, because the store takes a
//!   position once;
//! - a liar that shows everybody another log: it repeats every seal for those whom that helps, ends slots in every way,
//!   and its signature is counted under everything in the end ([`Broken`] is judged so).
//!
//! What must never happen is found from the seals alone, without the fold; then the fold is asked, by readers that hold
//! parts of the same logs. The search goes breadth first, so the way that is shown is a shortest one.
//!
//! What is passed over, and why nothing is lost by it
//! - Members that begin alike are interchangeable, so states are kept in order of what they have said.
//! - A seal or status of somebody else that completes no quorum changes nothing for the one that holds it. Tests visit
//!   some scenarios without this and come to the same.
//! - Of seals that say the same those that name the fewest offers are kept: they count wherever the others do.
//! - An operator does not repeat a close seal under a higher round: rounds do not add up.
//! - Votes are fixed. So are offers, but for the late vote.

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
