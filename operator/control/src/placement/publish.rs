//! The complete lists of what this member asks of each host, and of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use koinon_api::Placement;
use koinon_api::placement::Side;
use koinon_core::body::latest::{Request, Requests};
use koinon_core::ids::{MemberId, ObjectUid};
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use thiserror::Error;

use super::own::{self, Own, OwnRequests};
use super::reader::{ReadError, read};
use super::rules::Rules;
use crate::commons::publisher::PublishError;
use crate::context::Context;
use crate::kinds::placement_home::renewal_stopped;
use crate::lease::NotLeader;

/// Why the lists are not said again.
#[derive(Debug, Error)]
pub enum ListError {
    /// The Placements could not be read, so nobody knows what a complete list is.
    #[error("{0}; hosts count their leases from the last list")]
    Read(#[from] ReadError),
    /// Another replica speaks for this member.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// A Placement that may be any host's cannot be read, so that no list would be complete.
    #[error("reading {0}; no list is complete without it")]
    Undecodable(Undecodable),
    /// A list could not be signed.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// A Placement that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("Placement {namespace}/{name}: {why}; delete it or install the version that wrote it")]
pub struct Undecodable {
    /// Where.
    pub namespace: String,
    /// Which.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

/// What was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// How many copies are asked for, over all hosts.
    pub asked: usize,
}

/// Says to every member what is asked of it, an empty list included: absence withdraws nothing.
///
/// The list is made from a fresh read and never from a cache, because a host drains what it omits.
///
/// # Errors
/// When no complete list can be made, or one cannot be signed; the former ones then run on until they end.
pub async fn requests(
    ctx: &Context,
    rules: &Rules,
    own: &Own,
    local: &BTreeSet<ObjectUid>,
) -> Result<Published, ListError> {
    let api = Api::<DynamicObject>::all_with(ctx.client.clone(), &ApiResource::erase::<Placement>(&()));
    let placements = read("all Placements", api.list(&ListParams::default())).await?;
    let Lists { complete, incomplete } = lists(placements.items, rules)?;
    for (host, undecodable) in &incomplete {
        tracing::error!(%host, %undecodable, "this host is told nothing new");
    }
    ctx.lease.guard()?;
    let lease = u64::try_from(rules.parameters().lease_seconds.0).unwrap_or(1).max(1);
    let mut asked = 0;
    let mut failed = None;
    for member in rules.members() {
        if incomplete.contains_key(member) {
            continue;
        }
        let requests = complete.get(member).cloned().unwrap_or_default();
        asked += requests.len();
        let requests = Requests { requests };
        if member == rules.me() {
            let mine = requests.requests.iter().map(|request| &request.job.uid).filter(|uid| local.contains(*uid));
            let local = Arc::new(mine.cloned().collect());
            let at = ctx.clock.monotonic();
            own::send(&own.requests, OwnRequests { requests: Arc::new(requests), local, at });
        } else if let Err(error) = ctx.publisher.requests(member, requests, Duration::from_secs(lease)) {
            // The lists of the others are not worse for it.
            failed = Some(error);
        }
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Published { asked }),
    }
}

/// The lists, by host.
#[derive(Debug, Default, PartialEq)]
struct Lists {
    complete: BTreeMap<MemberId, Vec<Request>>,
    /// Hosts whose list lacks something that cannot be read. They are told nothing rather than to drain it.
    incomplete: BTreeMap<MemberId, Undecodable>,
}

fn lists(objects: Vec<DynamicObject>, rules: &Rules) -> Result<Lists, ListError> {
    let mut lists = Lists::default();
    for object in objects {
        let unreadable = |why: String| Undecodable {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            why,
        };
        let field = |name: &str| object.data.pointer(&format!("/spec/{name}")).and_then(|value| value.as_str());
        // What is certainly not ours needs no further look, whatever else is wrong with it.
        let not_ours = field("side") == Some("Host") || field("home").is_some_and(|home| home != rules.me().as_str());
        if not_ours || object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let host: Option<MemberId> = field("host").and_then(|host| host.parse().ok());
        match (host, request(&object, rules)) {
            (_, Ok(None)) => {}
            (Some(host), Ok(Some(request))) => lists.complete.entry(host).or_default().push(request),
            (Some(host), Err(why)) => {
                lists.incomplete.entry(host).or_insert_with(|| unreadable(why));
            }
            (None, Ok(Some(_))) => return Err(ListError::Undecodable(unreadable("spec.host is no member".to_owned()))),
            (None, Err(why)) => return Err(ListError::Undecodable(unreadable(why))),
        }
    }
    for list in lists.complete.values_mut() {
        // The same list must be the same bytes, or it would be signed anew at every look.
        list.sort_by(|a, b| (&a.job, a.replica, a.epoch).cmp(&(&b.job, b.replica, b.epoch)));
    }
    Ok(lists)
}

/// The request that a Placement stands for, if it is still asked for.
fn request(object: &DynamicObject, rules: &Rules) -> Result<Option<Request>, String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    let placement: Placement = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let spec = &placement.spec;
    let beside_its_job = placement.namespace().as_deref() == Some(spec.job.namespace.as_str());
    if spec.side != Side::Home || !beside_its_job || renewal_stopped(&placement).is_some() {
        return Ok(None);
    }
    let entry = rules.engines().iter().find(|(name, _)| name.as_str() == spec.engine.name).map(|(_, entry)| entry);
    spec.to_request(entry).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
