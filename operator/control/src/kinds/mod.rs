//! One module a kind.

pub mod gpupool;
pub mod gpupool_offer;
pub mod inferencejob_check;
