//! What people say: proposals, votes and the rest, mostly as they should be.

use std::collections::BTreeSet;

use koinon_core::body::hearing::Document;
use koinon_core::body::proposal::{
    Action, AddEngine, Admit, CancelProposal, ChangeCharter, Choice, Delegation, Expel, Ground, Leave, Recusal,
    RemoveEngine, SetRules, Vote, WithdrawModelRelease, Withdrawal,
};
use koinon_core::body::{Body, Class, Engine, EvidenceRef, ModelRelease, Proposal, Scope};
use koinon_core::dsse::Signer;
use koinon_core::ids::{Digest, ManifestDigest, PolicyHash, Seconds, StatementId};
use koinon_core::presets;
use koinon_core::statement::Position;

use crate::charters::newcomer;
use crate::random::Random;
use crate::world::{NAMES, World};

fn model(world: &mut World) -> ManifestDigest {
    ManifestDigest(Digest::of(&[world.random.below(4) as u8]))
}

fn release(digest: ManifestDigest) -> Option<ModelRelease> {
    let release = serde_json::json!({
        "uri": "https://models.example/tiny.gguf", "revision": "main", "manifestDigest": digest,
        "quantization": "none", "license": "Apache-2.0", "engines": [],
    });
    serde_json::from_value(release).ok()
}

/// Some model to approve.
pub fn release_of_any(world: &mut World) -> Option<Action> {
    Some(Action::AddModelRelease(release(model(world))?))
}

fn engine(port: usize) -> Option<Engine> {
    let engine = serde_json::json!({
        "name": "tiny", "image": format!("registry.example/tiny@{}", Digest::of(&[port as u8])),
        "args": ["--model", "{modelPath}"], "port": 1020 + port, "healthPath": "/health",
        "resources": { "cpu": "2", "memory": "4Gi", "shm": "1Gi" },
    });
    serde_json::from_value(engine).ok()
}

fn action(world: &mut World, who: usize) -> Option<Action> {
    let complete = world.state(who).rules() >= 2;
    Some(match world.random.below(if complete { 19 } else { 11 }) {
        16..=18 => norm(world)?,
        0..=3 => Action::AddModelRelease(release(model(world))?),
        4 => Action::WithdrawModelRelease(WithdrawModelRelease { manifest_digest: model(world) }),
        5 => Action::AddEngine(AddEngine { engine: engine(world.random.below(50))? }),
        6 => Action::RemoveEngine(RemoveEngine { name: "tiny".parse().ok()? }),
        7..=8 => {
            let coop = world.commons(who).founding().coop();
            let known = world.people.len();
            let name = if world.random.once_in(8) { NAMES[world.random.below(known)] } else { NAMES.get(known)? };
            let person = newcomer(name);
            let application = person.application(coop, world.now).envelope().clone();
            if known == NAMES.iter().position(|n| *n == name)? {
                world.welcome(person);
            }
            Action::Admit(Admit { application })
        }
        9..=10 => {
            let rules = if world.random.once_in(8) { 3 } else { 2 };
            Action::SetRules(SetRules { rules, deliberation: presets::deliberation() })
        }
        11 => {
            let state = world.state(who);
            let (mut parameters, mut classes) = (*state.parameters(), Class::ALL.map(|c| (c, state.class(c).copied())));
            parameters.sponsors = world.random.between(1, 4) as u32;
            parameters.grace_seconds = Seconds(world.random.between(0, 60));
            if let Some((_, Some(rules))) = classes.get_mut(world.random.below(8)) {
                rules.period_seconds = Seconds(world.random.between(1, 90));
            }
            let classes = classes.into_iter().filter_map(|(class, rules)| Some((class, rules?))).collect();
            Action::ChangeCharter(Box::new(ChangeCharter { parameters, classes }))
        }
        12..=13 => {
            let newest: Vec<StatementId> = world.proposals.iter().rev().take(3).copied().collect();
            Action::CancelProposal(CancelProposal { proposal: *world.random.pick(&newest)? })
        }
        _ => {
            let whom = world.anybody();
            expel(world, whom)?
        }
    })
}

/// Something about all work, as JSON so that it may be wrong in any way.
fn norm(world: &mut World) -> Option<Action> {
    let random = &mut world.random;
    let odd = random.once_in(4);
    let some = |least: usize| if odd { 0 } else { least };
    let action = match random.below(5) {
        0 => serde_json::json!({ "setPlacementRules": { "jurisdictions": ["ES", "PT"],
            "residency": { (Digest::of(b"model").to_string()): if odd { vec![] } else { vec!["ES"] } },
            "minEvidence": if random.once_in(8) { "Attested" } else { "Challenged" }, "maxReplicasPerMember": 3,
            "challenges": challenges(random, odd), "xids": xids(random.below(8)) } }),
        1 => serde_json::json!({ "setShares": { "hostShare": { "num": some(1), "den": 2 }, "mostGpus": null } }),
        2 => {
            serde_json::json!({ "setPrices": { "gpuSecondMicros": { "h100-80": if odd { 2_000_000_000 } else { 278 } } } })
        }
        3 => serde_json::json!({ "setAuditRate": { "perTenThousand": if odd { 10_001 } else { 200 } } }),
        _ => serde_json::json!({ "adviseOperatorRelease": { "version": "1.4.0", "image": Digest::of(b"image") } }),
    };
    serde_json::from_value(action).ok()
}

/// A table of errors; most of them wrong in one way.
fn xids(kind: usize) -> serde_json::Value {
    let row = |code: u32| {
        serde_json::json!({ "code": code, "class": "reset", "state": "Unhealthy", "reason": "VotedReason",
            "action": "ResetGPU", "offer": "Nothing", "work": "Drain", "holdSeconds": 0 })
    };
    let with = |key: &str, value: serde_json::Value| {
        let mut row = row(94);
        row[key] = value;
        row
    };
    match kind {
        0 => serde_json::json!([]),
        1 => serde_json::json!([row(94), row(200)]),
        2 => serde_json::json!([row(200), row(94)]),
        3 => serde_json::json!([row(94), row(94)]),
        4 => serde_json::json!([with("offer", "Any".into())]),
        5 => serde_json::json!([with("state", "Degraded".into())]),
        6 => serde_json::json!([with("code", 10_000.into())]),
        _ => (1..=65).map(row).collect(),
    }
}

/// Rules of challenges, at their bounds and a step beyond them.
fn challenges(random: &mut Random, odd: bool) -> serde_json::Value {
    let (challengers, most) = (random.between(1, 4), random.between(1, 40));
    let mut beyond = |times| i64::from(odd && random.once_in(times));
    let every = 200 * (challengers + 1) * most - beyond(3);
    let fresh = every / 9 * 10 + 10 - 20 * beyond(3);
    let (compute, recall) = (800 * most, 200 * most + beyond(3));
    serde_json::json!({ "engine": "koinon-challenge", "model": Digest::of(b"nothing"), "everySeconds": every,
        "challengers": challengers, "freshSeconds": fresh, "mostSeconds": most,
        "classes": { "h100-80": { "size": { "rows": 128, "depth": 64 },
            "compute": { "least": compute, "most": compute + beyond(3) * most + 1 - beyond(3) },
            "recall": { "least": 1, "most": recall - 1 + beyond(4) } } } })
}

/// To expel a member, for what a document shows.
pub fn expel(world: &World, whom: usize) -> Option<Action> {
    let document = Document { digest: Digest::of(b"a report"), text: "It does not answer".parse().ok()? };
    let evidence = vec![EvidenceRef::Document(document)];
    Some(Action::Expel(Expel { member: world.id(whom), evidence, appeal: None }))
}

pub fn propose(world: &mut World) {
    let who = world.anybody();
    let Some(action) = action(world, who) else { return };
    let title = match "A change".parse() {
        Ok(title) => title,
        Err(_) => return,
    };
    let Some(mut proposal) = world.state(who).draft_proposal(action, title, Default::default(), world.now) else {
        return;
    };
    if world.random.once_in(5) {
        bend(world, who, &mut proposal);
    }
    let stranger = world.anybody();
    let person = &world.people[who];
    let signer: &dyn Signer = match world.random.below(40) {
        0 => &person.operator,
        1 => &world.people[stranger].governance,
        _ => &world.people[who].governance,
    };
    let sponsors: Vec<&dyn Signer> = match (&proposal.action, world.random.below(3)) {
        (Action::Admit(_), 0 | 1) => vec![&world.people[stranger].governance],
        // Who is said to have an interest must say so, too.
        (_, 0 | 1) => {
            let named = world.people.iter().filter(|person| proposal.interested.contains(&person.id()));
            named.map(|person| &person.governance as &dyn Signer).collect()
        }
        _ => vec![],
    };
    let draft = world.draft(who, Position::Human, Body::Proposal(Box::new(proposal)));
    let signed = draft.sign(signer, &sponsors);
    let more = draft.sign(&world.people[who].governance, &[&world.people[0].governance]);
    let Ok(statement) = signed else { return };
    world.anchor(who, &statement);
    if !world.proposals.contains(&statement.id()) {
        world.proposals.push(statement.id());
    }
    if let (true, Ok(more)) = (world.random.once_in(8), more) {
        // A copy with a further signature, anchored later.
        world.anchor(who, &more);
    }
}

/// One thing about it is not as its class asks.
fn bend(world: &mut World, who: usize, proposal: &mut Proposal) {
    let state = world.state(who);
    let versions: Vec<PolicyHash> = state.chain(Scope::Membership).iter().map(|v| v.hash).collect();
    let parents: Vec<PolicyHash> = state.chain(proposal.scope).iter().map(|v| v.hash).collect();
    let charters: Vec<PolicyHash> = state.chain(Scope::Charter).iter().map(|v| v.hash).collect();
    let random = &mut world.random;
    match random.below(15) {
        0 => proposal.opens_at = proposal.opens_at.minus(Seconds(1)),
        1 => proposal.closes_at = proposal.closes_at.minus(Seconds(1)),
        2 => proposal.eta = proposal.eta.plus(Seconds(1)),
        3 => proposal.expires_at = proposal.expires_at.plus(Seconds(1)),
        4 => proposal.membership = random.pick(&versions).copied().unwrap_or(proposal.membership),
        5 => proposal.parent = random.pick(&parents).copied().unwrap_or(proposal.parent),
        6 => proposal.charter = random.pick(&charters).copied(),
        7 => proposal.charter = None,
        8 => proposal.class = *random.pick(&Class::ALL).unwrap_or(&Class::Routine),
        9 => proposal.scope = *random.pick(&Scope::ALL).unwrap_or(&Scope::Releases),
        10 => proposal.term += random.between(1, 2_000) as u32,
        11 => proposal.membership = PolicyHash(Digest::of(b"nowhere")),
        12 => proposal.parent = PolicyHash(Digest::of(b"nowhere")),
        13 => proposal.subject = Some(world.people[0].id()),
        _ => {
            let count = random.below(world.people.len());
            proposal.interested = world.people.iter().take(count).map(|p| p.id()).collect::<BTreeSet<_>>();
        }
    }
}

fn newest(world: &mut World) -> Option<StatementId> {
    let back = if world.random.once_in(3) { world.random.below(4) } else { 0 };
    world.proposals.iter().rev().nth(back).copied()
}

fn choice(world: &mut World) -> Choice {
    match (world.mood, world.random.below(12)) {
        (0, 0..=5) => Choice::Veto,
        (1, 0..=6) => Choice::Abstain,
        (2, 0..=5) => Choice::No,
        (_, 0..=7) => Choice::Yes,
        (_, 8..=9) => Choice::No,
        (_, 10) => Choice::Abstain,
        _ => Choice::Veto,
    }
}

/// Most members vote on the newest proposal, and mostly agree.
pub fn everybody_votes(world: &mut World) {
    let Some(proposal) = newest(world) else { return };
    for who in 0..world.people.len() {
        if world.random.once_in(8) {
            continue;
        }
        let choice = choice(world);
        let ground = (choice == Choice::Veto).then_some(Ground::Legal);
        world.say(who, Body::Vote(Vote { proposal, choice, vseq: 0, ground, reason: None }));
        if world.random.once_in(4) {
            world.wait(1);
        }
    }
}

/// One vote that may be wrong in any way.
pub fn votes(world: &mut World) {
    let (who, stranger) = (world.anybody(), world.anybody());
    let proposal = if world.random.once_in(12) { Some(StatementId(Digest::of(b"none"))) } else { newest(world) };
    let Some(proposal) = proposal else { return };
    let choice = choice(world);
    let ground = (choice == Choice::Veto && !world.random.once_in(4)).then_some(Ground::Safety);
    let vseq = if world.random.once_in(12) { 16 } else { world.random.below(3) as u32 };
    let late = if world.random.once_in(4) { world.random.between(-200, 200) } else { 0 };
    let mut draft =
        world.draft(who, Position::Human, Body::Vote(Vote { proposal, choice, vseq, ground, reason: None }));
    draft.issued_at = draft.issued_at.plus(Seconds(late));
    let former = world.former.iter().find(|(whose, _)| *whose == who).map(|(_, key)| key as &dyn Signer);
    let draw = world.random.below(12);
    let signer: &dyn Signer = match (draw, former) {
        (0, _) => &world.people[who].operator,
        (1, _) => &world.people[stranger].governance,
        (2..=4, Some(former)) => former,
        _ => &world.people[who].governance,
    };
    let Ok(statement) = draft.sign(signer, &[]) else { return };
    let seat = if world.random.once_in(12) { stranger } else { who };
    world.anchor(seat, &statement);
    if world.random.once_in(10) {
        world.anchor(who, &statement);
    }
}

/// Everything else that people sign.
pub fn speaks(world: &mut World) {
    let (who, other) = (world.anybody(), world.anybody());
    let to = (!world.random.once_in(5)).then(|| world.id(other));
    let body = match (world.random.below(12), newest(world)) {
        (0..=2, Some(proposal)) => Body::Withdrawal(Withdrawal { proposal }),
        (3..=5, Some(proposal)) => Body::Recusal(Recusal { proposal }),
        (6, _) => Body::Leave(Leave::default()),
        (_, _) => {
            let classes = Class::ALL.into_iter().filter(|_| !world.random.once_in(4)).collect();
            let not_after = world.now.plus(Seconds(world.random.between(0, 20_000)));
            Body::Delegation(Delegation { to, classes, vseq: world.random.below(3) as u32, not_after })
        }
    };
    // The author of a proposal is the only one who can take it back; often enough it does.
    let author = match &body {
        Body::Withdrawal(w) => world.state(who).proposals().get(&w.proposal).map(|p| p.author.clone()),
        _ => None,
    };
    let who = author
        .and_then(|author| world.people.iter().position(|p| p.id() == author))
        .filter(|_| !world.random.once_in(4))
        .unwrap_or(who);
    world.say(who, body);
}
