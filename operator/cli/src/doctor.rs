//! `kubectl koinon doctor`: what is wrong with this installation, and what to do about it.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{self, ConditionType};
use koinon_api::{Cooperative, GPUNode, Member, labels};
use koinon_core::ids::Endpoint;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use crate::access::Access;
use crate::cluster::Cluster;
use crate::output::print_table;

/// How long an endpoint is dialled before it counts as unreachable.
const DIAL: Duration = Duration::from_secs(3);

/// Check this member's installation: definitions, processes, keys, GPUs, network policy, storage, endpoints, peers.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Unknown,
    Bad,
}

struct Finding {
    what: String,
    verdict: Verdict,
    detail: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn note(&mut self, what: impl Into<String>, verdict: Verdict, detail: impl Into<String>) {
        self.0.push(Finding { what: what.into(), verdict, detail: detail.into() });
    }
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self {} = self;
        let cluster = Cluster::connect(access).await?;
        let mut findings = Findings::default();
        definitions(&cluster, &mut findings).await;
        processes(&cluster, &mut findings).await;
        match cluster.operator_key().await {
            Ok(key) => findings.note("operator key", Verdict::Good, key.to_string()),
            Err(error) => findings.note("operator key", Verdict::Bad, format!("{error:#}")),
        }
        gpus(&cluster, &mut findings).await;
        match cluster.find_cooperative().await {
            Ok(Some(cooperative)) => membership(&cluster, &cooperative, &mut findings).await,
            Ok(None) => findings.note(
                "membership",
                Verdict::Bad,
                "none yet: kubectl koinon found, or kubectl koinon join with an invite",
            ),
            Err(error) => findings.note("membership", Verdict::Bad, format!("{error:#}")),
        }
        let rows: Vec<Vec<String>> = findings
            .0
            .iter()
            .map(|finding| {
                let mark = match finding.verdict {
                    Verdict::Good => "ok",
                    Verdict::Unknown => "?",
                    Verdict::Bad => "BAD",
                };
                vec![mark.to_owned(), finding.what.clone(), finding.detail.clone()]
            })
            .collect();
        print_table(&["", "CHECK", "FOUND"], &rows);
        let bad = findings.0.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
        if bad > 0 {
            anyhow::bail!("{bad} checks failed");
        }
        Ok(())
    }
}

async fn definitions(cluster: &Cluster, findings: &mut Findings) {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    for wanted in koinon_api::crd::all() {
        let name = wanted.name_any();
        let (verdict, detail) = match api.get_opt(&name).await {
            Ok(Some(found)) if found.spec == wanted.spec => (Verdict::Good, "as this version expects".to_owned()),
            Ok(Some(_)) => (
                Verdict::Unknown,
                "differs from this version's (an older chart, or the API server's defaults)".to_owned(),
            ),
            Ok(None) => (Verdict::Bad, "missing: helm install koinon-crds".to_owned()),
            Err(error) => (Verdict::Unknown, error.to_string()),
        };
        if verdict != Verdict::Good {
            findings.note(format!("definition {name}"), verdict, detail);
        }
    }
    if findings.0.is_empty() {
        findings.note("definitions", Verdict::Good, "all there, as this version expects");
    }
}

async fn processes(cluster: &Cluster, findings: &mut Findings) {
    for name in [labels::OPERATOR, labels::GATEWAY] {
        let found = cluster.api::<Deployment>().get_opt(name).await.map(|found| {
            found.map(|deployment| {
                let status = deployment.status.unwrap_or_default();
                (status.ready_replicas.unwrap_or(0), status.replicas.unwrap_or(0))
            })
        });
        replicas(cluster, name, found, findings);
    }
    let weights = cluster.api::<StatefulSet>().get_opt(labels::WEIGHTS).await.map(|found| {
        found.map(|set| {
            let status = set.status.unwrap_or_default();
            (status.ready_replicas.unwrap_or(0), status.replicas)
        })
    });
    replicas(cluster, labels::WEIGHTS, weights, findings);
    let agents: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), labels::AGENT_NAMESPACE);
    match agents.get_opt(labels::AGENT).await {
        Ok(Some(agents)) => {
            let status = agents.status.unwrap_or_default();
            let verdict =
                if status.number_ready == status.desired_number_scheduled { Verdict::Good } else { Verdict::Bad };
            let detail = format!("{} of {} are ready", status.number_ready, status.desired_number_scheduled);
            findings.note("koinon-agent", verdict, detail);
        }
        Ok(None) => findings.note("koinon-agent", Verdict::Bad, format!("no DaemonSet in {}", labels::AGENT_NAMESPACE)),
        Err(error) => findings.note("koinon-agent", Verdict::Unknown, error.to_string()),
    }
}

/// Notes how many replicas of a part are ready, of how many.
fn replicas(cluster: &Cluster, name: &str, found: kube::Result<Option<(i32, i32)>>, findings: &mut Findings) {
    let (verdict, detail) = match found {
        Ok(Some((ready, wanted))) => {
            let verdict = if ready >= 1 && ready == wanted { Verdict::Good } else { Verdict::Bad };
            (verdict, format!("{ready} of {wanted} replicas are ready"))
        }
        Ok(None) => (Verdict::Bad, format!("not in {}: helm install koinon", cluster.namespace)),
        Err(error) => (Verdict::Unknown, error.to_string()),
    };
    findings.note(name, verdict, detail);
}

async fn gpus(cluster: &Cluster, findings: &mut Findings) {
    let nodes: Api<GPUNode> = Api::all(cluster.client.clone());
    match nodes.list(&ListParams::default()).await {
        Ok(found) if found.items.is_empty() => findings.note("GPUs", Verdict::Unknown, "no agent has reported yet"),
        Ok(found) => {
            for node in found.items {
                let status = node.status.clone().unwrap_or_default();
                let nvml = conditions::find(&status.conditions, ConditionType::NVMLAvailable);
                let message = nvml.map(|condition| format!("{}: {}", condition.reason, condition.message));
                let detail = format!("{} devices; {}", status.devices.len(), message.unwrap_or_default());
                let verdict = match nvml.map(|condition| condition.status.as_str()) {
                    Some("True") => Verdict::Good,
                    // A node without GPUs has no driver either; only its owner knows whether it should.
                    _ => Verdict::Unknown,
                };
                findings.note(format!("GPUs of {}", node.name_any()), verdict, detail);
            }
        }
        Err(error) => findings.note("GPUs", Verdict::Unknown, error.to_string()),
    }
}

/// What the operator says of itself. What it does not say is not known.
fn reported(conditions: &[Condition], findings: &mut Findings) {
    if conditions.is_empty() {
        findings.note("membership", Verdict::Unknown, "the operator has not reported yet");
    }
    for condition in conditions {
        let verdict = match condition.status.as_str() {
            "True" => Verdict::Good,
            "False" => Verdict::Bad,
            _ => Verdict::Unknown,
        };
        findings.note(&condition.type_, verdict, format!("{}: {}", condition.reason, condition.message));
    }
    // That an endpoint answers from here says nothing of who else reaches it.
    let reachable = ConditionType::EndpointReachable;
    if conditions::find(conditions, reachable).is_none() {
        findings.note(reachable.as_str(), Verdict::Unknown, "no peer has said yet whether it reaches this member");
    }
}

async fn membership(cluster: &Cluster, cooperative: &Cooperative, findings: &mut Findings) {
    let status = cooperative.status.clone().unwrap_or_default();
    reported(&status.conditions, findings);
    let spec = &cooperative.spec;
    let own = spec.endpoints.peer.iter().chain(&spec.endpoints.gateway);
    for endpoint in own {
        match dial(endpoint).await {
            Ok(()) => findings.note(format!("own endpoint {endpoint}"), Verdict::Good, "answers from here"),
            Err(why) => findings.note(
                format!("own endpoint {endpoint}"),
                Verdict::Bad,
                format!("{why}; open the port, and check spec.endpoints"),
            ),
        }
    }
    match cluster.list::<Member>("members").await {
        Ok(members) => {
            for member in members.iter().filter(|member| member.name_any() != spec.member) {
                let status = member.status.clone().unwrap_or_default();
                let reachable = conditions::find(&status.conditions, ConditionType::Reachable);
                let (verdict, detail) = match reachable {
                    Some(condition) if condition.status == "True" => (Verdict::Good, condition.message.clone()),
                    Some(condition) => (Verdict::Bad, format!("{}: {}", condition.reason, condition.message)),
                    None => (Verdict::Unknown, "not tried yet".to_owned()),
                };
                findings.note(format!("peer {}", member.name_any()), verdict, detail);
            }
        }
        Err(error) => findings.note("peers", Verdict::Unknown, error.to_string()),
    }
}

async fn dial(endpoint: &str) -> Result<(), String> {
    let parsed: Endpoint = endpoint.parse().map_err(|error| format!("{error}"))?;
    let (host, port) = parsed.host_port();
    match tokio::time::timeout(DIAL, tokio::net::TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", DIAL.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: Option<&str>) -> Verdict {
        let type_ = ConditionType::EndpointReachable.as_str();
        let conditions: Vec<Condition> = status
            .map(|status| {
                let condition = serde_json::json!({"type": type_, "status": status, "reason": "r", "message": "m",
                    "lastTransitionTime": "2026-11-21T00:00:00Z"});
                serde_json::from_value(condition).unwrap()
            })
            .into_iter()
            .collect();
        let mut findings = Findings::default();
        reported(&conditions, &mut findings);
        findings.0.iter().find(|finding| finding.what == type_).unwrap().verdict
    }

    #[test]
    fn an_own_endpoint_passes_only_where_a_peer_has_dialled_it_back() {
        assert_eq!(verdict(Some("True")), Verdict::Good);
        assert_eq!(verdict(Some("False")), Verdict::Bad);
        for unsaid in [Some("Unknown"), None] {
            assert_eq!(verdict(unsaid), Verdict::Unknown);
        }
    }
}
