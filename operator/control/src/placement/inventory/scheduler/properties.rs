//! Whatever the objects say: their order means nothing, and to know less never means to have more.

use kube::ResourceExt;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::fixture::*;
use super::*;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn a_device(node: &'static str) -> impl Strategy<Value = Value> {
    let effect = prop_oneof![3 => Just(None), 1 => Just(Some("NoSchedule")), 1 => Just(Some("None"))];
    (0..5_usize, effect, prop::bool::weighted(0.1), prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
        move |(number, effect, many, no_id, part)| {
            let mut device = device(node, number);
            if let Some(effect) = effect {
                device["taints"] = json!([{"key": "t", "effect": effect}]);
            }
            if many {
                device["allowMultipleAllocations"] = json!(true);
            }
            if no_id {
                device["attributes"] = json!({"type": {"string": "mig"}});
            }
            if part {
                device["consumesCounters"] = json!([{"counterSet": "s", "counters": {}}]);
            }
            device
        },
    )
}

fn a_slice() -> impl Strategy<Value = Arc<k8s_openapi::api::resource::v1::ResourceSlice>> {
    prop::sample::select(NODES.as_slice()).prop_flat_map(|node| {
        (prop::collection::vec(a_device(node), 0..4), 1..3_i64, 1..3_i64)
            .prop_map(move |(devices, generation, of)| slice(node, generation, of, devices))
    })
}

fn a_claim() -> impl Strategy<Value = Arc<k8s_openapi::api::resource::v1::ResourceClaim>> {
    let pool = prop::sample::select(["n1", "n2", "n3", "nowhere"].as_slice());
    let pod = prop_oneof![Just(None), Just(Some("p0")), Just(Some("p1"))];
    (0..4_u8, pool, prop::collection::vec(0..5_usize, 1..3), pod, prop::bool::ANY).prop_map(
        |(name, pool, devices, pod, given)| {
            let devices: Vec<String> = devices.iter().map(|number| format!("gpu-{number}")).collect();
            let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
            let mut claim = claim(&format!("c{name}"), pool, &devices, pod);
            if !given {
                claim["status"] = json!({});
            }
            from(claim)
        },
    )
}

fn a_pod() -> impl Strategy<Value = Arc<Pod>> {
    let node = prop::sample::select(NODES.as_slice());
    (0..4_u8, node, 0..4_u8, 0..3_u32, prop::bool::ANY).prop_map(|(name, node, claim, gpus, counts)| {
        let name = format!("p{name}");
        from(if counts { asker(&name, node, gpus) } else { user(&name, node, &format!("c{claim}")) })
    })
}

/// Names do not repeat within a namespace of one API server.
fn unique<T>(mut objects: Vec<Arc<T>>, name: fn(&T) -> String) -> Vec<Arc<T>> {
    let mut seen = BTreeSet::new();
    objects.retain(|object| seen.insert(name(object)));
    objects
}

fn a_world() -> impl Strategy<Value = World> {
    let nodes = NODES.map(|name| (0..6_u32).prop_map(move |gpus| node(name, if gpus < 3 { 0 } else { gpus })));
    let rules = prop::collection::vec(
        prop::sample::select(["n1", "n2"].as_slice()).prop_map(|pool| rule(json!({"pool": pool}), "NoSchedule")),
        0..2,
    );
    let slices = prop::collection::vec(a_slice(), 0..6);
    let claims = prop::collection::vec(a_claim(), 0..5);
    (nodes, prop::collection::vec(a_pod(), 0..5), slices, claims, rules).prop_map(
        |(nodes, pods, slices, claims, rules)| World {
            nodes: nodes.to_vec(),
            pods: unique(pods, |pod| pod.name.to_string()),
            slices: unique(slices, |slice| slice.name_any()),
            claims: unique(claims, |claim| claim.name_any()),
            rules,
        },
    )
}

fn shuffled<T: Clone>(objects: &[T], order: &[Index]) -> Vec<T> {
    let mut rest = objects.to_vec();
    let mut shuffled = Vec::new();
    for index in order.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        shuffled.push(rest.remove(index.index(rest.len())));
    }
    shuffled
}

proptest! {
    #[test]
    fn the_order_of_the_objects_means_nothing(world in a_world(), order in prop::collection::vec(any::<Index>(), 8)) {
        let other = World {
            nodes: shuffled(&world.nodes, &order),
            pods: shuffled(&world.pods, &order),
            slices: shuffled(&world.slices, &order),
            claims: shuffled(&world.claims, &order),
            rules: shuffled(&world.rules, &order),
        };
        for node in NODES {
            prop_assert_eq!(world.view(node), other.view(node));
        }
    }

    /// A taint more, a holder more, a device that says less of itself, a pod whose claim is not known: none of them frees
    /// anything anywhere.
    #[test]
    fn to_know_less_or_of_more_holders_never_raises_what_is_free(
        world in a_world(),
        at in any::<Index>(),
        device in any::<Index>(),
        change in 0..6_u8,
        holder in a_claim(),
    ) {
        let mut worse = world.clone();
        let touch = |worse: &mut World, edit: fn(&mut Value)| {
            let with_devices: Vec<usize> = (0..worse.slices.len())
                .filter(|slice| worse.slices[*slice].spec.devices.as_ref().is_some_and(|devices| !devices.is_empty()))
                .collect();
            if with_devices.is_empty() {
                return;
            }
            let chosen = with_devices[at.index(with_devices.len())];
            let mut slice = serde_json::to_value(worse.slices[chosen].as_ref()).unwrap();
            let devices = slice["spec"]["devices"].as_array_mut().unwrap();
            let count = devices.len();
            edit(&mut devices[device.index(count)]);
            worse.slices[chosen] = from(slice);
        };
        match change {
            0 => touch(&mut worse, |device| device["taints"] = json!([{"key": "x", "effect": "NoExecute"}])),
            1 => touch(&mut worse, |device| device["allowMultipleAllocations"] = json!(true)),
            2 => {
                let mut unnamed = holder.as_ref().clone();
                unnamed.metadata.name = Some("one-more".into());
                worse.claims.push(Arc::new(unnamed));
            }
            3 => worse.pods.push(from(user("one-more", "n1", "unheard-of"))),
            4 => worse.pods.push(from(asker("one-more", "n2", 1))),
            _ => worse.rules.push(rule(json!({}), "NoSchedule")),
        }
        for node in NODES {
            prop_assert!(worse.free(node) <= world.free(node), "{node}: {} after {}", worse.free(node), world.free(node));
        }
    }
}
