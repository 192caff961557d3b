//! How a node's GPUs are shared, by what those who share them say of it.
//!
//! NVIDIA's feature discovery says it in labels; others give themselves away by the resources that they register. A sign
//! that is not understood is taken for sharing: a stranger beside a tenant is worse than a device that idles.

use k8s_openapi::api::core::v1::Node;
use koinon_core::capacity::Sharing;
use kube::ResourceExt;
use serde_json::Value;

use crate::placement::inventory::requests;

/// More than one: each device is advertised so many times.
const REPLICAS: &str = "nvidia.com/gpu.replicas";
/// `none`, `mps` or `time-slicing`.
const STRATEGY: &str = "nvidia.com/gpu.sharing-strategy";
/// Ends in this where devices are shared without a name of their own for that.
const SHARED_PRODUCT: &str = "-SHARED";
const PRODUCT: &str = "nvidia.com/gpu.product";
/// `none`, `single` or `mixed`.
const MIG_STRATEGY: &str = "nvidia.com/mig.strategy";
/// The plugin's name for what it shares, and its end for instances: `nvidia.com/mig-1g.10gb.shared`.
const SHARED_RESOURCE: &str = ".shared";
const MIG_RESOURCE: &str = "nvidia.com/mig-";

/// Resources by which others hand out parts of a GPU: HAMi, Volcano, Alibaba's gpushare, Tencent's GPU manager.
const EXTERNAL_RESOURCES: [&str; 8] = [
    "nvidia.com/gpumem",
    "nvidia.com/gpumem-percentage",
    "nvidia.com/gpucores",
    "nvidia.com/vgpu",
    "volcano.sh/vgpu-number",
    "volcano.sh/vgpu-memory",
    "aliyun.com/gpu-mem",
    "tencent.com/vcuda-core",
];

/// HAMi keeps its account of a node in annotations of this kind, also where it registers no resource of its own.
pub const HAMI_ANNOTATIONS: &str = "hami.io/node-";

/// How far the tenants of `node` are kept apart.
#[must_use]
pub fn of_node(node: &Node) -> Sharing {
    let hami = node.annotations().keys().any(|key| key.starts_with(HAMI_ANNOTATIONS));
    let status = node.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.as_ref()).into_iter().flatten();
    let allocatable = status.and_then(|status| status.allocatable.as_ref()).into_iter().flatten();
    // Capacity too: a plugin that is down for a moment has nothing allocatable, and still shares.
    let mut registered = capacity.chain(allocatable).filter(|(_, amount)| requests::whole(&amount.0) > 0);
    let mut sharing = if hami { Sharing::External } else { by_labels(node) };
    for (resource, _) in registered.by_ref() {
        sharing = sharing.max(by_resource(resource, sharing));
    }
    sharing
}

fn by_labels(node: &Node) -> Sharing {
    let label = |key: &str| node.labels().get(key).map(String::as_str);
    let product = label(PRODUCT).unwrap_or_default();
    let multiplied = label(REPLICAS).is_some_and(|replicas| !matches!(replicas.parse::<u32>(), Ok(0 | 1)));
    let divided = matches!(label(MIG_STRATEGY), Some("single")) && product.contains("-MIG-");
    match label(STRATEGY) {
        Some("mps") => Sharing::Mps,
        Some("time-slicing") => Sharing::TimeSliced,
        Some("none") | None if multiplied || product.ends_with(SHARED_PRODUCT) => Sharing::TimeSliced,
        Some("none") | None if divided => Sharing::Mig,
        Some("none") | None => Sharing::Exclusive,
        Some(_) => Sharing::External,
    }
}

fn by_resource(resource: &str, so_far: Sharing) -> Sharing {
    if EXTERNAL_RESOURCES.contains(&resource) {
        Sharing::External
    } else if resource.starts_with("nvidia.com/") && resource.ends_with(SHARED_RESOURCE) {
        // Its name does not say how; the labels may have.
        if so_far == Sharing::Mps { Sharing::Mps } else { Sharing::TimeSliced }
    } else if resource.starts_with(MIG_RESOURCE) {
        Sharing::Mig
    } else {
        Sharing::Exclusive
    }
}

/// How the devices of a claim are shared among its pods, by the parameters that its driver was given. They are those of
/// NVIDIA's driver: `{"kind": "GpuConfig", "sharing": {"strategy": "TimeSlicing"}}`.
#[must_use]
pub fn of_parameters(parameters: &Value) -> Sharing {
    match parameters.get("sharing").map(|sharing| sharing.get("strategy").and_then(Value::as_str)) {
        None => Sharing::Exclusive,
        Some(Some("MPS")) => Sharing::Mps,
        Some(Some("TimeSlicing")) => Sharing::TimeSliced,
        Some(_) => Sharing::External,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(labels: Value, capacity: Value) -> Sharing {
        let node = json!({"metadata": {"name": "n", "labels": labels}, "status": {"capacity": capacity}});
        of_node(&serde_json::from_value(node).unwrap())
    }

    fn labelled(labels: Value) -> Sharing {
        node(labels, json!({"nvidia.com/gpu": "8"}))
    }

    #[test]
    fn a_node_is_exclusive_where_nothing_says_otherwise() {
        assert_eq!(labelled(json!({})), Sharing::Exclusive);
        let plain = json!({REPLICAS: "1", STRATEGY: "none", PRODUCT: "NVIDIA-H100-80GB-HBM3", MIG_STRATEGY: "single"});
        assert_eq!(labelled(plain), Sharing::Exclusive);
        assert_eq!(node(json!({}), json!({"nvidia.com/gpu": "8", "nvidia.com/gpu.shared": "0"})), Sharing::Exclusive);
    }

    #[test]
    fn what_feature_discovery_says_is_understood() {
        assert_eq!(labelled(json!({REPLICAS: "4"})), Sharing::TimeSliced);
        assert_eq!(labelled(json!({REPLICAS: "4", STRATEGY: "time-slicing"})), Sharing::TimeSliced);
        assert_eq!(labelled(json!({REPLICAS: "4", STRATEGY: "mps"})), Sharing::Mps);
        assert_eq!(labelled(json!({PRODUCT: "Tesla-T4-SHARED"})), Sharing::TimeSliced);
        let divided = json!({MIG_STRATEGY: "single", PRODUCT: "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"});
        assert_eq!(labelled(divided), Sharing::Mig);
    }

    #[test]
    fn a_sign_that_is_not_understood_is_taken_for_sharing() {
        assert_eq!(labelled(json!({REPLICAS: "many"})), Sharing::TimeSliced);
        assert_eq!(labelled(json!({STRATEGY: "quantum"})), Sharing::External);
        assert_eq!(of_parameters(&json!({"sharing": {"strategy": "Quantum"}})), Sharing::External);
        assert_eq!(of_parameters(&json!({"sharing": 7})), Sharing::External);
    }

    #[test]
    fn resources_give_away_those_who_share_without_labels() {
        for resource in EXTERNAL_RESOURCES {
            assert_eq!(node(json!({}), json!({resource: "1"})), Sharing::External, "{resource}");
        }
        assert_eq!(node(json!({}), json!({"nvidia.com/gpu.shared": "32"})), Sharing::TimeSliced);
        assert_eq!(node(json!({STRATEGY: "mps"}), json!({"nvidia.com/gpu.shared": "32"})), Sharing::Mps);
        assert_eq!(node(json!({}), json!({"nvidia.com/mig-1g.10gb": "7"})), Sharing::Mig);
        assert_eq!(node(json!({}), json!({"nvidia.com/mig-1g.10gb.shared": "7"})), Sharing::TimeSliced);
    }

    #[test]
    fn hami_is_known_by_its_annotations() {
        let node = json!({"metadata": {"name": "n", "annotations": {"hami.io/node-nvidia-register": ""}}});
        assert_eq!(of_node(&serde_json::from_value(node).unwrap()), Sharing::External);
    }

    #[test]
    fn the_parameters_of_a_claim_say_how_its_pods_share() {
        assert_eq!(of_parameters(&json!({"kind": "GpuConfig"})), Sharing::Exclusive);
        assert_eq!(of_parameters(&json!({"sharing": {"strategy": "MPS"}})), Sharing::Mps);
        assert_eq!(of_parameters(&json!({"sharing": {"strategy": "TimeSlicing"}})), Sharing::TimeSliced);
    }
}
