//! One module a kind.

pub mod gpuoffer;
pub mod gpupool;
pub mod gpupool_offer;
pub mod inferencejob;
pub mod inferencejob_check;
pub mod inferencejob_replicas;
pub mod inferencejob_status;
pub mod member;
pub mod modelrelease;
pub mod placement_home;
pub mod placement_host_judge;
pub mod policyversion;
pub mod projections;
