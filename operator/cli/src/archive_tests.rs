use koinon_core::body::ModelRelease;
use koinon_core::body::charter::{Deliberation, MemberPeriods};
use koinon_core::body::proposal::{Action, Choice};
use koinon_core::ids::{Digest, ManifestDigest, Seconds};
use koinon_core::presets;

use super::*;
use crate::cluster::amount_to;
use crate::fixture::World;

fn decide(world: &mut World, action: Action) {
    let proposal = world.propose(0, action);
    for voter in 0..world.people.len() {
        world.vote(voter, proposal, Choice::Yes, 0);
    }
    [3600, 60, 60].into_iter().for_each(|seconds| world.wait(seconds));
    let phase = world.state().phase(&world.state().proposals()[&proposal], world.now);
    assert_eq!(phase.name(), "Enacted");
}

fn release(name: &str) -> Action {
    Action::AddModelRelease(ModelRelease {
        uri: format!("hf://example/{name}").parse().unwrap(),
        revision: "main".parse().unwrap(),
        manifest_digest: ManifestDigest(Digest::of(name.as_bytes())),
        quantization: "q4-k-m".parse().unwrap(),
        license: "Apache-2.0".parse().unwrap(),
        engines: vec![],
        memory_bytes: None,
    })
}

fn held(commons: &Commons) -> Vec<Signed> {
    let replica = commons.replica();
    replica.logs().flat_map(|(log, _)| replica.all(log)).map(|entry| (*entry.statement).clone()).collect()
}

#[test]
fn what_was_settled_moves_to_a_file_and_cluster_and_file_together_are_the_whole_history() {
    let mut world = World::with(&["aarhus", "bilbao", "cork", "delft"], |charter| {
        let members = MemberPeriods { dormant_after_seconds: Seconds(60), ..MemberPeriods::default() };
        charter.parameters.deliberation = Some(Deliberation { members, ..presets::deliberation() });
    });
    for name in ["qwen", "llama", "phi"] {
        decide(&mut world, release(name));
    }
    world.wait(2 * 86_400);
    decide(&mut world, release("gemma"));
    world.wait(120);
    let drafted = world.commons[0].draft_checkpoint(world.now).unwrap();
    decide(&mut world, Action::Checkpoint(drafted));
    let full = world.commons[0].clone();
    let settled = world.commons[1].forget_settled().expect("a checkpoint is in force");

    let moved = movable(&full, &settled).unwrap();
    assert!(moved.len() > 10, "{} entries", moved.len());
    let noted = Settled { versions: vec![], ..(*settled).clone() };
    assert!(movable(&full, &noted).unwrap_err().to_string().contains("has not let go yet"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("archive.jsonl");
    write(&full, &path).unwrap();
    assert!(write(&full, &path).is_err(), "an archive is never overwritten");
    let archived = read(&path).unwrap();
    assert!(moved.is_subset(&archived.iter().map(Signed::id).collect()));

    let (founding, settled) = (full.founding().clone(), (*settled).clone());
    let stored: Vec<Signed> = held(&full).into_iter().filter(|entry| !moved.contains(&entry.id())).collect();
    let left = amount_to(founding.clone(), Limits::NONE, stored.clone(), Some(settled.clone())).unwrap();
    assert_eq!(left.state().heads(), full.state().heads());
    let needed = |entry: &&Signed| settled.kept.first() != Some(&entry.id());
    let less = stored.iter().filter(needed).cloned().collect();
    let lost = amount_to(founding.clone(), Limits::NONE, less, Some(settled.clone())).map(drop);
    assert!(lost.unwrap_err().to_string().contains("archive restore"));

    let without = assemble(founding.clone(), stored.clone(), Some(&settled)).map(drop).unwrap_err().to_string();
    assert!(without.contains("--with FILE"), "{without}");
    let whole = assemble(founding, [archived, stored].concat(), Some(&settled)).unwrap();
    assert_eq!(whole.state(), full.state());
    assert_eq!(whole.false_checkpoint(), None);

    let own = world.people[0].member.keys.operator;
    let names: BTreeSet<String> = held(&full).iter().map(|entry| name_of(entry, &own)).collect();
    assert_eq!(names.len(), held(&full).len());
    assert!(names.contains(&names::own_entry(&own.to_string(), 0)));
}
