//! `kubectl koinon doctor`: what is wrong with this installation, and what to do about it.

mod definitions;
mod reported;
mod taints;

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use koinon_api::conditions::{self, ConditionType};
use koinon_api::{Cooperative, GPUNode, GPUPool, Member, labels};
use koinon_core::ids::Endpoint;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use crate::access::Access;
use crate::cluster::Cluster;
use crate::doctor::definitions::Gap;
use crate::output::print_table;

/// How long an endpoint is dialled before it counts as unreachable.
const DIAL: Duration = Duration::from_secs(3);

/// Check this member's installation: definitions, processes, keys, GPUs, network policy, storage, endpoints, peers.
///
/// Each line is ok, a note (as somebody chose it, or as it takes its course), ? (not known yet) or BAD; whatever is not ok
/// says what to do. The command fails if anything is BAD.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// As the owner chose it, or as it takes its course.
    Note,
    Unknown,
    Bad,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    what: String,
    verdict: Verdict,
    detail: String,
    fix: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.add(what, Verdict::Good, detail, "");
    }

    fn add(&mut self, what: impl Into<String>, verdict: Verdict, detail: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { what: what.into(), verdict, detail: detail.into(), fix: fix.into() });
    }

    /// What could not be asked is not known.
    fn unasked(&mut self, what: impl Into<String>, error: impl Into<anyhow::Error>) {
        let fix = "see what this person may read: kubectl auth can-i --list";
        self.add(what, Verdict::Unknown, crate::told(&error.into()), fix);
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for finding in &self.0 {
            let mark = match finding.verdict {
                Verdict::Good => "ok",
                Verdict::Note => "note",
                Verdict::Unknown => "?",
                Verdict::Bad => "BAD",
            };
            rows.push(vec![mark.to_owned(), finding.what.clone(), finding.detail.clone()]);
            if !finding.fix.is_empty() {
                rows.push(vec![String::new(), String::new(), format!("-> {}", finding.fix)]);
            }
        }
        rows
    }
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self {} = self;
        let cluster = Cluster::connect(access).await?;
        // Without an answer nothing below is known: one error says more than twenty question marks.
        let version = cluster.client.apiserver_version().await.context(
            "the API server does not answer this person: check --kubeconfig and --context with kubectl version",
        )?;
        let mut findings = Findings::default();
        findings.good("API server", format!("answers as {}", version.git_version));
        let defined = installed(&cluster, &mut findings).await;
        let shares = defined
            && match cluster.list::<GPUPool>("pools").await {
                Ok(pools) => {
                    reported::pools(&pools, &mut findings);
                    taints::look(&cluster, &pools, &mut findings).await;
                    !pools.is_empty()
                }
                Err(error) => {
                    findings.unasked("pools", error);
                    false
                }
            };
        processes(&cluster, shares, &mut findings).await;
        match cluster.operator_key().await {
            Ok(key) => findings.good("operator key", key.to_string()),
            Err(error) => {
                let fix = format!(
                    "kubectl logs -n {} deployment/{}; if the key was lost: kubectl koinon keys restore BACKUP",
                    cluster.namespace,
                    labels::OPERATOR
                );
                findings.add("operator key", Verdict::Bad, crate::told(&error), fix);
            }
        }
        if defined {
            gpus(&cluster, shares, &mut findings).await;
            member(&cluster, &mut findings).await;
        }
        print_table(&["", "CHECK", "FOUND"], &findings.rows());
        let bad = findings.0.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
        if bad > 0 {
            anyhow::bail!("checks that failed: {bad}");
        }
        Ok(())
    }
}

/// Notes the definitions; `false` where one is not there, so that its objects cannot be asked for.
async fn installed(cluster: &Cluster, findings: &mut Findings) -> bool {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let upgrade =
        "install the chart koinon-crds of this version: helm upgrade --install koinon-crds charts/koinon-crds";
    let (before, mut missing) = (findings.0.len(), Vec::new());
    for wanted in koinon_api::crd::all() {
        let name = wanted.name_any();
        let what = format!("definition {name}");
        let found = match api.get_opt(&name).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                missing.push(name);
                continue;
            }
            Err(error) => {
                findings.unasked(what, error);
                continue;
            }
        };
        match (serde_json::to_value(&wanted.spec), serde_json::to_value(&found.spec)) {
            (Ok(wanted), Ok(found)) => match definitions::gap(&wanted, &found) {
                None => {}
                Some(Gap::Lacks(path)) => {
                    findings.add(what, Verdict::Bad, format!("lacks spec{path}, which this version has"), upgrade);
                }
                Some(Gap::Differs(path)) => {
                    let fix = format!("{upgrade}; if that chart is the newer one, update this command instead");
                    findings.add(what, Verdict::Unknown, format!("spec{path} is another than this version's"), fix);
                }
            },
            (Err(error), _) | (_, Err(error)) => findings.unasked(what, error),
        }
    }
    if !missing.is_empty() {
        findings.add("definitions", Verdict::Bad, format!("not installed: {}", missing.join(", ")), upgrade);
    } else if findings.0.len() == before {
        findings.good("definitions", "all there, with everything that this version needs");
    }
    missing.is_empty()
}

async fn processes(cluster: &Cluster, shares: bool, findings: &mut Findings) {
    for name in [labels::OPERATOR, labels::GATEWAY] {
        let found = cluster.api::<Deployment>().get_opt(name).await.map(|found| {
            found.map(|deployment| {
                let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
                (deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0), wanted)
            })
        });
        replicas(cluster, "deployment", name, found, findings);
    }
    let weights = cluster.api::<StatefulSet>().get_opt(labels::WEIGHTS).await.map(|found| {
        found.map(|set| {
            let wanted = set.spec.and_then(|spec| spec.replicas).unwrap_or(1);
            (set.status.and_then(|status| status.ready_replicas).unwrap_or(0), wanted)
        })
    });
    replicas(cluster, "statefulset", labels::WEIGHTS, weights, findings);
    let agents: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), labels::AGENT_NAMESPACE);
    match agents.get_opt(labels::AGENT).await {
        Ok(found) => {
            let counts = found.map(|agents| {
                let status = agents.status.unwrap_or_default();
                (status.number_ready, status.desired_number_scheduled)
            });
            agent(counts, shares, findings);
        }
        Err(error) => findings.unasked(labels::AGENT, error),
    }
}

/// Notes the agents, ready and wanted. Only a cluster that shares GPUs needs any.
fn agent(counts: Option<(i32, i32)>, shares: bool, findings: &mut Findings) {
    let none = match counts {
        None => format!("no DaemonSet in namespace {}", labels::AGENT_NAMESPACE),
        Some((_, 0)) => "no node is to run it".to_owned(),
        Some((ready, wanted)) => {
            let detail = format!("{ready} of {wanted} are ready");
            if ready == wanted {
                findings.good(labels::AGENT, detail);
            } else {
                let fix = format!("kubectl describe pods -n {}", labels::AGENT_NAMESPACE);
                findings.add(labels::AGENT, Verdict::Bad, detail, fix);
            }
            return;
        }
    };
    if shares {
        let fix = "a GPUPool needs it: helm upgrade koinon … --set agent.enabled=true, and check agent.nodeSelector";
        findings.add(labels::AGENT, Verdict::Bad, none, fix);
    } else {
        let fix =
            "nothing, while this cluster shares no GPUs; to share: helm upgrade koinon … --set agent.enabled=true";
        findings.add(labels::AGENT, Verdict::Note, none, fix);
    }
}

/// Notes how many replicas of a part are ready, of how many that were asked for.
fn replicas(
    cluster: &Cluster,
    kind: &str,
    name: &str,
    found: kube::Result<Option<(i32, i32)>>,
    findings: &mut Findings,
) {
    let namespace = &cluster.namespace;
    match found {
        Ok(Some((_, 0))) => {
            let fix = format!("kubectl scale -n {namespace} {kind}/{name} --replicas=1");
            findings.add(name, Verdict::Bad, "somebody scaled it to 0 replicas", fix);
        }
        Ok(Some((ready, wanted))) => {
            let detail = format!("{ready} of {wanted} replicas are ready");
            if ready >= wanted {
                findings.good(name, detail);
            } else {
                let fix = format!("kubectl get pods -n {namespace}, then kubectl describe pod -n {namespace} POD");
                findings.add(name, Verdict::Bad, detail, fix);
            }
        }
        Ok(None) => {
            let fix = format!(
                "helm upgrade --install koinon charts/koinon -n {}; if the release is elsewhere: -n NAMESPACE",
                cluster.namespace
            );
            findings.add(name, Verdict::Bad, format!("is not in namespace {}", cluster.namespace), fix);
        }
        Err(error) => findings.unasked(name, error),
    }
}

async fn gpus(cluster: &Cluster, shares: bool, findings: &mut Findings) {
    let nodes: Api<GPUNode> = Api::all(cluster.client.clone());
    match nodes.list(&ListParams::default()).await {
        Ok(found) if found.items.is_empty() && shares => {
            let fix = format!("kubectl logs -n {} daemonset/{}", labels::AGENT_NAMESPACE, labels::AGENT);
            findings.add("GPUs", Verdict::Unknown, "no agent has reported yet", fix);
        }
        Ok(found) if found.items.is_empty() => {
            let fix = "nothing, while this cluster only uses others' GPUs; to share its own, apply a GPUPool";
            findings.add("GPUs", Verdict::Note, "this cluster reports none", fix);
        }
        Ok(found) => {
            for node in found.items {
                let status = node.status.clone().unwrap_or_default();
                let nvml = conditions::find(&status.conditions, ConditionType::NVMLAvailable);
                let message = nvml.map(|condition| format!("{}: {}", condition.reason, condition.message));
                let detail = format!("{} devices; {}", status.devices.len(), message.unwrap_or_default());
                let what = format!("GPUs of {}", node.name_any());
                match nvml.map(|condition| condition.status.as_str()) {
                    Some("True") => findings.good(what, detail),
                    // A node without GPUs has no driver either; only its owner knows whether it should.
                    _ => {
                        let fix = "if this node has NVIDIA GPUs, install their driver and set agent.runtimeClassName of the chart";
                        findings.add(what, Verdict::Unknown, detail, fix);
                    }
                }
            }
        }
        Err(error) => findings.unasked("GPUs", error),
    }
}

/// Notes what this cluster is a member of.
async fn member(cluster: &Cluster, findings: &mut Findings) {
    match cluster.find_cooperative().await {
        Ok(Some(cooperative)) => membership(cluster, &cooperative, findings).await,
        Ok(None) => findings.add(
            "membership",
            Verdict::Bad,
            format!("namespace {} holds no Cooperative", cluster.namespace),
            "kubectl koinon found, or kubectl koinon join with an invite; if the release is elsewhere: -n NAMESPACE",
        ),
        Err(error) => findings.unasked("membership", error),
    }
}

async fn membership(cluster: &Cluster, cooperative: &Cooperative, findings: &mut Findings) {
    let status = cooperative.status.clone().unwrap_or_default();
    let spec = &cooperative.spec;
    reported::membership(&status.conditions, spec.endpoints.gateway.is_empty(), findings);
    let reached = conditions::find(&status.conditions, ConditionType::EndpointReachable);
    let peers_reach_it = reached.is_some_and(|condition| condition.status == "True");
    for (endpoint, known_good) in spec
        .endpoints
        .peer
        .iter()
        .map(|endpoint| (endpoint, peers_reach_it))
        .chain(spec.endpoints.gateway.iter().map(|endpoint| (endpoint, false)))
    {
        let what = format!("own endpoint {endpoint}");
        match dial(endpoint).await {
            Ok(()) => findings.good(what, "answers from here"),
            Err(why) if known_good => {
                let fix = "nothing: peers reach it, only this machine does not";
                findings.add(what, Verdict::Note, why, fix);
            }
            Err(why) => {
                let fix = "open the port and lead it to the release's Service as TCP passthrough; check spec.endpoints";
                findings.add(what, Verdict::Bad, why, fix);
            }
        }
    }
    match cluster.list::<Member>("members").await {
        Ok(members) => {
            for member in members.iter().filter(|member| member.name_any() != spec.member) {
                let status = member.status.clone().unwrap_or_default();
                let reachable = conditions::find(&status.conditions, ConditionType::Reachable);
                let what = format!("peer {}", member.name_any());
                match reachable {
                    Some(condition) if condition.status == "True" => findings.good(what, condition.message.clone()),
                    Some(condition) => {
                        let detail = format!("{}: {}", condition.reason, condition.message);
                        let fix = "let this cluster open TCP connections to that peer's endpoints (kubectl get kmem -o yaml), or ask its people";
                        findings.add(what, Verdict::Bad, detail, fix);
                    }
                    None => findings.add(what, Verdict::Unknown, "not tried yet", "ask again in a minute"),
                }
            }
        }
        Err(error) => findings.unasked("peers", error),
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

    #[test]
    fn a_cluster_that_shares_nothing_needs_no_agent_and_one_that_shares_does() {
        let judge = |counts, shares| {
            let mut findings = Findings::default();
            agent(counts, shares, &mut findings);
            findings.0[0].verdict
        };
        for counts in [None, Some((0, 0))] {
            assert_eq!(judge(counts, false), Verdict::Note);
            assert_eq!(judge(counts, true), Verdict::Bad);
        }
        assert_eq!(judge(Some((2, 2)), true), Verdict::Good);
        assert_eq!(judge(Some((1, 2)), false), Verdict::Bad, "an agent that does not start is wrong anywhere");
    }

    #[test]
    fn what_is_not_ok_says_below_what_to_do() {
        let mut findings = Findings::default();
        findings.good("a", "fine");
        agent(None, false, &mut findings);
        let rows = findings.rows();
        assert_eq!(rows.len(), 3);
        assert!(rows[2][2].starts_with("-> nothing, while this cluster shares no GPUs"), "{rows:?}");
    }
}
