//! Who holds which GPUs: reservations and leases at the host, epochs and re-placement at the home.
//!
//! The home alone mints epochs; the host remembers the highest it has seen for each replica and refuses lower ones.
//! All of it is functions of values; the callers carry out what they return and store what they must remember.

pub mod home;
pub mod host;
pub mod reclaim;
pub mod reservations;

use serde::{Deserialize, Serialize};

pub use crate::body::latest::OnPartition;
use crate::ids::{MemberId, ObjectUid, ReplicaIndex};

/// One replica of one job of one home: what an epoch counts copies of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicaKey {
    /// The member whose job it is.
    pub home: MemberId,
    /// The UID of the `InferenceJob` in the home's API server: a job that is deleted and made again is another job.
    pub job: ObjectUid,
    /// Which of its replicas.
    pub replica: ReplicaIndex,
}

impl std::fmt::Display for ReplicaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.home, self.job, self.replica)
    }
}
