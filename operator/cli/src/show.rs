//! `kubectl koinon members`, `offers`, `proposals`: what this member knows of the others.

use koinon_api::conditions::{self, ConditionType};
use koinon_api::{GPUOffer, Member, Proposal, time};
use kube::ResourceExt as _;

use crate::access::Access;
use crate::cluster::{Cluster, now};
use crate::output::{age, one_line, or_dash, print_table};

/// List the members: state, how they are heard, and since when.
#[derive(Debug, clap::Args)]
pub struct MembersArgs {}

impl MembersArgs {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        let found = cluster.list::<Member>("members").await?;
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|member| {
                let status = member.status.clone().unwrap_or_default();
                let seen = status.last_seen_time.as_ref().map(|seen| age(now().0 - time::to_unix(seen)));
                vec![
                    member.name_any(),
                    or_dash(status.owner),
                    or_dash(status.site.map(|site| format!("{}/{}", site.region, site.jurisdiction))),
                    or_dash(status.state.map(|state| format!("{state:?}"))),
                    or_dash(status.liveness.map(liveness)),
                    or_dash(seen),
                    if member.spec.cordoned { "cordoned".to_owned() } else { "-".to_owned() },
                ]
            })
            .collect();
        print_table(&["MEMBER", "OWNER", "REGION", "STATE", "HEARD", "LAST SEEN", "STANCE"], &rows);
        for said in found.iter().filter_map(notable) {
            println!("{said}");
        }
        Ok(())
    }
}

/// What the cooperative says of a member that is not simply Active, in one line.
fn notable(member: &Member) -> Option<String> {
    let status = member.status.as_ref()?;
    let told = conditions::find(&status.conditions, ConditionType::MayWork).filter(|told| told.reason != "Active")?;
    let until = status.probation_ends_time.as_ref().map(|ends| format!("; a vote may confirm it from {}", ends.0));
    Some(format!("{}{}", one_line(&told.message), until.unwrap_or_default()))
}

fn liveness(liveness: koinon_api::member::Liveness) -> String {
    let word = serde_json::to_value(liveness).ok();
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// List the GPUs that members offer, with the age of each figure.
#[derive(Debug, clap::Args)]
pub struct OffersArgs {}

impl OffersArgs {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        let found = cluster.list::<GPUOffer>("offers").await?;
        let mut rows = Vec::new();
        for offer in &found {
            let status = offer.status.clone().unwrap_or_default();
            let heard = or_dash(status.as_of_time.as_ref().map(|as_of| age(now().0 - time::to_unix(as_of))));
            let stale = status.not_after_time.as_ref().is_some_and(|end| time::to_unix(end) <= now().0);
            let guests = or_dash(status.guests.map(|mode| format!("{mode:?}")));
            let network = or_dash(status.network_policy.map(|state| format!("{state:?}")));
            for class in &status.classes {
                rows.push(vec![
                    offer.name_any(),
                    class.class.clone(),
                    class.product.clone(),
                    format!("{} GiB", class.memory_bytes >> 30),
                    if stale { "0 (stale)".to_owned() } else { class.offered.to_string() },
                    class.largest_block.to_string(),
                    format!("{:?}", class.evidence),
                    guests.clone(),
                    network.clone(),
                    heard.clone(),
                ]);
            }
            if status.classes.is_empty() {
                let dash = || "-".to_owned();
                rows.push(vec![
                    offer.name_any(),
                    dash(),
                    dash(),
                    dash(),
                    "0".to_owned(),
                    dash(),
                    dash(),
                    guests,
                    network,
                    heard,
                ]);
            }
        }
        print_table(
            &["MEMBER", "CLASS", "PRODUCT", "MEMORY", "OFFERED", "ON ONE NODE", "EVIDENCE", "GUESTS", "NETWORK", "AGE"],
            &rows,
        );
        Ok(())
    }
}

/// List the proposals with their tallies.
#[derive(Debug, clap::Args)]
pub struct ProposalsArgs {}

impl ProposalsArgs {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let cluster = Cluster::connect(access).await?;
        let found = cluster.list::<Proposal>("proposals").await?;
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|proposal| {
                let status = proposal.status.clone().unwrap_or_default();
                let tally = status.tally.unwrap_or_default();
                let closes = status.closes_time.as_ref().map(|closes| {
                    let left = time::to_unix(closes) - now().0;
                    if left > 0 { format!("in {}", age(left)) } else { format!("{} ago", age(-left)) }
                });
                vec![
                    proposal.name_any(),
                    one_line(&proposal.spec.title),
                    or_dash(status.author),
                    status.state.map_or_else(|| "Draft".to_owned(), |state| format!("{state:?}")),
                    format!("{}/{}/{}/{}", tally.approve, tally.reject, tally.abstain, tally.veto),
                    tally.electors.to_string(),
                    or_dash(closes),
                ]
            })
            .collect();
        print_table(&["NAME", "TITLE", "AUTHOR", "STATE", "YES/NO/ABSTAIN/VETO", "ELECTORS", "CLOSES"], &rows);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_may_not_work_is_told_of_with_why() {
        let member = |reason: &str, message: &str| -> Member {
            let condition = serde_json::json!({"type": "MayWork", "status": "False", "reason": reason,
                "message": message, "lastTransitionTime": "2026-11-21T00:00:00Z"});
            let object = serde_json::json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "Member",
                "metadata": {"name": "cork"}, "spec": {}, "status": {"conditions": [condition]}});
            serde_json::from_value(object).unwrap()
        };
        let suspended = member("Suspended", "cork is suspended by order sha256:aa until 2026-11-22T00:00:00Z");
        assert!(notable(&suspended).unwrap().starts_with("cork is suspended by order"));
        assert_eq!(notable(&member("Active", "cork may work")), None);
    }
}
