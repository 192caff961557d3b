use koinon_api::conditions::{ConditionStatus, Reason};
use koinon_api::gpu_pool::TaintEffect;
use koinon_core::ids::Seconds;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::said::Permits;
use super::*;
use crate::placement::inventory::fixture::{self, Cluster, pool};

const RELEASE: &str = "koinon-system";
const CLOSED: Option<BreakerVerdict> = Some(BreakerVerdict { open: false, quarantined: 0, healthy: 8 });
const OPEN: Option<BreakerVerdict> = Some(BreakerVerdict { open: true, quarantined: 3, healthy: 8 });
const ALL: Permits = Permits { nodes: true, devices: true, devices_served: Some(true) };

fn unhealthy(action: &str) -> Value {
    json!({"state": "Unhealthy", "reasons": ["FellOffTheBus"], "action": action})
}

fn is(name: Option<&NodeName>, wanted: &str) -> bool {
    name.is_some_and(|name| name.as_str() == wanted)
}

struct World {
    cluster: Cluster,
    rules: Vec<Arc<k8s_openapi::api::resource::v1alpha3::DeviceTaintRule>>,
    breaker: Option<BreakerVerdict>,
    ending: bool,
    holes: bool,
}

impl World {
    /// `nodes` nodes of two devices, of one pool that asks for this.
    fn of(nodes: usize, taint: Value) -> Self {
        let names: Vec<String> = (1..=nodes).map(|at| format!("n{at}")).collect();
        let nodes: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 2)).collect();
        let access = if taint["devices"].is_null() { json!({}) } else { json!({"deviceClassName": "gpu.nvidia.com"}) };
        let pools = vec![pool("all", 1, json!({"taint": taint, "pod": access}))];
        Self { cluster: Cluster::of(&nodes, pools), rules: vec![], breaker: CLOSED, ending: false, holes: false }
    }

    fn health(&mut self, node: &str, device: usize, health: Value) -> &mut Self {
        for one in self.cluster.gpu_nodes.iter_mut().filter(|one| is(one.name.as_ref(), node)) {
            let said: koinon_api::gpu_node::Device =
                serde_json::from_value(fixture::device(node, device, &health)).unwrap();
            Arc::make_mut(one).devices[device] = Device::from(&said);
        }
        self
    }

    fn taints(&mut self, node: &str, taints: Value) -> &mut Self {
        for one in self.cluster.nodes.iter_mut().filter(|one| is(one.name.as_ref(), node)) {
            Arc::make_mut(one).taints = serde_json::from_value(taints.clone()).unwrap();
        }
        self
    }

    fn tainted(&mut self, node: &str) -> &mut Self {
        self.taints(node, json!([own("NoSchedule")]))
    }

    /// A driver that calls the devices of a node `gpu-0` and so on, in this order.
    fn slice(&mut self, node: &str, order: &[usize]) -> &mut Self {
        let device = |(at, device): (usize, &usize)| json!({"name": format!("gpu-{at}"), "attributes": {"uuid": {"string": format!("GPU-{node}-{device}")}}});
        let devices: Vec<Value> = order.iter().enumerate().map(device).collect();
        let slice = json!({"metadata": {"name": node}, "spec": {"driver": "gpu.nvidia.com", "nodeName": node, "devices": devices,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}});
        self.cluster.slices.retain(|one| one.name_any() != node);
        self.cluster.slices.push(Arc::new(serde_json::from_value(slice).unwrap()));
        self
    }

    fn plan(&self) -> Plan {
        let inventory = self.cluster.look();
        plan(&Inputs {
            release: RELEASE,
            inventory: &inventory,
            pools_have_holes: self.holes,
            gpu_nodes: &self.cluster.gpu_nodes,
            ages: &self.cluster.ages,
            nodes: &self.cluster.nodes,
            dra: dra::Objects { slices: &self.cluster.slices, claims: &[], taint_rules: &self.rules },
            breaker: self.breaker,
            ending: self.ending,
        })
    }

    /// The nodes whose taint changes, and to what.
    fn changes(&self) -> Vec<(String, Option<TaintEffect>)> {
        self.plan().nodes.into_iter().map(|change| (change.node.to_string(), change.effect)).collect()
    }

    /// Carries out what is to change.
    fn settle(&mut self) -> &mut Self {
        let plan = self.plan();
        for change in plan.nodes {
            let taints = change.effect.map_or(json!([]), |effect| json!([own(effect.as_str())]));
            self.taints(change.node.as_str(), taints);
        }
        for change in plan.devices {
            self.rules.retain(|rule| rule.name_any() != change.rule.name_any());
            if change.comes {
                self.rules.push(Arc::new(change.rule));
            }
        }
        self
    }

    /// The devices with a rule, by its driver's name for them.
    fn ruled(&self) -> Vec<String> {
        let name = |rule: &Arc<k8s_openapi::api::resource::v1alpha3::DeviceTaintRule>| {
            let selector = rule.spec.device_selector.clone().unwrap();
            format!("{}/{}", selector.pool.unwrap(), selector.device.unwrap())
        };
        self.rules.iter().map(name).collect()
    }

    fn says(&self) -> (ConditionStatus, Reason, String) {
        let wish = self.cluster.pools[0].spec.taint.clone();
        let verdict = self.plan().pools["all"].verdict(&wish, ALL);
        (verdict.status, verdict.reason, verdict.message)
    }
}

fn own(effect: &str) -> Value {
    json!({"key": "koinon.dev/gpu-unhealthy", "value": RELEASE, "effect": effect})
}

fn nodes_asked() -> Value {
    json!({"nodes": {"effect": "NoSchedule"}})
}

fn set(node: &str) -> Vec<(String, Option<TaintEffect>)> {
    vec![(node.to_owned(), Some(TaintEffect::NoSchedule))]
}

fn off(node: &str) -> Vec<(String, Option<TaintEffect>)> {
    vec![(node.to_owned(), None)]
}

#[test]
fn nothing_is_tainted_that_no_pool_asks_for() {
    let mut world = World::of(1, json!({}));
    assert_eq!(world.health("n1", 0, unhealthy("RebootNode")).plan(), Plan::default());
}

#[test]
fn a_node_is_tainted_for_a_fault_that_is_its_own() {
    for health in [
        unhealthy("RebootNode"),
        unhealthy("RestartVM"),
        json!({"state": "Unhealthy", "guestWork": "DrainNode", "reasons": ["FellOffTheBus"]}),
    ] {
        let mut world = World::of(1, nodes_asked());
        assert_eq!(world.health("n1", 1, health.clone()).changes(), set("n1"), "{health}");
        let (status, reason, message) = world.says();
        assert_eq!((status, reason), (ConditionStatus::True, Reason::Tainted));
        assert_eq!(message, "tainted: n1: GPU-n1-1 must not be used (FellOffTheBus)");
        assert_eq!(world.settle().changes(), [], "once is enough");
    }
}

#[test]
fn what_is_the_devices_own_fault_taints_its_node_only_where_the_owner_says_any() {
    let any = json!({"nodes": {"effect": "NoSchedule", "when": "AnyDevice"}});
    for (health, with_any) in [
        (unhealthy("ResetGPU"), set("n1")),
        (json!({"state": "Degraded", "action": "RebootNode", "guestWork": "DrainNode"}), vec![]),
        (json!({"state": "Unknown", "action": "RebootNode", "guestWork": "DrainNode"}), vec![]),
        (json!({"state": "Healthy"}), vec![]),
    ] {
        assert_eq!(World::of(1, nodes_asked()).health("n1", 0, health.clone()).changes(), [], "{health}");
        assert_eq!(World::of(1, any.clone()).health("n1", 0, health.clone()).changes(), with_any, "{health}");
    }
}

#[test]
fn a_taint_goes_when_a_heard_agent_calls_everything_well_and_not_before() {
    for (health, changes) in [
        (json!({"state": "Healthy"}), off("n1")),
        (json!({"state": "Degraded"}), off("n1")),
        // The node is well; the device asks for something else.
        (unhealthy("ResetGPU"), off("n1")),
        (json!({"state": "Unknown"}), vec![]),
        (unhealthy("RebootNode"), vec![]),
    ] {
        let mut world = World::of(1, nodes_asked());
        assert_eq!(world.tainted("n1").health("n1", 0, health.clone()).changes(), changes, "{health}");
    }
}

#[test]
fn a_silent_agent_neither_sets_a_taint_nor_takes_one_off() {
    for age in [None, Some(31)] {
        let mut world = World::of(2, nodes_asked());
        world.health("n1", 0, unhealthy("RebootNode")).tainted("n2");
        world.cluster.ages =
            age.into_iter().flat_map(|age| ["n1", "n2"].map(|name| (name.parse().unwrap(), Seconds(age)))).collect();
        assert_eq!(world.changes(), [], "{age:?}");
        assert!(world.says().2.contains("n2: its agent is not heard"), "{:?}", world.says());
    }
    let mut world = World::of(1, nodes_asked());
    world.tainted("n1").cluster.gpu_nodes.clear();
    assert_eq!(world.changes(), off("n1"), "without a GPU it is no pool's node");
}

#[test]
fn no_more_is_tainted_than_a_fifth_of_the_pool_and_one_always() {
    for (nodes, allowed) in [(1, 1), (4, 1), (9, 1), (10, 2), (15, 3)] {
        let mut world = World::of(nodes, nodes_asked());
        for node in 1..=nodes {
            world.health(&format!("n{node}"), 0, unhealthy("RebootNode"));
        }
        assert_eq!(world.changes().len(), allowed, "of {nodes}");
        assert_eq!(world.settle().changes(), [], "of {nodes}: not at the next look either");
        let (_, reason, _) = world.says();
        assert_eq!(reason == Reason::TaintLimit, allowed < nodes, "of {nodes}");
    }
}

#[test]
fn an_open_breaker_sets_no_taint_and_takes_none_off() {
    for (breaker, status, reason) in
        [(OPEN, ConditionStatus::False, Reason::BreakerOpen), (None, ConditionStatus::Unknown, Reason::Starting)]
    {
        let mut world = World::of(10, nodes_asked());
        world.breaker = breaker;
        world.tainted("n1").health("n1", 0, unhealthy("RebootNode")).health("n2", 0, unhealthy("RebootNode"));
        assert_eq!(world.changes(), []);
        assert_eq!((world.says().0, world.says().1), (status, reason));
        world.health("n1", 0, json!({"state": "Healthy"}));
        assert_eq!(world.changes(), off("n1"), "what is well again is free of it");
    }
}

#[test]
fn taints_go_with_the_wish_the_pool_and_the_membership() {
    let sick = || {
        let mut world = World::of(2, nodes_asked());
        world.tainted("n1").health("n1", 0, unhealthy("RebootNode"));
        world
    };
    let mut world = sick();
    world.cluster.pools = vec![pool("all", 1, json!({}))];
    assert_eq!(world.changes(), off("n1"), "the wish");
    world.cluster.pools.clear();
    assert_eq!(world.changes(), off("n1"), "the pool");
    world.holes = true;
    assert_eq!(world.changes(), [], "somebody may ask for it whose wish cannot be read");
    let mut world = sick();
    world.ending = true;
    assert_eq!(world.changes(), off("n1"), "the membership");
    let mut world = sick();
    world.cluster.pools = vec![pool("all", 1, json!({"taint": nodes_asked(), "nodeSelector": {"other": "nodes"}}))];
    assert_eq!(world.changes(), off("n1"), "the node is the pool's no more");
}

#[test]
fn the_gravest_effect_that_a_pool_asks_for_holds() {
    let mut world = World::of(1, nodes_asked());
    world.tainted("n1").health("n1", 0, unhealthy("RebootNode"));
    world.cluster.pools = vec![pool("all", 1, json!({"taint": {"nodes": {"effect": "NoExecute"}}}))];
    assert_eq!(world.changes(), vec![("n1".to_owned(), Some(TaintEffect::NoExecute))]);
}

#[test]
fn taints_of_others_are_none_of_ours() {
    let mut world = World::of(1, nodes_asked());
    world.taints(
        "n1",
        json!([
            {"key": "koinon.dev/gpu-unhealthy", "value": "another-release", "effect": "NoSchedule"},
            {"key": "koinon.dev/gpu-unhealthy", "effect": "NoSchedule"},
            {"key": "nvidia.com/gpu", "value": RELEASE, "effect": "NoSchedule"},
        ]),
    );
    assert_eq!(world.changes(), []);
}

#[test]
fn a_device_that_is_given_out_by_name_is_tainted_by_itself() {
    let mut world = World::of(1, json!({"devices": {"effect": "NoSchedule"}}));
    world.slice("n1", &[0, 1]).health("n1", 1, unhealthy("ResetGPU"));
    assert_eq!(world.settle().ruled(), ["n1/gpu-1"]);
    assert_eq!(world.rules[0].spec.taint.key, "koinon.dev/gpu-unhealthy");
    assert_eq!(world.settle().ruled(), ["n1/gpu-1"], "once is enough");
    // Unknown is not well, and the driver may have left the device out.
    world.health("n1", 1, json!({"state": "Unknown"})).slice("n1", &[0]);
    assert_eq!(world.settle().ruled(), ["n1/gpu-1"]);
    world.health("n1", 1, json!({"state": "Healthy"})).slice("n1", &[0, 1]);
    assert_eq!(world.settle().ruled(), Vec::<String>::new());
}

#[test]
fn a_name_that_another_device_has_by_now_is_tainted_no_more() {
    let mut world = World::of(1, json!({"devices": {"effect": "NoSchedule"}}));
    world.slice("n1", &[0, 1]).health("n1", 1, unhealthy("ResetGPU")).settle();
    world.slice("n1", &[1, 0]);
    assert_eq!(world.settle().ruled(), Vec::<String>::new(), "the rule of the wrong device goes");
    assert_eq!(world.settle().ruled(), ["n1/gpu-0"], "and one for the right device comes");
}

#[test]
fn rules_about_devices_go_with_the_wish_and_obey_breaker_and_limit() {
    let mut world = World::of(2, json!({"devices": {"effect": "NoSchedule"}}));
    world.slice("n1", &[0, 1]).slice("n2", &[0, 1]);
    world.health("n1", 1, unhealthy("ResetGPU")).health("n2", 0, unhealthy("ResetGPU"));
    world.breaker = OPEN;
    assert_eq!(world.settle().ruled(), Vec::<String>::new());
    world.breaker = CLOSED;
    assert_eq!(world.settle().settle().ruled().len(), 1, "one of four");
    assert_eq!(world.says().1, Reason::TaintLimit);
    world.cluster.pools = vec![pool("all", 1, json!({"pod": {"deviceClassName": "gpu.nvidia.com"}}))];
    assert_eq!(world.settle().ruled(), Vec::<String>::new());
}

#[test]
fn a_pool_says_what_stands_in_its_way() {
    let said = |permits: Permits, wish: Value| {
        let wish = serde_json::from_value(wish).unwrap();
        let verdict = PoolTaints::default().verdict(&wish, permits);
        (verdict.status, verdict.reason)
    };
    let (nodes, devices) = (nodes_asked(), json!({"devices": {"effect": "NoSchedule"}}));
    assert_eq!(said(ALL, nodes.clone()), (ConditionStatus::True, Reason::NothingTainted));
    let none = Permits::default();
    assert_eq!(said(none, nodes.clone()), (ConditionStatus::False, Reason::TaintsNotPermitted));
    assert_eq!(said(none, devices.clone()), (ConditionStatus::False, Reason::TaintsNotPermitted));
    let unserved = Permits { devices_served: Some(false), ..ALL };
    assert_eq!(said(unserved, devices.clone()), (ConditionStatus::False, Reason::TaintsNotServed));
    assert_eq!(said(unserved, nodes), (ConditionStatus::True, Reason::NothingTainted));
    assert_eq!(said(Permits { devices_served: None, ..ALL }, devices).0, ConditionStatus::Unknown);
}

proptest! {
    /// Whatever happens in whatever order, no more is tainted than may be, and what was tainted stays while it is not well.
    #[test]
    fn taints_stay_within_the_share_and_with_their_cause(
        steps in proptest::collection::vec((1..=12_usize, 0..5_u8, any::<bool>(), any::<bool>()), 1..40),
    ) {
        let mut world = World::of(12, nodes_asked());
        for (node, health, open, heard) in steps {
            let name = format!("n{node}");
            let told = match health {
                0 | 1 => unhealthy("RebootNode"),
                2 => json!({"state": "Unknown"}),
                3 => json!({"state": "Degraded"}),
                _ => json!({"state": "Healthy"}),
            };
            world.health(&name, 0, told);
            world.breaker = if open { OPEN } else { CLOSED };
            world.cluster.ages.insert(name.parse().unwrap(), Seconds(if heard { 3 } else { 60 }));
            let before: Vec<(String, bool)> = all_tainted(&world);
            world.settle();
            let after = all_tainted(&world);
            prop_assert!(after.iter().filter(|(_, tainted)| *tainted).count() <= 2);
            for ((name, was), (_, now)) in before.iter().zip(&after) {
                let state = world.cluster.gpu_nodes.iter().find(|node| is(node.name.as_ref(), name))
                    .map(|node| node.devices[0].state).unwrap();
                let heard = world.cluster.ages[&name.parse::<NodeName>().unwrap()] == Seconds(3);
                let bad = state == HealthState::Unhealthy;
                prop_assert!(!(*now && !was) || (bad && heard && !open), "{name} was tainted without cause");
                let well = heard && matches!(state, HealthState::Healthy | HealthState::Degraded);
                prop_assert!(!(*was && !now) || well, "{name} lost its taint while {state:?}");
            }
        }
    }
}

fn all_tainted(world: &World) -> Vec<(String, bool)> {
    let is = |node: &Node| node.taints.iter().any(|taint| nodes::is_own(taint, RELEASE));
    world.cluster.nodes.iter().map(|node| (node.name.as_ref().unwrap().to_string(), is(node))).collect()
}
