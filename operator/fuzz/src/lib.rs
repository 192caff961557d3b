//! What the fuzz targets share: signatures over whatever a fuzzer makes up.
//!
//! A signature stops a fuzzer at the door, so that nothing behind it would ever be read. Here the fuzzer writes what a
//! member with a key could sign: its payloads are signed before they are read, also those that stand inside others.

pub mod targets;

use std::sync::OnceLock;

use koinon_core::dsse::{Envelope, SeedSigner, Signer};
use koinon_core::ids::Digest;
use koinon_core::testkit::Person;
use serde_json::{Map, Value};

/// The members whose keys the fuzzer has.
pub const MEMBERS: [&str; 4] = ["aarhus", "bilbao", "cork", "delft"];

/// The members with their keys.
pub fn people() -> &'static [Person] {
    static PEOPLE: OnceLock<Vec<Person>> = OnceLock::new();
    PEOPLE.get_or_init(|| MEMBERS.map(koinon_core::testkit::person).into())
}

/// Whose key signs as `key` says; a key of nobody is left as it is.
fn signer<'a>(people: &'a [Person], payload: &Map<String, Value>) -> Option<&'a SeedSigner> {
    let key = payload.get("key")?.as_str()?;
    let keys = people.iter().flat_map(|person| [&person.governance, &person.operator]);
    keys.into_iter().find(|signer| signer.public_key().to_string() == key)
}

/// Everybody who can must sign: a charter, an application and an Admit proposal need several.
const CO_SIGNED: [&str; 3] = ["charter", "application", "proposal"];

/// The envelope around `payload`, signed by the key that it names; payloads in the places of envelopes are signed first.
pub fn sign(people: &[Person], mut payload: Map<String, Value>) -> Option<Envelope> {
    for pointer in ["/body/statement", "/body/action/admit/application", "/body/envelopes/0", "/body/envelopes/1"] {
        let mut whole = Value::Object(payload);
        if let Some(inner) = whole.pointer_mut(pointer)
            && let Some(unsigned) = inner.as_object().filter(|inner| inner.contains_key("kind")).cloned()
        {
            *inner = serde_json::to_value(sign(people, unsigned)?).ok()?;
        }
        let Value::Object(back) = whole else { return None };
        payload = back;
    }
    let kind = payload.get("kind")?.as_str()?.to_owned();
    let signer = signer(people, &payload)?;
    let bytes = serde_json::to_vec(&payload).ok()?;
    let mut envelope = Envelope::sign(&format!("application/vnd.koinon.{kind}.v1+json"), &bytes, signer);
    if CO_SIGNED.contains(&kind.as_str()) {
        for person in people {
            envelope.co_sign(&person.governance).ok()?;
            if kind == "application" {
                envelope.co_sign(&person.operator).ok()?;
            }
        }
    }
    Some(envelope)
}

/// Where an entry of the log of `key` would stand, if it followed `before`.
pub fn follow(payload: &mut Map<String, Value>, seq: u64, before: Digest) {
    payload.insert("seq".into(), seq.into());
    payload.insert("prev".into(), before.to_string().into());
}
