//! How what remains of settled log entries is kept in ConfigMaps: in one, or where it is too large in several that one names.
//!
//! The one is written last, so what it names is complete whenever the writer ends.

use std::collections::BTreeMap;

use crate::{labels, names};

/// What fits a ConfigMap: an API server takes 1 MiB with everything around it. In bytes.
const LARGEST: usize = 900_000;

/// The data of a ConfigMap.
pub type Data = BTreeMap<String, String>;

/// Where the text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// In the ConfigMap itself.
    Here(String),
    /// In these, one part after the other.
    In(Vec<String>),
}

/// The ConfigMaps that hold `text`, by name, in the order in which they are to be written. `digest` tells the parts of one text
/// from those of another.
#[must_use]
pub fn split(digest: &str, text: &str) -> Vec<(String, Data)> {
    split_at(LARGEST, digest, text)
}

fn split_at(largest: usize, digest: &str, text: &str) -> Vec<(String, Data)> {
    let entry = |text: String| BTreeMap::from([(labels::SETTLED_ENTRY.to_owned(), text)]);
    if text.len() <= largest {
        return vec![(names::SETTLED.to_owned(), entry(text.to_owned()))];
    }
    let mut parts: Vec<(String, Data)> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = (1..=largest.min(rest.len())).rev().find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        let name = format!("{}-{}-{}", names::SETTLED, digest.get(..12).unwrap_or(digest), parts.len());
        parts.push((name, entry(part.to_owned())));
        rest = after;
    }
    let named: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
    let index = BTreeMap::from([(labels::SETTLED_PARTS.to_owned(), named.join(" "))]);
    parts.push((names::SETTLED.to_owned(), index));
    parts
}

/// What the ConfigMap [`names::SETTLED`] tells; `None` where it tells nothing.
#[must_use]
pub fn noted(mut data: Data) -> Option<Noted> {
    if let Some(text) = data.remove(labels::SETTLED_ENTRY) {
        return Some(Noted::Here(text));
    }
    let named = data.remove(labels::SETTLED_PARTS)?;
    Some(Noted::In(named.split_whitespace().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_any_size_is_read_back_from_the_maps_that_hold_it() {
        for text in ["", "small", "größer als das, was in eine passt"] {
            let maps: BTreeMap<String, Data> = split_at(8, "0123456789abcdef", text).into_iter().collect();
            assert!(maps.values().all(|data| data.values().all(|text| text.len() <= 8) || maps.len() > 1));
            let read = match noted(maps[names::SETTLED].clone()).unwrap() {
                Noted::Here(text) => text,
                Noted::In(parts) => parts.iter().map(|name| maps[name][labels::SETTLED_ENTRY].clone()).collect(),
            };
            assert_eq!(read, text);
        }
        assert_eq!(split_at(8, "0123456789abcdef", "more than eight")[0].0, "koinon-settled-0123456789ab-0");
        assert_eq!(noted(Data::new()), None);
    }
}
