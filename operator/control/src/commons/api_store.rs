//! The API server as the durable store of statements.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use koinon_api::settled::Noted;
use koinon_api::statement::{Statement as Resource, StatementSpec};
use koinon_api::{labels, names};
use koinon_core::log::Settled;
use koinon_core::statement::Statement;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, ResourceExt};
use kube::core::DeserializeGuard;

use super::envelope;
use super::store::{Kept, Reserved, StatementStore, StoreError};
use crate::lease::{Fenced, LeaseHandle};

/// Statements a page: 100 of the largest are 9 MiB, which an API server answers without trouble.
const PAGE: u32 = 100;

/// Names a page: they come with little else.
const NAMES_PAGE: u32 = 1000;

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

    /// The data of a ConfigMap, if there is one.
    async fn map(&self, name: &str) -> Result<Option<koinon_api::settled::Data>, StoreError> {
        match tokio::time::timeout(self.timeout, self.maps.get_opt(name)).await {
            Ok(Ok(map)) => Ok(map.and_then(|map| map.data)),
            Ok(Err(error)) => Err(unavailable(name, &error.to_string())),
            Err(_) => Err(unavailable(name, "no answer in time")),
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
            let maps = koinon_api::settled::split(&settled.digest().hex(), &text);
            let fence = self.lease.guard()?;
            let current: BTreeSet<String> = maps.iter().map(|(name, _)| name.clone()).collect();
            let params = PatchParams::apply(&names::field_manager(labels::PART_SETTLED)).force();
            let work = async {
                for (name, data) in maps {
                    self.maps.patch(&name, &params, &Patch::Apply(&remembering(&name, data))).await?;
                }
                let all = ListParams::default().labels(&format!("{}={}", labels::PART, labels::PART_SETTLED));
                for old in self.maps.list_metadata(&all).await?.iter().map(ResourceExt::name_any) {
                    if !current.contains(&old) {
                        self.maps.delete(&old, &DeleteParams::default()).await?;
                    }
                }
                Ok::<_, kube::Error>(())
            };
            match fence.within(async { Ok::<_, kube::Error>(tokio::time::timeout(self.timeout * 4, work).await) }).await
            {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err(error))) | Err(Fenced::Failed(error)) => Err(unavailable(what, &error.to_string())),
                Ok(Err(_)) => Err(unavailable(what, "no answer in time")),
                Err(Fenced::Ended) => Err(crate::lease::NotLeader.into()),
            }
        })
    }

    fn remembered(&self) -> BoxFuture<'_, Result<Option<Settled>, StoreError>> {
        Box::pin(async move {
            let text = match self.map(names::SETTLED).await?.and_then(koinon_api::settled::noted) {
                None => return Ok(None),
                Some(Noted::Here(text)) => text,
                Some(Noted::In(parts)) => {
                    let mut text = String::new();
                    for name in parts {
                        let part = self.map(&name).await?.and_then(|mut data| data.remove(labels::SETTLED_ENTRY));
                        text.push_str(&part.unwrap_or_default());
                    }
                    text
                }
            };
            Ok(match serde_json::from_str(&text) {
                Ok(settled) => Some(settled),
                Err(error) => {
                    tracing::warn!(%error, "the ConfigMap {} cannot be read: every entry is read again", names::SETTLED);
                    None
                }
            })
        })
    }
}

/// A ConfigMap in which is kept what remains of entries that are no longer in memory.
fn remembering(name: &str, data: koinon_api::settled::Data) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([
                (labels::PART.to_owned(), labels::PART_SETTLED.to_owned()),
                ("app.kubernetes.io/managed-by".to_owned(), "koinon".to_owned()),
            ])),
            ..ObjectMeta::default()
        },
        data: Some(data),
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
