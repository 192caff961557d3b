//! `kubectl koinon explain`: why a job is where it is, or nowhere.

use anyhow::Context as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::{InferenceJob, Placement, time};
use kube::ResourceExt as _;
use kube::api::Api;
use kube::core::DeserializeGuard;

use crate::access::Access;
use crate::cluster::{Cluster, now, readable};
use crate::output::{age, or_dash, print_table};

/// Say why a job is Ready or not: each condition with its reason and numbers, and each of its placements.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name of the InferenceJob.
    job: String,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { job } = self;
        let cluster = Cluster::connect(access).await?;
        let namespace = access.job_namespace(&cluster.client);
        let jobs: Api<InferenceJob> = Api::namespaced(cluster.client.clone(), &namespace);
        let found = jobs.get(&job).await.with_context(|| format!("cannot read InferenceJob {namespace}/{job}"))?;
        let spec = &found.spec;
        let status = found.status.clone().unwrap_or_default();
        println!("InferenceJob {namespace}/{job} serves {} with {}", spec.served_name, spec.engine.name);
        println!("model {} {} ({})", spec.model.uri, spec.model.quantization, spec.model.manifest_digest);
        if let Some(resolved) = &status.resolved {
            println!(
                "needs {} {} on one node; {}",
                resolved.gpus,
                spec.gpu.class,
                or_dash(resolved.explanation.clone())
            );
        }
        if status.conditions.is_empty() {
            println!("\nThe operator has not looked at it yet: is it ready? (kubectl koinon doctor)");
        } else {
            println!();
            print_conditions(&status.conditions);
        }
        let placements = Api::<DeserializeGuard<Placement>>::namespaced(cluster.client.clone(), &namespace);
        let mut copies = readable(&placements, "placements").await?;
        copies.retain(|placement| Some(&placement.spec.job.uid) == found.metadata.uid.as_ref());
        copies.sort_by_key(|placement| (placement.spec.replica, placement.spec.epoch));
        for placement in copies {
            let status = placement.status.clone().unwrap_or_default();
            println!(
                "\nPlacement {} at {}: replica {} epoch {}, {}",
                placement.name_any(),
                placement.spec.host,
                placement.spec.replica,
                placement.spec.epoch,
                or_dash(status.state.map(|state| format!("{state:?}"))),
            );
            if let (Some(loaded), Some(total)) = (status.loaded_bytes, status.total_bytes) {
                println!("weights {loaded} of {total} bytes");
            }
            print_conditions(&status.conditions);
        }
        Ok(())
    }
}

/// Prints conditions as a table.
pub fn print_conditions(conditions: &[Condition]) {
    let rows: Vec<Vec<String>> = conditions
        .iter()
        .map(|condition| {
            vec![
                condition.type_.clone(),
                condition.status.clone(),
                condition.reason.clone(),
                age(now().0 - time::to_unix(&condition.last_transition_time)),
                condition.message.clone(),
            ]
        })
        .collect();
    print_table(&["CONDITION", "STATUS", "REASON", "FOR", "MESSAGE"], &rows);
}
