//! What still holds when no operator runs. Every hostile pod and place is tried in `tests/admission`; here are a few of each,
//! in a cluster where Koinon was at work a moment ago.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use koinon_e2e::story::RELEASE_NAMESPACE;
use koinon_e2e::toolchain::checkout;
use koinon_e2e::{Datacenter, Fleet, Poll, command, wait_until};
use serde_json::{Value, json};

use koinon_e2e::ground::{and_then_cleaned, delete, ground, rejected, scale_operator};

/// A guest namespace without guests.
const GUEST: &str = "koinon-guest-dublin";
/// Pods that leave their confinement in different ways. Pod Security speaks first, so some are its to refuse.
const HOSTILE: [(&str, &str); 5] = [
    ("privileged", "PodSecurity"),
    ("host-network", "PodSecurity"),
    ("volume-host-path", "PodSecurity"),
    ("token-mounted", "koinon-guest-"),
    ("image-by-tag", "koinon-guest-"),
];

fn document(path: &str) -> Result<Value> {
    let path = checkout().join("e2e/testdata").join(path);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut object: Value = serde_yaml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    object["metadata"]["namespace"] = json!(GUEST);
    Ok(object)
}

/// Gate 2 over a guest namespace and gate 3 over the operator's own token, with every operator of the cluster stopped.
pub async fn hold(fleet: Arc<Fleet>) -> Result<()> {
    let ground = ground(fleet).await?;
    let idle = ground.member(&ground.idle)?;
    scale_operator(idle, 0).await?;
    let result = without_operator(idle).await;
    let cleaned = async {
        delete(idle, &["namespace", GUEST]).await?;
        scale_operator(idle, 1).await?;
        ground.all_fresh().await
    };
    and_then_cleaned(result, cleaned.await)
}

async fn without_operator(datacenter: &Datacenter) -> Result<()> {
    let labels = json!({
        "koinon.dev/guest-of": "dublin", "koinon.dev/release-namespace": RELEASE_NAMESPACE,
        "pod-security.kubernetes.io/enforce": "restricted",
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GUEST, "labels": labels}});
    datacenter.apply(&namespace.to_string()).await?;
    wait_until("the guest namespace's default account", Duration::from_secs(30), || async {
        match datacenter.kubectl(["get", "serviceaccount", "default", "--namespace", GUEST]).await {
            Ok(_) => Poll::Ready(()),
            Err(error) => Poll::not_yet(format!("{error:#}")),
        }
    })
    .await?;
    for (name, gate) in HOSTILE {
        let words = rejected(datacenter, &document(&format!("hostile-pods/{name}.yaml"))?).await?;
        ensure!(words.contains(gate), "{name} was not refused by {gate}: {words}");
    }

    let account = ["create", "token", "koinon-operator", "--namespace", RELEASE_NAMESPACE];
    let token = datacenter.kubectl(account).await?.trim().to_owned();
    let mut pod = document("guest-pods/engine.yaml")?;
    for namespace in ["kube-system", RELEASE_NAMESPACE] {
        let template = json!({"metadata": {"labels": pod["metadata"]["labels"]}, "spec": pod["spec"]});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "stowaway", "namespace": namespace, "labels": pod["metadata"]["labels"]},
            "spec": {
                "replicas": 1, "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": pod["metadata"]["labels"]}, "template": template,
            },
        });
        let words = as_operator(datacenter, &token, &deployment).await?;
        ensure!(
            words.contains("guest and job namespaces only"),
            "a Deployment in {namespace} was not refused by the gate over the operator: {words}"
        );
        pod["metadata"]["namespace"] = json!(namespace);
        let words = as_operator(datacenter, &token, &pod).await?;
        // Two gates refuse it, and either may speak first.
        ensure!(words.contains("koinon-operator-"), "a Pod in {namespace} was not refused: {words}");
    }
    Ok(())
}

/// Creates something with the operator's own token, which must fail, and returns the API server's words.
async fn as_operator(datacenter: &Datacenter, token: &str, object: &Value) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), object.to_string())?;
    let config = tempfile::NamedTempFile::new()?;
    let mut kubeconfig: Value = serde_yaml::from_str(&std::fs::read_to_string(datacenter.kubeconfig())?)?;
    for user in kubeconfig["users"].as_array_mut().into_iter().flatten() {
        user["user"] = json!({"token": token});
    }
    std::fs::write(config.path(), kubeconfig.to_string())?;
    let mut kubectl = datacenter.kubectl_command(["create", "--filename"]);
    kubectl.arg(file.path()).arg("--kubeconfig").arg(config.path());
    let tried = tokio::task::spawn_blocking(move || command::run(&mut kubectl)).await?;
    match tried {
        Ok(printed) => anyhow::bail!("the operator's token made {}: {printed}", object["kind"]),
        Err(error) => Ok(format!("{error:#}")),
    }
}
