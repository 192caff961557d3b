//! What a pool says of its taints.

use koinon_api::conditions::{Reason, Verdict};
use koinon_api::gpu_pool::PoolTaint;

/// What is tainted of a pool, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolTaints {
    /// What must not be used, and is tainted.
    pub tainted: Vec<String>,
    /// What stays tainted because nobody says that it is well.
    pub kept: Vec<String>,
    /// What would be tainted.
    pub held_back: Vec<String>,
    /// Why it is not.
    pub reason: Option<HeldBack>,
}

/// Why something is not tainted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldBack {
    /// It is not known yet what the fleet breaker says.
    Starting,
    /// The fleet breaker is open.
    BreakerOpen,
    /// As much of the pool is tainted as may be.
    Limit,
}

/// What this installation and its cluster let the operator taint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permits {
    /// The chart's `operator.taints.nodes`.
    pub nodes: bool,
    /// The chart's `operator.taints.devices`.
    pub devices: bool,
    /// Whether the cluster serves DeviceTaintRules; none before it was asked.
    pub devices_served: Option<bool>,
}

impl PoolTaints {
    pub(super) fn hold_back(&mut self, reason: HeldBack, what: &[String]) {
        self.reason = self.reason.max(Some(reason));
        self.held_back.extend(what.iter().cloned());
    }

    /// The condition `Tainting` of a pool that wishes `wish`.
    #[must_use]
    pub fn verdict(&self, wish: &PoolTaint, permits: Permits) -> Verdict {
        let refused: Vec<&str> = [
            ("operator.taints.nodes", wish.nodes.is_some() && !permits.nodes),
            ("operator.taints.devices", wish.devices.is_some() && !permits.devices),
        ]
        .into_iter()
        .filter_map(|(value, refused)| refused.then_some(value))
        .collect();
        if !refused.is_empty() {
            let waits = &self.tainted;
            let waits = if waits.is_empty() { String::new() } else { format!("; untouched: {}", list(waits)) };
            let message = format!("set {} of the chart, or take it from spec.taint{waits}", refused.join(" and "));
            return Verdict::no(Reason::TaintsNotPermitted, message);
        }
        if wish.devices.is_some() && permits.devices_served != Some(true) {
            return match permits.devices_served {
                None => {
                    Verdict::unknown(Reason::Starting, "the cluster is being asked whether it serves DeviceTaintRules")
                }
                Some(_) => {
                    let message = "this cluster serves no DeviceTaintRule of resource.k8s.io/v1alpha3: turn the feature gate \
                                   DRADeviceTaints and that version on at its API server, or taint nodes";
                    Verdict::no(Reason::TaintsNotServed, message)
                }
            };
        }
        let held = list(&self.held_back);
        match self.reason {
            Some(HeldBack::Starting) => {
                return Verdict::unknown(
                    Reason::Starting,
                    format!("the membership is being read; until then not tainted: {held}"),
                );
            }
            Some(HeldBack::BreakerOpen) => {
                let message = format!(
                    "while so many fail at once nothing more is tainted ({held}); look at them, then kubectl koinon gpus reset-breaker"
                );
                return Verdict::no(Reason::BreakerOpen, message);
            }
            Some(HeldBack::Limit) => {
                let message = format!("a fifth of the pool may be tainted, at least one, and is; not tainted: {held}");
                return Verdict::no(Reason::TaintLimit, message);
            }
            None => {}
        }
        let (tainted, kept) = (list(&self.tainted), list(&self.kept));
        match (self.tainted.is_empty(), self.kept.is_empty()) {
            (true, true) => Verdict::yes(Reason::NothingTainted, "no device calls for a taint"),
            (false, true) => Verdict::yes(Reason::Tainted, format!("tainted: {tainted}")),
            (true, false) => {
                Verdict::yes(Reason::Tainted, format!("stay tainted, as nobody says that they are well: {kept}"))
            }
            (false, false) => {
                let message = format!("tainted: {tainted}; stay so, as nobody says that they are well: {kept}");
                Verdict::yes(Reason::Tainted, message)
            }
        }
    }
}

/// A list that fits a condition: the first few, and how many more there are.
fn list(items: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if items.len() > SHOWN { format!("{shown}; and {} more", items.len() - SHOWN) } else { shown }
}
