//! `GPUPool`: what an owner shares.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::Evidence;

/// The GPUs that an owner shares with the cooperative. A device belongs to one pool: where two select the same node, the
/// older pool has its devices and the other says Overlaps.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "GPUPool",
    plural = "gpupools",
    namespaced,
    status = "GPUPoolStatus",
    derive = "PartialEq",
    cel,
    shortname = "kpool",
    category = "koinon",
    doc = "The GPUs that an owner shares with the cooperative.",
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "Installed", type_ = "integer", json_path = ".status.installed"),
    printcolumn(name = "Leased", type_ = "integer", json_path = ".status.leased"),
    printcolumn(name = "Offered", type_ = "integer", json_path = ".status.offered"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "AsOf", type_ = "date", json_path = ".status.asOfTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.taint) || !has(self.taint.devices) || (has(self.pod) && has(self.pod.deviceClassName))").message("single devices are tainted where DRA gives them out: set pod.deviceClassName, or taint.nodes instead of taint.devices"))]
pub struct GPUPoolSpec {
    /// Labels of the nodes whose GPUs are shared. Empty: every node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Classes that are shared, as `h100-80`. Empty: every class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::gpu_classes")]
    pub classes: Vec<String>,
    /// GPUs of each class that stay free for the owner. Absent: one in twenty of the healthy ones, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub reserve: Option<i32>,
    /// When GPUs are shared, in UTC. Empty: always. Outside of it nothing new comes; what runs stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 28))]
    pub hours: Vec<Hours>,
    /// Within how long GPUs are back after the owner asks for them. Work is ended a minute before, or after half of the time where
    /// it is shorter than two, so that it has left by then.
    #[serde(default = "default_reclaim")]
    #[schemars(range(min = 0, max = 604_800))]
    pub reclaim_notice_seconds: i32,
    /// The most GPUs of a class that others may hold here. What they hold above that is reclaimed with the notice, and nothing
    /// beyond it is offered. Own work is not counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["class".into()]))]
    #[schemars(length(max = 64))]
    pub limits: Vec<PoolLimit>,
    /// What is to become empty.
    #[serde(default, skip_serializing_if = "PoolDrain::is_empty")]
    pub drain: PoolDrain,
    /// What is tainted where a device must not be used, so that nobody's pods come there. Empty: nothing ever is.
    #[serde(default, skip_serializing_if = "PoolTaint::is_off")]
    pub taint: PoolTaint,
    /// Whom they are shared with.
    #[serde(default)]
    pub members: PoolMembers,
    /// What pods need to run on these nodes.
    #[serde(default)]
    pub pod: PoolPod,
}

fn default_reclaim() -> i32 {
    3600
}

/// The most GPUs of one class that others may hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolLimit {
    /// The class, as `h100-80`.
    #[schemars(schema_with = "crate::schema::gpu_class")]
    pub class: String,
    /// How many; none at all if 0.
    #[schemars(range(min = 0, max = 100_000))]
    pub gpus: i32,
}

/// What is to become empty.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolDrain {
    /// Nodes to which nothing new comes, of the owner's jobs either, and which all that runs there leaves within the notice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "drained_nodes")]
    pub nodes: Vec<String>,
}

impl PoolDrain {
    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// What is tainted where a device must not be used. The chart's `operator.taints` must allow it. A taint has the key
/// `koinon.dev/gpu-unhealthy`, comes while the agent says so and the fleet breaker is closed, on at most a fifth of the pool's nodes
/// or devices (one of fewer than ten), and goes when the rules call the device well again, or with this setting.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolTaint {
    /// Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeTaint>,
    /// Single devices, where dynamic resource allocation gives them out and the cluster serves DeviceTaintRules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<DeviceTaint>,
}

impl PoolTaint {
    /// Whether nothing is.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.nodes.is_none() && self.devices.is_none()
    }
}

/// How nodes are tainted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTaint {
    /// What it does.
    pub effect: TaintEffect,
    /// What it takes. A tainted node keeps its other devices from everybody too.
    #[serde(default)]
    pub when: TaintWhen,
}

/// How devices are tainted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceTaint {
    /// What it does.
    pub effect: TaintEffect,
}

/// What a taint does, the mildest first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum TaintEffect {
    /// Nothing new comes.
    NoSchedule,
    /// And what is there is evicted at once unless it tolerates it, the owner's own and what serves the node included.
    NoExecute,
}

impl TaintEffect {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// What it takes to taint a node.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TaintWhen {
    /// An Unhealthy device whose fault is the node's: its remedy restarts the node or its virtual machine, or by its rule all
    /// work of others leaves the node.
    #[default]
    NodeFault,
    /// Any Unhealthy device.
    AnyDevice,
}

/// A span of time in the week, in UTC.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.from != self.to").message("from and to must differ; leave hours out to share always"))]
pub struct Hours {
    /// The days on which the span begins. Empty: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Weekday>,
    /// When it begins, as `20:00`.
    #[schemars(schema_with = "clock")]
    pub from: String,
    /// When it ends, as `06:00`. Earlier than `from` means the next day.
    #[schemars(schema_with = "clock")]
    pub to: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[allow(missing_docs)]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// Whom a pool is shared with.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolMembers {
    /// The members that may use it. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::members")]
    pub allow: Vec<String>,
    /// The most GPUs of this pool that one member may hold at a time. Absent: no such limit.
    #[serde(default, rename = "maxGPUsEach", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_gpus_each: Option<i32>,
}

/// What engine pods need to run on a pool's nodes.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.resourceName) && has(self.deviceClassName))").message("a node's GPUs are given out by a device plugin or by DRA: set resourceName or deviceClassName, not both"))]
pub struct PoolPod {
    /// Taints that engine pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// The runtime class of engine pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_name")]
    pub runtime_class_name: Option<String>,
    /// The priority class of engine pods: below the owner's own work, so that the owner's pods push foreign ones out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_name")]
    pub priority_class_name: Option<String>,
    /// The resource that the device plugin registers. The chart's `gates.deviceResources` must allow it to guests. Absent:
    /// `nvidia.com/gpu`, unless deviceClassName is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resource")]
    pub resource_name: Option<String>,
    /// The DeviceClass of whole GPUs, where the nodes give them out by dynamic resource allocation (DRA). The chart's
    /// `gates.deviceClasses` must allow it to guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::object_name")]
    pub device_class_name: Option<String>,
}

/// How pods ask for the GPUs of a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GpuAccess<'a> {
    /// As so many of this extended resource.
    Resource(&'a str),
    /// By a claim on devices of this class.
    DeviceClass(&'a str),
}

impl PoolPod {
    /// How pods ask for its GPUs.
    #[must_use]
    pub fn gpus(&self) -> GpuAccess<'_> {
        match (&self.device_class_name, &self.resource_name) {
            (Some(class), _) => GpuAccess::DeviceClass(class),
            (None, Some(resource)) => GpuAccess::Resource(resource),
            (None, None) => GpuAccess::Resource(crate::labels::GPU_RESOURCE),
        }
    }
}

impl std::fmt::Display for GpuAccess<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resource(resource) => f.write_str(resource),
            Self::DeviceClass(class) => write!(f, "DeviceClass {class}"),
        }
    }
}

impl GpuAccess<'_> {
    /// What a ResourceQuota calls the number of GPUs that are asked for so.
    #[must_use]
    pub fn quota_key(&self) -> String {
        match self {
            Self::Resource(resource) => format!("requests.{resource}"),
            Self::DeviceClass(class) => format!("{class}.deviceclass.resource.k8s.io/devices"),
        }
    }
}

/// What a pool amounts to.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GPUPoolStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many nodes the pool has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub nodes: Option<i32>,
    /// How many of them have figures that are too old to be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub stale_nodes: Option<i32>,
    /// All devices, over all classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub installed: Option<i32>,
    /// Devices that foreign work holds, over all classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub leased: Option<i32>,
    /// Devices that others may ask for, over all classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub offered: Option<i32>,
    /// The figures, by class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["class".into()]))]
    #[schemars(length(max = 64))]
    pub classes: Vec<PoolClass>,
    /// A digest of the devices that are shared, each by a digest of its name: equal in two reports if they speak of the same
    /// devices. It tells nobody which those are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub digest: Option<String>,
    /// When the oldest figure in here was true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_time: Option<Time>,
    /// Exclusive, Fresh, Quarantining, Reclaiming, SchedulerConsistent, Ready; and Tainting, where the owner asks for taints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The devices of one class in a pool. Every device is counted once by health, and at most once by use.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.healthy + self.degraded + self.unhealthy + self.unknown == self.installed").message("healthy, degraded, unhealthy and unknown devices must add up to the installed ones"))]
#[x_kube(validation = Rule::new("self.offered + self.leased + self.ownerRequested + self.orphaned <= self.healthy + self.degraded").message("offered, leased, owner-requested and orphaned devices cannot exceed those that work"))]
#[x_kube(validation = Rule::new("!has(self.stranded) || self.stranded <= self.unhealthy + self.unknown").message("devices are stranded only if they are not known to work"))]
#[x_kube(validation = Rule::new("self.offered <= self.healthy && self.largestNode <= self.offered").message("only healthy devices are offered, and no node offers more than all together"))]
pub struct PoolClass {
    /// The class, as `h100-80`.
    #[schemars(schema_with = "crate::schema::gpu_class")]
    pub class: String,
    /// The product.
    #[schemars(schema_with = "crate::schema::line")]
    pub product: String,
    /// The memory of one device.
    #[schemars(range(min = 0))]
    pub memory_bytes: i64,
    /// How well the figures are supported.
    pub evidence: Evidence,
    /// All devices.
    #[schemars(range(min = 0))]
    pub installed: i32,
    /// Devices that work.
    #[schemars(range(min = 0))]
    pub healthy: i32,
    /// Devices that work, and should be looked at.
    #[schemars(range(min = 0))]
    pub degraded: i32,
    /// Devices that must not be used.
    #[schemars(range(min = 0))]
    pub unhealthy: i32,
    /// Devices of which nobody can tell.
    #[schemars(range(min = 0))]
    pub unknown: i32,
    /// Devices that work and that the owner's own pods hold.
    #[schemars(range(min = 0))]
    pub owner_requested: i32,
    /// Devices kept free for the owner.
    #[schemars(range(min = 0))]
    pub owner_reserve: i32,
    /// Devices that work and are reserved for or held by foreign work.
    #[schemars(range(min = 0))]
    pub leased: i32,
    /// Devices that work and are in use by something that no pod accounts for.
    #[schemars(range(min = 0))]
    pub orphaned: i32,
    /// Devices that somebody holds and that are not known to work.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub stranded: i32,
    /// The most that others may hold, where `spec.limits` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i32>,
    /// Devices that others may ask for.
    #[schemars(range(min = 0))]
    pub offered: i32,
    /// The most of these on one node: the largest single job that fits.
    #[schemars(range(min = 0))]
    pub largest_node: i32,
}

fn drained_nodes(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "array", "maxItems": 256, "x-kubernetes-list-type": "set",
        "items": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", "maxLength": 253}})
}

fn clock(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$", "maxLength": 5})
}

fn resource(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "maxLength": 253,
        "pattern": "^[a-z0-9][-a-z0-9.]*\\.[a-z]+/[A-Za-z0-9][-A-Za-z0-9_.]*$"})
}

const MINUTES_A_DAY: i64 = 24 * 60;

impl GPUPoolSpec {
    /// Whether the owner's hours let new foreign work in at this moment (Unix seconds). A span that cannot be read is
    /// closed: its pattern is enforced by the API server, so what arrives here unreadable came around it.
    #[must_use]
    pub fn open_at(&self, unix_seconds: i64) -> bool {
        self.hours.is_empty() || self.hours.iter().any(|h| h.contains(unix_seconds))
    }
}

impl Hours {
    fn contains(&self, unix_seconds: i64) -> bool {
        let (Some(from), Some(to)) = (minute_of_day(&self.from), minute_of_day(&self.to)) else { return false };
        let minutes = unix_seconds.div_euclid(60);
        let (day, minute) = (minutes.div_euclid(MINUTES_A_DAY), minutes.rem_euclid(MINUTES_A_DAY));
        if from < to {
            self.begins_on(day) && (from..to).contains(&minute)
        } else {
            (self.begins_on(day) && minute >= from) || (self.begins_on(day - 1) && minute < to)
        }
    }

    fn begins_on(&self, day: i64) -> bool {
        use Weekday::{Friday, Monday, Saturday, Sunday, Thursday, Tuesday, Wednesday};
        // Day 0 of Unix time was a Thursday.
        let weekday = match day.rem_euclid(7) {
            0 => Thursday,
            1 => Friday,
            2 => Saturday,
            3 => Sunday,
            4 => Monday,
            5 => Tuesday,
            _ => Wednesday,
        };
        self.days.is_empty() || self.days.contains(&weekday)
    }
}

fn minute_of_day(clock: &str) -> Option<i64> {
    let (hours, minutes) = clock.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    ((0..24).contains(&hours) && (0..60).contains(&minutes)).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Saturday 2026-11-21 00:00 UTC.
    const SATURDAY: i64 = 1_795_219_200;
    const HOUR: i64 = 3600;

    fn pool(hours: Vec<Hours>) -> GPUPoolSpec {
        GPUPoolSpec { hours, ..GPUPoolSpec::default() }
    }

    fn span(days: &[Weekday], from: &str, to: &str) -> Hours {
        Hours { days: days.to_vec(), from: from.to_owned(), to: to.to_owned() }
    }

    #[test]
    fn without_hours_a_pool_is_always_open() {
        assert!(pool(vec![]).open_at(SATURDAY));
    }

    #[test]
    fn a_span_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let friday_night = pool(vec![span(&[Weekday::Friday], "20:00", "06:00")]);
        assert!(friday_night.open_at(SATURDAY - HOUR));
        assert!(friday_night.open_at(SATURDAY + 5 * HOUR));
        assert!(!friday_night.open_at(SATURDAY + 6 * HOUR), "the end is outside");
        assert!(!friday_night.open_at(SATURDAY + 21 * HOUR), "Saturday night is not Friday night");
    }

    #[test]
    fn spans_add_up() {
        let weekend = pool(vec![span(&[Weekday::Saturday], "08:00", "10:00"), span(&[], "22:00", "23:00")]);
        let open: Vec<i64> = (0..24).filter(|h| weekend.open_at(SATURDAY + h * HOUR)).collect();
        assert_eq!(open, [8, 9, 22]);
    }

    #[test]
    fn a_time_before_1970_and_an_unreadable_span_are_closed_and_no_panic() {
        assert!(!pool(vec![span(&[], "late", "25:00")]).open_at(SATURDAY));
        assert!(pool(vec![span(&[Weekday::Wednesday], "23:00", "23:59")]).open_at(-HOUR));
    }
}
