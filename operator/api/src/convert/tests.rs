//! What crosses between resources and statements, and what must not.

use serde_json::json;

use super::*;

fn read<T: DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("a well-formed example")
}

fn engine() -> serde_json::Value {
    json!({
        "name": "llama-cpp",
        "image": format!("registry.example/llama@sha256:{}", "0".repeat(64)),
        "args": ["--model", "{modelPath}"],
        "options": {
            "threads": {"type": "integer", "min": 1, "max": 64, "flag": "--threads"},
            "mlock": {"type": "boolean", "flag": "--mlock"},
            "level": {"type": "enum", "values": ["4", "8"], "flag": "--level"},
        },
        "port": 8000,
        "healthPath": "/health",
        "writablePaths": ["/var/cache/engine"],
        "resources": {"cpu": "2", "memory": "4Gi", "shm": "64Mi"},
    })
}

fn digest(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

fn key(digit: &str) -> String {
    format!("ed25519:{}", digit.repeat(64))
}

fn placement() -> PlacementSpec {
    read(json!({
        "side": "Home", "home": "aarhus", "host": "bilbao",
        "job": {"namespace": "team", "name": "chat", "uid": "01234567-89ab-cdef-0123-456789abcdef"},
        "replica": 1, "epoch": 7, "servedName": "tiny",
        "model": {"uri": "hf://org/tiny", "revision": "abc", "manifestDigest": format!("sha256:{}", "1".repeat(64)),
            "quantization": "q4-k-m"},
        "engine": {"name": "llama-cpp", "options": {"threads": 4, "mlock": "true", "level": "4"}},
        "gpu": {"class": "h100-80", "count": 2}, "maxModelLen": 4096, "maxConcurrency": 8,
        "lease": {"seconds": 20, "onPartition": "StopWhenLeaseLapses"},
    }))
}

#[test]
fn an_action_survives_the_way_there_and_back() {
    for action in [
        json!({"addEngine": {"engine": engine()}}),
        json!({"removeEngine": {"name": "llama-cpp"}}),
        json!({"withdrawModelRelease": {"manifestDigest": format!("sha256:{}", "a".repeat(64))}}),
        json!({"addModelRelease": {"uri": "hf://org/tiny", "revision": "abc", "license": "Apache-2.0",
            "manifestDigest": format!("sha256:{}", "a".repeat(64)), "quantization": "f16", "engines": ["llama-cpp"],
            "memoryBytes": 1024}}),
        json!({"setPlacementRules": {"jurisdictions": ["DE", "DK"], "residency": {(digest("a")): ["DE"]},
            "minEvidence": "Challenged", "maxReplicasPerMember": 2}}),
        json!({"setPlacementRules": {"minEvidence": "Claimed"}}),
        json!({"setPlacementRules": {"minEvidence": "Claimed", "xids": [
            {"code": 94, "class": "reset", "state": "Unhealthy", "reason": "VotedReason", "action": "ResetGPU",
                "offer": "Nothing", "work": "Drain", "holdSeconds": 0},
            {"code": 200, "class": "app", "state": "Healthy", "reason": "Notice", "action": "DrainP2P", "offer": "Any",
                "work": "RestartWorkload", "holdSeconds": 0}]}}),
        json!({"setPlacementRules": {"minEvidence": "Challenged", "challenges": {"engine": "koinon-challenge",
            "model": digest("a"), "everySeconds": 36_000, "challengers": 2, "freshSeconds": 86_400, "mostSeconds": 60,
            "classes": {"h100-80": {"size": {"rows": 134_144, "depth": 32_768}, "compute": {"least": 20_000, "most": 45_000},
                "recall": {"least": 200, "most": 450}}}}}}),
        json!({"setShares": {"hostShare": {"num": 1, "den": 3}, "mostGpus": 4}}),
        json!({"setPrices": {"gpuSecondMicros": {"h100-80": 1200}}}),
        json!({"setAuditRate": {"perTenThousand": 5}}),
        json!({"adviseOperatorRelease": {"version": "1.4.0", "image": digest("d")}}),
        json!({"checkpoint": {"logs": {(key("5")): {"seq": 7, "id": digest("e")}}, "state": digest("f")}}),
        json!({"suspend": {"member": "cork"}}),
        json!({"reinstate": {"member": "cork"}}),
        json!({"confirm": {"member": "cork"}}),
        json!({"markDormant": {"member": "cork"}}),
        json!({"reactivate": {"member": "cork"}}),
        json!({"liftQuarantine": {"member": "cork", "proofs": [digest("a"), digest("b")]}}),
        json!({"resetKeys": {"member": "cork", "keys": {"recovery": [key("1")], "governance": [key("2"), key("3")],
            "operator": key("4")}}}),
        json!({"expel": {"member": "cork", "evidence": [{"entry": digest("a")},
            {"document": {"digest": digest("b"), "text": "what the meters showed"}}], "appeal": digest("c")}}),
    ] {
        let typed: Action = read(action);
        let core = core_proposal::Action::try_from(&typed).expect("readable by the core");
        assert_eq!(Action::try_from(&core).expect("readable by the resource"), typed);
    }
}

/// A resource that drops what it does not know would differ from what was signed, and never be anchored.
#[test]
fn what_is_signed_of_the_charter_is_shown_whole() {
    let deliberation = koinon_core::presets::deliberation();
    let preset = koinon_core::body::charter::Preset::Standard;
    let classes = koinon_core::presets::classes(preset);
    let parameters = koinon_core::body::charter::Parameters {
        deliberation: Some(deliberation),
        ..koinon_core::presets::parameters(preset)
    };
    for signed in [
        core_proposal::Action::SetRules(core_proposal::SetRules { rules: 2, deliberation }),
        core_proposal::Action::ChangeCharter(Box::new(core_proposal::ChangeCharter { parameters, classes })),
    ] {
        let shown = Action::try_from(&signed).expect("readable by the resource");
        let (shown, signed) = (serde_json::to_value(shown).unwrap(), serde_json::to_value(signed).unwrap());
        assert_eq!(shown, signed);
    }
    let silent: crate::charter::Deliberation =
        read(json!({"delegationMaxSeconds": 1, "delegationCap": {"num": 1, "den": 10}}));
    assert_eq!(silent.cool_down_seconds, deliberation.cool_down_seconds.0);
    let members = serde_json::to_value(silent.members).unwrap();
    assert_eq!(members, serde_json::to_value(koinon_core::body::charter::MemberPeriods::default()).unwrap());
}

#[test]
fn an_envelope_keeps_its_bytes() {
    let envelope: Envelope = read(json!({
        "payloadType": "application/vnd.koinon.vote.v1+json", "payload": "eyJhIjogMX0=",
        "signatures": [{"keyid": format!("ed25519:{}", "b".repeat(64)), "sig": format!("{}==", "A".repeat(86))}],
    }));
    let core = dsse::Envelope::try_from(&envelope).expect("readable");
    assert_eq!(core.payload, envelope.payload);
    assert_eq!(Envelope::try_from(&core).expect("readable"), envelope);
}

#[test]
fn a_key_that_is_none_is_refused_with_the_rule() {
    let mut envelope: Envelope = read(json!({
        "payloadType": "application/vnd.koinon.vote.v1+json", "payload": "e30=",
        "signatures": [{"keyid": "rsa:1", "sig": ""}],
    }));
    let error = dsse::Envelope::try_from(&envelope).expect_err("not a key");
    assert!(error.to_string().contains("ed25519"), "{error}");
    envelope.signatures[0].keyid = format!("ed25519:{}", "B".repeat(64));
    dsse::Envelope::try_from(&envelope).expect_err("capitals would be a second spelling of one key");
}

#[test]
fn the_catalogue_tells_a_number_from_a_word() {
    let entry = core_catalogue::Engine::try_from(&read::<Engine>(engine())).expect("a valid engine");
    let choice = engine_choice(&placement().engine, Some(&entry)).expect("readable");
    entry.check_options(&choice.options).expect("all options are of the catalogue");
    let shown = |name: &str| choice.options[&name.parse::<OptionName>().expect("a name")].clone();
    assert_eq!(shown("threads"), OptionValue::Integer(4));
    assert_eq!(shown("mlock"), OptionValue::Boolean(true));
    assert!(matches!(shown("level"), OptionValue::Word(_)));
}

#[test]
fn an_option_outside_the_catalogue_reaches_the_check_that_names_it() {
    let entry = core_catalogue::Engine::try_from(&read::<Engine>(engine())).expect("a valid engine");
    let asked: EngineRef = read(json!({"name": "llama-cpp", "options": {"lora": "x"}}));
    let choice = engine_choice(&asked, Some(&entry)).expect("readable");
    let error = entry.check_options(&choice.options).expect_err("not in the catalogue");
    assert!(error.to_string().contains("lora"), "{error}");
}

#[test]
fn a_placement_and_its_request_say_the_same() {
    let spec = placement();
    let entry = core_catalogue::Engine::try_from(&read::<Engine>(engine())).expect("a valid engine");
    let request = spec.to_request(Some(&entry)).expect("readable");
    assert_eq!(PlacementSpec::of(&request, Side::Home, "aarhus", "bilbao").expect("representable"), spec);
}

#[test]
fn an_epoch_beyond_kubernetes_is_an_error_and_not_a_smaller_epoch() {
    let mut request = placement().to_request(None).expect("readable");
    request.epoch = koinon_core::ids::Epoch(u64::MAX);
    let error = PlacementSpec::of(&request, Side::Host, "aarhus", "bilbao").expect_err("too large");
    assert!(error.to_string().contains("18446744073709551615"), "{error}");
}

#[test]
fn every_refusal_has_a_reason_of_its_own() {
    let reasons: std::collections::BTreeSet<_> = RefusalReason::ALL.iter().map(|r| Reason::from(*r)).collect();
    assert_eq!(reasons.len(), RefusalReason::ALL.len());
}

#[test]
fn a_choice_on_the_wire_is_yes_or_no_and_in_yaml_neither() {
    assert_eq!(core_proposal::Choice::from(Choice::Approve), core_proposal::Choice::Yes);
    for choice in [Choice::Approve, Choice::Reject, Choice::Abstain, Choice::Veto] {
        assert_eq!(Choice::from(core_proposal::Choice::from(choice)), choice);
        let yaml = serde_yaml::to_string(&choice).expect("a word");
        assert!(!["yes", "no"].contains(&yaml.trim().to_lowercase().as_str()));
    }
}
