//! Single devices, where they are given out by name: a DeviceTaintRule each.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1alpha3::{DeviceTaint, DeviceTaintRule, DeviceTaintRuleSpec, DeviceTaintSelector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use koinon_api::gpu_pool::TaintEffect;
use koinon_api::{labels, names};
use koinon_core::ids::{DeviceId, Digest, NodeName};
use kube::ResourceExt;

use super::said::{HeldBack, PoolTaints};
use super::{Facts, Inputs, Word, held_back, most_of};
use crate::placement::inventory::scheduler::dra::{GPU_DRIVER, places};

/// A rule that comes or goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Whether it comes.
    pub comes: bool,
    /// The rule.
    pub rule: DeviceTaintRule,
    /// Why.
    pub why: String,
    /// The pools that are told.
    pub pools: Vec<String>,
}

/// A device of a cluster: ids are unique within a node.
type Site = (NodeName, DeviceId);

pub(super) fn changes(inputs: &Inputs<'_>, facts: &Facts<'_>, pools: &mut BTreeMap<String, PoolTaints>) -> Vec<Change> {
    let own: Vec<&DeviceTaintRule> =
        inputs.dra.taint_rules.iter().map(AsRef::as_ref).filter(|rule| is_own(rule, inputs.release)).collect();
    let asking: Vec<(&String, TaintEffect)> = inputs
        .inventory
        .pools
        .iter()
        .filter(|(name, _)| pools.contains_key(*name))
        .filter_map(|(name, view)| Some((name, view.pool.spec.taint.devices?.effect)))
        .collect();
    if own.is_empty() && asking.is_empty() {
        return Vec::new();
    }
    let places = places(&inputs.dra);
    let mut changes = Vec::new();
    // What is there.
    let mut kept: BTreeMap<Site, &DeviceTaintRule> = BTreeMap::new();
    let mut kept_of: BTreeMap<&String, usize> = BTreeMap::new();
    for rule in own {
        let site = site_of(rule);
        let owner = site.as_ref().and_then(|site| asking.iter().find(|(pool, _)| has(inputs, facts, pool, site)));
        let pools_told: Vec<String> = owner.iter().map(|(pool, _)| (*pool).clone()).collect();
        let stays = site.as_ref().zip(owner).and_then(|(site, (pool, effect))| {
            let word = facts.word(&site.0, |device| device.is(&site.1), |_| true);
            // A name that another device has by now says nothing about this one.
            let place = places.get(site);
            let taken = places.iter().any(|(other, place)| other != site && names_it(rule, place));
            let same =
                !taken && place.is_none_or(|place| names_it(rule, place)) && rule.spec.taint.effect == effect.as_str();
            (same && word != Word::Well).then_some((site.clone(), *pool, word))
        });
        match stays {
            Some((site, pool, word)) => {
                if let Some(said) = pools.get_mut(pool) {
                    match word {
                        Word::Needed(why) => said.tainted.push(why),
                        Word::Unsure(why) => said.kept.push(why),
                        Word::Well => {}
                    }
                }
                *kept_of.entry(pool).or_default() += 1;
                kept.insert(site, rule);
            }
            None if owner.is_none() && inputs.pools_have_holes => {}
            None => {
                let of = rule.annotations().get(labels::TAINTED_DEVICE).cloned().unwrap_or_else(|| rule.name_any());
                let why = match owner {
                    Some(_) => format!("{of} calls for no taint any more, or for another"),
                    None => format!("{of}: no pool asks for it"),
                };
                changes.push(Change { comes: false, rule: rule.clone(), why, pools: pools_told });
            }
        }
    }
    // What comes. A rule that just goes has its name for a moment yet.
    let going: BTreeSet<String> = changes.iter().map(|change| change.rule.name_any()).collect();
    for (pool, effect) in asking {
        let Some(view) = inputs.inventory.pools.get(pool) else { continue };
        let installed = view
            .capacity
            .classes
            .values()
            .fold(0_usize, |sum, class| sum.saturating_add(usize::try_from(class.installed).unwrap_or(usize::MAX)));
        for (site, place) in &places {
            if kept.contains_key(site) || !view.nodes.contains(&site.0) || !has(inputs, facts, pool, site) {
                continue;
            }
            let Word::Needed(why) = facts.word(&site.0, |device| device.is(&site.1), |_| true) else {
                continue;
            };
            let Some(said) = pools.get_mut(pool) else { continue };
            let count = kept_of.entry(pool).or_default();
            let limit = || (*count >= most_of(installed)).then_some(HeldBack::Limit);
            if let Some(reason) = held_back(inputs.breaker).or_else(limit) {
                said.hold_back(reason, &[why]);
                continue;
            }
            *count += 1;
            said.tainted.push(why.clone());
            let rule = rule(inputs.release, site, place, effect);
            if !going.contains(&rule.name_any()) {
                changes.push(Change { comes: true, rule, why, pools: vec![pool.clone()] });
            }
        }
    }
    changes
}

/// Whether a device is the pool's, by what its agent says of it.
fn has(inputs: &Inputs<'_>, facts: &Facts<'_>, pool: &str, (node, id): &Site) -> bool {
    let of_pool = inputs.inventory.pools.get(pool).is_some_and(|view| view.nodes.contains(node));
    let device = facts.nodes.get(node).and_then(|node| node.devices.iter().find(|device| device.is(id)));
    of_pool && device.is_none_or(|device| facts.is_of(pool, node, device))
}

/// Whether a rule is one that the operator of `release` made.
#[must_use]
pub fn is_own(rule: &DeviceTaintRule, release: &str) -> bool {
    rule.spec.taint.key == labels::UNHEALTHY_TAINT && rule.spec.taint.value.as_deref() == Some(release)
}

fn site_of(rule: &DeviceTaintRule) -> Option<Site> {
    let (node, uuid) = rule.annotations().get(labels::TAINTED_DEVICE)?.split_once('/')?;
    Some((node.parse().ok()?, uuid.parse().ok()?))
}

/// Whether a rule is about the device that its driver calls so.
fn names_it(rule: &DeviceTaintRule, (pool, device): &(String, String)) -> bool {
    let selector = rule.spec.device_selector.as_ref();
    selector.is_some_and(|selector| selector.pool.as_ref() == Some(pool) && selector.device.as_ref() == Some(device))
}

fn rule(release: &str, (node, id): &Site, (pool, device): &(String, String), effect: TaintEffect) -> DeviceTaintRule {
    let of = format!("{node}/{id}");
    DeviceTaintRule {
        metadata: ObjectMeta {
            name: Some(names::device_taint(release, &Digest::of(of.as_bytes()).to_string())),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "koinon".to_owned())].into()),
            annotations: Some([(labels::TAINTED_DEVICE.to_owned(), of)].into()),
            ..ObjectMeta::default()
        },
        spec: DeviceTaintRuleSpec {
            // By its driver's name for it, which every version of this kind knows. It may change at a restart of the driver, so
            // every look compares it with the slices.
            device_selector: Some(DeviceTaintSelector {
                driver: Some(GPU_DRIVER.to_owned()),
                pool: Some(pool.clone()),
                device: Some(device.clone()),
                ..DeviceTaintSelector::default()
            }),
            taint: DeviceTaint {
                key: labels::UNHEALTHY_TAINT.to_owned(),
                value: Some(release.to_owned()),
                effect: effect.as_str().to_owned(),
                time_added: None,
            },
        },
    }
}
