//! Placing: what this member asks of others, and what it grants them.

#[cfg(test)]
pub(crate) mod fixture;
pub mod inventory;
pub mod ledger;
pub mod metrics;
pub mod own;
pub mod publish;
pub mod refusals;
pub mod renewals;
pub mod rules;
pub mod stores;
pub mod survey;
pub mod wake;
pub mod weights;
pub mod writer;

use koinon_telemetry::{TaskError, Tasks};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

pub use metrics::{PlacementMetrics, register};

/// Why placing ended.
#[derive(Debug, Error)]
pub enum PlacementError {
    /// A part failed.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Follows jobs and guests for as long as this replica leads.
///
/// # Errors
/// When a part fails.
pub async fn run(ctx: Context, _metrics: PlacementMetrics, stop: CancellationToken) -> Result<(), PlacementError> {
    let mut tasks = Tasks::new();
    let _stores = stores::Stores::follow(&ctx, &mut tasks, &stop);
    tasks.run(stop, std::time::Duration::from_secs(10)).await?;
    Ok(())
}
