//! `kubectl koinon challenge`: test now whether another member's GPUs compute as their class does.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Event;
use koinon_api::conditions::Reason;
use koinon_api::gpu_offer::{GPUOfferStatus, OfferChallenge};
use koinon_api::{GPUOffer, Member, labels, time};
use koinon_core::challenge::WHAT_IT_PROVES;
use koinon_core::ids::{GpuClass, MemberId, UnixSeconds};
use koinon_core::policy::State;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::access::Access;
use crate::cluster::{Cluster, now};

/// How often it is looked whether there is a result.
const LOOK: Duration = Duration::from_secs(2);
/// How long this member's operator may take to begin, and to have the host's GPUs granted.
const BEGIN: Duration = Duration::from_secs(120);

/// Challenge the GPUs of another member now, by the rules that the cooperative voted.
///
/// This member's operator asks the host for all its free GPUs of the class on one node, as a job as any other, has them compute,
/// checks the answer, and tells all members. It is bounded as every challenge is: one in everySeconds, mostSeconds long.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl koinon challenge cork --class h100-80 --dry-run   what would be asked, and whether it may be now
  kubectl koinon challenge cork --class h100-80             ask, and wait for the result")]
pub struct Args {
    /// The member's id, as kubectl koinon members lists it.
    member: MemberId,
    /// The class, as `h100-80`.
    #[arg(long)]
    class: GpuClass,
    /// Only say what would be asked.
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let (me, commons) = (membership.member.clone(), cluster.commons(&membership).await?);
        let offer = cluster.api::<GPUOffer>().get_opt(self.member.as_str()).await.context("cannot read the offer")?;
        let status = offer.and_then(|offer| offer.status);
        let status = status.with_context(|| format!("{} has made no offer; see kubectl get koffer", self.member))?;
        let plan = plan(commons.state(), &me, &self.member, &self.class, &status, now())?;
        println!("{}", plan.text);
        if self.dry_run {
            println!("(dry run) nobody was asked\n\n{WHAT_IT_PROVES}");
            return Ok(());
        }
        let since = now();
        let wish =
            time::from_unix(since.0).map(|time| format!("{} {}", self.class, time.0)).context("no time of day")?;
        let patch = json!({"metadata": {"annotations": {(labels::CHALLENGE_NOW): wish}}});
        let params = PatchParams::default();
        let members = cluster.api::<Member>();
        let asked = members.patch(self.member.as_str(), &params, &Patch::Merge(patch)).await;
        asked.with_context(|| format!("cannot ask for it on member {}; see kubectl koinon members", self.member))?;
        println!("asked this member's operator; it takes up to {} s", plan.most.as_secs());
        let found = self.wait(&cluster, &me, since, plan.most).await?;
        println!(
            "{}: {} ({} GPUs at once; {})\n\n{WHAT_IT_PROVES}",
            found.class, found.result, found.devices, found.message
        );
        match found.result.as_str() {
            "Fits" => Ok(()),
            "Nothing" => bail!("{} did not answer, which proves nothing", self.member),
            _ => bail!("{} failed the challenge", self.member),
        }
    }

    async fn wait(
        &self,
        cluster: &Cluster,
        me: &MemberId,
        since: UnixSeconds,
        most: Duration,
    ) -> anyhow::Result<OfferChallenge> {
        let began = Instant::now();
        while began.elapsed() < most {
            tokio::time::sleep(LOOK).await;
            let offer = cluster.api::<GPUOffer>().get(self.member.as_str()).await.context("cannot read the offer")?;
            let measured = offer.status.unwrap_or_default().challenges;
            if let Some(found) = measured.into_iter().find(|one| is_result(one, me, &self.class, since)) {
                return Ok(found);
            }
            if let Some(why) = self.refusal(cluster, since).await {
                bail!("this member's operator does not ask {}: {why}", self.member);
            }
        }
        bail!(
            "no result after {} s; see the events of the Member ({}) and the log of the operator",
            most.as_secs(),
            format_args!("kubectl describe kmem {}", self.member)
        )
    }

    /// Why the operator refuses to ask, if it said so since. Who may not read events waits for nothing.
    async fn refusal(&self, cluster: &Cluster, since: UnixSeconds) -> Option<String> {
        let of_member = format!("involvedObject.name={},reason={}", self.member, Reason::ChallengeRefused.as_str());
        let events = cluster.api::<Event>().list(&ListParams::default().fields(&of_member)).await.ok()?;
        events.items.into_iter().find_map(|event| told(event, since))
    }
}

/// What an event of a refusal says, if it is about a wish of `since` or later.
fn told(event: Event, since: UnixSeconds) -> Option<String> {
    let again = event.series.and_then(|series| series.last_observed_time);
    let at = again.max(event.event_time).map(|at| at.0.as_second())?;
    (at >= since.0).then_some(event.message).flatten()
}

fn is_result(one: &OfferChallenge, me: &MemberId, class: &GpuClass, since: UnixSeconds) -> bool {
    let at = one.measured_time.as_ref().map(time::to_unix);
    one.by == me.as_str() && one.class == class.as_str() && at.is_some_and(|at| at >= since.0)
}

/// What would be asked.
#[derive(Debug)]
struct Plan {
    text: String,
    most: Duration,
}

fn plan(
    state: &State,
    me: &MemberId,
    host: &MemberId,
    class: &GpuClass,
    offer: &GPUOfferStatus,
    now: UnixSeconds,
) -> anyhow::Result<Plan> {
    if host == me {
        bail!("nobody challenges itself: another member has to");
    }
    let Some(rules) = &state.norms().placement.challenges else {
        bail!("the cooperative voted for no challenges: propose set-placement-rules --challenges FILE");
    };
    let Some(asked) = rules.classes.get(class) else {
        let known: Vec<String> = rules.classes.keys().map(ToString::to_string).collect();
        bail!("the cooperative voted for no challenge of {class}, but of {}", known.join(", "));
    };
    let Some(offered) = offer.classes.iter().find(|offered| offered.class == class.as_str()) else {
        bail!("{host} does not offer {class}");
    };
    let devices = offered.largest_block.min(offered.offered);
    if devices == 0 {
        bail!("no {class} of {host} is free now: a challenge waits for no one, try again later");
    }
    let mine = offer.challenges.iter().filter(|one| one.by == me.as_str() && one.class == class.as_str());
    let last = mine
        .filter(|one| one.result != "Nothing")
        .filter_map(|one| one.measured_time.as_ref())
        .map(time::to_unix)
        .max();
    if let Some(left) = last.map(|last| last + rules.every_seconds.0 - now.0).filter(|left| *left > 0) {
        bail!("this member measured it already, and may again in {left} s (everySeconds of the vote)");
    }
    let (compute, recall) = (asked.compute, asked.recall);
    let text = format!(
        "{host} is asked for {devices} {class} on one node, for {} s at most, in a job with engine {}; each computes a matrix of {} \
         bytes in {} to {} ms and hashes it in {} to {} ms. {host} may refuse, which proves nothing.",
        rules.most_seconds,
        rules.engine,
        asked.size.memory(),
        compute.least,
        compute.most,
        recall.least,
        recall.most,
    );
    let most = Duration::from_secs(u64::try_from(rules.most_seconds.0).unwrap_or(0)) + BEGIN;
    Ok(Plan { text, most })
}

#[cfg(test)]
#[path = "challenge_tests.rs"]
mod tests;
