//! `kubectl koinon explain`: why a job is where it is, or nowhere; why a vote, or anything else that people said, counts or
//! does not.

use anyhow::{Context as _, bail};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::{InferenceJob, Placement, time};
use kube::ResourceExt as _;
use kube::api::Api;
use kube::core::DeserializeGuard;

use crate::access::Access;
use crate::cluster::{Cluster, now, readable};
use crate::output::{age, or_dash, print_table};
use crate::proposal;
use crate::{explain_said, explain_vote};

/// Say why a job is Ready or not, why a vote counts or not, where a proposal stands, and why anything else that people said
/// has its effect or none.
///
/// Of a job: each condition with its reason and numbers, and each of its placements. Of a vote: its key, its times, its
/// place in its author's log, who holds it for the ballot box, and what to do if it does not count. Of a proposal: what
/// `kubectl koinon proposal` shows. Of a statement - new keys, an emergency order, a co-signature, an appeal: who signed it,
/// where it was anchored, what became of it, and what to do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The name of the InferenceJob, or job/NAME, vote/NAME, proposal/NAME or statement/NAME.
    #[arg(value_name = "JOB|KIND/NAME")]
    what: String,
    /// The name, where the kind stands alone; of all but a job its name or id, or the beginning of either.
    name: Option<String>,
}

/// How each of them is asked.
const EXAMPLES: &str = "\
Examples:
  kubectl koinon explain chat --namespace research
  kubectl koinon explain vote/v-3f2a
  kubectl koinon explain vote sha256:3f2a
  kubectl koinon explain proposal/p-91c0
  kubectl koinon explain statement/sha256:77ab";

/// What is to be explained.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Job(String),
    Vote(String),
    Proposal(String),
    Statement(String),
}

impl Args {
    fn subject(&self) -> anyhow::Result<Subject> {
        // The name of a job has no slash, so that nobody's job is hidden by a kind.
        let (kind, name) = match (&self.name, self.what.split_once('/')) {
            (Some(name), _) => (self.what.as_str(), name.as_str()),
            (None, Some((kind, name))) => (kind, name),
            (None, None) => ("job", self.what.as_str()),
        };
        Ok(match kind {
            "job" | "jobs" | "inferencejob" | "kjob" => Subject::Job(name.to_owned()),
            "vote" | "votes" | "kvote" => Subject::Vote(name.to_owned()),
            "proposal" | "proposals" | "kprop" => Subject::Proposal(name.to_owned()),
            "statement" | "statements" | "kstmt" | "order" => Subject::Statement(name.to_owned()),
            other => bail!("{other} is explained by kubectl describe; here: a job, a vote, a proposal or a statement"),
        })
    }

    /// Whether `--namespace` means the job's.
    pub fn is_about_a_job(&self) -> bool {
        matches!(self.subject(), Ok(Subject::Job(_)) | Err(_))
    }

    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let subject = self.subject()?;
        let cluster = Cluster::connect(access).await?;
        let job = match subject {
            Subject::Job(job) => job,
            Subject::Vote(vote) => return explain_vote::run(&cluster, &vote).await,
            Subject::Statement(wanted) => return explain_said::run(&cluster, &wanted).await,
            Subject::Proposal(wanted) => {
                let membership = cluster.membership().await?;
                let commons = cluster.commons(&membership).await?;
                return proposal::print(&cluster, &commons, &wanted, None).await;
            }
        };
        explain_job(&cluster, &access.job_namespace(&cluster.client), &job).await
    }
}

async fn explain_job(cluster: &Cluster, namespace: &str, job: &str) -> anyhow::Result<()> {
    let jobs: Api<InferenceJob> = Api::namespaced(cluster.client.clone(), namespace);
    let found = jobs.get(job).await.with_context(|| format!("cannot read InferenceJob {namespace}/{job}"))?;
    let spec = &found.spec;
    let status = found.status.clone().unwrap_or_default();
    println!("InferenceJob {namespace}/{job} serves {} with {}", spec.served_name, spec.engine.name);
    println!("model {} {} ({})", spec.model.uri, spec.model.quantization, spec.model.manifest_digest);
    if let Some(resolved) = &status.resolved {
        println!("needs {} {} on one node; {}", resolved.gpus, spec.gpu.class, or_dash(resolved.explanation.clone()));
    }
    if status.conditions.is_empty() {
        println!("\nThe operator has not looked at it yet: is it ready? (kubectl koinon doctor)");
    } else {
        println!();
        print_conditions(&status.conditions);
    }
    let placements = Api::<DeserializeGuard<Placement>>::namespaced(cluster.client.clone(), namespace);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(what: &str, name: Option<&str>) -> anyhow::Result<Subject> {
        Args { what: what.to_owned(), name: name.map(str::to_owned) }.subject()
    }

    #[test]
    fn a_word_alone_is_a_job_and_a_kind_with_a_name_is_that() {
        assert_eq!(subject("chat", None).unwrap(), Subject::Job("chat".to_owned()));
        assert_eq!(subject("vote", None).unwrap(), Subject::Job("vote".to_owned()), "a job may be called so");
        assert_eq!(subject("vote/v-1", None).unwrap(), Subject::Vote("v-1".to_owned()));
        assert_eq!(subject("vote", Some("v-1")).unwrap(), Subject::Vote("v-1".to_owned()));
        assert_eq!(subject("order", Some("sha256:1")).unwrap(), Subject::Statement("sha256:1".to_owned()));
        assert_eq!(subject("kprop/p-1", None).unwrap(), Subject::Proposal("p-1".to_owned()));
        assert!(subject("member/cork", None).unwrap_err().to_string().contains("kubectl describe"));
    }
}
