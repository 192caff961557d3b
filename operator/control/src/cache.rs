//! What the API server holds of one kind, as a complete set in memory.
//!
//! Guarantees: before [`Cache::synced`] returns nothing may be concluded from absence; after it the set is always a
//! complete one (a relist is swapped in whole). An object that cannot be decoded does not stop the others: it is listed
//! by [`Cache::undecodable`], so that "all of them" is never concluded from a set with a hole in it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use koinon_api::conditions::Reason;
use kube::api::{Api, ResourceExt};
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::events::{Events, Severity};
use crate::lease::LeaseHandle;
use crate::metrics::WatchMetrics;

/// A watch that says nothing for this long is opened anew, so a connection that died silently is noticed.
const WATCH_SECONDS: u32 = 60;
/// The longest silence on a connection on which something is awaited. Opening a watch anew may hit a connection that died
/// silently too, which the kernel gives up after 15 minutes. Above the time of a watch, which may be quiet for all of it.
pub const READ_TIMEOUT: Duration = Duration::from_secs(75);
/// An error message of a foreign object, cut to what fits an event.
const MAX_ERROR_CHARS: usize = 500;

/// How long after becoming leader undecodable objects are told of at the latest.
const REPORT_AGAIN: Duration = Duration::from_secs(10);

/// Namespace (empty for cluster-scoped kinds) and name.
pub type Key = (String, String);

/// What is kept of an object of the API: the object itself, or what of it somebody here decides by.
pub trait Kept<K>: Sized {
    /// What is kept of an object; none if nobody has a use for it, as if it were not there.
    fn keep(object: K) -> Option<Self>;

    /// Whether a change from the one to the other concerns nobody. What was kept then stays, and nobody is woken.
    fn same(&self, _: &Self) -> bool {
        false
    }
}

impl<K> Kept<K> for K {
    fn keep(object: K) -> Option<Self> {
        Some(object)
    }
}

/// An object that is there but cannot be read by this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable {
    /// What serde said about it.
    pub error: String,
    /// The object's uid, to attach an event to it.
    pub uid: Option<String>,
}

#[derive(Debug)]
struct Content<V> {
    objects: BTreeMap<Key, Arc<V>>,
    undecodable: BTreeMap<Key, Undecodable>,
}

impl<V> Default for Content<V> {
    fn default() -> Self {
        Content { objects: BTreeMap::new(), undecodable: BTreeMap::new() }
    }
}

impl<V> Content<V> {
    /// Takes an object in; says whether that changed anything.
    fn put<K: Resource>(&mut self, guarded: DeserializeGuard<K>) -> bool
    where
        V: Kept<K>,
    {
        let key = key_of(&guarded);
        match guarded.0.map(V::keep) {
            Ok(Some(kept)) => {
                let readable_now = self.undecodable.remove(&key).is_some();
                if !readable_now && self.objects.get(&key).is_some_and(|before| V::same(before, &kept)) {
                    return false;
                }
                self.objects.insert(key, Arc::new(kept));
                true
            }
            Ok(None) => self.remove(&key),
            Err(invalid) => {
                self.objects.remove(&key);
                let error = invalid.error.chars().take(MAX_ERROR_CHARS).collect();
                self.undecodable.insert(key, Undecodable { error, uid: invalid.metadata.uid });
                true
            }
        }
    }

    /// Takes an object out; says whether it was there.
    fn remove(&mut self, key: &Key) -> bool {
        let (readable, not) = (self.objects.remove(key), self.undecodable.remove(key));
        readable.is_some() || not.is_some()
    }
}

/// A readable handle to all objects of a kind. Clones share the content.
#[derive(Debug)]
pub struct Cache<K> {
    content: Arc<RwLock<Content<K>>>,
    /// Version of the content; 0 until the first complete list.
    version: watch::Receiver<u64>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Cache { content: self.content.clone(), version: self.version.clone() }
    }
}

impl<K> Cache<K> {
    /// All objects that can be read, in the order of namespace and name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read(|content| content.objects.values().cloned().collect())
    }

    /// One object. `namespace` is empty for cluster-scoped kinds.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.read(|content| content.objects.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// The objects that are there but cannot be read. While there are any, "not in [`Cache::all`]" proves nothing.
    #[must_use]
    pub fn undecodable(&self) -> BTreeMap<Key, Undecodable> {
        self.read(|content| content.undecodable.clone())
    }

    /// Wakes at every change of the content. Level-triggered: look at the whole set, not at what changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    /// Whether the first complete list has arrived.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.version.borrow() > 0
    }

    /// Waits for the first complete list.
    pub async fn synced(&self) {
        let mut version = self.version.clone();
        if version.wait_for(|version| *version > 0).await.is_err() {
            // The watch is gone, and with it the process: its own stop ends this wait.
            std::future::pending::<()>().await;
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Content<K>) -> T) -> T {
        look(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Fills a [`Cache`].
#[derive(Debug)]
pub struct Feeder<K> {
    content: Arc<RwLock<Content<K>>>,
    pending: Content<K>,
    version: watch::Sender<u64>,
}

/// An empty cache and the means to fill it.
#[must_use]
pub fn cache<K>() -> (Cache<K>, Feeder<K>) {
    let content = Arc::new(RwLock::new(Content::default()));
    let (sender, version) = watch::channel(0);
    (Cache { content: content.clone(), version }, Feeder { content, pending: Content::default(), version: sender })
}

impl<V> Feeder<V> {
    /// Takes one event of the watch.
    pub fn take<K: Resource>(&mut self, event: watcher::Event<DeserializeGuard<K>>)
    where
        V: Kept<K>,
    {
        match event {
            watcher::Event::Init => self.pending = Content::default(),
            watcher::Event::InitApply(object) => {
                self.pending.put(object);
            }
            watcher::Event::InitDone => {
                let complete = std::mem::take(&mut self.pending);
                self.write(|content| {
                    *content = complete;
                    true
                });
            }
            watcher::Event::Apply(object) => self.write(|content| content.put(object)),
            watcher::Event::Delete(object) => {
                let key = key_of(&object);
                self.write(|content| content.remove(&key));
            }
        }
    }

    /// How many objects cannot be read at present.
    #[must_use]
    pub fn undecodable(&self) -> usize {
        self.content.read().unwrap_or_else(PoisonError::into_inner).undecodable.len()
    }

    fn write(&self, change: impl FnOnce(&mut Content<V>) -> bool) {
        if change(&mut self.content.write().unwrap_or_else(PoisonError::into_inner)) {
            self.version.send_modify(|version| *version += 1);
        }
    }
}

fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Keeps `feeder` in step with the API server for as long as it is polled. Errors are counted and tried again with a
/// growing pause; a missing right or CRD shows in the log and in a cache that is not synced.
pub async fn follow<K>(api: Api<DeserializeGuard<K>>, config: watcher::Config, feeder: Feeder<K>, metrics: WatchMetrics)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    follow_trimmed(api, config, feeder, metrics, |_| {}).await;
}

/// As [`follow`], keeping of each object what `trim` leaves and [`Kept`] takes: for kinds that are many and large, such as pods.
pub async fn follow_trimmed<K, V>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    mut feeder: Feeder<V>,
    metrics: WatchMetrics,
    trim: fn(&mut K),
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    V: Kept<K>,
{
    let kind = K::kind(&()).into_owned();
    let events = watcher(api, config.timeout(WATCH_SECONDS)).default_backoff();
    let mut events = std::pin::pin!(events.map_ok(|event| {
        event.modify(|object| {
            // Half of an object's size, and nobody here reads it.
            object.managed_fields_mut().clear();
            if let Ok(object) = &mut object.0 {
                trim(object);
            }
        })
    }));
    let mut reported = None;
    let mut unreadable = metrics.undecodable(&kind);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                // Each new try begins with `Init`, which proves nothing yet.
                if !matches!(event, watcher::Event::Init) {
                    reported = None;
                }
                feeder.take(event);
                unreadable.set(feeder.undecodable());
            }
            Err(error) => {
                metrics.error(&kind);
                let text = error.to_string();
                // The same error every few seconds is one line, not a flood.
                if reported.as_ref() != Some(&text) {
                    tracing::warn!(%kind, error = %text, "watching failed, trying again");
                    reported = Some(text);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Tells an event for every object that cannot be read, while this replica leads.
pub async fn report<K>(cache: Cache<K>, events: Events, lease: LeaseHandle)
where
    K: Resource<DynamicType = ()>,
{
    report_kept::<K, K>(cache, events, lease).await;
}

/// As [`report`], of a kind that is kept as something smaller.
pub async fn report_kept<K, V>(cache: Cache<V>, events: Events, lease: LeaseHandle)
where
    K: Resource<DynamicType = ()>,
{
    let mut told: BTreeMap<Key, Undecodable> = BTreeMap::new();
    let mut changes = cache.changes();
    loop {
        let found = cache.undecodable();
        told.retain(|key, _| found.contains_key(key));
        if lease.is_leader() {
            for (key, undecodable) in found {
                if told.get(&key) != Some(&undecodable) {
                    let note = format!("this version cannot read it, the others go on: {}", undecodable.error);
                    events.tell(reference::<K>(&key, &undecodable), Severity::Warning, Reason::Undecodable, note);
                    told.insert(key, undecodable);
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            // Whoever leads now may not have led when it was found.
            () = tokio::time::sleep(REPORT_AGAIN) => {}
        }
    }
}

fn reference<K: Resource<DynamicType = ()>>((namespace, name): &Key, undecodable: &Undecodable) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
        name: Some(name.clone()),
        uid: undecodable.uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn map(name: &str, data: serde_json::Value) -> DeserializeGuard<ConfigMap> {
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "koinon-system", "uid": name}, "data": data}),
        )
        .unwrap()
    }

    fn names(cache: &Cache<ConfigMap>) -> Vec<String> {
        cache.all().iter().map(|object| object.name_any()).collect()
    }

    #[test]
    fn nothing_is_synced_before_the_first_complete_list() {
        let (cache, mut feeder) = cache::<ConfigMap>();
        feeder.take(watcher::Event::Init);
        feeder.take(watcher::Event::InitApply(map("a", json!({}))));
        assert!(!cache.is_synced() && cache.all().is_empty());
        feeder.take(watcher::Event::InitDone);
        assert!(cache.is_synced());
        assert_eq!(names(&cache), ["a"]);
    }

    #[test]
    fn a_relist_replaces_the_set_at_once_and_never_shows_it_half_empty() {
        let (cache, mut feeder) = cache::<ConfigMap>();
        for event in [watcher::Event::Init, watcher::Event::InitApply(map("a", json!({}))), watcher::Event::InitDone] {
            feeder.take(event);
        }
        feeder.take(watcher::Event::Init);
        assert_eq!(names(&cache), ["a"]);
        feeder.take(watcher::Event::InitApply(map("b", json!({}))));
        assert_eq!(names(&cache), ["a"]);
        feeder.take(watcher::Event::InitDone);
        assert_eq!(names(&cache), ["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_undecodable_object_is_told_of_once_and_again_when_it_is_spoilt_otherwise() {
        let metrics = crate::metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
        let (events, mut told) = Events::new(metrics);
        let (cache, mut feeder) = cache::<ConfigMap>();
        tokio::spawn(report(cache, events, LeaseHandle::held_for_ever()));
        feeder.take(watcher::Event::Apply(map("bad", json!("no map"))));
        let first = told.recv().await.unwrap();
        assert_eq!((first.reason, first.about.name.as_deref()), (Reason::Undecodable, Some("bad")));
        feeder.take(watcher::Event::Apply(map("good", json!({}))));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(told.try_recv().is_err());
        feeder.take(watcher::Event::Apply(map("bad", json!(7))));
        assert_ne!(told.recv().await.unwrap().note, first.note);
    }

    #[test]
    fn one_undecodable_object_is_named_and_the_others_go_on() {
        let (cache, mut feeder) = cache::<ConfigMap>();
        feeder.take(watcher::Event::Init);
        feeder.take(watcher::Event::InitApply(map("bad", json!("no map"))));
        feeder.take(watcher::Event::InitApply(map("good", json!({"k": "v"}))));
        feeder.take(watcher::Event::InitDone);
        assert_eq!(names(&cache), ["good"]);
        let key = ("koinon-system".to_owned(), "bad".to_owned());
        assert_eq!(cache.undecodable()[&key].uid.as_deref(), Some("bad"));

        feeder.take(watcher::Event::Apply(map("bad", json!({}))));
        assert_eq!(names(&cache), ["bad", "good"]);
        assert!(cache.undecodable().is_empty());
        feeder.take(watcher::Event::Apply(map("good", json!("spoilt"))));
        feeder.take(watcher::Event::Delete(map("bad", json!({}))));
        assert!(cache.all().is_empty() && cache.undecodable().len() == 1);
    }
}
