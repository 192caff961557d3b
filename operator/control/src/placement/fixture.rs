//! A cooperative of three for tests: aarhus, bilbao and cork, with one approved model and one engine.

use std::sync::Arc;

use koinon_core::body::catalogue::{Engine, EngineResources, ModelRelease, OptionSpec, OptionType};
use koinon_core::body::charter::Preset;
use koinon_core::body::proposal::Leave;
use koinon_core::body::{Action, Body, Cause, CoSignature, EmergencyOrder, Scope, Stop};
use koinon_core::ids::{Digest, ManifestDigest, MemberId, UnixSeconds};
use koinon_core::log::{Limits, Replica};
use koinon_core::policy::{Commons, State};
use koinon_core::presets;
use koinon_core::testkit::{self, T0, charter, found};
use serde_json::json;

use super::rules::Rules;
use crate::context::CooperativeView;

/// The digest of the approved model.
pub fn digest() -> ManifestDigest {
    ManifestDigest(Digest([0xab; 32]))
}

/// The approved model.
pub fn release() -> ModelRelease {
    ModelRelease {
        uri: "https://models.example/tiny.gguf".parse().unwrap(),
        revision: "1".parse().unwrap(),
        manifest_digest: digest(),
        quantization: "f32".parse().unwrap(),
        license: "Apache-2.0".parse().unwrap(),
        engines: vec![],
        memory_bytes: None,
    }
}

/// The one engine of the catalogue.
pub fn engine() -> Engine {
    let threads = OptionSpec {
        kind: OptionType::Integer,
        min: Some(1),
        max: Some(64),
        values: vec![],
        flag: "--threads".parse().unwrap(),
    };
    Engine {
        name: "llama-cpp".parse().unwrap(),
        image: format!("registry.example/llama@sha256:{}", "01".repeat(32)).parse().unwrap(),
        args: ["--model", "{modelPath}", "--served-name", "{servedName}"].iter().map(|a| a.parse().unwrap()).collect(),
        options: [("threads".parse().unwrap(), threads)].into(),
        port: 8000,
        health_path: "/health".parse().unwrap(),
        writable_paths: vec![],
        resources: EngineResources {
            cpu: "500m".parse().unwrap(),
            memory: "1Gi".parse().unwrap(),
            shm: "64Mi".parse().unwrap(),
        },
    }
}

/// The view of `me`, with what the charter approves.
pub fn view(me: &str, releases: Vec<ModelRelease>, engines: Vec<Engine>) -> CooperativeView {
    let people = ["aarhus", "bilbao", "cork"].map(testkit::person);
    let everybody: Vec<&testkit::Person> = people.iter().collect();
    let mut charter = charter(&everybody, Preset::Trial);
    charter.releases = releases;
    charter.engines = engines;
    let founding = found(&everybody, charter);
    let replica = Replica::new(&founding, Limits::default());
    let spec = json!({"id": founding.coop().to_string(), "member": me,
        "site": {"name": "main", "region": "eu-south", "jurisdiction": "ES"},
        "endpoints": {"gateway": [format!("https://{me}.example:7444")]}});
    CooperativeView {
        me: me.parse().unwrap(),
        coop: founding.coop(),
        state: Arc::new(State::fold(&founding, &replica)),
        charter: Arc::new(founding.charter().clone()),
        spec: Arc::new(serde_json::from_value(spec).unwrap()),
        logs: Default::default(),
        may_sign: true,
    }
}

/// The same with the limits of the owner of `me`, after a vote on `action`.
pub fn view_with(me: &str, limits: serde_json::Value, action: Option<Action>) -> CooperativeView {
    let mut view = view(me, vec![release()], vec![engine()]);
    let mut charter = view.charter.as_ref().clone();
    charter.parameters.sponsors = 1;
    let people = ["aarhus", "bilbao", "cork"].map(testkit::person);
    view.state = testkit::history::decided(&people, charter, action).state().clone();
    view.coop = view.state.coop();
    let mut spec = view.spec.as_ref().clone();
    spec.limits = serde_json::from_value(limits).unwrap();
    view.spec = Arc::new(spec);
    view
}

/// The rules as `me` sees them.
pub fn rules(me: &str) -> Rules {
    Rules::of(Arc::new(view(me, vec![release()], vec![engine()])), &[], &[], T0)
}

/// The same while an order of aarhus and bilbao holds.
pub fn rules_stopping(me: &str, stop: Stop) -> Rules {
    let mut view = view(me, vec![release()], vec![engine()]);
    let people = ["aarhus", "bilbao", "cork"].map(testkit::person);
    let everybody: Vec<&testkit::Person> = people.iter().collect();
    let mut charter = charter(&everybody, Preset::Trial);
    charter.releases = vec![release()];
    charter.engines = vec![engine()];
    charter.parameters.deliberation = Some(presets::deliberation());
    let founding = found(&everybody, charter);
    let coop = founding.coop();
    let mut commons = Commons::new(founding, Limits::default());
    let (membership, charter) = (commons.state().head(Scope::Membership), commons.state().head(Scope::Charter));
    let order = EmergencyOrder { stop, cause: Cause::Safety, membership, charter, text: Default::default() };
    let order = people[0].human(coop, T0, Body::EmergencyOrder(Box::new(order)));
    let second = people[1].human(coop, T0, Body::CoSignature(CoSignature { order: order.id() }));
    let entries = [
        testkit::Writer::new(&people[0], coop).anchor(T0, &order),
        testkit::Writer::new(&people[1], coop).anchor(T0, &second),
    ];
    assert!(commons.insert_all(entries).is_empty());
    let state = commons.state().clone();
    assert!(state.emergencies().values().all(|order| order.holds(T0)) && state.emergencies().len() == 1);
    (view.coop, view.state) = (coop, state);
    Rules::of(Arc::new(view), &[], &[], T0)
}

/// The same with a proof against `accused`, which the operator of `me` has shown since a time, or not yet.
pub fn rules_accusing(me: &str, accused: &str, since: Option<UnixSeconds>) -> Rules {
    let mut view = view(me, vec![release()], vec![engine()]);
    let people = ["aarhus", "bilbao", "cork"].map(testkit::person);
    let everybody: Vec<&testkit::Person> = people.iter().collect();
    let mut charter = charter(&everybody, Preset::Trial);
    charter.releases = vec![release()];
    charter.engines = vec![engine()];
    charter.parameters.deliberation = Some(presets::deliberation());
    let mut commons = Commons::new(found(&everybody, charter), Limits::default());
    let liar = people.iter().find(|person| person.id().as_str() == accused).unwrap();
    let coop = commons.founding().coop();
    for reason in ["one", "two"] {
        // Two first entries of one log; that they say that it leaves stops nothing that runs.
        let said = liar.human(coop, T0, Body::Leave(Leave { reason: Some(reason.parse().unwrap()) }));
        let entry = testkit::Writer::new(liar, coop).anchor(T0, &said);
        assert!(commons.insert_all([entry]).is_empty());
    }
    (view.coop, view.state) = (coop, commons.state().clone());
    let shown = since.map(|since| {
        let shown = json!({"type": "MayWork", "status": "False", "reason": "Quarantined", "message": "",
            "lastTransitionTime": koinon_api::time::from_unix(since.0).unwrap()});
        let mut member = koinon_api::Member::new(accused, Default::default());
        member.status = Some(serde_json::from_value(json!({"conditions": [shown]})).unwrap());
        Arc::new(member)
    });
    let shown: Vec<_> = shown.into_iter().collect();
    Rules::of(Arc::new(view), &[], &shown, T0)
}

/// A member's id.
pub fn member(name: &str) -> MemberId {
    name.parse().unwrap()
}
