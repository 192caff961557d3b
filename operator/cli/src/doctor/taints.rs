//! Taints of what must not be used: whether they are as pools ask, and whether some are left that nobody asks for.

use k8s_openapi::api::core::v1::Node;
use koinon_api::conditions::{self, ConditionType};
use koinon_api::{GPUPool, labels};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use super::{Findings, Verdict};
use crate::cluster::Cluster;

/// Notes both.
pub async fn look(cluster: &Cluster, pools: &[GPUPool], findings: &mut Findings) {
    asked(pools, findings);
    if pools.iter().any(|pool| pool.spec.taint.nodes.is_some()) {
        return;
    }
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    match nodes.list(&ListParams::default()).await {
        Ok(nodes) => left(&nodes.items, &cluster.namespace, findings),
        Err(error) => findings.unasked("taints of nodes", error),
    }
}

fn asked(pools: &[GPUPool], findings: &mut Findings) {
    for pool in pools.iter().filter(|pool| !pool.spec.taint.is_off()) {
        let what = format!("taints of pool {}", pool.name_any());
        let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        match conditions::find(conditions, ConditionType::Tainting) {
            Some(said) if said.status == "True" => findings.good(what, &said.message),
            Some(said) => {
                let verdict = if said.status == "False" { Verdict::Bad } else { Verdict::Unknown };
                let fix = "what the message says; spec.taint of the GPUPool asks for it, operator.taints of the chart permits it";
                findings.add(what, verdict, format!("{}: {}", said.reason, said.message), fix);
            }
            None => {
                findings.add(what, Verdict::Unknown, "the operator has not looked at it yet", "ask again in a minute");
            }
        }
    }
}

/// No pool asks for taints of nodes: a running operator with the right to has taken them off.
fn left(nodes: &[Node], release: &str, findings: &mut Findings) {
    for node in nodes {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let own = |value: Option<&str>| value == Some(release);
        if taints.iter().any(|taint| taint.key == labels::UNHEALTHY_TAINT && own(taint.value.as_deref())) {
            let name = node.name_any();
            let fix = format!(
                "in a minute, unless operator.taints.nodes of the chart was turned off: kubectl taint nodes {name} {}-",
                labels::UNHEALTHY_TAINT
            );
            let detail = format!("{} is on it, and no pool asks for that", labels::UNHEALTHY_TAINT);
            findings.add(format!("taint of {name}"), Verdict::Bad, detail, fix);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdicts(findings: &Findings) -> Vec<(&str, Verdict)> {
        findings.0.iter().map(|finding| (finding.what.as_str(), finding.verdict)).collect()
    }

    #[test]
    fn a_pool_that_may_not_taint_fails_and_one_that_asks_for_nothing_is_not_mentioned() {
        let pool = |name: &str, taint, conditions| -> GPUPool {
            serde_json::from_value(
                json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUPool", "metadata": {"name": name},
                "spec": {"taint": taint}, "status": {"conditions": conditions}}),
            )
            .unwrap()
        };
        let said = |status: &str| {
            json!([{"type": "Tainting", "status": status, "reason": "TaintsNotPermitted", "message": "m",
            "lastTransitionTime": "2026-11-21T00:00:00Z"}])
        };
        let asks = json!({"nodes": {"effect": "NoSchedule"}});
        let mut findings = Findings::default();
        let pools = [
            pool("refused", asks.clone(), said("False")),
            pool("well", asks.clone(), said("True")),
            pool("new", asks, json!([])),
            pool("silent", json!({}), json!([])),
        ];
        asked(&pools, &mut findings);
        let expected = [("refused", Verdict::Bad), ("well", Verdict::Good), ("new", Verdict::Unknown)];
        let expected = expected.map(|(name, verdict)| (format!("taints of pool {name}"), verdict));
        assert_eq!(
            verdicts(&findings),
            expected.iter().map(|(what, verdict)| (what.as_str(), *verdict)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_taint_that_nobody_asks_for_is_named_with_the_command_that_takes_it_off() {
        let node = |name: &str, key: &str, value: &str| -> Node {
            let taint = json!({"key": key, "value": value, "effect": "NoSchedule"});
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": [taint]}})).unwrap()
        };
        let mut findings = Findings::default();
        let nodes = [
            node("n1", labels::UNHEALTHY_TAINT, "koinon-system"),
            node("n2", labels::UNHEALTHY_TAINT, "another"),
            node("n3", "nvidia.com/gpu", "koinon-system"),
        ];
        left(&nodes, "koinon-system", &mut findings);
        assert_eq!(verdicts(&findings), [("taint of n1", Verdict::Bad)]);
        assert!(findings.0[0].fix.ends_with("kubectl taint nodes n1 koinon.dev/gpu-unhealthy-"), "{:?}", findings.0[0]);
    }
}
