//! How many GPUs may be given away, from what is known of them.
//!
//! ```text
//! offered = min(NVML-derived, scheduler-derived) − reservations − owner's reserve
//! ```
//!
//! NVML-derived are the devices that a fresh survey calls healthy, undivided and clean; scheduler-derived are the node's
//! allocatable ones; from both go those that pods without a reservation request. Where the kubelet says which device which
//! pod holds, that is used; where it does not, pods are counted, and every figure is a lower bound: a GPU that idles for a
//! while costs less than one that is promised twice. What is unknown is neither healthy nor free, and takes nothing away
//! from work that runs.
//!
//! ```text
//!  device (may this one be shared?) ─▶ node (how many?) ─▶ pool (what the owner shares of it)
//!  class (what it is called)
//! ```

mod class;
mod device;
mod node;
mod pool;

use crate::ids::Seconds;

pub use class::{class_of, class_of_instance};
pub use device::{DeviceFacts, Dirt, Division, Health, Hold, NotShareable, Registration, Sharing, shareable};
pub use node::{
    Admission, Closed, Disagreement, NodeCapacity, NodeClass, NodeFacts, SchedulerFacts, is_fresh, of_node,
};
pub use pool::{PoolCapacity, PoolClass, PoolRules, least_reserve, of_pool};

/// A node whose agent was not heard for longer than this offers nothing new. The agent renews its Lease every 10 s.
pub const FRESH: Seconds = Seconds(30);

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
