//! One module a kind.

pub mod apikeys;
pub mod ballots;
pub mod cooperative;
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
pub mod placement_host;
pub mod placement_host_grants;
pub mod placement_host_home;
pub mod placement_host_judge;
pub mod placement_host_life;
pub mod placement_host_list;
pub mod placement_host_realise;
pub mod placement_host_state;
pub mod policyversion;
pub mod projections;
pub mod proposal;
pub mod statement;
pub mod vote;
