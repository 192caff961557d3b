use std::collections::BTreeSet;

use clap::Parser as _;
use koinon_core::body::charter::Preset;
use koinon_core::body::proposal::{Action, Choice, RemoveEngine, Vote};
use koinon_core::body::{Anchor, Body};
use koinon_core::dsse::Signer as _;
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::sealing::{self, Circumstances};
use koinon_core::statement::Draft;
use koinon_core::testkit::{T0, charter, found, person};

use super::*;

/// One member that decides something alone, and then proposes what it may not.
fn bundle() -> Vec<u8> {
    let aarhus = person("aarhus");
    let founding = found(&[&aarhus], charter(&[&aarhus], Preset::Trial));
    let mut commons = Commons::new(founding.clone(), Limits::NONE);
    let append = |commons: &mut Commons, body: Body| {
        let position = commons.replica().next_position(&aarhus.operator.public_key());
        let (coop, site) = (Some(founding.coop()), aarhus.member.site.name.clone());
        let draft = Draft { coop, author: aarhus.id(), site, issued_at: T0, position, body };
        commons.insert(draft.sign(&aarhus.operator, &[]).unwrap()).unwrap();
    };
    let say = |commons: &mut Commons, body: Body| {
        let statement = aarhus.human(founding.coop(), T0, body);
        append(commons, Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })));
        statement.id()
    };
    let remove = Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() });
    let draft = commons.state().draft_proposal(remove, "No vllm".parse().unwrap(), Default::default(), T0).unwrap();
    let proposal = say(&mut commons, Body::Proposal(Box::new(draft.clone())));
    say(&mut commons, Body::Vote(Vote { proposal, choice: Choice::Yes, vseq: 0, ground: None, reason: None }));
    let circumstances = Circumstances::good(T0);
    for _ in 0..2 {
        let next = sealing::next(commons.state(), &aarhus.id(), &circumstances);
        next.into_iter().for_each(|body| append(&mut commons, body));
    }
    let title = "Too soon".parse().unwrap();
    say(&mut commons, Body::Proposal(Box::new(koinon_core::body::Proposal { eta: T0, title, ..draft })));
    let mut out = Vec::new();
    write_lines(&mut out, export(&commons, T0)).unwrap();
    out
}

fn audited(mut bytes: &[u8]) -> Result<Report, Finding> {
    read(&mut bytes).unwrap()
}

#[test]
fn a_decision_is_told_with_who_voted_and_who_sealed_and_the_rest_with_why_it_came_to_nothing() {
    let told = shown(&audited(&bundle()), Form::Text).unwrap();
    for part in [
        "engines version 1 sha256:",
        "\"No vllm\" by aarhus",
        "change {\"removeEngine\":{\"name\":\"vllm\"}}",
        "count 1 yes, 0 no",
        "    aarhus Yes at ",
        "closed by aarhus",
        "enacted by aarhus",
        "\"Too soon\" by aarhus",
        "Invalid: its eta is",
        "Everything holds: 1 decisions",
    ] {
        assert!(told.contains(part), "{part:?} is not in\n{told}");
    }
}

#[test]
fn json_and_the_canonical_form_tell_the_same_decision() {
    let report = audited(&bundle());
    let json: serde_json::Value = serde_json::from_str(&shown(&report, Form::Json).unwrap()).unwrap();
    let version = json["decisions"][0]["version"].as_str().unwrap().to_owned();
    let canonical = shown(&report, Form::Canonical).unwrap();
    assert!(canonical.contains(&format!("version engines 1 {version} ")), "{canonical}");
    assert!(canonical.ends_with("holds\n"));
}

#[test]
fn a_file_from_which_any_line_is_missing_is_refused() {
    let bytes = bundle();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let mut problems = BTreeSet::new();
    for missing in 0..lines.len() {
        let rest: Vec<u8> =
            lines.iter().enumerate().filter(|(at, _)| *at != missing).flat_map(|(_, line)| line.to_vec()).collect();
        let finding = audited(&rest).unwrap_err();
        let told = shown(&Err(finding.clone()), Form::Canonical).unwrap();
        assert!(told.starts_with("fails "), "without line {missing}: {told}");
        problems.insert(finding.problem.category());
    }
    assert_eq!(problems, BTreeSet::from(["CutOff", "Gap", "OutOfPlace", "WrongCount"]));
}

#[tokio::test]
async fn a_file_is_audited_without_any_cluster_and_what_does_not_hold_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.jsonl"), folder.path().join("bad.jsonl"));
    let bytes = bundle();
    std::fs::write(&good, &bytes).unwrap();
    std::fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();
    let nowhere = folder.path().join("no-kubeconfig");
    let run = async |path: &std::path::Path| {
        let kubeconfig = format!("--kubeconfig={}", nowhere.display());
        let command = crate::Cli::try_parse_from(["kubectl-koinon", "audit", path.to_str().unwrap(), &kubeconfig]);
        command.unwrap().run().await
    };
    run(&good).await.unwrap();
    let refused = run(&bad).await.unwrap_err();
    assert!(crate::told(&refused).contains("does not prove what it claims: line "), "{}", crate::told(&refused));
}

#[test]
fn export_and_audit_are_one_command_and_the_file_is_needed() {
    for good in [&["audit", "x.jsonl"][..], &["audit", "export"], &["audit", "export", "-o", "x.jsonl"]] {
        assert!(crate::Cli::try_parse_from([&["kubectl-koinon"], good].concat()).is_ok(), "{good:?}");
    }
    assert!(crate::Cli::try_parse_from(["kubectl-koinon", "audit"]).is_err());
}
