//! What the controller of jobs needs beside the check that it shares with `kubectl koinon plan`.

use koinon_api::inference_job::InferenceJob;
use koinon_api::names;
pub use koinon_api::planning::check::{Checked, Surroundings, Work, check, namesake, smallest_memory};
use koinon_core::ids::{Epoch, ReplicaIndex};
use kube::ResourceExt;

/// The name of a copy's Placement at home.
#[must_use]
pub fn placement_name(job: &InferenceJob, replica: ReplicaIndex, epoch: Epoch) -> String {
    let replica = i32::try_from(replica.0).unwrap_or(i32::MAX);
    names::home_placement(&job.name_any(), replica, i64::try_from(epoch.0).unwrap_or(i64::MAX))
}
