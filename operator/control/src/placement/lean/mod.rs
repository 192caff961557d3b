//! What is kept in memory of kinds of which a cluster has thousands: what somebody here decides by, and nothing else.
//!
//! A GPUNode of eight devices takes 4 KiB on the wire and twice that as the API's own type; here it is a few hundred bytes.
//! What thousands of objects say alike (labels, classes, products, namespaces) is kept once, see [`words`].

mod gpu_node;
mod node;
mod pod;
pub mod words;

use k8s_openapi::api::coordination::v1::Lease;
use koinon_core::ids::NodeName;
use kube::ResourceExt;

pub use gpu_node::{Device, GpuNode};
pub use node::Node;
pub use pod::Pod;

use crate::cache::Kept;

/// When an agent last said that it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Whose; none if no node can be called so.
    pub node: Option<NodeName>,
    /// Microseconds since 1970 by the agent's clock.
    pub renewed: Option<i64>,
}

impl From<Lease> for Beat {
    fn from(lease: Lease) -> Self {
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        Self { node: lease.name_any().parse().ok(), renewed: renewed.map(|time| time.0.as_microsecond()) }
    }
}

impl Kept<Lease> for Beat {
    fn keep(lease: Lease) -> Option<Self> {
        Some(lease.into())
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }
}
