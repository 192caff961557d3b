//! From a validated placement to the objects that run it. Pure: no client, no clock.
//!
//! ```text
//! ValidatedPlacement + HostSettings ─▶ pod::template ─▶ Placement.spec.template (kept as granted)
//!                                                          │
//!            guest::{namespace, quota, network_policies}   └▶ workload::{deployment, service}
//! ```
//!
//! What a home says reaches the pod in five places only, each typed and bounded: the served name (a DNS label), two
//! numbers, the number of GPUs, and options that the voted catalogue spells out. Image, arguments, paths and resources
//! are the catalogue's; everything else is this host's.

pub mod claim;
pub mod guest;
pub mod pod;
pub mod workload;

use std::collections::BTreeMap;

use koinon_api::cooperative::ImageMirror;
use koinon_api::gpu_pool::PoolPod;
use koinon_api::weights::Token;
use koinon_api::{labels, names};
use koinon_core::body::catalogue::{CatalogueError, Engine, OptionName, OptionValue};
use koinon_core::body::latest::{GpuNeed, ModelRef};
use koinon_core::ids::{Bytes, Epoch, Namespace, NodeName, ServedName};
use koinon_core::placement::ReplicaKey;
use thiserror::Error;

/// A placement that passed policy, the owner's rules and the capacity check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedPlacement {
    /// Which replica of which job of whom.
    pub replica: ReplicaKey,
    /// The epoch under which it was granted first; it is part of the name.
    pub epoch: Epoch,
    /// Where it runs: the home's guest namespace, or the team's own.
    pub namespace: Namespace,
    /// What applications call it.
    pub served_name: ServedName,
    /// The model, in the words of the enacted release.
    pub model: ModelRef,
    /// What the weights take, where the release says so.
    pub model_bytes: Option<Bytes>,
    /// The engine, as the catalogue has it.
    pub engine: Engine,
    /// Options that the catalogue allows.
    pub options: BTreeMap<OptionName, OptionValue>,
    /// Longest context.
    pub max_model_len: u32,
    /// Requests at once.
    pub max_concurrency: u32,
    /// The GPUs.
    pub gpu: GpuNeed,
    /// Where they are reserved.
    pub node: NodeName,
}

impl ValidatedPlacement {
    /// The name that the Placement and all its objects bear.
    #[must_use]
    pub fn name(&self) -> String {
        let replica = i32::try_from(self.replica.replica.0).unwrap_or(i32::MAX);
        let epoch = i64::try_from(self.epoch.0).unwrap_or(i64::MAX);
        names::host_placement(self.replica.home.as_str(), self.replica.job.as_str(), replica, epoch)
    }
}

/// What this host adds to every pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostSettings {
    /// The image with which weights are copied.
    pub koinon_image: String,
    /// Where guests reach the weights cache: by address, because they may ask no DNS server.
    pub weights_url: String,
    /// What the keys are derived from with which guests read their own model there.
    pub weights_token: Token,
    /// Registries that stand in for others.
    pub image_mirrors: Vec<ImageMirror>,
    /// Image pull Secrets in the pod's namespace.
    pub pull_secrets: Vec<String>,
    /// What the pool's nodes demand of pods.
    pub pod: PoolPod,
}

/// Why a placement cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RenderError {
    /// The engine is not usable, or an option is outside of the catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A file name that could change what the engine is told.
    #[error("the model's uri ends in the file name {0:?}: a file name may have letters, digits, '.', '_' and '-' only")]
    FileName(String),
    /// The pod template does not fit the Placement that keeps it.
    #[error("the pod template takes {bytes} bytes, a Placement keeps {most}: shorten the engine's arguments")]
    TooLarge {
        /// How many it takes.
        bytes: usize,
        /// How many are allowed.
        most: usize,
    },
    /// Devices by name cannot be told from others.
    #[error("the devices of class {class} cannot be claimed: their product {product:?} is not plain text")]
    Product {
        /// The class.
        class: String,
        /// What their driver calls them.
        product: String,
    },
    /// It could not be written as JSON.
    #[error("writing what is granted: {0}")]
    Json(String),
}

/// The labels of everything that belongs to the placement `name`.
#[must_use]
pub fn labels(name: &str) -> BTreeMap<String, String> {
    [
        (labels::PLACEMENT, name),
        (labels::PART, labels::PART_ENGINE),
        ("app.kubernetes.io/name", "koinon-engine"),
        ("app.kubernetes.io/managed-by", MANAGED_BY),
        ("app.kubernetes.io/part-of", MANAGED_BY),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The selector of the pods of the placement `name`.
#[must_use]
pub fn selector(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(labels::PLACEMENT.to_owned(), name.to_owned())])
}

/// Who manages what is rendered.
pub const MANAGED_BY: &str = "koinon";

#[cfg(test)]
mod tests;
