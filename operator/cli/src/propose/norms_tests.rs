use clap::Parser;
use koinon_core::body::proposal::Choice;
use koinon_core::body::{Engine, ModelRelease};

use super::*;
use crate::fixture::World;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: NormCommand,
}

fn action(world: &World, args: &[&str]) -> anyhow::Result<Action> {
    let line = Line::try_parse_from(["propose"].iter().chain(args))?;
    line.command.action(&world.commons[0])
}

#[test]
fn a_flag_changes_its_own_part_of_what_is_in_force() {
    let mut world = World::new(&["aarhus", "bilbao", "cork"]);
    let model = ManifestDigest(Digest::of(b"tiny"));
    let residency = format!("{model}=SE");
    let args = [
        "set-placement-rules",
        "--jurisdictions",
        "DK,SE",
        "--residency",
        &residency,
        "--min-evidence",
        "schedulerconsistent",
    ];
    let first = action(&world, &args).unwrap();
    let id = world.propose(0, first);
    (0..3).for_each(|who| {
        world.vote(who, id, Choice::Yes, 0);
    });
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    assert_eq!(world.state().norms().placement.jurisdictions.len(), 2, "it is in force");
    let lifted = format!("{model}=any");
    let args = ["set-placement-rules", "--residency", &lifted, "--max-replicas-per-member", "2"];
    let Action::SetPlacementRules(rules) = action(&world, &args).unwrap() else { panic!("no rules") };
    assert_eq!((rules.jurisdictions.len(), rules.residency.len()), (2, 0));
    assert_eq!((rules.min_evidence, rules.max_replicas_per_member), (EvidenceLevel::SchedulerConsistent, Some(2)));
    let args = ["set-placement-rules", "--xid", "43=Unhealthy"];
    let Action::SetPlacementRules(rules) = action(&world, &args).unwrap() else { panic!("no rules") };
    assert_eq!((rules.jurisdictions.len(), rules.xids.len()), (2, 1));
    let milder = action(&world, &["set-placement-rules", "--xid", "79=Degraded"]).unwrap_err().to_string();
    assert!(milder.contains("a vote can only make a known code stricter"), "{milder}");
    let args = ["set-placement-rules", "--jurisdictions", "any"];
    let Action::SetPlacementRules(rules) = action(&world, &args).unwrap() else { panic!("no rules") };
    assert!(rules.jurisdictions.is_empty() && rules.residency.len() == 1);
}

/// The example of the repository, with the release that it is about.
fn example() -> (String, ModelRelease, Engine) {
    let text = include_str!("../../../../manifests/challenges/h100.yaml");
    let challenges: Challenges = serde_yaml::from_str(text).unwrap();
    let release = serde_json::json!({"uri": "https://models.example/nothing", "revision": "1", "quantization": "none",
        "manifestDigest": challenges.model, "license": "Apache-2.0"});
    let engine = serde_json::json!({"name": challenges.engine, "port": 8000, "healthPath": "/health", "args": [],
        "image": format!("registry.example/koinon@{}", Digest::of(b"image")),
        "resources": {"cpu": "1", "memory": "1Gi", "shm": "64Mi"}});
    (text.to_owned(), serde_json::from_value(release).unwrap(), serde_json::from_value(engine).unwrap())
}

#[test]
fn challenges_are_proposed_as_they_can_be_carried_out() {
    let (text, release, engine) = example();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("challenges.yaml");
    std::fs::write(&file, &text).unwrap();
    let args = ["set-placement-rules", "--min-evidence", "challenged", "--challenges", file.to_str().unwrap()];
    let names = ["aarhus", "bilbao", "cork"];
    let refused = |world: &World| action(world, &args).unwrap_err().to_string();
    assert!(refused(&World::new(&names)).contains("no engine koinon-challenge"));
    let with_engine = World::with(&names, |charter| charter.engines = vec![engine.clone()]);
    assert!(refused(&with_engine).contains("no release sha256:0000"));
    let approved = |release: &ModelRelease| {
        World::with(&names, |charter| {
            (charter.engines, charter.releases) = (vec![engine.clone()], vec![release.clone()]);
        })
    };
    let for_another = ModelRelease { engines: vec!["vllm".parse().unwrap()], ..release.clone() };
    assert!(refused(&approved(&for_another)).contains("may not be served with koinon-challenge"));
    let world = approved(&release);
    let Action::SetPlacementRules(rules) = action(&world, &args).unwrap() else { panic!("no rules") };
    assert_eq!((rules.min_evidence, rules.challenges.unwrap().challengers), (EvidenceLevel::Challenged, 2));
    std::fs::write(&file, text.replace("everySeconds: 36000", "everySeconds: 3600")).unwrap();
    let often = format!("{:#}", action(&world, &args).unwrap_err());
    assert!(often.contains("everySeconds is 3600: between 36000"), "{often}");
    // What nothing reaches must not be asked for.
    let none = ["set-placement-rules", "--min-evidence", "challenged", "--challenges", "none"];
    assert!(action(&world, &none).unwrap_err().to_string().contains("set --challenges FILE as well"));
    assert!(action(&world, &["set-placement-rules", "--min-evidence", "attested"]).is_err());
}

#[test]
fn shares_prices_and_rates_are_read_from_one_line() {
    let world = World::new(&["aarhus", "bilbao", "cork"]);
    let shares = action(&world, &["set-shares", "--host-share", "1/3"]).unwrap();
    assert_eq!(shares, Action::SetShares(Shares { host_share: Fraction { num: 1, den: 3 }, most_gpus: None }));
    assert!(action(&world, &["set-shares"]).unwrap_err().to_string().contains("--host-share or --most-gpus"));
    let Action::SetPrices(prices) = action(&world, &["set-prices", "h100-80=1200", "a100-40=0"]).unwrap() else {
        panic!("no prices")
    };
    assert_eq!(prices.gpu_second_micros, [("h100-80".parse().unwrap(), 1200)].into());
    assert_eq!(
        action(&world, &["set-audit-rate", "5"]).unwrap(),
        Action::SetAuditRate(AuditRate { per_ten_thousand: 5 })
    );
    for bad in [&["set-audit-rate", "10001"][..], &["set-prices", "h100-80"], &["set-shares", "--most-gpus", "few"]] {
        assert!(action(&world, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn what_is_young_is_not_settled() {
    let mut world = World::new(&["aarhus", "bilbao", "cork"]);
    let nothing = action(&world, &["checkpoint"]).unwrap_err().to_string();
    assert!(nothing.contains("nothing is to be settled"), "{nothing}");
    world.propose(0, Action::SetAuditRate(AuditRate { per_ten_thousand: 5 }));
    let Action::Checkpoint(checkpoint) = action(&world, &["checkpoint", "--keep-days", "0"]).unwrap() else {
        panic!("no checkpoint")
    };
    assert_eq!(checkpoint.logs.len(), 1);
}
