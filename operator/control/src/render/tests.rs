use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, PodSpec, Toleration};
use koinon_api::weights::{ReadKey, Token};
use koinon_core::body::catalogue::{EngineResources, OptionSpec, OptionType};
use koinon_core::ids::{Digest, ManifestDigest, ReplicaIndex};
use proptest::prelude::*;
use serde::Serialize;

use super::guest::Granted;
use super::workload::{Owned, Scale};
use super::*;

const IMAGE: &str = "registry.example/llama@sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn engine() -> Engine {
    let arguments = [
        "--model",
        "{modelPath}",
        "--served-name",
        "{servedName}",
        "--host",
        "0.0.0.0",
        "--port",
        "{port}",
        "--ctx",
        "{maxModelLen}",
        "--parallel",
        "{maxConcurrency}",
    ];
    let threads = OptionSpec {
        kind: OptionType::Integer,
        min: Some(1),
        max: Some(64),
        values: vec![],
        flag: "--threads".parse().unwrap(),
    };
    let cache = OptionSpec {
        kind: OptionType::Enum,
        min: None,
        max: None,
        values: vec!["f16".parse().unwrap(), "q8_0".parse().unwrap()],
        flag: "--cache-type".parse().unwrap(),
    };
    Engine {
        name: "llama-cpp".parse().unwrap(),
        image: IMAGE.parse().unwrap(),
        args: arguments.iter().map(|argument| argument.parse().unwrap()).collect(),
        options: BTreeMap::from([("threads".parse().unwrap(), threads), ("cacheType".parse().unwrap(), cache)]),
        port: 8000,
        health_path: "/health".parse().unwrap(),
        writable_paths: vec!["/var/cache/llama".parse().unwrap(), "/tmp".parse().unwrap()],
        resources: EngineResources {
            cpu: "500m".parse().unwrap(),
            memory: "1Gi".parse().unwrap(),
            shm: "64Mi".parse().unwrap(),
        },
    }
}

fn placement() -> ValidatedPlacement {
    ValidatedPlacement {
        replica: ReplicaKey {
            home: "aarhus".parse().unwrap(),
            job: "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11".parse().unwrap(),
            replica: ReplicaIndex(0),
        },
        epoch: Epoch(1),
        namespace: "koinon-guest-aarhus".parse().unwrap(),
        served_name: "tiny".parse().unwrap(),
        model: ModelRef {
            uri: "https://models.example/tiny.gguf".parse().unwrap(),
            revision: "1".parse().unwrap(),
            manifest_digest: ManifestDigest(Digest([0xab; 32])),
            quantization: "f32".parse().unwrap(),
        },
        model_bytes: None,
        engine: engine(),
        options: BTreeMap::from([("threads".parse().unwrap(), OptionValue::Integer(2))]),
        max_model_len: 512,
        max_concurrency: 4,
        gpu: GpuNeed { class: "h100-80".parse().unwrap(), count: 2 },
        node: "bilbao-1".parse().unwrap(),
    }
}

fn host() -> HostSettings {
    HostSettings {
        koinon_image: "koinon.example/koinon@sha256:ff".to_owned(),
        weights_url: "http://10.112.0.7:8081".to_owned(),
        weights_token: Token("hunter2".to_owned()),
        image_mirrors: vec![],
        pull_secrets: vec![],
        pod: PoolPod::default(),
    }
}

fn spec(placement: &ValidatedPlacement, host: &HostSettings) -> PodSpec {
    pod::template(placement, host).unwrap().spec.unwrap()
}

fn only_engine(placement: &ValidatedPlacement, host: &HostSettings) -> Container {
    let mut containers = spec(placement, host).containers;
    assert_eq!(containers.len(), 1);
    containers.remove(0)
}

/// Compares with `golden/<name>.yaml`; with KOINON_BLESS set, writes it instead.
fn golden(name: &str, objects: &[serde_json::Value]) {
    let documents: Vec<String> = objects.iter().map(|object| serde_yaml::to_string(object).unwrap()).collect();
    let text = documents.join("---\n");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/render/golden").join(format!("{name}.yaml"));
    if std::env::var_os("KOINON_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{} differs; look at it, then run with KOINON_BLESS=1\n{text}", path.display());
}

fn json(object: impl Serialize) -> serde_json::Value {
    serde_json::to_value(object).unwrap()
}

#[test]
fn a_copy_gets_the_key_of_its_own_model_and_not_the_token_that_opens_all() {
    let spec = spec(&placement(), &host());
    let key = ReadKey::derive(&host().weights_token, placement().model.manifest_digest);
    let args = spec.init_containers.as_ref().unwrap()[0].args.clone().unwrap();
    assert!(args.contains(&format!("--key={}", key.as_str())));
    assert!(!format!("{spec:?}").contains("hunter2"));
    assert!(!format!("{:?}", spec.containers).contains(key.as_str()));
}

#[test]
fn what_is_rendered_for_a_placement_is_what_was_reviewed() {
    let placement = placement();
    let owned = Owned {
        name: placement.name(),
        namespace: placement.namespace.as_str().to_owned(),
        uid: "11111111-2222-3333-4444-555555555555".to_owned(),
    };
    let template = pod::template(&placement, &host()).unwrap();
    let deployment = workload::deployment(&owned, template, Scale::Up);
    golden("placement", &[json(deployment), json(workload::service(&owned))]);
}

#[test]
fn what_confines_a_guest_is_what_was_reviewed() {
    let home = "aarhus".parse().unwrap();
    let granted = Granted { placements: 2, gpus: BTreeMap::from([("requests.nvidia.com/gpu".to_owned(), 6)]) };
    let mut objects = vec![json(guest::namespace(&home, "koinon-system")), json(guest::quota(&home, &granted))];
    objects.extend(guest::network_policies(&home, "koinon-system").map(json));
    golden("guest", &objects);
}

#[test]
fn the_template_survives_being_kept_in_a_placement() {
    let template = pod::template(&placement(), &host()).unwrap();
    let kept = pod::text(&template).unwrap();
    assert_eq!(serde_json::from_str::<k8s_openapi::api::core::v1::PodTemplateSpec>(&kept).unwrap(), template);
}

#[test]
fn an_option_outside_of_the_catalogue_is_refused_with_what_there_is() {
    let mut placement = placement();
    placement.options = BTreeMap::from([("trust-remote-code".parse().unwrap(), OptionValue::Boolean(true))]);
    let error = pod::template(&placement, &host()).unwrap_err().to_string();
    assert_eq!(error, "engine llama-cpp has no option trust-remote-code: it has cacheType, threads");
}

#[test]
fn an_option_out_of_bounds_is_refused_with_the_bounds() {
    let mut placement = placement();
    placement.options = BTreeMap::from([("threads".parse().unwrap(), OptionValue::Integer(65))]);
    let error = pod::template(&placement, &host()).unwrap_err().to_string();
    assert_eq!(error, "option threads of engine llama-cpp cannot be 65: it is a whole number from 1 to 64");
}

#[test]
fn a_placement_without_gpus_requests_none() {
    let mut placement = placement();
    placement.gpu.count = 0;
    let requests = only_engine(&placement, &host()).resources.unwrap().requests.unwrap();
    assert_eq!(requests.into_keys().collect::<Vec<_>>(), ["cpu", "memory"]);
}

#[test]
fn a_pool_adds_what_its_nodes_demand() {
    let mut host = host();
    host.pod.runtime_class_name = Some("nvidia".to_owned());
    host.pod.priority_class_name = Some("guests".to_owned());
    host.pod.resource_name = Some("example.com/gpu".to_owned());
    host.pod.tolerations = vec![Toleration { key: Some("gpu".to_owned()), ..Toleration::default() }];
    host.pull_secrets = vec!["registry".to_owned()];
    let spec = spec(&placement(), &host);
    assert_eq!(spec.runtime_class_name.as_deref(), Some("nvidia"));
    assert_eq!(spec.priority_class_name.as_deref(), Some("guests"));
    assert_eq!(spec.tolerations.unwrap().len(), 1);
    assert_eq!(spec.image_pull_secrets.unwrap()[0].name, "registry");
    let limits = spec.containers[0].resources.clone().unwrap().limits.unwrap();
    assert_eq!(limits["example.com/gpu"].0, "2");
}

#[test]
fn the_longest_matching_mirror_stands_in_and_the_digest_stays() {
    let mut host = host();
    let mirror = |from: &str, to: &str| ImageMirror { from: from.to_owned(), to: to.to_owned() };
    host.image_mirrors = vec![mirror("registry.example/", "a.example/"), mirror("registry.example/ll", "b.example/ll")];
    let image = only_engine(&placement(), &host).image.unwrap();
    assert_eq!(image, IMAGE.replace("registry.example/", "b.example/"));
}

#[test]
fn a_folder_of_weights_is_given_as_a_folder_and_a_gguf_as_its_file() {
    let path = |uri: &str| pod::model_path(&uri.parse().unwrap());
    assert_eq!(path("hf://Qwen/Qwen3-32B").unwrap(), "/models");
    assert_eq!(path("https://models.example/a/tiny.gguf").unwrap(), "/models/tiny.gguf");
}

#[test]
fn a_file_name_that_could_be_an_option_or_a_path_is_refused() {
    for uri in [
        "https://m.example/--rpc=evil.gguf",
        "https://m.example/a%2f..%2f.gguf",
        "https://m.example/-x.gguf",
        "https://m.example/.gguf",
    ] {
        assert!(matches!(pod::model_path(&uri.parse().unwrap()), Err(RenderError::FileName(_))), "{uri}");
    }
}

#[test]
fn a_writable_path_never_hides_the_weights_or_is_mounted_twice() {
    let mut placement = placement();
    let paths = ["/models", "/models/", "/tmp", "/home/koinon", "/dev/shm", "/var/a", "/var/a/", "/var/b"];
    placement.engine.writable_paths = paths.iter().map(|path| path.parse().unwrap()).collect();
    let mut mounted: Vec<String> =
        only_engine(&placement, &host()).volume_mounts.unwrap().into_iter().map(|mount| mount.mount_path).collect();
    mounted.sort();
    assert_eq!(mounted, ["/dev/shm", "/home/koinon", "/models", "/tmp", "/var/a", "/var/b"]);
}

#[test]
fn a_template_that_no_placement_could_keep_is_refused_with_both_numbers() {
    let mut placement = placement();
    let long = "x".repeat(500).parse().unwrap();
    placement.engine.args = vec![long; 64];
    placement.engine.writable_paths = (0..16).map(|at| format!("/{}{at}", "y".repeat(250)).parse().unwrap()).collect();
    let mut host = host();
    host.pod.tolerations =
        (0..16).map(|_| Toleration { key: Some("t".repeat(3000)), ..Toleration::default() }).collect();
    let template = pod::template(&placement, &host).unwrap();
    let error = pod::text(&template).unwrap_err();
    assert!(matches!(error, RenderError::TooLarge { most: 65_536, .. }), "{error}");
}

proptest! {
    /// Whatever a home asks for, the pod is the catalogue's but for typed values in the places that the template names.
    #[test]
    fn nothing_that_a_home_says_reaches_the_pod_but_typed_values(
        served in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        length in any::<u32>(),
        concurrency in any::<u32>(),
        gpus in 0_u32..64,
        threads in prop_oneof![4 => 1_i64..=64, 1 => any::<i64>()],
        word in prop_oneof![4 => Just("f16".to_owned()), 1 => "[A-Za-z0-9_.-]{1,20}"],
    ) {
        let mut asked = placement();
        asked.served_name = served.parse().unwrap();
        asked.max_model_len = length;
        asked.max_concurrency = concurrency;
        asked.gpu.count = gpus;
        asked.options = BTreeMap::from([
            ("threads".parse().unwrap(), OptionValue::Integer(threads)),
            ("cacheType".parse().unwrap(), OptionValue::Word(word.parse().unwrap())),
        ]);
        let allowed = (1..=64).contains(&threads) && ["f16", "q8_0"].contains(&word.as_str());
        let rendered = pod::template(&asked, &host());
        prop_assert_eq!(rendered.is_ok(), allowed);
        // The same with every foreign value put back: what is left must not differ.
        let mut plain = placement();
        plain.gpu.count = gpus;
        plain.options = BTreeMap::new();
        let (mut ours, mut theirs) = (pod::template(&plain, &host()).unwrap(), match rendered {
            Ok(template) => template,
            Err(_) => return Ok(()),
        });
        let take = |template: &mut k8s_openapi::api::core::v1::PodTemplateSpec| {
            template.spec.as_mut().unwrap().containers[0].args.take().unwrap()
        };
        let (expected, given) = (take(&mut ours), take(&mut theirs));
        prop_assert_eq!(ours, theirs);
        let (before, after) = given.split_at(expected.len());
        for (at, (expected, given)) in expected.iter().zip(before).enumerate() {
            let value = match at {
                3 => served.clone(),
                9 => length.to_string(),
                11 => concurrency.to_string(),
                _ => expected.clone(),
            };
            prop_assert_eq!(&value, given);
        }
        prop_assert_eq!(after, ["--cache-type".to_owned(), word, "--threads".to_owned(), threads.to_string()]);
    }
}

fn by_class() -> HostSettings {
    let mut host = host();
    host.pod.device_class_name = Some("gpu.nvidia.com".to_owned());
    host
}

fn product(name: &str) -> crate::placement::inventory::node::Product {
    crate::placement::inventory::node::Product { name: name.parse().unwrap(), memory: Bytes(85_520_809_984) }
}

#[test]
fn a_pool_of_devices_by_name_is_asked_for_them_by_a_claim_and_for_nothing_else() {
    let placement = placement();
    let claim = claim::granted(&placement, &by_class(), Some(&product("NVIDIA H100 80GB HBM3"))).unwrap().unwrap();
    let owned = Owned { name: placement.name(), namespace: "koinon-guest-aarhus".into(), uid: "u-1".into() };
    let template = pod::template(&placement, &by_class()).unwrap();
    assert_eq!(claim::class(&claim), Some("gpu.nvidia.com"));
    let objects =
        [json(workload::claim_template(&owned, claim)), json(workload::deployment(&owned, template, Scale::Up))];
    golden("with-claim", &objects);
    let engine = only_engine(&placement, &by_class());
    let limits = engine.resources.unwrap().limits.unwrap();
    assert!(!limits.keys().any(|key| key.contains('/')), "{limits:?}");
}

#[test]
fn a_claim_is_made_only_where_there_is_something_to_claim() {
    let mut none = placement();
    none.gpu.count = 0;
    let h100 = product("NVIDIA H100 80GB HBM3");
    assert_eq!(claim::granted(&none, &by_class(), Some(&h100)).unwrap(), None);
    assert_eq!(spec(&none, &by_class()).resource_claims, None);
    assert_eq!(claim::granted(&placement(), &host(), Some(&h100)).unwrap(), None);
    assert_eq!(spec(&placement(), &host()).resource_claims, None);
}

#[test]
fn a_product_that_could_change_the_expression_is_refused() {
    for name in ["H100' || true || '", "H100\\", "H100\"", "H100{}", "H100&&"] {
        let refused = claim::granted(&placement(), &by_class(), Some(&product(name)));
        assert!(matches!(refused, Err(RenderError::Product { .. })), "{name}");
    }
    assert!(matches!(claim::granted(&placement(), &by_class(), None), Err(RenderError::Product { .. })));
}
