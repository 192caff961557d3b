//! What the API server holds of one kind, kept up to date.
//!
//! An API server that is down or refuses leaves what was known as it was: the gateway goes on with its last routes. One
//! object that cannot be read does not stop the others, and what was last known of it stays.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use koinon_telemetry::Awaited;
use kube::api::{Api, ResourceExt};
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// A watch that says nothing for this long is opened anew, so that a connection that died silently is noticed.
const WATCH_SECONDS: u32 = 60;

/// Namespace (empty for cluster-scoped kinds) and name.
type Key = (String, String);

/// All objects of a kind, as last known.
pub type Objects<K> = BTreeMap<Key, Arc<K>>;

/// Gathers the events of one watch.
#[derive(Debug)]
struct Gathered<K> {
    objects: Objects<K>,
    /// The list that is being received; it replaces the objects when it is complete.
    incoming: Option<Objects<K>>,
    unreadable: BTreeMap<Key, String>,
}

impl<K: Resource + Clone> Gathered<K> {
    fn new() -> Self {
        Self { objects: BTreeMap::new(), incoming: None, unreadable: BTreeMap::new() }
    }

    /// Takes an event and says whether `objects` changed.
    fn take(&mut self, event: watcher::Event<DeserializeGuard<K>>, trim: fn(&mut K)) -> bool {
        match event {
            watcher::Event::Init => {
                self.incoming = Some(BTreeMap::new());
                self.unreadable.clear();
                false
            }
            watcher::Event::InitApply(object) => {
                let (key, object) = self.read(object, trim);
                if let (Some(incoming), Some(object)) = (&mut self.incoming, object) {
                    incoming.insert(key, object);
                }
                false
            }
            watcher::Event::InitDone => {
                self.objects = self.incoming.take().unwrap_or_default();
                true
            }
            watcher::Event::Apply(object) => {
                let (key, object) = self.read(object, trim);
                let readable = object.is_some();
                self.objects.extend(object.map(|object| (key, object)));
                readable
            }
            watcher::Event::Delete(object) => {
                let key = key_of(&object);
                self.unreadable.remove(&key);
                self.objects.remove(&key).is_some()
            }
        }
    }

    /// The object, or what was last known of it.
    fn read(&mut self, object: DeserializeGuard<K>, trim: fn(&mut K)) -> (Key, Option<Arc<K>>) {
        let key = key_of(&object);
        match object.0 {
            Ok(mut object) => {
                self.unreadable.remove(&key);
                object.managed_fields_mut().clear();
                trim(&mut object);
                (key, Some(Arc::new(object)))
            }
            Err(invalid) => {
                let kept = self.objects.get(&key).cloned();
                self.unreadable.insert(key.clone(), invalid.error.chars().take(300).collect());
                (key, kept)
            }
        }
    }
}

fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// One kind to follow.
pub struct Follow<K> {
    /// Where it is read.
    pub api: Api<DeserializeGuard<K>>,
    /// Which of its objects.
    pub config: watcher::Config,
    /// Takes out of an object what the gateway does not read, before it is kept.
    pub trim: fn(&mut K),
    /// What is told of it.
    pub metrics: Metrics,
    /// Met with the first complete list.
    pub awaited: Awaited,
}

impl<K> Follow<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Sends all objects at the first complete list and at every change.
    pub async fn run(self, sender: watch::Sender<Objects<K>>) {
        let Self { api, config, trim, metrics, awaited } = self;
        let kind = K::kind(&()).into_owned();
        let events = watcher(api, config.timeout(WATCH_SECONDS)).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut gathered = Gathered::new();
        let mut reported = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let complete = matches!(event, watcher::Event::InitDone);
                    let changed = gathered.take(event, trim);
                    metrics.undecodable.with_label_values(&[kind.as_str()]).set(gathered.unreadable.len() as i64);
                    if changed {
                        sender.send_replace(gathered.objects.clone());
                    }
                    if complete {
                        reported = None;
                        awaited.met();
                        for ((namespace, name), error) in &gathered.unreadable {
                            tracing::warn!(%kind, namespace, name, error, "an object cannot be read; the others go on");
                        }
                    }
                }
                Err(error) => {
                    metrics.watch_errors.with_label_values(&[kind.as_str()]).inc();
                    let text = error.to_string();
                    // The same error every few seconds is one line, not a flood.
                    if reported.as_ref() != Some(&text) {
                        tracing::warn!(%kind, error = %text, "watching failed; what is known stays");
                        reported = Some(text);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;
    use watcher::Event;

    use super::*;

    fn map(name: &str, data: serde_json::Value) -> DeserializeGuard<ConfigMap> {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}, "data": data})).unwrap()
    }

    fn known<'a>(gathered: &'a Gathered<ConfigMap>) -> Vec<(&'a str, Option<&'a str>)> {
        let value = |map: &'a ConfigMap| map.data.as_ref()?.get("k").map(String::as_str);
        gathered.objects.iter().map(|((_, name), map)| (name.as_str(), value(map))).collect()
    }

    fn take(gathered: &mut Gathered<ConfigMap>, event: Event<DeserializeGuard<ConfigMap>>) -> bool {
        gathered.take(event, |_| {})
    }

    #[test]
    fn while_a_list_is_being_received_what_was_known_stays() {
        let mut gathered = Gathered::new();
        for event in [Event::Init, Event::InitApply(map("a", json!({"k": "1"}))), Event::InitDone] {
            take(&mut gathered, event);
        }
        take(&mut gathered, Event::Init);
        assert_eq!(known(&gathered), [("a", Some("1"))]);
        take(&mut gathered, Event::InitApply(map("b", json!({"k": "2"}))));
        assert_eq!(known(&gathered), [("a", Some("1"))]);
        assert!(take(&mut gathered, Event::InitDone));
        assert_eq!(known(&gathered), [("b", Some("2"))]);
    }

    #[test]
    fn an_object_that_becomes_unreadable_keeps_what_was_known_of_it_and_the_others_go_on() {
        let mut gathered = Gathered::new();
        for event in [Event::Init, Event::InitApply(map("a", json!({"k": "1"}))), Event::InitDone] {
            take(&mut gathered, event);
        }
        take(&mut gathered, Event::Apply(map("a", json!("no map"))));
        take(&mut gathered, Event::Apply(map("b", json!({"k": "2"}))));
        assert_eq!(known(&gathered), [("a", Some("1")), ("b", Some("2"))]);
        assert_eq!(gathered.unreadable.len(), 1);
        // A relist does not lose it either; its deletion does.
        for event in [Event::Init, Event::InitApply(map("a", json!("no map"))), Event::InitDone] {
            take(&mut gathered, event);
        }
        assert_eq!(known(&gathered), [("a", Some("1"))]);
        take(&mut gathered, Event::Delete(map("a", json!("no map"))));
        assert_eq!(known(&gathered), []);
        assert!(gathered.unreadable.is_empty());
    }

    #[test]
    fn an_object_that_was_never_readable_is_counted_and_nothing_more() {
        let mut gathered = Gathered::new();
        for event in [Event::Init, Event::InitApply(map("a", json!(7))), Event::InitDone] {
            take(&mut gathered, event);
        }
        assert_eq!((known(&gathered), gathered.unreadable.len()), (vec![], 1));
    }
}
