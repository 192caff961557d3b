//! Vectors that an independent implementation made (`e2e/vectors/make.py`): what it signs is understood here, and
//! what it forged is refused for the right reason.

// A vector that cannot be read fails its test.
#![allow(clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use koinon_core::body::proposal::Scope;
use koinon_core::body::{Body, Member};
use koinon_core::dsse::{Envelope, verifies};
use koinon_core::founding::Founding;
use koinon_core::ids::{
    BoxRoot, Bytes, CoopId, Digest, ManifestDigest, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds,
};
use koinon_core::log::{ForkProof, Inserted, Limits, Replica};
use koinon_core::manifest::{FileFacts, Manifest};
use koinon_core::policy::{Commons, Phase};
use koinon_core::statement::Statement;
use koinon_core::{json, merkle};
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn vectors<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/testdata/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[derive(Deserialize)]
struct Cases<T> {
    cases: Vec<T>,
}

#[derive(Deserialize)]
struct SignatureCase {
    name: String,
    key: PublicKey,
    message: String,
    signature: String,
    valid: bool,
}

#[test]
fn one_rule_for_signatures() {
    let Cases { cases } = vectors::<Cases<SignatureCase>>("signatures.json");
    assert!(cases.len() > 25 && cases.iter().any(|c| c.valid));
    for case in cases {
        let message = STANDARD.decode(&case.message).unwrap();
        let signature = STANDARD.decode(&case.signature).unwrap().try_into().unwrap();
        assert_eq!(verifies(&case.key, &message, &signature), case.valid, "{}", case.name);
    }
}

#[derive(Deserialize)]
struct StatementCase {
    name: String,
    envelope: String,
    id: Option<StatementId>,
    kind: Option<String>,
    effect: Option<bool>,
    error: Option<String>,
}

#[test]
fn every_statement_is_understood_or_refused_as_it_should_be() {
    let Cases { cases } = vectors::<Cases<StatementCase>>("statements.json");
    assert!(cases.len() > 70);
    let mut kinds = BTreeSet::new();
    for case in cases {
        let name = &case.name;
        match (Statement::from_json(case.envelope.as_bytes()), case.error) {
            (Err(error), Some(expected)) => assert_eq!(error.category(), expected, "{name}: {error}"),
            (Ok(_), Some(expected)) => panic!("{name} passed, it should be refused with {expected}"),
            (Err(error), None) => panic!("{name} was refused: {error}"),
            (Ok(statement), None) => {
                assert_eq!(Some(statement.id()), case.id, "{name}");
                assert_eq!(Some(statement.kind().as_str()), case.kind.as_deref(), "{name}");
                let why = match statement.body() {
                    Body::Opaque(why) => Some(why.to_string()),
                    _ => None,
                };
                assert_eq!(Some(why.is_none()), case.effect, "{name}: {why:?}");
                kinds.extend(why.is_none().then(|| statement.kind().to_string()));
                // What goes on to others is what came.
                let again = Statement::from_json(&statement.envelope().to_json()).unwrap();
                assert_eq!(again, statement, "{name}");
            }
        }
    }
    assert_eq!(kinds.len(), 15, "a kind has no good vector: {kinds:?}");
}

#[test]
fn founding_charters_are_checked_for_every_signature() {
    let Cases { cases } = vectors::<Cases<StatementCase>>("statements.json");
    let charter = cases.iter().find(|c| c.kind.as_deref() == Some("charter")).unwrap();
    let envelope = Envelope::from_json(charter.envelope.as_bytes()).unwrap();
    assert_eq!(Some(StatementId(Founding::verify(envelope.clone()).unwrap().coop().0)), charter.id);
    for missing in 0..envelope.signatures.len() {
        let mut partial = envelope.clone();
        partial.signatures.remove(missing);
        assert!(Founding::verify(partial).is_err(), "without signature {missing}");
    }
}

#[derive(Deserialize)]
struct Logs {
    founding: Envelope,
    coop: CoopId,
    entries: Vec<Envelope>,
    head: koinon_core::body::entry::Head,
    fork: Fork,
    refused: Vec<RefusedEntry>,
}

#[derive(Deserialize)]
struct Fork {
    entry: Envelope,
    seq: Seq,
    first: StatementId,
    second: StatementId,
    log: PublicKey,
}

#[derive(Deserialize)]
struct RefusedEntry {
    name: String,
    entry: Envelope,
    error: String,
}

#[test]
fn a_foreign_log_is_held_and_its_fork_proved() {
    let logs: Logs = vectors("logs.json");
    let founding = Founding::verify_as(logs.founding, logs.coop).unwrap();
    let mut replica = Replica::new(&founding, Limits::default());
    let read = |envelope: &Envelope| Statement::verify(envelope.clone()).unwrap();
    for case in &logs.refused {
        let refused = replica.insert(read(&case.entry)).unwrap_err();
        assert_eq!(refused.category(), case.error, "{}: {refused}", case.name);
    }
    for envelope in logs.entries.iter().rev() {
        replica.insert(read(envelope)).unwrap();
    }
    assert_eq!(replica.head(&logs.fork.log), Some(logs.head));
    let Inserted::Stored { fork: Some(proof), .. } = replica.insert(read(&logs.fork.entry)).unwrap() else {
        panic!("the fork was not noticed");
    };
    let seen = (proof.log, proof.seq, proof.first.0, proof.second.0);
    assert_eq!(seen, (logs.fork.log, logs.fork.seq, logs.fork.first, logs.fork.second));
    assert_eq!(ForkProof::of_evidence(&proof.to_evidence(), logs.coop), Some(*proof));
}

#[derive(Deserialize)]
struct Decision {
    founding: Envelope,
    coop: CoopId,
    entries: Vec<Envelope>,
    proposal: StatementId,
    root: BoxRoot,
    heads: BTreeMap<Scope, PolicyHash>,
    active: Vec<MemberId>,
    release: ManifestDigest,
    tally: BTreeMap<String, u32>,
    votes: BTreeMap<StatementId, String>,
}

#[test]
fn a_foreign_decision_is_counted_the_same() {
    let decision: Decision = vectors("decision.json");
    let founding = Founding::verify_as(decision.founding, decision.coop).unwrap();
    let entries = decision.entries.iter().map(|e| Statement::verify(e.clone()).unwrap());
    let (commons, refused) = Commons::load(founding, Limits::default(), entries);
    assert!(refused.is_empty(), "{refused:?}");
    let state = commons.state();
    assert_eq!(state.heads(), decision.heads);
    assert_eq!(state.active().map(|m: &Member| m.id.clone()).collect::<Vec<_>>(), decision.active);
    assert!(state.release(&decision.release).is_some());
    let proposal = &state.proposals()[&decision.proposal];
    assert!(matches!(state.phase(proposal, UnixSeconds(i64::MAX)), Phase::Enacted { .. }));
    assert_eq!(proposal.ballot.root, decision.root);
    let tally = proposal.ballot.tally;
    let counts = [
        ("yes", tally.counts.yes),
        ("no", tally.counts.no),
        ("abstain", tally.counts.abstain),
        ("veto", tally.counts.veto),
    ];
    assert_eq!(tally.electors, decision.tally["electors"]);
    for (name, count) in counts {
        assert_eq!(count, decision.tally[name], "{name}");
    }
    for (vote, verdict) in &decision.votes {
        assert_eq!(state.vote(vote).unwrap().1.verdict.name(), verdict, "{vote}");
    }
}

#[derive(Deserialize)]
struct Trees {
    boxes: Vec<Tree>,
    manifests: Vec<ManifestCase>,
}

#[derive(Deserialize)]
struct Tree {
    ids: BTreeSet<StatementId>,
    root: BoxRoot,
}

#[derive(Deserialize)]
struct ManifestCase {
    files: BTreeMap<String, String>,
    digest: ManifestDigest,
}

#[test]
fn boxes_and_manifests_have_the_same_digests() {
    let trees: Trees = vectors("trees.json");
    for Tree { ids, root } in &trees.boxes {
        assert_eq!(merkle::root(ids), *root, "{} ids", ids.len());
    }
    for case in &trees.manifests {
        let lines = case.files.iter().map(|(path, content)| {
            let content = STANDARD.decode(content).unwrap();
            let facts = FileFacts { digest: Digest::of(&content), size: Bytes(content.len() as u64) };
            Manifest::single(path, facts).unwrap().text()
        });
        let text: String = lines.collect();
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap().digest(), case.digest);
    }
}

#[test]
fn two_mebibytes_of_garbage_are_refused_at_once() {
    let garbage: Vec<u8> = (0u32..2 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let refused = Statement::from_json(&garbage).unwrap_err();
    assert_eq!(refused.category(), "TooLarge", "{refused}");
    assert!(json::check(&garbage).is_err());
}
