//! The API server as the durable store of statements.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use koinon_api::statement::{Statement as Resource, StatementSpec};
use koinon_api::{labels, names};
use koinon_core::log::Settled;
use koinon_core::statement::Statement;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams, ResourceExt};
use kube::core::DeserializeGuard;

use super::envelope;
use super::store::{Kept, Reserved, StatementStore, StoreError};
use crate::lease::{Fenced, LeaseHandle};

/// Statements a page: 100 of the largest are 9 MiB, which an API server answers without trouble.
const PAGE: u32 = 100;

/// Names a page: they come with little else.
const NAMES_PAGE: u32 = 1000;

/// What fits a ConfigMap: an API server takes 1 MiB with everything around it.
const LARGEST_MAP: usize = 1_000_000;

/// The label of the ConfigMap.
const PART: &str = "settled";

/// Statements as objects of one namespace.
#[derive(Clone, Debug)]
pub struct ApiStore {
    api: Api<Resource>,
    guarded: Api<DeserializeGuard<Resource>>,
    maps: Api<ConfigMap>,
    lease: LeaseHandle,
    timeout: Duration,
}

impl ApiStore {
    /// A store that writes while `lease` is held, and gives each request up after `timeout`.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, lease: LeaseHandle, timeout: Duration) -> Self {
        let guarded = Api::namespaced(client.clone(), namespace);
        let maps = Api::namespaced(client.clone(), namespace);
        ApiStore { api: Api::namespaced(client, namespace), guarded, maps, lease, timeout }
    }

    async fn create(&self, name: &str, statement: &Statement) -> Result<Created, StoreError> {
        let fence = self.lease.guard()?;
        let object = resource(name, statement);
        let params = PostParams::default();
        let request = tokio::time::timeout(self.timeout, self.api.create(&params, &object));
        match fence.within(async { Ok::<_, kube::Error>(request.await) }).await {
            Ok(Ok(Ok(_))) => Ok(Created::Yes),
            // A lost answer and a name that is taken are the same question: what stands there?
            Ok(Ok(Err(kube::Error::Api(status)))) if status.code == 409 => Ok(Created::Look),
            Ok(Ok(Err(kube::Error::Api(status)))) if matches!(status.code, 400 | 413 | 422) => {
                Err(StoreError::Refused { what: name.to_owned(), why: status.message.clone() })
            }
            Ok(Ok(Err(error))) if may_have_landed(&error) => Ok(Created::Look),
            Ok(Err(_)) => Ok(Created::Look),
            Ok(Ok(Err(error))) | Err(Fenced::Failed(error)) => Err(unavailable(name, &error.to_string())),
            Err(Fenced::Ended) => Err(crate::lease::NotLeader.into()),
        }
    }

    /// What stands under a name.
    async fn look(&self, name: &str) -> Result<Option<Statement>, StoreError> {
        let read = tokio::time::timeout(self.timeout, self.guarded.get_opt(name)).await;
        let found = match read {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(unavailable(name, &error.to_string())),
            Err(_) => return Err(unavailable(name, "no answer in time")),
        };
        let blocked = || StoreError::Blocked { name: name.to_owned() };
        match found {
            None => Ok(None),
            Some(DeserializeGuard(Ok(object))) => read_statement(&object).map(Some).map_err(|_| blocked()),
            Some(DeserializeGuard(Err(_))) => Err(blocked()),
        }
    }
}

enum Created {
    Yes,
    /// The name is taken, or the answer is lost.
    Look,
}

impl StatementStore for ApiStore {
    fn list<'a>(&'a self, take: &'a mut (dyn FnMut(Kept) + Send)) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut params = ListParams::default().limit(PAGE);
            loop {
                let page = tokio::time::timeout(self.timeout * 4, self.guarded.list(&params)).await;
                let page = match page {
                    Ok(Ok(page)) => page,
                    Ok(Err(error)) => return Err(unavailable("statements", &error.to_string())),
                    Err(_) => return Err(unavailable("statements", "no answer in time")),
                };
                for DeserializeGuard(object) in page.items {
                    take(match object {
                        Ok(object) => match read_statement(&object) {
                            Ok(statement) => Kept::Statement(Box::new(statement)),
                            Err(why) => Kept::Spoilt { name: object.name_any(), why },
                        },
                        Err(invalid) => {
                            Kept::Spoilt { name: invalid.metadata.name.unwrap_or_default(), why: invalid.error }
                        }
                    });
                }
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => return Ok(()),
                }
            }
        })
    }

    fn fetch<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Statement>, StoreError>> {
        Box::pin(self.look(name))
    }

    fn names(&self) -> BoxFuture<'_, Result<BTreeSet<String>, StoreError>> {
        Box::pin(async move {
            let mut names = BTreeSet::new();
            let mut params = ListParams::default().limit(NAMES_PAGE);
            loop {
                let page = tokio::time::timeout(self.timeout * 4, self.api.list_metadata(&params)).await;
                let page = match page {
                    Ok(Ok(page)) => page,
                    Ok(Err(error)) => return Err(unavailable("the names of statements", &error.to_string())),
                    Err(_) => return Err(unavailable("the names of statements", "no answer in time")),
                };
                names.extend(page.items.iter().map(ResourceExt::name_any));
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => return Ok(names),
                }
            }
        })
    }

    fn reserve<'a>(&'a self, entry: &'a Statement) -> BoxFuture<'a, Result<Reserved, StoreError>> {
        Box::pin(async move {
            let Some(seq) = entry.log_seq() else {
                return Err(unavailable("an entry", "it has no position"));
            };
            let key = entry.header().key;
            let name = names::own_entry(&key.to_string(), seq.0);
            if let Created::Yes = self.create(&name, entry).await? {
                return Ok(Reserved::Stored);
            }
            match self.look(&name).await? {
                Some(found) if found.id() == entry.id() => Ok(Reserved::Stored),
                Some(found) if found.log_seq() == Some(seq) && found.header().key == key => {
                    Ok(Reserved::Occupied(Box::new(found)))
                }
                Some(_) => Err(StoreError::Blocked { name }),
                None => Err(unavailable(&name, "it was not stored")),
            }
        })
    }

    fn keep<'a>(&'a self, statement: &'a Statement) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let name = names::statement(&statement.id().to_string());
            if let Created::Yes = self.create(&name, statement).await? {
                return Ok(());
            }
            match self.look(&name).await? {
                Some(found) if found.id() == statement.id() => Ok(()),
                Some(_) => Err(StoreError::Blocked { name }),
                None => Err(unavailable(&name, "it was not stored")),
            }
        })
    }

    fn remember<'a>(&'a self, settled: &'a Settled) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let what = names::SETTLED;
            let text = serde_json::to_string(settled).map_err(|error| unavailable(what, &error.to_string()))?;
            if text.len() > LARGEST_MAP {
                let why = format!("{} bytes do not fit a ConfigMap: the next start reads every entry", text.len());
                return Err(StoreError::Refused { what: what.to_owned(), why });
            }
            let fence = self.lease.guard()?;
            let map = remembering(text);
            let params = PatchParams::apply(&names::field_manager(PART)).force();
            let patch = Patch::Apply(&map);
            let request = tokio::time::timeout(self.timeout, self.maps.patch(what, &params, &patch));
            match fence.within(async { Ok::<_, kube::Error>(request.await) }).await {
                Ok(Ok(Ok(_))) => Ok(()),
                Ok(Ok(Err(error))) | Err(Fenced::Failed(error)) => Err(unavailable(what, &error.to_string())),
                Ok(Err(_)) => Err(unavailable(what, "no answer in time")),
                Err(Fenced::Ended) => Err(crate::lease::NotLeader.into()),
            }
        })
    }

    fn remembered(&self) -> BoxFuture<'_, Result<Option<Settled>, StoreError>> {
        Box::pin(async move {
            let what = names::SETTLED;
            let map = match tokio::time::timeout(self.timeout, self.maps.get_opt(what)).await {
                Ok(Ok(map)) => map,
                Ok(Err(error)) => return Err(unavailable(what, &error.to_string())),
                Err(_) => return Err(unavailable(what, "no answer in time")),
            };
            let text = map.and_then(|map| map.data?.remove(labels::SETTLED_ENTRY));
            Ok(text.and_then(|text| match serde_json::from_str(&text) {
                Ok(settled) => Some(settled),
                Err(error) => {
                    tracing::warn!(%error, "the ConfigMap {what} cannot be read: every entry is read again");
                    None
                }
            }))
        })
    }
}

/// The ConfigMap in which is kept what remains of entries that are no longer in memory.
fn remembering(text: String) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::SETTLED.to_owned()),
            labels: Some(BTreeMap::from([
                (labels::PART.to_owned(), PART.to_owned()),
                ("app.kubernetes.io/managed-by".to_owned(), "koinon".to_owned()),
            ])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(labels::SETTLED_ENTRY.to_owned(), text)])),
        ..ConfigMap::default()
    }
}

fn read_statement(object: &Resource) -> Result<Statement, String> {
    let envelope = envelope::from_resource(&object.spec.envelope).map_err(|error| error.to_string())?;
    Statement::verify(envelope).map_err(|error| error.to_string())
}

fn resource(name: &str, statement: &Statement) -> Resource {
    let header = statement.header();
    let mut labels = BTreeMap::from([
        (labels::AUTHOR.to_owned(), header.author.to_string()),
        (labels::KIND.to_owned(), header.kind.to_string()),
    ]);
    if statement.log_seq().is_some() {
        labels.insert(labels::LOG.to_owned(), header.key.short());
    }
    let mut object = Resource::new(name, StatementSpec { envelope: envelope::to_resource(statement.envelope()) });
    object.metadata = ObjectMeta { labels: Some(labels), ..object.metadata };
    object
}

/// Whether the request may have been carried out although no good answer came.
fn may_have_landed(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        kube::Error::SerdeError(_) => true,
        _ => false,
    }
}

fn unavailable(what: &str, why: &str) -> StoreError {
    StoreError::Unavailable { what: what.to_owned(), why: why.to_owned() }
}
