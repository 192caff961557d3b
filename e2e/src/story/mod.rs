//! The story that the demo tells: three owners, one cooperative, one model served across them.
//!
//! Every step is observed or the story fails; what it shows are the answers of the clusters themselves.

mod approval;
mod calling;
mod evidence;
mod founding;
mod gpus;
pub mod look;
mod narrator;
mod partition;
pub mod serving;
mod stage;
mod stopping;

use std::sync::Arc;

use anyhow::{Context as _, Result};

pub use approval::{MODEL_URI, QUANTIZATION, REVISION};
pub use calling::{Application, Call, Caller};
pub use founding::found;
pub use narrator::Narrator;
pub use partition::never_backwards;
pub use stage::{JOB, MEMBERS, Materials, RELEASE_NAMESPACE, SERVED_NAME, Stage, TEAM};

use crate::cache::Cache;
use crate::fleet::Fleet;
use crate::footprint;
use crate::toolchain::Report;

/// How far the story is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chapter {
    /// Clusters and Koinon's parts.
    Datacenters,
    /// Founding and joining.
    Cooperative,
    /// GPUs and offers.
    Offers,
    /// The job, the proposal, the votes.
    Approval,
    /// The grant, the weights, the engine.
    Serving,
    /// The application's calls.
    Calling,
    /// The cut and the mend.
    Partition,
    /// The owner's stop and the evidence.
    Stop,
}

/// Builds what is missing and starts the three datacenters with their GPUs.
pub async fn prepare(report: Report<'_>) -> Result<Stage> {
    let materials = Materials::ensure(&Cache::from_env()?, report)?;
    let fleet = Arc::new(Fleet::start(&MEMBERS, report).await?);
    let mut stage = Stage::set(fleet, materials).await?;
    stage.plug_all_gpus().await?;
    Ok(stage)
}

/// Tells the story up to and including a chapter.
pub async fn tell(stage: &mut Stage, narrator: &Narrator, until: Chapter) -> Result<()> {
    let watch = footprint::Watch::begin(stage.fleet.run().clone());
    founding::datacenters(stage, narrator).await?;
    let (prometheus, following) = evidence::scrape(stage).await?;
    // Also for whoever looks around after a later step was not observed.
    stage.prometheus = Some(prometheus.clone());
    if until >= Chapter::Cooperative {
        founding::cooperative(stage, narrator).await?;
    }
    if until >= Chapter::Offers {
        gpus::offers(stage, narrator).await?;
    }
    if until >= Chapter::Approval {
        approval::approve(stage, narrator).await?;
    }
    if until >= Chapter::Serving {
        serving::serve(stage, narrator).await?;
    }
    if until >= Chapter::Calling {
        let application = calling::call(stage, narrator).await?;
        stage.application = Some(application.clone());
        if until >= Chapter::Partition {
            let caller = Caller::begin(stage, &application).await?;
            let copy = partition::cut_and_mend(stage, narrator, &caller).await?;
            if until >= Chapter::Stop {
                stopping::stop(stage, narrator, &copy).await?;
            }
            let calls = caller.end().await;
            partition::never_backwards(&calls)?;
            let answered = calls.iter().filter(|call| call.answer.is_ok()).count();
            narrator
                .observed(&format!("{answered} of {} calls were answered, through cut, mend and stop", calls.len()));
        }
    }
    if until >= Chapter::Stop {
        evidence::evidence(&prometheus, narrator).await.context("asking Prometheus")?;
    }
    drop(following);
    narrator.say("memory and CPU of each of Koinon's processes:");
    narrator.show(&footprint::table(&footprint::look(stage.fleet.run()), |name| name.contains("koinon")));
    narrator.observed(&format!("everything together took at most {} MiB of memory", watch.peak() >> 20));
    Ok(())
}
