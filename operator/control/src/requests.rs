//! What is asked of the API server, counted where every request passes.
//!
//! The labels are closed: resources and controllers are those of this program. A watch is opened anew every minute even where
//! nothing changes, so the time since one was last opened says how old a cache may be.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use koinon_telemetry::{Kind, Registrar};
use kube::client::Body;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounterVec, Opts};
use tokio::time::Instant;
use tower::{Layer, Service};

/// The metrics of requests, and the layer of a client that keeps them. Clones share them.
#[derive(Clone, Debug)]
pub struct Requests {
    writes: IntCounterVec,
    conflicts: IntCounterVec,
    watches: Watches,
}

/// What a request is, as far as it is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// It changes something.
    Write { verb: &'static str, resource: String, controller: String },
    /// It follows a set of objects: the resource, and which of its objects.
    Watch { resource: String, selection: String },
    /// It only reads.
    Other,
}

impl Requests {
    pub(crate) fn register(new: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            writes: new.counters(
                "koinon_api_writes_total",
                "Writes to the API server, by who wrote, what, and the status of the answer (none without one).",
                &["controller", "verb", "resource", "code"],
            )?,
            conflicts: new.counters(
                "koinon_api_conflicts_total",
                "Writes that the API server refused because somebody else wrote first, by who wrote.",
                &["controller"],
            )?,
            watches: new.keep(Watches::new()?, |_| Kind::Gauge)?,
        })
    }

    /// Forgets which watches there are: those that go on are opened anew within a minute.
    pub fn forget_watches(&self) {
        self.watches.lock().clear();
    }

    fn answered(&self, asked: &Asked, code: Option<u16>) {
        match asked {
            Asked::Write { verb, resource, controller } => {
                let answer = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
                self.writes.with_label_values(&[controller, *verb, resource, &answer]).inc();
                if code == Some(409) {
                    self.conflicts.with_label_values(&[controller.as_str()]).inc();
                }
            }
            Asked::Watch { resource, selection } if code.is_some_and(|code| code < 300) => {
                self.watches.lock().insert((resource.clone(), selection.clone()), Instant::now());
            }
            Asked::Watch { .. } | Asked::Other => {}
        }
    }
}

impl Asked {
    fn of<T>(request: &Request<T>) -> Self {
        let (uri, query) = (request.uri(), request.uri().query().unwrap_or_default());
        let value = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
        };
        let Some(resource) = resource(uri.path()) else { return Self::Other };
        let verb = match *request.method() {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ if value("watch").as_deref() == Some("true") => {
                let selection = format!("{} {}", uri.path(), value("labelSelector").unwrap_or_default());
                return Self::Watch { resource, selection };
            }
            _ => return Self::Other,
        };
        let manager = value("fieldManager").unwrap_or_default();
        // `koinon/pools`, as a query spells it.
        let own = manager.strip_prefix("koinon%2F").or_else(|| manager.strip_prefix("koinon/"));
        let controller = own.unwrap_or("other").to_owned();
        Self::Write { verb, resource, controller }
    }
}

/// As `deployments` or `deployments/status`, of paths as `/apis/apps/v1/namespaces/a/deployments/b/status`.
fn resource(path: &str) -> Option<String> {
    let mut parts = path.trim_matches('/').split('/');
    match parts.next()? {
        "api" => parts.next()?,
        "apis" => parts.nth(1)?,
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    let rest = match rest.as_slice() {
        ["namespaces", _, within @ ..] if !within.is_empty() => within,
        all => all,
    };
    match rest {
        [resource] | [resource, _] => Some((*resource).to_owned()),
        [resource, _, part] => Some(format!("{resource}/{part}")),
        _ => None,
    }
}

/// When each watch was last opened.
#[derive(Clone, Debug)]
struct Watches {
    age: GaugeVec,
    opened: Arc<Mutex<HashMap<(String, String), Instant>>>,
}

impl Watches {
    fn new() -> Result<Self, prometheus::Error> {
        let help = "For how long what is known of a kind may have gone unheard: since its oldest watch was last opened, which \
                    happens every minute.";
        Ok(Self {
            age: GaugeVec::new(Opts::new("koinon_cache_age_seconds", help), &["resource"])?,
            opened: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Instant>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Watches {
    fn desc(&self) -> Vec<&Desc> {
        self.age.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut oldest: BTreeMap<String, f64> = BTreeMap::new();
        for ((resource, _), opened) in self.lock().iter() {
            let age = oldest.entry(resource.clone()).or_default();
            *age = age.max(opened.elapsed().as_secs_f64());
        }
        self.age.reset();
        for (resource, age) in oldest {
            self.age.with_label_values(&[resource.as_str()]).set(age);
        }
        self.age.collect()
    }
}

impl<S> Layer<S> for Requests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.clone() }
    }
}

/// A client's way to the API server that counts.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    requests: Requests,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (asked, requests) = (Asked::of(&request), self.requests.clone());
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            requests.answered(&asked, answer.as_ref().ok().map(|answer| answer.status().as_u16()));
            answer
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::{Registry, TextEncoder};

    use super::*;

    fn asked(method: Method, uri: &str) -> Asked {
        Asked::of(&Request::builder().method(method).uri(uri).body(()).unwrap())
    }

    #[test]
    fn a_request_is_told_by_its_resource_and_by_who_makes_it() {
        let pool = "/apis/koinon.dev/v1alpha1/namespaces/koinon-system/gpupools/shared/status";
        let write = |verb, resource: &str, controller: &str| Asked::Write {
            verb,
            resource: resource.to_owned(),
            controller: controller.to_owned(),
        };
        assert_eq!(
            asked(Method::PATCH, &format!("{pool}?force=true&fieldManager=koinon%2Fpools")),
            write("patch", "gpupools/status", "pools")
        );
        assert_eq!(asked(Method::DELETE, "/api/v1/namespaces/guest-a"), write("delete", "namespaces", "other"));
        assert_eq!(asked(Method::POST, "/api/v1/namespaces/a/pods"), write("create", "pods", "other"));
        assert_eq!(asked(Method::GET, "/api/v1/nodes/a"), Asked::Other);
        assert_eq!(asked(Method::POST, "/metrics"), Asked::Other);
        assert!(
            matches!(asked(Method::GET, "/api/v1/nodes?watch=true"), Asked::Watch { resource, .. } if resource == "nodes")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_is_as_old_as_its_oldest_watch_and_a_refused_one_does_not_count() {
        let registry = Registry::new();
        let requests = Requests::register(&Registrar::new(&registry)).unwrap();
        let scrape = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let watch =
            |selector: &str| asked(Method::GET, &format!("/api/v1/secrets?watch=true&labelSelector={selector}"));
        requests.answered(&watch("a"), Some(200));
        requests.answered(&watch("b"), Some(200));
        tokio::time::advance(Duration::from_secs(70)).await;
        requests.answered(&watch("a"), Some(200));
        requests.answered(&watch("b"), Some(403));
        requests.answered(&watch("b"), None);
        assert!(scrape().contains("koinon_cache_age_seconds{resource=\"secrets\"} 70"), "{}", scrape());
        requests.forget_watches();
        assert!(!scrape().contains("koinon_cache_age_seconds"));

        let write = asked(Method::PUT, "/api/v1/namespaces/a/configmaps/b?fieldManager=koinon%2Fguests");
        requests.answered(&write, Some(409));
        requests.answered(&write, None);
        let text = scrape();
        assert!(text.contains("koinon_api_conflicts_total{controller=\"guests\"} 1"), "{text}");
        assert!(
            text.contains("code=\"none\",controller=\"guests\",resource=\"configmaps\",verb=\"update\"} 1"),
            "{text}"
        );
    }
}
