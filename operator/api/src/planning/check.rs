//! Whether a job is well formed and its model approved, what one replica of it needs, and how the members look to the
//! planner. The operator and `kubectl koinon plan` both ask here, so that they never disagree. Pure.

use koinon_core::body::catalogue::{CatalogueError, Engine};
use koinon_core::body::latest::{EngineChoice, EvidenceLevel, JobRef, ModelRef, Offer, OnPartition, Request};
use koinon_core::challenge::ATTESTED_NOT_AVAILABLE;
use koinon_core::ids::{
    Bytes, EngineName, Epoch, IdError, MemberId, ObjectUid, ReplicaIndex, Seconds, ServedName, UnixSeconds,
};
use koinon_core::liveness::Liveness;
use koinon_core::planner::{Candidate, Need, OwnerRules};
use koinon_core::policy::{MemberStanding, State, Suspension};
use koinon_core::sizing::{ModelSize, gpus_needed};
use kube::ResourceExt;

use crate::conditions::{ConditionStatus, Reason, Verdict};
use crate::convert::{self, ConvertError};
use crate::inference_job::{InferenceJob, Resolved, Scope};
use crate::labels;

/// What stands around a job.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// Whether an admin lets jobs run in its namespace.
    pub namespace_allowed: bool,
    /// An older job of its namespace with the same served name.
    pub namesake: Option<String>,
    /// What the cooperative decided; `None` while this cluster belongs to none.
    pub decided: Option<&'a State>,
    /// The memory of the smallest GPU of the job's class that anybody offers.
    pub smallest_memory: Option<Bytes>,
    /// What the local owner allows; `None` where that cannot be read.
    pub owner: Option<OwnerRules>,
    /// When it is.
    pub now: UnixSeconds,
}

/// What one replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The job.
    pub job: JobRef,
    /// How far away it may run.
    pub scope: Scope,
    /// What applications call it.
    pub served_name: ServedName,
    /// The model.
    pub model: ModelRef,
    /// The engine and its options.
    pub engine: EngineChoice,
    /// Longest context.
    pub max_model_len: u32,
    /// Requests at once.
    pub max_concurrency: u32,
    /// What is asked of the planner.
    pub need: Need,
    /// What copies do while their home is not heard.
    pub on_partition: OnPartition,
    /// How the number of GPUs was found.
    pub resolved: Resolved,
    /// The order that lets no new copies of the model begin, while it holds.
    pub frozen: Option<Suspension>,
}

impl Work {
    /// The request for a copy.
    #[must_use]
    pub fn request(&self, replica: ReplicaIndex, epoch: Epoch, lease: Seconds) -> Request {
        Request {
            job: self.job.clone(),
            replica,
            epoch,
            served_name: self.served_name.clone(),
            model: self.model.clone(),
            engine: self.engine.clone(),
            max_model_len: self.max_model_len,
            max_concurrency: self.max_concurrency,
            gpu: self.need.gpu.clone(),
            lease_seconds: lease,
            on_partition: self.on_partition,
        }
    }
}

/// What was found about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Whether it is well formed.
    pub accepted: Verdict,
    /// Whether its model may be served.
    pub approved: Verdict,
    /// What a replica is, where it is both.
    pub work: Option<Work>,
}

impl Checked {
    fn refused(verdict: Verdict) -> Self {
        let why = Verdict::unknown(verdict.reason, "looked at once the job is accepted");
        Self { accepted: verdict, approved: why, work: None }
    }
}

/// Looks at a job.
#[must_use]
pub fn check(job: &InferenceJob, around: &Surroundings<'_>) -> Checked {
    let namespace = job.namespace().unwrap_or_default();
    if !around.namespace_allowed {
        return Checked::refused(Verdict::no(
            Reason::NamespaceNotAllowed,
            format!(
                "namespace {namespace} may not run jobs; an admin allows it with: kubectl label namespace {namespace} {}={}",
                labels::JOBS,
                labels::JOBS_ALLOWED
            ),
        ));
    }
    if let Some(namesake) = &around.namesake {
        let served = &job.spec.served_name;
        return Checked::refused(Verdict::no(
            Reason::ServedNameTaken,
            format!("job {namesake} of this namespace is older and has the served name {served}; choose another one"),
        ));
    }
    let Some(decided) = around.decided else {
        return Checked::refused(Verdict::unknown(
            Reason::NotAdmitted,
            "this cluster belongs to no cooperative yet, so there is no engine catalogue; see kubectl get kcoop",
        ));
    };
    let Some(owner) = &around.owner else {
        return Checked::refused(Verdict::no(
            Reason::InvalidRequest,
            "spec.limits of this member's Cooperative cannot be read; see kubectl explain kcoop.spec.limits",
        ));
    };
    let read = match read(job, decided) {
        Ok(read) => read,
        Err(verdict) => return Checked::refused(verdict),
    };
    let accepted = Verdict::yes(Reason::Valid, format!("engine {} serves it", read.engine.name));
    let (approved, memory) = approval(job, &read, decided, owner);
    if approved.status != ConditionStatus::True {
        return Checked { accepted, approved, work: None };
    }
    let local = job.spec.placement.scope == Scope::Local;
    let frozen = decided.frozen(&read.model.manifest_digest, around.now).filter(|_| !local);
    match work(job, read, memory, around.smallest_memory) {
        Ok(mut work) => {
            (work.need.rules, work.need.owner) = (decided.norms().placement.clone(), owner.clone());
            Checked { accepted, approved, work: Some(Work { frozen, ..work }) }
        }
        Err(verdict) => Checked { accepted: verdict, approved, work: None },
    }
}

/// The strings of a job, read once.
struct Read<'a> {
    job: JobRef,
    served_name: ServedName,
    model: ModelRef,
    /// Without the number of GPUs, which follows from the release.
    need: Need,
    entry: &'a Engine,
    engine: EngineChoice,
}

fn read<'a>(job: &InferenceJob, decided: &'a State) -> Result<Read<'a>, Verdict> {
    let invalid = |what: &str, why: String| Verdict::no(Reason::InvalidRequest, format!("{what}: {why}"));
    let spec = &job.spec;
    let uid: ObjectUid =
        job.uid().unwrap_or_default().parse().map_err(|e: IdError| invalid("metadata.uid", e.to_string()))?;
    let namespace = job.namespace().unwrap_or_default();
    let job_ref = JobRef {
        namespace: namespace.parse().map_err(|e: IdError| invalid("metadata.namespace", e.to_string()))?,
        name: job.name_any().parse().map_err(|e: IdError| invalid("metadata.name", e.to_string()))?,
        uid,
    };
    let served_name = spec.served_name.parse().map_err(|e: IdError| invalid("spec.servedName", e.to_string()))?;
    let model: ModelRef = (&spec.model).try_into().map_err(|e: ConvertError| invalid("spec.model", e.to_string()))?;
    let need = super::need(spec, 0).map_err(|error| Verdict::no(Reason::InvalidRequest, error.to_string()))?;
    if need.min_evidence > EvidenceLevel::MOST_AVAILABLE {
        let why = format!("spec.placement.minEvidence: {ATTESTED_NOT_AVAILABLE}; ask for Challenged");
        return Err(Verdict::no(Reason::EvidenceNotAvailable, why));
    }
    let engines = decided.engines();
    let entry = engines.iter().find(|(name, _)| name.as_str() == spec.engine.name).map(|(_, entry)| entry).ok_or_else(
        || {
            let known: Vec<&str> = engines.keys().map(EngineName::as_str).collect();
            let known = if known.is_empty() { "nothing yet".to_owned() } else { known.join(", ") };
            Verdict::no(
                Reason::EngineUnknown,
                format!(
                    "the catalogue has no engine {}: it has {known}; others come by proposal (addEngine)",
                    spec.engine.name
                ),
            )
        },
    )?;
    let engine = convert::engine_choice(&spec.engine, Some(entry))
        .map_err(|error| Verdict::no(Reason::EngineOptionInvalid, error.to_string()))?;
    entry.check_options(&engine.options).map_err(|error| {
        let reason = match error {
            CatalogueError::UnknownOption { .. } => Reason::EngineOptionUnknown,
            _ => Reason::EngineOptionInvalid,
        };
        Verdict::no(reason, error.to_string())
    })?;
    Ok(Read { job: job_ref, served_name, model, need, entry, engine })
}

/// Whether the model may be served, and the memory that its release states.
fn approval(job: &InferenceJob, read: &Read<'_>, decided: &State, owner: &OwnerRules) -> (Verdict, Option<Bytes>) {
    let digest = read.model.manifest_digest;
    let known = decided.releases().get(&digest);
    let enacted = known.filter(|release| release.withdrawn.is_none()).map(|release| &release.release);
    if job.spec.placement.scope == Scope::Local {
        let memory = enacted.and_then(|release| release.memory_bytes);
        return (Verdict::yes(Reason::LocalScope, "it stays in this cluster, which needs no approval"), memory);
    }
    let model = &read.model;
    let propose = format!(
        "propose it with: kubectl koinon propose add-model-release --uri {} --revision {} --manifest-digest {digest} --quantization {} --license …",
        model.uri, model.revision, model.quantization
    );
    let Some(release) = enacted else {
        let verdict = if known.is_some() {
            Verdict::no(Reason::ReleaseWithdrawn, format!("the cooperative withdrew {digest}; {propose}"))
        } else {
            Verdict::no(Reason::ReleaseNotEnacted, format!("the cooperative approved no release {digest}; {propose}"))
        };
        return (verdict, None);
    };
    if release.quantization != model.quantization || release.uri != model.uri || release.revision != model.revision {
        let verdict = Verdict::no(
            Reason::ReleaseNotEnacted,
            format!(
                "{digest} is approved as {} at revision {} with quantization {}, the job names {} at {} with {}; use the approved words",
                release.uri, release.revision, release.quantization, model.uri, model.revision, model.quantization
            ),
        );
        return (verdict, None);
    }
    if !release.engines.is_empty() && !release.engines.contains(&read.entry.name) {
        let engines: Vec<&str> = release.engines.iter().map(EngineName::as_str).collect();
        let verdict = Verdict::no(
            Reason::EngineNotAllowed,
            format!("the release may be served with {}, the job names {}", engines.join(", "), read.entry.name),
        );
        return (verdict, None);
    }
    if !owner.allow_license(release) {
        let verdict = Verdict::no(
            Reason::LicenseNotAllowed,
            format!(
                "{digest} is under {}, which limits.licenses of this member's Cooperative does not list",
                release.license
            ),
        );
        return (verdict, None);
    }
    (Verdict::yes(Reason::ReleaseEnacted, format!("the cooperative approved {digest}")), release.memory_bytes)
}

fn work(job: &InferenceJob, read: Read<'_>, memory: Option<Bytes>, smallest: Option<Bytes>) -> Result<Work, Verdict> {
    let (spec, placement) = (&job.spec, &job.spec.placement);
    let (count, explanation) = count(spec.gpu.count, memory, smallest)?;
    let positive = |number: i32| u32::try_from(number).unwrap_or(1).max(1);
    let mut need = read.need;
    need.gpu.count = count;
    let tensor =
        if spec.gpu.tensor_parallel > 0 { spec.gpu.tensor_parallel } else { i32::try_from(count).unwrap_or(i32::MAX) };
    Ok(Work {
        job: read.job,
        scope: placement.scope,
        served_name: read.served_name,
        model: read.model,
        engine: read.engine,
        max_model_len: positive(spec.max_model_len),
        max_concurrency: positive(spec.max_concurrency),
        need,
        on_partition: placement.on_partition.into(),
        resolved: Resolved {
            gpus: i32::try_from(count).unwrap_or(i32::MAX),
            tensor_parallel: Some(tensor),
            explanation: Some(explanation),
        },
        frozen: None,
    })
}

/// The GPUs of one replica, and how that number was found.
fn count(asked: i32, memory: Option<Bytes>, smallest: Option<Bytes>) -> Result<(u32, String), Verdict> {
    match (u32::try_from(asked).unwrap_or(0), memory, smallest) {
        (0, Some(memory), Some(gpu)) => {
            let size = ModelSize { weight_bytes: memory.0, cache_bytes: 0 };
            let Some(gpus) = gpus_needed(size, gpu.0).and_then(|gpus| u32::try_from(gpus).ok()) else {
                return Err(Verdict::no(
                    Reason::ExceedsLargestNode,
                    format!(
                        "{memory} bytes do not fit eight GPUs of {gpu} bytes; choose another class, or state spec.gpu.count"
                    ),
                ));
            };
            Ok((gpus, format!("{memory} bytes of the release over GPUs of {gpu} bytes")))
        }
        (0, None, _) => Ok((1, "the release states no memory, so one GPU is taken".to_owned())),
        (0, Some(_), None) => Ok((1, "nobody offers the class yet, so one GPU is taken".to_owned())),
        (count, _, _) => Ok((count, "as the job asks".to_owned())),
    }
}

/// An older job of the same namespace with the same served name. Of two made in the same second the smaller UID wins.
#[must_use]
pub fn namesake<'a>(job: &InferenceJob, all: impl IntoIterator<Item = &'a InferenceJob>) -> Option<String> {
    let age = |job: &InferenceJob| (job.creation_timestamp().map(|time| time.0), job.uid());
    all.into_iter()
        .filter(|other| other.namespace() == job.namespace() && other.spec.served_name == job.spec.served_name)
        .filter(|other| other.uid() != job.uid() && age(other) < age(job))
        .map(|other| other.name_any())
        .next()
}

/// The memory of the smallest GPU of `class` in these offers.
#[must_use]
pub fn smallest_memory<'a>(class: &str, offers: impl IntoIterator<Item = &'a Offer>) -> Option<Bytes> {
    let classes = offers.into_iter().flat_map(|offer| &offer.classes);
    classes.filter(|offered| offered.class.as_str() == class).map(|offered| offered.memory_bytes).min()
}

/// How one member is seen from here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How it is heard; `None` where nothing is known. Of no account for the home itself.
    pub liveness: Option<Liveness>,
    /// Whether the owner here keeps work away from it.
    pub cordoned: bool,
    /// Its newest offer that still holds, and the age of that.
    pub offer: Option<(Offer, Seconds)>,
    /// Replicas of this job that it hosts already.
    pub replicas_here: u32,
    /// Why it refused a short while ago.
    pub refused_lately: Option<String>,
    /// GPUs of the job's class that this home holds there.
    pub gpus_held: u32,
}

/// The members as the planner judges them at `now` for work of `scope` whose home is `me`.
pub fn candidates(
    decided: &State,
    me: &MemberId,
    scope: Scope,
    now: UnixSeconds,
    mut see: impl FnMut(&MemberId) -> Seen,
) -> Vec<Candidate> {
    let home_halted = decided.halted(me, now);
    let there = decided.members().iter().filter(|(_, member)| !member.standing.is_gone());
    let asked = there.filter(|(id, _)| scope != Scope::Local || *id == me);
    asked
        .map(|(id, member)| {
            let (own, seen) = (id == me, see(id));
            Candidate {
                member: id.clone(),
                liveness: (!own).then(|| seen.liveness.unwrap_or(Liveness::Suspect)),
                // An owner's own work on its own GPUs is nobody else's business.
                halted: decided.halted(id, now).filter(|_| !own),
                home_halted: home_halted.filter(|_| !own),
                on_probation: (!own && member.standing == MemberStanding::Probationary).then_some(seen.gpus_held),
                cordoned: !own && seen.cordoned,
                offer: seen.offer,
                replicas_here: seen.replicas_here,
                refused_lately: seen.refused_lately,
            }
        })
        .collect()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
