//! Slices, claims and taint rules in memory, where the cluster serves them.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::api::resource::v1alpha3::DeviceTaintRule;
use kube::runtime::watcher;
use kube::{Client, Resource};

use super::inventory::scheduler::dra;
use super::reader;
use crate::cache::{Cache, Feeder};

/// How often a cluster is asked whether it serves a kind by now: only an upgrade of its API server changes that.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How often it is asked while it does not answer.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The caches of dynamic resource allocation.
#[derive(Clone, Debug)]
pub struct DraStores {
    /// Of every driver; devices of GPU drivers alone.
    pub slices: Cache<ResourceSlice>,
    /// Of all namespaces.
    pub claims: Cache<ResourceClaim>,
    /// Served by Kubernetes 1.34 only where it is told to.
    pub taint_rules: Cache<DeviceTaintRule>,
}

/// All that is in them at one moment.
#[derive(Clone, Debug, Default)]
pub struct DraObjects {
    slices: Vec<Arc<ResourceSlice>>,
    claims: Vec<Arc<ResourceClaim>>,
    taint_rules: Vec<Arc<DeviceTaintRule>>,
}

impl DraStores {
    /// All that is in them.
    #[must_use]
    pub fn all(&self) -> DraObjects {
        DraObjects { slices: self.slices.all(), claims: self.claims.all(), taint_rules: self.taint_rules.all() }
    }

    /// Waits until each of them is a complete set.
    pub async fn synced(&self) {
        self.slices.synced().await;
        self.claims.synced().await;
        self.taint_rules.synced().await;
    }

    /// Whether something could not be read.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        !self.slices.undecodable().is_empty()
            || !self.claims.undecodable().is_empty()
            || !self.taint_rules.undecodable().is_empty()
    }
}

impl DraObjects {
    /// As the inventory takes them.
    #[must_use]
    pub fn objects(&self) -> dra::Objects<'_> {
        dra::Objects { slices: &self.slices, claims: &self.claims, taint_rules: &self.taint_rules }
    }
}

/// Returns once the cluster serves the kind. Until then the set is complete and empty as soon as the cluster has said that
/// it does not serve it; while it says nothing, nothing is known.
pub(super) async fn wait_until_served<K>(client: &Client, feeder: &mut Feeder<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug,
{
    let mut told = false;
    loop {
        let pause = match is_served::<K>(client).await {
            Ok(true) => return,
            Ok(false) if told => ASK_AGAIN,
            Ok(false) => {
                tracing::info!(kind = %K::kind(&()), version = %K::api_version(&()), "this cluster does not serve it");
                feeder.take::<K>(watcher::Event::Init);
                feeder.take::<K>(watcher::Event::InitDone);
                told = true;
                ASK_AGAIN
            }
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), %error, "asking whether the cluster serves it, trying again");
                TRY_AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether the cluster serves a kind.
pub(super) async fn is_served<K: Resource<DynamicType = ()>>(client: &Client) -> Result<bool, reader::ReadError> {
    let version = K::api_version(&());
    match reader::read("the kinds that are served", client.list_api_group_resources(&version)).await {
        Ok(list) => Ok(list.resources.iter().any(|resource| resource.kind == K::kind(&()))),
        Err(reader::ReadError::Failed { source, .. }) if is_absent(&source) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A version that is not served has no list.
fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::{Json, Router, routing};
    use serde_json::json;

    use super::*;
    use crate::cache;

    /// An API server that answers every question about its kinds with this code and these.
    async fn server(code: u16, kinds: &'static [&'static str]) -> Client {
        let answer = move || async move {
            let resources: Vec<_> = kinds
                .iter()
                .map(|kind| json!({"name": "x", "singularName": "x", "namespaced": false, "kind": kind, "verbs": []}))
                .collect();
            let body = if code == 200 {
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "resource.k8s.io/v1", "resources": resources})
            } else {
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "x", "message": "x"})
            };
            (StatusCode::from_u16(code).unwrap(), Json(body))
        };
        let router = Router::new().fallback(routing::any(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn a_cluster_without_the_kind_has_a_complete_empty_set_and_one_that_does_not_answer_has_none() {
        // An error is no answer; a version that is not there, or without the kind, is one.
        let cases: [(u16, &'static [&'static str], bool, bool); 4] = [
            (503, &[], false, false),
            (404, &[], false, true),
            (200, &["DeviceClass"], false, true),
            (200, &["DeviceClass", "ResourceSlice"], true, false),
        ];
        for (code, kinds, served, empty) in cases {
            let client = server(code, kinds).await;
            let (cache, mut feeder) = cache::cache::<ResourceSlice>();
            let waited = wait_until_served::<ResourceSlice>(&client, &mut feeder);
            let returned = tokio::time::timeout(Duration::from_millis(500), waited).await.is_ok();
            assert_eq!((returned, cache.is_synced()), (served, empty), "{code} {kinds:?}");
        }
    }
}
