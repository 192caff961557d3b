//! Carries out what was decided, under the leader lease.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::api::resource::v1alpha3::DeviceTaintRule;
use koinon_api::conditions::{Reason, Verdict};
use koinon_api::{GPUPool, labels};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use thiserror::Error;

use super::said::Permits;
use super::{Plan, devices, nodes};
use crate::context::Context;
use crate::events::Severity;
use crate::placement::inventory::PoolView;
use crate::placement::metrics::{Part, PlacementMetrics};
use crate::placement::reader::{self, ReadError};
use crate::placement::stores_dra::is_served;
use crate::placement::writer::{WriteError, Writer};

/// Most changes of one look: nothing else is looked at meanwhile.
const MOST_CHANGES: usize = 8;
/// How often a cluster is asked whether it serves DeviceTaintRules.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How soon what was refused is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Why a taint is not as it should be.
#[derive(Debug, Error)]
enum TaintError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("changing the taints of {0}: its list of taints could not be read")]
    Unreadable(String),
}

/// Keeps taints as the pools ask.
#[derive(Debug)]
pub struct Tainter {
    writer: Writer,
    permits: Permits,
    /// Until when nothing is tried, and nobody is asked.
    tried: Option<Duration>,
    asked: Option<Duration>,
    /// Why the last try failed.
    failure: Option<String>,
}

impl Tainter {
    /// One that does what the flags of `ctx` permit.
    #[must_use]
    pub fn new(ctx: &Context) -> Self {
        let permits = Permits { nodes: ctx.args.taint_nodes, devices: ctx.args.taint_devices, devices_served: None };
        let writer = Writer::new(ctx, "taints");
        Self { writer, permits, tried: None, asked: None, failure: None }
    }

    /// What a pool says of its taints; nothing where it asks for none.
    #[must_use]
    pub fn verdict(&self, plan: &Plan, pool: &GPUPool) -> Option<Verdict> {
        let said = plan.pools.get(&pool.name_any())?;
        let verdict = said.verdict(&pool.spec.taint, self.permits);
        let permitted = verdict.reason != Reason::TaintsNotPermitted;
        let failed = self.failure.as_ref().filter(|_| permitted);
        Some(failed.map_or(verdict, |failure| Verdict::no(Reason::WriteFailed, failure)))
    }

    /// Carries out what was decided, as far as it is permitted.
    pub async fn apply(
        &mut self,
        ctx: &Context,
        metrics: &PlacementMetrics,
        pools: &BTreeMap<String, PoolView>,
        plan: &Plan,
        now: Duration,
    ) {
        let devices_wanted = pools.values().any(|view| view.pool.spec.taint.devices.is_some());
        if devices_wanted
            && self.permits.devices
            && self.asked.is_none_or(|asked| now.saturating_sub(asked) >= ASK_AGAIN)
        {
            self.asked = Some(now);
            match is_served::<DeviceTaintRule>(&ctx.client).await {
                Ok(served) => self.permits.devices_served = Some(served),
                Err(error) => tracing::debug!(%error, "asking for DeviceTaintRules"),
            }
        }
        metrics.forget_taints();
        for (pool, said) in &plan.pools {
            metrics.taints(pool, said);
        }
        if self.tried.is_some_and(|tried| now.saturating_sub(tried) < TRY_AGAIN) {
            return;
        }
        let mut left = MOST_CHANGES;
        let mut failed = None;
        for change in plan.nodes.iter().filter(|_| self.permits.nodes).take(left) {
            left -= 1;
            match self.change_node(ctx, change).await {
                Ok(true) => tell(ctx, pools, &change.pools, change.effect.is_some(), "node", &change.why),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        let devices = self.permits.devices && self.permits.devices_served != Some(false);
        for change in plan.devices.iter().filter(|_| devices).take(left) {
            match self.change_rule(ctx, change).await {
                Ok(()) => tell(ctx, pools, &change.pools, change.comes, "device", &change.why),
                Err(error) => failed = Some(error),
            }
        }
        self.tried = None;
        self.failure = None;
        if let Some(error) = failed {
            // Somebody else wrote first: the next look decides again.
            let conflict = matches!(&error, TaintError::Write(write) if write.is_conflict() || write.is_not_found());
            if !conflict {
                metrics.failed(Part::Pools);
                tracing::warn!(%error, "a taint is not as it should be; trying again");
                self.tried = Some(now);
                self.failure = Some(error.to_string());
            }
        }
    }

    /// Changes the own taint of a node, if nobody has changed the node since it was read. Whether there was anything to change.
    async fn change_node(&self, ctx: &Context, change: &nodes::Change) -> Result<bool, TaintError> {
        // As it is, so that taints of a later version lose nothing.
        let api = Api::<DynamicObject>::all_with(ctx.client.clone(), &ApiResource::erase::<Node>(&()));
        let read = reader::read("a node's taints", api.get(change.node.as_str())).await?;
        let unreadable = || TaintError::Unreadable(change.node.to_string());
        let taints = read.data.pointer("/spec/taints").cloned().unwrap_or_else(|| json!([]));
        let Some(next) = with_own(&taints, &ctx.namespace, change.effect.map(|effect| effect.as_str())) else {
            return Err(unreadable());
        };
        if next == taints {
            return Ok(false);
        }
        let version = read.resource_version().ok_or_else(unreadable)?;
        // The list is one value to the API server, whoever applies it; with the version nobody's taint can be lost.
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": next}});
        self.writer.merge(&Api::<Node>::all(ctx.client.clone()), change.node.as_str(), &patch).await?;
        Ok(true)
    }

    async fn change_rule(&self, ctx: &Context, change: &devices::Change) -> Result<(), TaintError> {
        let api = Api::<DeviceTaintRule>::all(ctx.client.clone());
        if change.comes {
            self.writer.create(&api, &change.rule).await?;
        } else {
            self.writer.delete(&api, &change.rule).await?;
        }
        Ok(())
    }
}

/// The taints of a node with the own one as it should be; none if it is no list of taints, or another release's taint stands
/// where the own one would.
fn with_own(taints: &Value, release: &str, effect: Option<&str>) -> Option<Value> {
    let is_own =
        |taint: &Value| serde_json::from_value(taint.clone()).is_ok_and(|taint: Taint| nodes::is_own(&taint, release));
    let mut next: Vec<Value> = taints.as_array()?.clone();
    let right = |taint: &Value| effect.is_some_and(|effect| taint["effect"] == effect);
    next.retain(|taint| !is_own(taint) || right(taint));
    if let Some(effect) = effect
        && !next.iter().any(is_own)
    {
        // One of that key and effect may be there already, set by another release: two would be refused.
        if next.iter().any(|taint| taint["key"] == labels::UNHEALTHY_TAINT && taint["effect"] == effect) {
            return Some(taints.clone());
        }
        next.push(json!({"key": labels::UNHEALTHY_TAINT, "value": release, "effect": effect}));
    }
    Some(Value::Array(next))
}

fn tell(ctx: &Context, pools: &BTreeMap<String, PoolView>, names: &[String], comes: bool, what: &str, why: &str) {
    let (severity, reason) =
        if comes { (Severity::Warning, Reason::Tainted) } else { (Severity::Normal, Reason::Untainted) };
    let note = if comes { format!("{what} tainted: {why}") } else { format!("{what} no longer tainted: {why}") };
    tracing::info!("{note}");
    for view in names.iter().filter_map(|name| pools.get(name)) {
        ctx.events.tell(view.pool.object_ref(&()), severity, reason, note.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Value {
        json!({"key": key, "value": value, "effect": effect})
    }

    #[test]
    fn taints_of_others_stay_as_they_are_whatever_they_say() {
        let others = json!([
            {"key": "nvidia.com/gpu", "effect": "NoSchedule", "later": {"x": 1}},
            taint(labels::UNHEALTHY_TAINT, "other-release", "NoExecute"),
            {"key": labels::UNHEALTHY_TAINT, "effect": "PreferNoSchedule"},
        ]);
        let with = with_own(&others, "koinon-system", Some("NoSchedule")).unwrap();
        assert_eq!(with.as_array().unwrap()[..3], others.as_array().unwrap()[..]);
        assert_eq!(with[3], taint(labels::UNHEALTHY_TAINT, "koinon-system", "NoSchedule"));
        assert_eq!(with_own(&with, "koinon-system", Some("NoSchedule")), Some(with.clone()), "once is enough");
        assert_eq!(with_own(&with, "koinon-system", None), Some(others.clone()));
        // Two of one key and effect would be refused: the other release's keeps everybody away as well.
        assert_eq!(with_own(&others, "koinon-system", Some("NoExecute")), Some(others));
    }

    #[test]
    fn another_effect_takes_the_place_of_the_first() {
        let first = json!([taint(labels::UNHEALTHY_TAINT, "r", "NoSchedule")]);
        let second = json!([taint(labels::UNHEALTHY_TAINT, "r", "NoExecute")]);
        assert_eq!(with_own(&first, "r", Some("NoExecute")), Some(second));
        assert_eq!(with_own(&json!({}), "r", None), None);
    }
}
