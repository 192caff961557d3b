//! `kubectl koinon plan`: what would happen to a job, with the numbers, without applying it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use koinon_api::model_release::ReleaseState;
use koinon_api::{GPUOffer, InferenceJob, Member, ModelRelease, names, planning};
use koinon_core::planner;
use koinon_core::sizing::{self, ModelSize};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};

use crate::access::Access;
use crate::cluster::{Cluster, now};
use crate::inputs::read_yaml;
use crate::output::print_table;

/// Say what would happen to a job if it were applied now.
///
/// The API server checks it first (a dry run); the operator's own planner then chooses among the offers that this
/// cluster knows.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The InferenceJob; `-` is standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    /// Its namespace, if the file names none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { file, namespace } = self;
        let cluster = Cluster::connect(access).await?;
        let mut job: InferenceJob = read_yaml(&file, "an InferenceJob")?;
        let namespace = job.metadata.namespace.clone().unwrap_or(namespace);
        job.metadata.namespace = Some(namespace.clone());
        let jobs: Api<InferenceJob> = Api::namespaced(cluster.client.clone(), &namespace);
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        match jobs.create(&dry_run, &job).await {
            Ok(_) => println!("the API server would accept {namespace}/{}", job.name_any()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                println!("{namespace}/{} exists already; planning as if it were new", job.name_any());
            }
            Err(error) => return Err(error).context("the API server would refuse it"),
        }
        approve(&cluster, &job).await?;
        let members = cluster.list::<Member>("members").await?;
        let offers = cluster.list::<GPUOffer>("offers").await?;
        let offers: BTreeMap<String, GPUOffer> = offers.into_iter().map(|offer| (offer.name_any(), offer)).collect();
        let gpus = gpus(&cluster, &job, &offers).await?;
        let need = planning::need(&job.spec, gpus)?;
        let mut candidates = Vec::new();
        for member in &members {
            let offer = offers.get(&member.name_any()).and_then(|offer| offer.status.as_ref());
            candidates.push(planning::candidate(member, offer, 0, now())?);
        }
        let report = planner::plan(&need, &candidates);
        let rows: Vec<Vec<String>> = report
            .findings
            .iter()
            .map(|(member, finding)| match finding {
                planner::Finding::Fits(_) if report.chosen.as_ref() == Some(member) => {
                    vec![member.to_string(), "would be asked".to_owned(), String::new()]
                }
                planner::Finding::Fits(_) => vec![member.to_string(), "fits too".to_owned(), String::new()],
                planner::Finding::Rejected(why) => vec![member.to_string(), "cannot".to_owned(), why.to_string()],
            })
            .collect();
        println!("one replica needs {gpus} {} on one node\n", job.spec.gpu.class);
        print_table(&["MEMBER", "VERDICT", "WHY"], &rows);
        println!("\n{report}");
        if report.chosen.is_none() {
            bail!("the job would stay unplaced");
        }
        Ok(())
    }
}

/// Says whether the cooperative has approved the model.
async fn approve(cluster: &Cluster, job: &InferenceJob) -> anyhow::Result<()> {
    let digest = &job.spec.model.manifest_digest;
    let release = cluster.api::<ModelRelease>().get_opt(&names::model_release(digest)).await?;
    let state = release.as_ref().and_then(|release| release.status.as_ref()).and_then(|status| status.state);
    match (state, release.as_ref().is_some_and(|release| release.spec.denied)) {
        (Some(ReleaseState::Enacted), false) => println!("the cooperative has approved the model"),
        (Some(ReleaseState::Enacted), true) => println!("the cooperative has approved the model, this owner denies it"),
        (Some(ReleaseState::Withdrawn), _) => {
            println!("the cooperative has withdrawn the model: the job would stay unplaced")
        }
        (None, _) => println!(
            "the cooperative has not approved the model: the job would stay unplaced until a proposal is enacted\n  \
             kubectl koinon propose --title … add-model-release --uri {} --revision {} --manifest-digest {digest} --quantization {} --license …",
            job.spec.model.uri, job.spec.model.revision, job.spec.model.quantization
        ),
    }
    Ok(())
}

/// The GPUs of one replica: as given, or computed from the release's memory and the smallest GPU of the class.
async fn gpus(cluster: &Cluster, job: &InferenceJob, offers: &BTreeMap<String, GPUOffer>) -> anyhow::Result<u32> {
    if let Ok(given @ 1..) = u32::try_from(job.spec.gpu.count) {
        return Ok(given);
    }
    let release = cluster.api::<ModelRelease>().get_opt(&names::model_release(&job.spec.model.manifest_digest)).await?;
    let weights = release.and_then(|release| release.status).and_then(|status| status.memory_bytes);
    let smallest = offers
        .values()
        .filter_map(|offer| offer.status.as_ref())
        .flat_map(|status| &status.classes)
        .filter(|class| class.class == job.spec.gpu.class)
        .map(|class| class.memory_bytes)
        .min();
    let (Some(weights), Some(memory)) = (weights, smallest) else { return Ok(1) };
    let size = ModelSize { weight_bytes: weights.unsigned_abs(), cache_bytes: 0 };
    let needed = sizing::gpus_needed(size, memory.unsigned_abs());
    let needed = needed.with_context(|| format!("{weights} bytes do not fit eight GPUs of {memory} bytes"))?;
    Ok(needed.unsigned_abs())
}
