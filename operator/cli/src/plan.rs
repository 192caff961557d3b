//! `kubectl koinon plan`: what would happen to a job, with the numbers, without applying it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Namespace;
use koinon_api::conditions::{ConditionStatus, Verdict};
use koinon_api::gpu_offer::GPUOfferStatus;
use koinon_api::planning::check::{self, Seen, Surroundings};
use koinon_api::{GPUOffer, InferenceJob, Member, labels, planning};
use koinon_core::body::latest::Offer;
use koinon_core::ids::{MemberId, Seconds};
use koinon_core::planner::{self, OwnerRules};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};

use crate::access::Access;
use crate::cluster::{Cluster, now, readable};
use crate::inputs::read_yaml;
use crate::output::print_table;

/// Say what would happen to a job if it were applied now.
///
/// The API server checks it first (a dry run: nothing is written). Then the operator's own check and planner are asked,
/// with what this cluster has heard. What a host decides for itself when it is asked, no home can know.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The InferenceJob; `-` is standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { file } = self;
        let cluster = Cluster::connect(access).await?;
        let mut job: InferenceJob = read_yaml(&file, "an InferenceJob")?;
        let namespace = job.metadata.namespace.clone().unwrap_or_else(|| access.job_namespace(&cluster.client));
        job.metadata.namespace = Some(namespace.clone());
        let job = dry_run(&cluster, job, &namespace).await?;
        let allowed = namespace_allowed(&cluster, &namespace).await?;
        let all = readable(&Api::namespaced(cluster.client.clone(), &namespace), "jobs").await?;
        let own = cluster.find_cooperative().await?;
        let owner = own.as_ref().map(|own| OwnerRules::try_from(&own.spec.limits)).transpose();
        let owner = owner.context("reading spec.limits of the Cooperative")?;
        let decided = match own {
            Some(_) => {
                let membership = cluster.membership().await?;
                Some((cluster.commons(&membership).await?, membership.member))
            }
            None => None,
        };
        let heard = Heard::read(&cluster).await?;
        let class = &job.spec.gpu.class;
        let checked = check::check(
            &job,
            &Surroundings {
                namespace_allowed: allowed,
                namesake: check::namesake(&job, &all),
                decided: decided.as_ref().map(|(commons, _)| &**commons.state()),
                smallest_memory: check::smallest_memory(class, heard.offers.values().map(|(offer, _)| offer)),
                owner: Some(owner.unwrap_or_default()),
                now: now(),
            },
        );
        print_table(&["CHECK", "", "WHY"], &[row("Accepted", &checked.accepted), row("Approved", &checked.approved)]);
        let (Some(work), Some((commons, me))) = (checked.work, decided) else {
            bail!("the job would stay unplaced");
        };
        let explanation = work.resolved.explanation.as_deref().unwrap_or_default();
        println!("\none replica needs {} {class} on one node ({explanation})\n", work.need.gpu.count);
        if let Some(frozen) = work.frozen {
            bail!("no new copy of the model begins, by {frozen}: the job would stay unplaced");
        }
        let candidates =
            check::candidates(commons.state(), &me, work.scope, now(), |member| heard.see(member, work.need.gpu.count));
        let report = planner::plan(&work.need, &candidates);
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
        print_table(&["MEMBER", "VERDICT", "WHY"], &rows);
        println!("\n{report}");
        if report.chosen.is_none() {
            bail!("the job would stay unplaced");
        }
        Ok(())
    }
}

fn row(what: &str, verdict: &Verdict) -> Vec<String> {
    let mark = match verdict.status {
        ConditionStatus::True => "ok",
        ConditionStatus::False => "NO",
        ConditionStatus::Unknown => "?",
    };
    vec![what.to_owned(), mark.to_owned(), verdict.message.clone()]
}

/// The job as the API server would store it, with its defaults and, if it is there already, its identity.
async fn dry_run(cluster: &Cluster, mut job: InferenceJob, namespace: &str) -> anyhow::Result<InferenceJob> {
    let jobs: Api<InferenceJob> = Api::namespaced(cluster.client.clone(), namespace);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let name = job.name_any();
    let (stored, what) = match jobs.get_opt(&name).await.context("cannot read the job")? {
        None => (jobs.create(&params, &job).await, "accept"),
        Some(there) => {
            job.metadata.resource_version = there.metadata.resource_version;
            (jobs.replace(&name, &params, &job).await, "accept the change to")
        }
    };
    let stored = stored.context("the API server would refuse it")?;
    println!("the API server would {what} {namespace}/{name}\n");
    Ok(stored)
}

async fn namespace_allowed(cluster: &Cluster, name: &str) -> anyhow::Result<bool> {
    let found = Api::<Namespace>::all(cluster.client.clone()).get_opt(name).await;
    let found = found.with_context(|| format!("cannot read namespace {name}"))?;
    Ok(found.is_some_and(|namespace| namespace.labels().get(labels::JOBS).is_some_and(|v| v == labels::JOBS_ALLOWED)))
}

/// What this cluster's resources say of the members.
struct Heard {
    members: BTreeMap<String, Member>,
    offers: BTreeMap<String, (Offer, Seconds)>,
    shown: BTreeMap<String, GPUOfferStatus>,
}

impl Heard {
    async fn read(cluster: &Cluster) -> anyhow::Result<Self> {
        let members = cluster.list::<Member>("members").await?;
        let (mut offers, mut statuses) = (BTreeMap::new(), BTreeMap::new());
        for shown in cluster.list::<GPUOffer>("offers").await? {
            let Some(status) = &shown.status else { continue };
            match planning::current_offer(status, now()) {
                Ok(Some(offer)) => {
                    offers.insert(shown.name_any(), offer);
                    statuses.insert(shown.name_any(), status.clone());
                }
                Ok(None) => {}
                Err(error) => eprintln!("left out of the offers: {}: {error}", shown.name_any()),
            }
        }
        Ok(Self {
            members: members.into_iter().map(|member| (member.name_any(), member)).collect(),
            offers,
            shown: statuses,
        })
    }

    fn see(&self, member: &MemberId, gpus: u32) -> Seen {
        let mut offer = self.offers.get(member.as_str()).cloned();
        if let (Some((offer, _)), Some(status)) = (&mut offer, self.shown.get(member.as_str())) {
            for class in &mut offer.classes {
                class.evidence = planning::evidence_for(status, class.class.as_str(), gpus);
            }
        }
        let shown = self.members.get(member.as_str());
        Seen {
            liveness: shown.and_then(planning::heard),
            cordoned: shown.is_some_and(|member| member.spec.cordoned),
            offer,
            ..Seen::default()
        }
    }
}
