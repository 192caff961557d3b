//! As much of an API server as the agent uses: one Node, GPUNodes and Leases by name, and faults.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// Method and path of everything that was asked.
    asked: Vec<String>,
    /// Paths that contain the key are answered so.
    answers: BTreeMap<String, (u16, Value)>,
    version: u64,
}

pub const GPU_NODE: &str = "/apis/koinon.dev/v1alpha1/gpunodes/bilbao-1";
pub const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/koinon-agent/leases/bilbao-1";
pub const NODE: &str = "/api/v1/nodes/bilbao-1";

impl FakeApi {
    pub fn with_node() -> Self {
        let api = Self::default();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bilbao-1", "uid": "node-uid"}});
        api.lock().objects.insert(NODE.to_owned(), node);
        api
    }

    pub fn client(&self) -> kube::Client {
        let state = self.state.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let state = state.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap_or_default();
                let (code, answer) = state.lock().unwrap().answer(&parts.method, parts.uri.path(), &body);
                let text = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, Infallible>(Response::builder().status(code).body(text).unwrap())
            }
        });
        kube::Client::new(service, "koinon-agent")
    }

    pub fn object(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    pub fn put(&self, path: &str, object: Value) {
        self.lock().objects.insert(path.to_owned(), object);
    }

    pub fn delete(&self, path: &str) {
        self.lock().objects.remove(path);
    }

    /// How often this was asked, as `PATCH /path`.
    pub fn asked(&self, what: &str) -> usize {
        self.lock().asked.iter().filter(|asked| *asked == what).count()
    }

    pub fn everything_asked(&self) -> Vec<String> {
        self.lock().asked.clone()
    }

    /// From now on, answers requests whose path contains `part` with this error.
    pub fn fail(&self, part: &str, code: u16, reason: &str, message: &str) {
        let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message});
        self.lock().answers.insert(part.to_owned(), (code, status));
    }

    pub fn mend(&self) {
        self.lock().answers.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        self.asked.push(format!("{method} {path}"));
        if let Some((_, answer)) = self.answers.iter().find(|(part, _)| path.contains(*part)) {
            return answer.clone();
        }
        let (object_path, subresource) = match path.strip_suffix("/status") {
            Some(of) => (of.to_owned(), true),
            None => (path.to_owned(), false),
        };
        let missing = || {
            let name = object_path.rsplit('/').next();
            (
                404,
                json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound",
                "message": format!("{object_path} not found"), "details": {"name": name}}),
            )
        };
        match *method {
            Method::GET => self.objects.get(&object_path).map_or_else(missing, |object| (200, object.clone())),
            Method::PATCH => {
                if subresource && !self.objects.contains_key(&object_path) {
                    return missing();
                }
                let applied: Value = serde_json::from_slice(body).unwrap();
                self.version += 1;
                let object = self.objects.entry(object_path).or_insert_with(|| json!({"metadata": {"generation": 1}}));
                let fields = ["apiVersion", "kind"].into_iter().chain(if subresource { ["status"] } else { ["spec"] });
                for field in fields {
                    if let Some(value) = applied.get(field) {
                        object[field] = value.clone();
                    }
                }
                if !subresource {
                    for (field, value) in applied["metadata"].as_object().into_iter().flatten() {
                        object["metadata"][field] = value.clone();
                    }
                }
                object["metadata"]["resourceVersion"] = json!(self.version.to_string());
                (200, object.clone())
            }
            _ => (
                405,
                json!({"kind": "Status", "status": "Failure", "code": 405, "message": "the agent only gets and patches"}),
            ),
        }
    }
}
