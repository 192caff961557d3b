//! The pod template of an engine.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction, LocalObjectReference,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use koinon_api::gpu_pool::GpuAccess;
use koinon_api::labels;
use koinon_api::weights::ReadKey;
use koinon_core::body::catalogue::ArgumentValues;
use koinon_core::ids::ModelUri;

use super::{HostSettings, RenderError, ValidatedPlacement};

/// How long an engine may take from its start to its first answer. A large model takes minutes from disk to memory.
pub const START_DEADLINE_SECONDS: i32 = 3600;
/// How long calls in flight may go on after the pod is told to end. Well below the two minutes in which an owner gets
/// the GPUs back.
pub const GRACE_SECONDS: i64 = koinon_api::reclaim::GRACE.0;
/// The most that a Placement keeps of a template.
const MAX_TEMPLATE_BYTES: usize = 65_536;
/// For weights whose size nobody stated. Only our own init container writes there, so this bounds a mistake, not a guest.
const UNSTATED_WEIGHTS: &str = "2Ti";
/// The engine's home and temporary files.
const SCRATCH: &str = "8Gi";
const TMP_PATH: &str = "/tmp";
const SHM_PATH: &str = "/dev/shm";

/// The template that is granted.
///
/// # Errors
/// When the catalogue does not allow what is asked, or the result does not fit.
pub fn template(placement: &ValidatedPlacement, host: &HostSettings) -> Result<PodTemplateSpec, RenderError> {
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(super::labels(&placement.name())), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            restart_policy: Some("Always".to_owned()),
            security_context: Some(pod_security()),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            // The scheduler places it, so that its own accounts stay true; the name of the node goes around it.
            node_selector: Some(BTreeMap::from([(
                "kubernetes.io/hostname".to_owned(),
                placement.node.as_str().to_owned(),
            )])),
            tolerations: (!host.pod.tolerations.is_empty()).then(|| host.pod.tolerations.clone()),
            runtime_class_name: host.pod.runtime_class_name.clone(),
            priority_class_name: host.pod.priority_class_name.clone(),
            image_pull_secrets: (!host.pull_secrets.is_empty())
                .then(|| host.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()),
            resource_claims: super::claim::pod_claims(placement, host),
            init_containers: Some(vec![weights(placement, host)]),
            containers: vec![engine(placement, host)?],
            volumes: Some(volumes(placement)),
            ..PodSpec::default()
        }),
    };
    Ok(template)
}

/// The template as a Placement keeps it.
///
/// # Errors
/// When it is too large.
pub fn text(template: &PodTemplateSpec) -> Result<String, RenderError> {
    let text = serde_json::to_string(template).map_err(|error| RenderError::Json(error.to_string()))?;
    if text.len() > MAX_TEMPLATE_BYTES {
        return Err(RenderError::TooLarge { bytes: text.len(), most: MAX_TEMPLATE_BYTES });
    }
    Ok(text)
}

/// Where the weights lie in the pod: a folder, or the one file of a GGUF model.
///
/// # Errors
/// When the file's name could be read as something else.
pub fn model_path(uri: &ModelUri) -> Result<String, RenderError> {
    let folder = labels::MODELS_PATH;
    let Some(name) = uri.as_str().rsplit('/').next().filter(|name| name.ends_with(".gguf")) else {
        return Ok(folder.to_owned());
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !name.bytes().all(plain) || name.starts_with(['.', '-']) {
        return Err(RenderError::FileName(name.chars().take(64).collect()));
    }
    Ok(format!("{folder}/{name}"))
}

fn weights(placement: &ValidatedPlacement, host: &HostSettings) -> Container {
    let digest = placement.model.manifest_digest;
    Container {
        name: labels::WEIGHTS_CONTAINER.to_owned(),
        image: Some(host.koinon_image.clone()),
        args: Some(vec![
            "weights".to_owned(),
            "copy".to_owned(),
            format!("--from={}", host.weights_url),
            format!("--digest={digest}"),
            // An argument of the init container, which the engine beside it never sees.
            format!("--key={}", ReadKey::derive(&host.weights_token, digest).as_str()),
            format!("--to={}", labels::MODELS_PATH),
        ]),
        // It runs before the engine and never beside it, so the engine's share costs the node nothing more.
        resources: Some(resources(placement, None)),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![mount("models", labels::MODELS_PATH), mount("tmp", TMP_PATH)]),
        ..Container::default()
    }
}

fn engine(placement: &ValidatedPlacement, host: &HostSettings) -> Result<Container, RenderError> {
    let engine = &placement.engine;
    engine.validate()?;
    let model_path = model_path(&placement.model.uri)?;
    let values = ArgumentValues {
        model_path: &model_path,
        served_name: placement.served_name.as_str(),
        max_model_len: placement.max_model_len,
        max_concurrency: placement.max_concurrency,
        gpu_count: placement.gpu.count,
    };
    let models = VolumeMount { read_only: Some(true), ..mount("models", labels::MODELS_PATH) };
    let mut mounts = vec![models, mount("tmp", TMP_PATH), mount("home", labels::HOME_PATH), mount("shm", SHM_PATH)];
    mounts.extend(writable(placement).map(|(volume, path)| mount(&volume, path)));
    let health = || HTTPGetAction {
        path: Some(engine.health_path.as_str().to_owned()),
        port: IntOrString::String(labels::ENGINE_PORT_NAME.to_owned()),
        ..HTTPGetAction::default()
    };
    let probe = |period: i32, timeout: i32, failures: i32| Probe {
        http_get: Some(health()),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    Ok(Container {
        name: labels::ENGINE_CONTAINER.to_owned(),
        image: Some(mirrored(engine.image.as_str(), host)),
        args: Some(engine.render_args(&values, &placement.options)?),
        env: Some(vec![env("HOME", labels::HOME_PATH), env("TMPDIR", TMP_PATH)]),
        ports: Some(vec![ContainerPort {
            name: Some(labels::ENGINE_PORT_NAME.to_owned()),
            container_port: i32::from(engine.port),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources(placement, Some(host.pod.gpus()))),
        security_context: Some(container_security()),
        volume_mounts: Some(mounts),
        startup_probe: Some(probe(1, 2, START_DEADLINE_SECONDS)),
        readiness_probe: Some(probe(1, 2, 3)),
        // An engine under full load answers late; only one that is stuck for a minute is started again.
        liveness_probe: Some(probe(10, 10, 6)),
        ..Container::default()
    })
}

/// The image at the registry that stands in for the catalogue's. The digest is part of what stays.
fn mirrored(image: &str, host: &HostSettings) -> String {
    let longest = host
        .image_mirrors
        .iter()
        .filter_map(|mirror| Some((mirror, image.strip_prefix(mirror.from.as_str())?)))
        .max_by_key(|(mirror, _)| mirror.from.len());
    longest.map_or_else(|| image.to_owned(), |(mirror, rest)| format!("{}{rest}", mirror.to))
}

fn resources(placement: &ValidatedPlacement, gpu: Option<GpuAccess<'_>>) -> ResourceRequirements {
    let needs = &placement.engine.resources;
    let mut amounts = BTreeMap::from([
        ("cpu".to_owned(), Quantity(needs.cpu.as_str().to_owned())),
        ("memory".to_owned(), Quantity(needs.memory.as_str().to_owned())),
    ]);
    let mut claims = None;
    match gpu.filter(|_| placement.gpu.count > 0) {
        Some(GpuAccess::Resource(resource)) => {
            amounts.insert(resource.to_owned(), Quantity(placement.gpu.count.to_string()));
        }
        Some(GpuAccess::DeviceClass(_)) => claims = Some(vec![super::claim::of_container()]),
        None => {}
    }
    ResourceRequirements { requests: Some(amounts.clone()), limits: Some(amounts), claims }
}

/// The engine's own writable paths, each with the name of its volume. What is writable anyway, or would hide the
/// weights, is left out.
fn writable(placement: &ValidatedPlacement) -> impl Iterator<Item = (String, &str)> {
    const HERE: [&str; 4] = [labels::MODELS_PATH, TMP_PATH, labels::HOME_PATH, SHM_PATH];
    let paths = placement.engine.writable_paths.iter().map(|path| path.as_str().trim_end_matches('/'));
    let distinct: std::collections::BTreeSet<&str> =
        paths.filter(|path| !HERE.contains(path) && !path.is_empty()).collect();
    distinct.into_iter().enumerate().map(|(at, path)| (format!("w{at}"), path))
}

fn volumes(placement: &ValidatedPlacement) -> Vec<Volume> {
    let weights = placement.model_bytes.map_or_else(
        || UNSTATED_WEIGHTS.to_owned(),
        // A release states the memory of the loaded model, which is a little more than its files; never below 1 GiB,
        // so that a small model's folder has room for its tokenizer.
        |bytes| bytes.0.saturating_add(bytes.0 / 20).max(1 << 30).to_string(),
    );
    let mut volumes = vec![volume("models", &weights), volume("tmp", SCRATCH), volume("home", SCRATCH)];
    volumes.push(Volume {
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(Quantity(placement.engine.resources.shm.as_str().to_owned())),
        }),
        ..volume("shm", "")
    });
    volumes.extend(writable(placement).map(|(name, _)| volume(&name, SCRATCH)));
    volumes
}

fn volume(name: &str, size: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { medium: None, size_limit: Some(Quantity(size.to_owned())) }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn env(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn seccomp() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

fn pod_security() -> PodSecurityContext {
    let id = labels::ENGINE_UID;
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(id),
        run_as_group: Some(id),
        fs_group: Some(id),
        seccomp_profile: Some(seccomp()),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        seccomp_profile: Some(seccomp()),
        ..SecurityContext::default()
    }
}
