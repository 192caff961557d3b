//! What pods request of an extended resource, as the scheduler counts it.

use k8s_openapi::api::core::v1::{Container, Pod};

/// How many devices of `resource` the scheduler sets aside for `pod`: the containers that run together, or the largest
/// init container with the sidecars that were started before it, whichever is more.
#[must_use]
pub fn of_pod(pod: &Pod, resource: &str) -> u32 {
    let Some(spec) = &pod.spec else { return 0 };
    let together: u32 = spec.containers.iter().map(|container| of_container(container, resource)).sum();
    let (mut sidecars, mut largest) = (0_u32, 0);
    for init in spec.init_containers.iter().flatten() {
        let wants = of_container(init, resource);
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.saturating_add(wants);
            largest = largest.max(sidecars);
        } else {
            largest = largest.max(sidecars.saturating_add(wants));
        }
    }
    together.saturating_add(sidecars).max(largest)
}

fn of_container(container: &Container, resource: &str) -> u32 {
    let Some(resources) = &container.resources else { return 0 };
    let amount = |from: &Option<std::collections::BTreeMap<String, _>>| {
        from.as_ref()
            .and_then(|amounts| amounts.get(resource))
            .map(|quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| whole(&quantity.0))
    };
    amount(&resources.requests).or_else(|| amount(&resources.limits)).unwrap_or(0)
}

/// Extended resources are whole numbers. One that cannot be read takes everything, so that nothing is promised twice.
pub(crate) fn whole(quantity: &str) -> u32 {
    if let Ok(number) = quantity.parse::<u32>() {
        return number;
    }
    let digits = quantity.find(|c: char| !c.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(digits);
    match (number.parse::<u32>(), suffix) {
        (Ok(number), "k") => number.saturating_mul(1_000),
        (Ok(number), "m") => number.div_ceil(1_000),
        _ => u32::MAX,
    }
}

/// Whether the pod holds what it requests: it is bound or promised to a node and has not ended. One that terminates
/// still holds it.
#[must_use]
pub fn node_of(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref();
    if status.and_then(|status| status.phase.as_deref()).is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")) {
        return None;
    }
    let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    bound.or_else(|| status.and_then(|status| status.nominated_node_name.as_deref()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GPU: &str = "nvidia.com/gpu";

    fn pod(spec: serde_json::Value, status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec, "status": status})).unwrap()
    }

    fn container(gpus: u32) -> serde_json::Value {
        json!({"name": "c", "resources": {"limits": {GPU: gpus.to_string()}}})
    }

    #[test]
    fn containers_add_up_and_init_containers_count_by_their_largest() {
        let both =
            pod(json!({"containers": [container(1), container(2)], "initContainers": [container(2)]}), json!({}));
        assert_eq!(of_pod(&both, GPU), 3);
        let init =
            pod(json!({"containers": [container(1)], "initContainers": [container(4), container(2)]}), json!({}));
        assert_eq!(of_pod(&init, GPU), 4);
    }

    #[test]
    fn a_sidecar_runs_beside_what_comes_after_it() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"limits": {GPU: "1"}}});
        let later = pod(json!({"containers": [container(2)], "initContainers": [sidecar, container(4)]}), json!({}));
        assert_eq!(of_pod(&later, GPU), 5);
    }

    #[test]
    fn a_terminating_pod_still_holds_and_an_ended_one_does_not() {
        let spec = json!({"nodeName": "n1", "containers": [container(1)]});
        let mut terminating = pod(spec.clone(), json!({"phase": "Running"}));
        terminating.metadata.deletion_timestamp = koinon_api::time::from_unix(1);
        assert_eq!(node_of(&terminating), Some("n1"));
        assert_eq!(node_of(&pod(spec, json!({"phase": "Succeeded"}))), None);
    }

    #[test]
    fn a_pod_that_is_promised_a_node_counts_there() {
        let waiting = pod(json!({"containers": [container(1)]}), json!({"nominatedNodeName": "n2"}));
        assert_eq!(node_of(&waiting), Some("n2"));
    }

    #[test]
    fn an_amount_that_cannot_be_read_takes_everything() {
        assert_eq!(
            [whole("8"), whole("2k"), whole("1500m"), whole("8Gi"), whole("-1")],
            [8, 2000, 2, u32::MAX, u32::MAX]
        );
    }
}
