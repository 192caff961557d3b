//! Logs of any content: one payload a line, each signed and put behind the one before it in its author's log.

#![no_main]

use std::collections::BTreeMap;

use koinon_core::body::charter::Preset;
use koinon_core::ids::{Digest, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::sealing::{self, Circumstances, Promises};
use koinon_core::statement::Statement;
use koinon_core::testkit::{self, Person, T0};
use koinon_core::presets;
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let people = koinon_fuzz::people();
    let founders: Vec<&Person> = people.iter().collect();
    let mut charter = testkit::charter(&founders, Preset::Standard);
    charter.parameters.deliberation = Some(presets::deliberation());
    let founding = testkit::found(&founders, charter);
    let coop = founding.coop();
    let mut commons = Commons::new(founding.clone(), Limits::default());
    let mut ends: BTreeMap<String, (u64, Digest)> = BTreeMap::new();
    let mut entries = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').take(16) {
        let Ok(Value::Object(mut payload)) = serde_json::from_slice(line) else { continue };
        payload.insert("coop".into(), coop.to_string().into());
        if let Some(inner) = payload.get_mut("body").and_then(|body| body.get_mut("statement"))
            && let Some(inner) = inner.as_object_mut()
        {
            inner.insert("coop".into(), coop.to_string().into());
        }
        let Some(log) = payload.get("log").and_then(Value::as_str).map(str::to_owned) else { continue };
        let end = ends.entry(log).or_insert((0, coop.0));
        koinon_fuzz::follow(&mut payload, end.0, end.1);
        let Some(entry) = koinon_fuzz::sign(&people, payload).and_then(|e| Statement::verify(e).ok()) else { continue };
        *end = (end.0 + 1, entry.id().0);
        entries.push(entry);
    }
    commons.insert_all(entries.clone());
    for now in [T0.0, T0.0 + 80 * 3600, i64::MAX] {
        let circumstances = Circumstances {
            now: UnixSeconds(now),
            isolated: false,
            clock_in_tolerance: true,
            resumed_at: None,
            promises: Promises::KEPT,
        };
        for proposal in commons.state().proposals().values() {
            let _ = commons.state().phase(proposal, UnixSeconds(now));
        }
        for person in &people {
            sealing::next(commons.state(), &person.id(), &circumstances);
        }
    }
    let (again, _) = Commons::load(founding, Limits::default(), entries.into_iter().rev());
    assert_eq!(again.state(), commons.state(), "the order of arrival must not matter");
});
