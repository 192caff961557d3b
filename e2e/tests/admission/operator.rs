//! Gate 3 and the rights of every part, asked with their own tokens.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use koinon_e2e::{Datacenter, Fleet};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::server::{GUEST, JOBS, RELEASE, Server, all_held, documents, installed};

const ACCOUNT: &str = "koinon-operator";

pub async fn token(datacenter: &Datacenter, namespace: &str, account: &str, more: &[&str]) -> Result<String> {
    let mut args = vec!["--namespace", namespace, "create", "token", account];
    args.extend(more);
    Ok(datacenter.kubectl(args).await?.trim().to_owned())
}

pub async fn as_operator(datacenter: &Datacenter) -> Result<Server> {
    Server::bearing(datacenter, &token(datacenter, RELEASE, ACCOUNT, &[]).await?).await
}

/// The one rendered Deployment of the golden files.
fn deployment(namespace: &str) -> Result<Value> {
    of_kind("Deployment", namespace)
}

fn of_kind(kind: &str, namespace: &str) -> Result<Value> {
    let found = documents("operator/control/src/render/golden")?.into_iter().find(|d| d.object["kind"] == kind);
    Ok(installed(found.with_context(|| format!("the renderer's golden files hold no {kind}"))?.object, namespace))
}

fn guest_pod(file: &str) -> Result<Value> {
    let found = documents(&format!("e2e/testdata/guest-pods/{file}.yaml"))?.into_iter().next();
    Ok(found.context("an empty file")?.object)
}

/// A perfectly rendered Deployment is refused where no guest or job runs, and a hostile one everywhere.
pub async fn places(fleet: Arc<Fleet>) -> Result<()> {
    let operator = as_operator(fleet.get("aarhus")?).await?;
    let mut failures = Vec::new();
    let mut count = 0;
    let mut expect = |what: String, answer: Result<(), String>, words: Option<&str>| {
        count += 1;
        match (&answer, words) {
            (Ok(()), None) => {}
            (Err(said), Some(words)) if said.contains(words) => {}
            _ => failures.push(format!("{what}: {answer:?}")),
        }
    };
    for namespace in [GUEST, JOBS] {
        let answer = operator.try_create(&deployment(namespace)?).await?;
        expect(format!("the rendered Deployment in {namespace}"), answer, None);
        let answer = operator.try_create(&of_kind("Service", namespace)?).await?;
        expect(format!("the rendered Service in {namespace}"), answer, None);
        let answer = operator.try_create(&of_kind("ResourceClaimTemplate", namespace)?).await?;
        expect(format!("the rendered claim in {namespace}"), answer, None);
        for (field, value) in [("adminAccess", json!(false)), ("deviceClassName", json!("nic.example.com"))] {
            let mut claim = of_kind("ResourceClaimTemplate", namespace)?;
            claim["spec"]["spec"]["devices"]["requests"][0]["exactly"][field] = value;
            let answer = operator.try_create(&claim).await?;
            expect(format!("a claim with {field} in {namespace}"), answer, Some("ValidatingAdmissionPolicy"));
        }
    }
    for namespace in ["kube-system", "default", RELEASE, "koinon-agent"] {
        let answer = operator.try_create(&deployment(namespace)?).await?;
        expect(format!("the rendered Deployment in {namespace}"), answer, Some("guest and job namespaces only"));
        let answer = operator.try_create(&of_kind("Service", namespace)?).await?;
        expect(format!("the rendered Service in {namespace}"), answer, Some("guest and job namespaces only"));
        let answer = operator.try_create(&of_kind("ResourceClaimTemplate", namespace)?).await?;
        expect(format!("the rendered claim in {namespace}"), answer, Some("guest and job namespaces only"));
        let answer = operator.try_create(&of_kind("NetworkPolicy", namespace)?).await?;
        // Two gates refuse it, and either may speak first.
        expect(format!("the rendered NetworkPolicy in {namespace}"), answer, Some("koinon-operator-"));
    }
    for change in [
        json!({"hostNetwork": true}),
        json!({"automountServiceAccountToken": true}),
        json!({"terminationGracePeriodSeconds": 3600}),
    ] {
        for namespace in [GUEST, JOBS] {
            let mut object = deployment(namespace)?;
            let spec = object["spec"]["template"]["spec"].as_object_mut().context("a template")?;
            spec.extend(change.as_object().cloned().unwrap_or_default());
            let answer = operator.try_create(&object).await?;
            expect(format!("a Deployment with {change} in {namespace}"), answer, Some("ValidatingAdmissionPolicy"));
        }
    }
    expect("the probe in a guest namespace".into(), operator.try_create(&guest_pod("probe")?).await?, None);
    let engine = operator.try_create(&guest_pod("engine")?).await?;
    expect("an engine as a bare pod".into(), engine, Some("the only pod that the operator makes is the probe"));
    let mut probe = guest_pod("probe")?;
    probe["metadata"]["namespace"] = JOBS.into();
    let answer = operator.try_create(&probe).await?;
    expect("the probe in a job namespace".into(), answer, Some("the probe in guest namespaces"));
    let over_all = of_kind("NetworkPolicy", JOBS)?;
    let answer = operator.try_create(&over_all).await?;
    expect("a NetworkPolicy over a team's own pods".into(), answer, Some("select engines only"));
    let count = count;
    all_held(failures, count)
}

/// Its rights to change and delete are cluster-wide; the gate holds them to what it made.
pub async fn others(fleet: Arc<Fleet>) -> Result<()> {
    let datacenter = fleet.get("aarhus")?;
    let (admin, operator) = (Server::admin(datacenter).await?, as_operator(datacenter).await?);
    let template =
        json!({"metadata": {"labels": {"app": "own"}}, "spec": {"containers": [{"name": "own", "image": "own"}]}});
    let mut failures = Vec::new();
    let mut count = 0;
    for namespace in [JOBS, "kube-system"] {
        let named = json!({"name": "own", "namespace": namespace});
        for object in [
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named,
                "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "own"}}, "template": template}}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": named,
                "spec": {"selector": {"app": "own"}, "ports": [{"port": 80}]}}),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": named,
                "spec": {"podSelector": {"matchLabels": {"koinon.dev/part": "engine"}}}}),
            json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": named,
                "spec": {"spec": {"devices": {"requests": [
                    {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]}}}}),
        ] {
            admin.create(&object).await?;
            let change = json!({"metadata": {"labels": {"koinon.dev/placement": "mine", "app.kubernetes.io/managed-by": "koinon"}}});
            for (what, answer) in [
                ("changed", operator.try_patch(&object, change).await?),
                ("ended", operator.try_delete(&object).await?),
            ] {
                count += 1;
                if !answer.as_ref().is_err_and(|said| said.contains("koinon-operator-")) {
                    failures.push(format!("a team's own {} in {namespace} was {what}: {answer:?}", object["kind"]));
                }
            }
        }
    }
    for kind in ["Deployment", "Service"] {
        let mut own = of_kind(kind, JOBS)?;
        // Its Placement does not exist: with the reference to it the garbage collector would be faster now and then.
        let metadata = own["metadata"].as_object_mut().context("metadata")?;
        metadata.remove("ownerReferences");
        metadata.insert("name".to_owned(), json!("unowned"));
        operator.create(&own).await?;
        count += 1;
        if let Err(said) = operator.try_delete(&own).await? {
            failures.push(format!("its own {kind}: {said}"));
        }
    }
    all_held(failures, count)
}

/// It makes guest namespaces, and can neither open others to itself nor end them.
pub async fn namespaces(fleet: Arc<Fleet>) -> Result<()> {
    let datacenter = fleet.get("aarhus")?;
    let operator = as_operator(datacenter).await?;
    let named = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    let guest = json!({"koinon.dev/guest-of": "esbjerg", "pod-security.kubernetes.io/enforce": "restricted"});
    let admin = Server::admin(datacenter).await?;
    admin
        .ensure(&named(
            "koinon-guest-cork",
            json!({"koinon.dev/guest-of": "cork", "pod-security.kubernetes.io/enforce": "restricted"}),
        ))
        .await?;
    let only = "guest namespaces only";
    let mut failures = Vec::new();
    let mut expect = |what: &str, answer: Result<(), String>, words: Option<&str>| match (&answer, words) {
        (Ok(()), None) => {}
        (Err(said), Some(words)) if said.contains(words) => {}
        _ => failures.push(format!("{what}: {answer:?}")),
    };
    expect("a guest namespace", operator.try_create(&named("koinon-guest-esbjerg", guest.clone())).await?, None);
    expect("another namespace", operator.try_create(&named("mine", json!({}))).await?, Some(only));
    let jobs = json!({"koinon.dev/guest-of": "esbjerg", "pod-security.kubernetes.io/enforce": "restricted", "koinon.dev/jobs": "allowed"});
    expect(
        "one open to jobs",
        operator.try_create(&named("koinon-guest-esbjerg", jobs)).await?,
        Some("only an admin opens"),
    );
    let system = named("kube-system", json!({}));
    let opened = json!({"metadata": {"labels": {"koinon.dev/jobs": "allowed"}}});
    expect("kube-system opened to jobs", operator.try_patch(&system, opened).await?, Some(only));
    let taken = json!({"metadata": {"labels": {"koinon.dev/guest-of": "esbjerg"}}});
    expect("kube-system made a guest's", operator.try_patch(&system, taken).await?, Some("denied request"));
    expect("a team's namespace ended", operator.try_delete(&named(JOBS, json!({}))).await?, Some(only));
    let debug = json!({"metadata": {"annotations": {"koinon.dev/debug": "allowed"}}});
    expect(
        "guests' pods opened",
        operator.try_patch(&named("koinon-guest-cork", json!({})), debug).await?,
        Some("only an admin lets people"),
    );
    expect("a guest namespace ended", operator.try_delete(&named("koinon-guest-cork", json!({}))).await?, None);
    all_held(failures, 8)
}

/// What the roles say, read from the rendered install, and what the server makes of them.
pub async fn rights(fleet: Arc<Fleet>) -> Result<()> {
    let mut failures = Vec::new();
    let mut roles = 0;
    for document in documents("manifests/install.yaml")? {
        let object = &document.object;
        let kind = object["kind"].as_str().unwrap_or_default();
        if !["Role", "ClusterRole"].contains(&kind) {
            continue;
        }
        roles += 1;
        for rule in object["rules"].as_array().into_iter().flatten() {
            let words = rule.to_string();
            let name = &object["metadata"]["name"];
            for never in ["\"*\"", "\"bind\"", "\"escalate\"", "\"impersonate\""] {
                if words.contains(never) {
                    failures.push(format!("{kind} {name} grants {never}: {words}"));
                }
            }
            if words.contains("\"secrets\"") && (kind == "ClusterRole" || object["metadata"]["namespace"] != RELEASE) {
                failures.push(format!("{kind} {name} reaches Secrets outside the release namespace"));
            }
        }
    }
    ensure!(roles >= 6, "only {roles} roles were found");

    let datacenter = fleet.get("aarhus")?;
    let operator = as_operator(datacenter).await?;
    let gateway = Server::bearing(datacenter, &token(datacenter, RELEASE, "koinon-gateway", &[]).await?).await?;
    let agent = Server::bearing(datacenter, &token(datacenter, "koinon-agent", "koinon-agent", &[]).await?).await?;
    let mut asked = 0;
    for (who, server, verb, resource, name, namespace, wanted) in [
        ("operator", &operator, "get", "secrets", "koinon-operator-key", RELEASE, true),
        ("operator", &operator, "get", "secrets", "x", "kube-system", false),
        ("operator", &operator, "list", "secrets", "", GUEST, false),
        ("operator", &operator, "create", "configmaps", "x", GUEST, false),
        ("operator", &operator, "patch", "nodes", "node-1", "", false),
        ("operator", &operator, "create", "devicetaintrules.resource.k8s.io", "x", "", false),
        ("agent", &agent, "get", "configmaps", "koinon-xids", RELEASE, true),
        ("agent", &agent, "get", "configmaps", "koinon-settled", RELEASE, false),
        ("agent", &agent, "list", "configmaps", "", RELEASE, false),
        ("agent", &agent, "get", "secrets", "koinon-operator-key", RELEASE, false),
        ("gateway", &gateway, "get", "secrets", "koinon-gateway-tls", RELEASE, true),
        ("gateway", &gateway, "get", "secrets", "koinon-apikeys", RELEASE, true),
        ("gateway", &gateway, "get", "secrets", "koinon-operator-key", RELEASE, false),
        ("gateway", &gateway, "list", "secrets", "", RELEASE, false),
        ("gateway", &gateway, "create", "pods", "x", GUEST, false),
    ] {
        asked += 1;
        if may(server, verb, resource, name, namespace).await? != wanted {
            failures.push(format!("{who}: {verb} {resource} {name} in {namespace} should be {wanted}"));
        }
    }
    all_held(failures, roles + asked)
}

async fn may(server: &Server, verb: &str, resource: &str, name: &str, namespace: &str) -> Result<bool> {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.into()),
                resource: Some(resource.into()),
                group: Some(group.into()),
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(server.client());
    let answer = api.create(&PostParams::default(), &review).await.context("asking for a right")?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// A token that was issued on one node writes nothing about another.
pub async fn agent(fleet: Arc<Fleet>) -> Result<()> {
    let datacenter = fleet.get("aarhus")?;
    let admin = Server::admin(datacenter).await?;
    admin.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}})).await?;
    let on_node = ["--bound-object-kind", "Node", "--bound-object-name", "node-a"];
    let agent =
        Server::bearing(datacenter, &token(datacenter, "koinon-agent", "koinon-agent", &on_node).await?).await?;
    let nowhere = Server::bearing(datacenter, &token(datacenter, "koinon-agent", "koinon-agent", &[]).await?).await?;
    let node = |name: &str| json!({"apiVersion": "koinon.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": name}, "spec": {}});
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "koinon-agent"}, "spec": {"holderIdentity": name}});
    let own = "of its own node only";
    let mut failures = Vec::new();
    for (what, answer, words) in [
        ("its own GPUNode", agent.try_create(&node("node-a")).await?, None),
        ("its own heartbeat", agent.try_create(&lease("node-a")).await?, None),
        ("the GPUNode of another", agent.try_create(&node("node-b")).await?, Some(own)),
        ("the heartbeat of another", agent.try_create(&lease("node-b")).await?, Some(own)),
        (
            "a change to another",
            agent.try_patch(&node("node-1"), json!({"metadata": {"labels": {"x": "y"}}})).await?,
            Some(own),
        ),
        ("a token of no node", nowhere.try_create(&node("node-a")).await?, Some(own)),
    ] {
        match (&answer, words) {
            (Ok(()), None) => {}
            (Err(said), Some(words)) if said.contains(words) => {}
            _ => failures.push(format!("{what}: {answer:?}")),
        }
    }
    all_held(failures, 6)
}
