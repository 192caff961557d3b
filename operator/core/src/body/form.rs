//! Whether a body was written in the form in which it is read, for the bodies that come by the thousand: seen from what was
//! written, without writing the body anew to compare.

use serde_json::Value;

use super::Body;

/// True only where [`crate::json::same_form`] is too. Of these bodies every word is read as a word, and every list of words
/// as a list, so what is left to look at is where objects and lists stand.
pub(super) fn is_plain(said: &Value, body: &Body) -> bool {
    match body {
        Body::Vote(_) => is_object_of_words(said, &[]),
        Body::Anchor(_) => is_object_of_words(said, &["statement"]) && is_envelope(&said["statement"]),
        Body::BoxOffer(_) => is_object_of_words(said, &["entries"]) && is_list_of_words(&said["entries"]),
        Body::CloseSeal(_) => {
            is_object_of_words(said, &["basis"])
                && said.get("basis").is_none_or(|basis| basis.is_null() || is_basis(basis))
        }
        Body::EnactSeal(_) => is_object_of_words(said, &["slot"]) && is_object_of_words(&said["slot"], &[]),
        _ => false,
    }
}

fn is_envelope(said: &Value) -> bool {
    let signatures = said.get("signatures").and_then(Value::as_array);
    is_object_of_words(said, &["signatures"])
        && signatures.is_some_and(|all| all.iter().all(|one| is_object_of_words(one, &[])))
}

fn is_basis(said: &Value) -> bool {
    is_object_of_words(said, &["slot", "offers"])
        && is_object_of_words(&said["slot"], &[])
        && is_list_of_words(&said["offers"])
}

fn is_word(said: &Value) -> bool {
    !said.is_object() && !said.is_array()
}

fn is_list_of_words(said: &Value) -> bool {
    said.as_array().is_some_and(|items| items.iter().all(is_word))
}

/// Whether it is an object, and nothing in it but what these fields hold has a form of its own.
fn is_object_of_words(said: &Value, but: &[&str]) -> bool {
    let is_good = |(name, value): (&String, &Value)| is_word(value) || but.contains(&name.as_str());
    said.as_object().is_some_and(|fields| fields.iter().all(is_good))
}
