//! Gate 2: guest namespaces, whoever asks.

use std::sync::Arc;

use anyhow::{Result, ensure};
use koinon_e2e::Fleet;
use serde_json::{Value, json};

use crate::server::{Document, GUEST, RELEASE, Server, all_held, documents, installed, refuses};

/// What every refusal by a gate over guests names.
const GATE: &str = "koinon-guest-";

/// The renderer's own golden files and our good pods pass.
pub async fn rendered(fleet: Arc<Fleet>) -> Result<()> {
    let server = Server::admin(fleet.get("aarhus")?).await?;
    let mut tried = documents("e2e/testdata/guest-pods")?;
    tried.extend(documents("operator/control/src/render/golden")?);
    let mut failures = Vec::new();
    for Document { path, object, .. } in &tried {
        let object = installed(object.clone(), GUEST);
        // The namespace is there already; that it is one is another case.
        if object["kind"] == "Namespace" {
            continue;
        }
        if let Err(said) = server.try_create(&object).await? {
            failures.push(format!("{} {}: {said}", path.display(), object["kind"]));
        }
    }
    all_held(failures, tried.len())
}

/// Each pod that leaves its confinement is refused by the gate, in its words.
pub async fn hostile_pods(fleet: Arc<Fleet>) -> Result<()> {
    let server = Server::admin(fleet.get("aarhus")?).await?;
    let tried = documents("e2e/testdata/hostile-pods")?;
    ensure!(tried.len() >= 60, "only {} hostile pods", tried.len());
    let mut failures = Vec::new();
    for document in &tried {
        judge(&mut failures, document, &server.try_create(&document.object).await?);
    }
    all_held(failures, tried.len())
}

/// The same pods, wrapped. What Kubernetes itself refuses of a template never comes to the gate.
pub async fn hostile_workloads(fleet: Arc<Fleet>) -> Result<()> {
    let server = Server::admin(fleet.get("aarhus")?).await?;
    let pods = documents("e2e/testdata/hostile-pods")?;
    let mut failures = Vec::new();
    let mut by_gate = 0;
    for document in &pods {
        for kind in ["Deployment", "ReplicaSet"] {
            let answer = server.try_create(&wrapped(kind, &document.object)).await?;
            match &answer {
                Ok(()) => failures.push(format!("{} passed as {kind}", document.path.display())),
                Err(said) if said.contains(GATE) => by_gate += 1,
                Err(_) => {}
            }
        }
    }
    ensure!(by_gate >= 2 * pods.len() * 8 / 10, "the gate judged only {by_gate} of {}", 2 * pods.len());
    all_held(failures, 2 * pods.len())
}

fn wrapped(kind: &str, pod: &Value) -> Value {
    // A template without the label cannot be selected, so the label it is selected by is added; its absence is tried as a pod.
    let mut labels = pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert("app".into(), "x".into());
    let mut metadata = pod["metadata"].clone();
    metadata["labels"] = labels.into();
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": pod["metadata"]["name"], "namespace": GUEST},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": metadata["labels"], "annotations": metadata["annotations"]}, "spec": pod["spec"]}},
    })
}

/// Workloads, Services, policies and the rest that the renderer does not make.
pub async fn hostile_objects(fleet: Arc<Fleet>) -> Result<()> {
    let server = Server::admin(fleet.get("aarhus")?).await?;
    let tried = documents("e2e/testdata/hostile-objects")?;
    let mut failures = Vec::new();
    for document in &tried {
        judge(&mut failures, document, &server.try_create(&document.object).await?);
    }
    all_held(failures, tried.len())
}

fn judge(failures: &mut Vec<String>, document: &Document, answer: &Result<(), String>) {
    let words = document.refused.as_deref().unwrap_or("a file without `# refused:`");
    if !refuses(answer, GATE) || !refuses(answer, words) {
        failures.push(format!("{}: expected \"{words}\", got {answer:?}", document.path.display()));
    }
}

/// A guest namespace as it should be, which a case makes.
const OTHER: &str = "koinon-guest-cork";

/// Exec, attach, port-forward and tokens.
pub async fn connections(fleet: Arc<Fleet>) -> Result<()> {
    let datacenter = fleet.get("aarhus")?;
    let server = Server::admin(datacenter).await?;
    let labels = json!({"koinon.dev/guest-of": "cork", "pod-security.kubernetes.io/enforce": "restricted"});
    server
        .ensure(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OTHER, "labels": labels}}))
        .await?;
    let ask = async |what: &str| -> Result<String> {
        let request = http::Request::post(format!("/api/v1/namespaces/{OTHER}/pods/none/{what}")).body(Vec::new())?;
        match server.client().request_text(request).await {
            Err(kube::Error::Api(status)) => Ok(status.message.clone()),
            other => Ok(format!("{other:?}")),
        }
    };
    for what in ["exec?command=id", "attach", "portforward"] {
        let said = ask(what).await?;
        ensure!(said.contains("nobody looks into a guest's pod"), "{what}: {said}");
    }
    datacenter.kubectl(["annotate", "namespace", OTHER, "koinon.dev/debug=allowed"]).await?;
    let said = ask("exec?command=id").await?;
    datacenter.kubectl(["annotate", "namespace", OTHER, "koinon.dev/debug-"]).await?;
    ensure!(said.contains("not found"), "an admin allowed it, so only the pod should be missing: {said}");

    let token = datacenter.kubectl(["--namespace", OTHER, "create", "token", "default"]).await;
    let said = token.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(said.contains("tokens are refused"), "a token was given out: {said}");
    Ok(())
}

/// Labels that make a namespace a guest's are neither given later nor taken away, and Pod Security stays.
pub async fn namespaces(fleet: Arc<Fleet>) -> Result<()> {
    let server = Server::admin(fleet.get("aarhus")?).await?;
    let named = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    let restricted = json!({"koinon.dev/guest-of": "cork", "pod-security.kubernetes.io/enforce": "restricted"});
    let good = named("koinon-guest-dublin", restricted.clone());
    let mut failures = Vec::new();
    let mut expect = |what: &str, answer: Result<(), String>, words: Option<&str>| match (&answer, words) {
        (Ok(()), None) => {}
        (Err(said), Some(words)) if said.contains(words) => {}
        _ => failures.push(format!("{what}: {answer:?}")),
    };
    expect("a restricted guest namespace", server.try_create(&good).await?, None);
    let unprotected = named(OTHER, json!({"koinon.dev/guest-of": "cork"}));
    expect(
        "one without Pod Security",
        server.try_create(&unprotected).await?,
        Some("enforces Pod Security restricted"),
    );
    expect(
        "one of another name",
        server.try_create(&named("cork", restricted.clone())).await?,
        Some("begins with koinon-guest-"),
    );
    server.ensure(&good).await?;
    for (what, change, words) in [
        ("the label taken away", json!({"metadata": {"labels": {"koinon.dev/guest-of": null}}}), "neither given"),
        ("the label changed", json!({"metadata": {"labels": {"koinon.dev/guest-of": "bilbao"}}}), "neither given"),
        (
            "Pod Security lowered",
            json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}),
            "restricted",
        ),
    ] {
        expect(what, server.try_patch(&good, change).await?, Some(words));
    }
    let system = named("kube-system", json!({}));
    expect(
        "the label given later",
        server.try_patch(&system, json!({"metadata": {"labels": restricted}})).await?,
        Some("neither given"),
    );
    expect(
        "another label",
        server.try_patch(&named(RELEASE, json!({})), json!({"metadata": {"labels": {"x": "y"}}})).await?,
        None,
    );
    all_held(failures, 8)
}
