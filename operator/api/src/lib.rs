//! The resources of `koinon.dev/v1alpha1`, and everything about them that needs no cluster.
//!
//! Each kind has a module with its `spec`, its `status` and the CEL rules that the API server enforces. Strings that name
//! something (members, digests, keys) stay strings here, bounded by patterns, because the API server hands them over as
//! such; [`convert`] turns them into the types of `koinon-core`, once, at the edge.
//!
//! This crate has no client, no runtime and no clock. The crate graph is `core` ← `api` ← everything that talks to a cluster.
//!
//! | module | what it holds |
//! |---|---|
//! | one a kind | [`cooperative`], [`member`], [`gpu_node`], [`gpu_pool`], [`gpu_offer`], [`model_release`], [`proposal`], [`vote`], [`policy_version`], [`statement`], [`inference_job`], [`placement`] |
//! | [`conditions`] | the closed sets of condition types and reasons, and how to set a condition |
//! | [`labels`], [`names`] | every label, annotation, port and object name that two parts must agree on |
//! | [`reclaim`] | what an owner takes back, in its pools and on Placements |
//! | [`weights`] | what is said over HTTP with the weights cache |
//! | [`crd`] | the CRDs as files |

// Several printer columns of one type are several columns.
#![allow(clippy::duplicated_attributes)]

pub mod api_keys;
pub mod catalogue;
pub mod charter;
pub mod common;
pub mod conditions;
pub mod convert;
pub mod cooperative;
pub mod crd;
pub mod envelope;
pub mod gpu_node;
pub mod gpu_offer;
pub mod gpu_pool;
pub mod inference_job;
pub mod labels;
pub mod member;
pub mod model_release;
pub mod names;
pub mod norms;
pub mod placement;
pub mod planning;
pub mod policy_version;
pub mod proposal;
pub mod reclaim;
pub mod schema;
pub mod settled;
pub mod standing;
pub mod statement;
pub mod time;
pub mod vote;
pub mod weights;

pub use k8s_openapi;
pub use kube;

pub use cooperative::Cooperative;
pub use envelope::Envelope;
pub use gpu_node::GPUNode;
pub use gpu_offer::GPUOffer;
pub use gpu_pool::GPUPool;
pub use inference_job::InferenceJob;
pub use member::Member;
pub use model_release::ModelRelease;
pub use placement::Placement;
pub use policy_version::PolicyVersion;
pub use proposal::Proposal;
pub use statement::Statement;
pub use vote::Vote;

/// The API group of every Koinon resource.
pub const GROUP: &str = "koinon.dev";
/// The one version that is served and stored.
pub const VERSION: &str = "v1alpha1";
