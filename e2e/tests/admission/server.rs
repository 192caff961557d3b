//! An API server as one user sees it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use koinon_e2e::toolchain::checkout;
use koinon_e2e::{Datacenter, Poll, wait_until};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, Discovery, Scope};
use kube::{Client, Config, ResourceExt as _};
use serde::Deserialize as _;
use serde_json::Value;

/// The namespace of foreign work in these tests. It is made before the gates are, without Pod Security, so that what is refused
/// in it is refused by the gates alone.
pub const GUEST: &str = "koinon-guest-aarhus";
/// A namespace that an admin opened to jobs.
pub const JOBS: &str = "team-chat";
/// The release namespace.
pub const RELEASE: &str = "koinon-system";

/// An API server and who asks it.
pub struct Server {
    client: Client,
    discovery: Discovery,
}

impl Server {
    /// As the cluster's admin.
    pub async fn admin(datacenter: &Datacenter) -> Result<Self> {
        Self::of(datacenter.client()).await
    }

    /// As whoever a token names.
    pub async fn bearing(datacenter: &Datacenter, token: &str) -> Result<Self> {
        let mut file = Kubeconfig::read_from(datacenter.kubeconfig()).context("reading the kubeconfig")?;
        for user in &mut file.auth_infos {
            let info = user.auth_info.get_or_insert_default();
            *info = kube::config::AuthInfo { token: Some(token.to_owned().into()), ..Default::default() };
        }
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        // Discovery is open to every account; what the account may do with it is the question.
        Self::of(Client::try_from(config)?).await
    }

    async fn of(client: Client) -> Result<Self> {
        let discovery = Discovery::new(client.clone()).run().await.context("asking the server what it serves")?;
        Ok(Self { client, discovery })
    }

    /// The client itself.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    fn api(&self, object: &DynamicObject) -> Result<(Api<DynamicObject>, ApiCapabilities)> {
        let types = object.types.as_ref().context("an object without a kind")?;
        let gvk = GroupVersionKind::try_from(types)?;
        let (resource, capabilities) =
            self.discovery.resolve_gvk(&gvk).with_context(|| format!("the server has no {gvk:?}"))?;
        let api = match (&capabilities.scope, object.namespace()) {
            (Scope::Namespaced, namespace) => {
                Api::namespaced_with(self.client.clone(), namespace.as_deref().unwrap_or("default"), &resource)
            }
            (Scope::Cluster, _) => Api::all_with(self.client.clone(), &resource),
        };
        Ok((api, capabilities))
    }

    /// Asks to create, without doing it. The inner error is the server's refusal.
    pub async fn try_create(&self, object: &Value) -> Result<Result<(), String>> {
        let object: DynamicObject = serde_json::from_value(object.clone()).context("reading an object")?;
        let dry = PostParams { dry_run: true, field_manager: None };
        Ok(refusal(self.api(&object)?.0.create(&dry, &object).await.map(drop)))
    }

    /// Creates an object and writes its status, if it has one.
    pub async fn create(&self, object: &Value) -> Result<()> {
        let typed: DynamicObject = serde_json::from_value(object.clone()).context("reading an object")?;
        let (api, _) = self.api(&typed)?;
        api.create(&PostParams::default(), &typed).await.with_context(|| format!("creating {}", typed.name_any()))?;
        if object.get("status").is_some() {
            self.replace_status(object, false).await?.map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// Creates an object unless another case has.
    pub async fn ensure(&self, object: &Value) -> Result<()> {
        match self.try_create(object).await? {
            Err(said) if said.contains("already exists") => Ok(()),
            _ => self.create(object).await,
        }
    }

    /// Asks to replace an object that exists, without doing it.
    pub async fn try_replace(&self, object: &Value) -> Result<Result<(), String>> {
        let mut object: DynamicObject = serde_json::from_value(object.clone()).context("reading an object")?;
        let (api, _) = self.api(&object)?;
        object.metadata.resource_version = api.get(&object.name_any()).await?.resource_version();
        let dry = PostParams { dry_run: true, field_manager: None };
        Ok(refusal(api.replace(&object.name_any(), &dry, &object).await.map(drop)))
    }

    /// Replaces the status of an object that exists.
    pub async fn replace_status(&self, object: &Value, dry_run: bool) -> Result<Result<(), String>> {
        let mut object: DynamicObject = serde_json::from_value(object.clone()).context("reading an object")?;
        let (api, _) = self.api(&object)?;
        object.metadata.resource_version = api.get(&object.name_any()).await?.resource_version();
        let how = PostParams { dry_run, field_manager: None };
        Ok(refusal(api.replace_status(&object.name_any(), &how, &object).await.map(drop)))
    }

    /// Asks to merge a change into an object that exists.
    pub async fn try_patch(&self, object: &Value, change: Value) -> Result<Result<(), String>> {
        let object: DynamicObject = serde_json::from_value(object.clone()).context("reading an object")?;
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        Ok(refusal(self.api(&object)?.0.patch(&object.name_any(), &dry, &Patch::Merge(change)).await.map(drop)))
    }

    /// Asks to delete an object that exists, without doing it.
    pub async fn try_delete(&self, object: &Value) -> Result<Result<(), String>> {
        let object: DynamicObject = serde_json::from_value(object.clone()).context("reading an object")?;
        let dry = DeleteParams { dry_run: true, ..DeleteParams::default() };
        Ok(refusal(self.api(&object)?.0.delete(&object.name_any(), &dry).await.map(drop)))
    }

    /// Waits until the policies over guests and operator are in force, which takes the server a moment.
    pub async fn gates_hold(&self, wanted: bool) -> Result<()> {
        let probe =
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": GUEST}});
        wait_until("the gates to be as they should", Duration::from_secs(30), || async {
            match self.try_create(&probe).await {
                Ok(answer) => Poll::<()>::when(answer.is_err() == wanted, format!("{answer:?}")),
                Err(error) => Poll::not_yet(format!("{error:#}")),
            }
        })
        .await
    }
}

/// The server's words. A transport error is no refusal and ends the test elsewhere.
fn refusal(result: kube::Result<()>) -> Result<(), String> {
    result.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone(),
        other => format!("not an answer of the server: {other}"),
    })
}

/// An object of one of our files, with what the file says of it: `# refused: …`.
pub struct Document {
    /// The file.
    pub path: PathBuf,
    /// The object.
    pub object: Value,
    /// The words of the refusal.
    pub refused: Option<String>,
}

/// Every object of a file or a folder of the repository.
pub fn documents(below: &str) -> Result<Vec<Document>> {
    let top = checkout().join(below);
    let mut paths = if top.is_dir() {
        std::fs::read_dir(&top)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?
    } else {
        vec![top.clone()]
    };
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        all.extend(read(&path)?);
    }
    ensure!(!all.is_empty(), "{} holds no objects", top.display());
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<Document>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let refused = text.lines().find_map(|line| line.strip_prefix("# refused: ")).map(str::to_owned);
    let mut all = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let object = Value::deserialize(document).with_context(|| format!("reading {}", path.display()))?;
        if !object.is_null() {
            all.push(Document { path: path.to_owned(), object, refused: refused.clone() });
        }
    }
    Ok(all)
}

/// Ends a case with every expectation that failed, so that one run shows them all.
pub fn all_held(failures: Vec<String>, of: usize) -> Result<()> {
    ensure!(of > 0, "nothing was tried");
    if !failures.is_empty() {
        bail!("{} of {of} went wrong:\n{}", failures.len(), failures.join("\n"));
    }
    println!("  {of} as expected");
    Ok(())
}

/// Whether an answer refuses with the expected words.
pub fn refuses(answer: &Result<(), String>, words: &str) -> bool {
    answer.as_ref().is_err_and(|said| said.contains(words))
}

/// An object of the renderer's golden files as it would be made here: in a namespace of these tests, with this install's image.
pub fn installed(mut object: Value, namespace: &str) -> Value {
    if object["metadata"]["namespace"].is_string() {
        object["metadata"]["namespace"] = namespace.into();
    }
    if let Some(weights) = object.pointer_mut("/spec/template/spec/initContainers/0/image") {
        *weights = format!("registry.example/koinon:{}", env!("CARGO_PKG_VERSION")).into();
    }
    object
}
