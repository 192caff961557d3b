//! Entries that only a later version understands, or nobody.

use koinon_core::body::proposal::{Choice, Vote};
use koinon_core::body::{Body, entry};
use koinon_core::dsse::{Envelope, Signer as _};
use koinon_core::kind::Kind;
use koinon_core::statement::{Position, Statement};
use serde_json::{Value, json};

use crate::world::World;

/// A payload as JSON, to be changed before it is signed.
fn payload(world: &World, who: usize, position: Position, body: Body) -> Option<(Kind, Value)> {
    let draft = world.draft(who, position.clone(), body);
    let human = position == Position::Human;
    let key = if human { world.people[who].governance.public_key() } else { world.people[who].operator.public_key() };
    let (kind, payload) = draft.payload(key).ok()?;
    Some((kind, serde_json::from_slice(&payload).ok()?))
}

fn change(world: &mut World, payload: &mut Value) {
    let random = &mut world.random;
    match random.below(9) {
        0 => payload["rules"] = json!(random.between(0, 4)),
        1 => payload["body"]["later"] = json!(1),
        2 => payload["later"] = json!(1),
        3 => {
            // What a careless reader takes for the same: the fields in the order of its own source.
            let fields: Vec<Value> =
                payload["body"].as_object().into_iter().flatten().map(|(_, v)| v.clone()).collect();
            payload["body"] = Value::Array(fields);
        }
        4 => {
            for name in ["basis", "ground", "reason", "signed", "charter", "interested"] {
                if random.once_in(3) {
                    payload["body"][name] = Value::Null;
                }
            }
        }
        5 => {
            let choice = payload["body"]["choice"].as_str().or(payload["body"]["outcome"].as_str()).map(str::to_owned);
            if let Some(choice) = choice {
                let name = if payload["body"]["choice"].is_null() { "outcome" } else { "choice" };
                payload["body"][name] = json!({ choice: null });
            }
        }
        6 => payload["body"]["vseq"] = json!(random.between(-1, 1) * 5_000_000_000_i64),
        7 => payload["body"] = json!({}),
        _ => payload["site"] = json!("another-site"),
    }
}

pub fn append(world: &mut World) {
    let who = world.anybody();
    let next = world.commons(who).replica().next_position(&world.people[who].operator.public_key());
    let Some(proposal) = world.proposals.last().copied() else { return };
    if world.random.once_in(3) {
        let vote = Vote { proposal, choice: Choice::Yes, vseq: 0, ground: None, reason: None };
        let Some((kind, mut inner)) = payload(world, who, Position::Human, Body::Vote(vote)) else { return };
        change(world, &mut inner);
        let Ok(bytes) = serde_json::to_vec(&inner) else { return };
        let statement = Envelope::sign(&kind.payload_type(), &bytes, &world.people[who].governance);
        world.append(who, Body::Anchor(Box::new(entry::Anchor { statement })));
        return;
    }
    let seal = world.next_seals(who, koinon_core::sealing::Promises::KEPT).into_iter().next();
    let resume = Body::LogResume(entry::LogResume { old_log: world.people[who].operator.public_key(), old_head: None });
    let Some((kind, mut outer)) = payload(world, who, next, seal.unwrap_or(resume)) else { return };
    let kind = if world.random.once_in(4) { "something-new".parse().unwrap_or(kind) } else { kind };
    outer["kind"] = json!(kind);
    change(world, &mut outer);
    let Ok(bytes) = serde_json::to_vec(&outer) else { return };
    if Statement::verify(Envelope::sign(&kind.payload_type(), &bytes, &world.people[who].operator)).is_ok() {
        world.append_payload(who, &kind.payload_type(), &bytes);
    }
}
