//! Strict JSON: what two careful readers could understand differently is an error.
//!
//! Signed bytes are read by independent programs. A duplicate key, a float, a number beyond 64 bits or nesting
//! without bound would let one payload mean two things, so all of them are refused before any typed reading.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Deepest nesting of a payload.
pub const MAX_DEPTH: usize = 32;

/// Why bytes are not strict JSON of the expected shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// More bytes than the limit of this sort of document.
    #[error("cannot read a document of {seen} bytes: at most {allowed} are allowed")]
    TooLarge {
        /// The limit.
        allowed: usize,
        /// What came.
        seen: usize,
    },
    /// Not JSON, or JSON with duplicate keys, floats, deep nesting or trailing bytes.
    #[error("cannot read strict JSON: {0}")]
    NotStrict(String),
    /// Strict JSON of another shape than expected.
    #[error("cannot read {what}: {why}")]
    Shape {
        /// What was expected.
        what: &'static str,
        /// The first difference.
        why: String,
    },
}

/// Checks that `bytes` are strict JSON.
pub fn check(bytes: &[u8]) -> Result<(), JsonError> {
    strict(bytes, Strict::<false> { depth: 0 }).map(drop)
}

/// Reads strict JSON of any shape. Text is taken as it stands: there is no name that serde_json gives a meaning of its own.
pub(crate) fn read(bytes: &[u8], limit: usize) -> Result<Value, JsonError> {
    if bytes.len() > limit {
        return Err(JsonError::TooLarge { allowed: limit, seen: bytes.len() });
    }
    strict(bytes, Strict::<true> { depth: 0 })
}

fn strict<const KEEP: bool>(bytes: &[u8], rule: Strict<KEEP>) -> Result<Value, JsonError> {
    let not_strict = |error: serde_json::Error| JsonError::NotStrict(shorten(&error.to_string()));
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = rule.deserialize(&mut reader).map_err(not_strict)?;
    reader.end().map_err(not_strict)?;
    Ok(value)
}

/// Reads a `T` from at most `limit` bytes of strict JSON.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], limit: usize, what: &'static str) -> Result<T, JsonError> {
    if bytes.len() > limit {
        return Err(JsonError::TooLarge { allowed: limit, seen: bytes.len() });
    }
    check(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| JsonError::Shape { what, why: shorten(&error.to_string()) })
}

/// Whether a document has the form in which the value that was read from it is written.
///
/// The typed reader takes a list for an object, its items as the fields in the order of this version's source, and an
/// object with nothing in it for a word. The release before this one has other fields, and another program has no order
/// of fields at all: neither would read the same.
pub(crate) fn same_form(said: &Value, read: &Value) -> bool {
    match (said, read) {
        (Value::Object(said), Value::Object(read)) => {
            said.iter().all(|(name, value)| read.get(name).is_none_or(|read| same_form(value, read)))
        }
        // What is read into a set may have become fewer.
        (Value::Array(said), Value::Array(read)) => said
            .iter()
            .enumerate()
            .all(|(index, value)| read.get(index).or_else(|| read.last()).is_none_or(|read| same_form(value, read))),
        (Value::Object(_) | Value::Array(_), _) | (_, Value::Object(_) | Value::Array(_)) => false,
        _ => true,
    }
}

/// Checks that `bytes`, from which `read` was read, have its form; see [`same_form`].
pub(crate) fn check_form<T: Serialize>(bytes: &[u8], read: &T, what: &'static str) -> Result<(), JsonError> {
    let forms = serde_json::from_slice(bytes).and_then(|said: Value| Ok((said, serde_json::to_value(read)?)));
    match forms {
        Ok((said, read)) if same_form(&said, &read) => Ok(()),
        _ => Err(JsonError::Shape { what, why: "a list stands for an object, or an object for a word".to_owned() }),
    }
}

/// Hostile text travels inside serde's messages; conditions and logs get its beginning only.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// The rule, for whoever keeps what is read, and for whoever reads it again.
#[derive(Clone, Copy)]
struct Strict<const KEEP: bool> {
    depth: usize,
}

/// A name, copied only where an escape in it leaves no other way.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<const KEEP: bool> Strict<KEEP> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

fn duplicate<E: serde::de::Error>(name: &str) -> E {
    E::custom(format_args!("duplicate key {:?}", shorten(name)))
}

impl<'de, const KEEP: bool> DeserializeSeed<'de> for Strict<KEEP> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, const KEEP: bool> Visitor<'de> for Strict<KEEP> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strict JSON")
    }
    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Value, E> {
        // Kubernetes and half of the world's JSON readers stop at a signed 64 bit number.
        if i64::try_from(number).is_err() {
            return Err(E::custom(format_args!("number {number} is beyond 64 bits with sign")));
        }
        Ok(number.into())
    }
    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        Err(E::custom(format_args!("number {number} is not an integer")))
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(if KEEP { Value::String(text.to_owned()) } else { Value::Null })
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut kept = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            if KEEP {
                kept.push(item);
            }
        }
        Ok(Value::Array(kept))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        if KEEP {
            let mut kept = Map::new();
            while let Some(name) = entries.next_key::<String>()? {
                if kept.contains_key(&name) {
                    return Err(duplicate(&name));
                }
                kept.insert(name, entries.next_value_seed(inner)?);
            }
            return Ok(Value::Object(kept));
        }
        let mut names = BTreeSet::new();
        while let Some(name) = entries.next_key::<Name<'de>>()? {
            if names.contains(&name) {
                return Err(duplicate(&name.0));
            }
            names.insert(name);
            entries.next_value_seed(inner)?;
        }
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, because: &str) {
        let error = check(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(because), "{text}: {error}");
    }

    #[test]
    fn plain_documents_are_read() {
        check(br#" {"a":[1,-2,true,null,"x\u00e9"],"b":{"a":9223372036854775807}} "#).unwrap();
    }

    #[test]
    fn a_key_that_comes_twice_is_refused_also_when_it_is_spelled_differently() {
        refused(r#"{"a":1,"a":1}"#, "duplicate key");
        refused(r#"{"a":1,"\u0061":1}"#, "duplicate key");
        refused(r#"[{"x":{"a":1,"b":2,"a":3}}]"#, "duplicate key");
    }

    #[test]
    fn anything_but_an_integer_of_64_bits_is_refused() {
        for float in ["1.0", "1e2", "-0", "0.5", "9223372036854775808", "123456789012345678901234567890"] {
            assert!(check(float.as_bytes()).is_err(), "{float}");
        }
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        check(nested(MAX_DEPTH).as_bytes()).unwrap();
        refused(&nested(MAX_DEPTH + 1), "nested deeper");
        refused(&"[".repeat(100_000), "nested deeper");
    }

    #[test]
    fn trailing_bytes_byte_order_marks_and_broken_text_are_refused() {
        refused("{} {}", "trailing");
        assert!(check(b"\xef\xbb\xbf{}").is_err());
        assert!(check(b"{\"a\":\"\xff\"}").is_err());
        assert!(check(br#"{"a":"\ud800"}"#).is_err());
        assert!(check(b"").is_err());
    }

    #[test]
    fn the_limit_is_named() {
        let error = from_slice::<Vec<i64>>(b"[1,2,3]", 3, "numbers").unwrap_err();
        assert_eq!(error, JsonError::TooLarge { allowed: 3, seen: 7 });
    }

    #[test]
    fn what_is_kept_is_what_is_written_also_under_names_that_the_reader_uses_itself() {
        let text = r#"{"a":[1,-2,true,null,"x"],"$serde_json::private::RawValue":"{\"a\":1.5}","b":{}}"#;
        let value = read(text.as_bytes(), 1000).unwrap();
        assert_eq!(value.as_object().map(Map::len), Some(3));
        assert_eq!(value["$serde_json::private::RawValue"], Value::from("{\"a\":1.5}"));
        assert_eq!(value["a"], serde_json::json!([1, -2, true, null, "x"]));
        for bad in [r#"{"a":1,"\u0061":2}"#, "[1.5]", "[[]] 1", r#"{"a":9223372036854775808}"#] {
            assert_eq!(read(bad.as_bytes(), 1000).err(), check(bad.as_bytes()).err(), "{bad}");
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(read(text.as_bytes(), 9), Err(JsonError::TooLarge { allowed: 9, seen: text.len() }));
    }
}
