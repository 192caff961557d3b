//! Strict JSON: what two careful readers could understand differently is an error.
//!
//! Signed bytes are read by independent programs. A duplicate key, a float, a number beyond 64 bits or nesting
//! without bound would let one payload mean two things, so all of them are refused before any typed reading.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{CowStrDeserializer, MapAccessDeserializer};
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
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let checked = Strict::<false> { depth: 0 }.deserialize(&mut reader).and_then(|_| reader.end());
    checked.map_err(|error| JsonError::NotStrict(shorten(&error.to_string())))
}

/// Reads a `T` from at most `limit` bytes of strict JSON.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], limit: usize, what: &'static str) -> Result<T, JsonError> {
    if bytes.len() > limit {
        return Err(JsonError::TooLarge { allowed: limit, seen: bytes.len() });
    }
    check(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| JsonError::Shape { what, why: shorten(&error.to_string()) })
}

/// Reads a `T` from at most `limit` bytes in one pass. For types alone that take neither numbers nor fields which they do not
/// know, and nothing of any shape: for them reading is all of the check.
pub(crate) fn from_closed<T: DeserializeOwned>(bytes: &[u8], limit: usize, what: &'static str) -> Result<T, JsonError> {
    if bytes.len() > limit {
        return Err(JsonError::TooLarge { allowed: limit, seen: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|error| of_shape(&error, what))
}

/// Reads a `T` with the fields `known` from an object in strict JSON, in one pass, and the least name of a field beside them.
/// What is of any shape in `T` is read by [`any`], and its numbers have a sign.
pub(crate) fn from_fields<T: DeserializeOwned>(
    bytes: &[u8],
    limit: usize,
    what: &'static str,
    known: &[&str],
) -> Result<(T, Option<String>), JsonError> {
    if bytes.len() > limit {
        return Err(JsonError::TooLarge { allowed: limit, seen: bytes.len() });
    }
    let mut beside = BTreeSet::new();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let fields = Fields { known, beside: &mut beside, read: PhantomData };
    let read = reader.deserialize_map(fields).and_then(|read| reader.end().map(|()| read));
    Ok((read.map_err(|error| of_shape(&error, what))?, beside.pop_first()))
}

/// Reads strict JSON of any shape as one field of a document: `deserialize_with` for [`from_fields`].
pub(crate) fn any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Strict::<true> { depth: 1 }.deserialize(deserializer)
}

fn of_shape(error: &serde_json::Error, what: &'static str) -> JsonError {
    let why = shorten(&error.to_string());
    if error.is_data() { JsonError::Shape { what, why } } else { JsonError::NotStrict(why) }
}

/// See [`from_fields`].
struct Fields<'k, T> {
    known: &'k [&'k str],
    beside: &'k mut BTreeSet<String>,
    read: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
        let Self { known, beside, .. } = self;
        T::deserialize(MapAccessDeserializer::new(Known { entries, known, beside }))
    }
}

/// The known fields of an object; the others are checked and their names kept.
struct Known<'k, A> {
    entries: A,
    known: &'k [&'k str],
    beside: &'k mut BTreeSet<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Known<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(Name(name)) = self.entries.next_key()? {
            if self.known.contains(&&*name) {
                return seed.deserialize(CowStrDeserializer::new(name)).map(Some);
            }
            self.entries.next_value_seed(Strict::<false> { depth: 1 })?;
            if let Some(name) = self.beside.replace(name.into_owned()) {
                return Err(duplicate(&name));
            }
        }
        Ok(None)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.entries.next_value_seed(seed)
    }
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

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Wire {
        #[serde(default)]
        seq: Option<i64>,
        #[serde(default, deserialize_with = "any")]
        body: Value,
    }

    fn fields(text: &str) -> Result<(Wire, Option<String>), JsonError> {
        from_fields(text.as_bytes(), 1000, "a document", &["seq", "body"])
    }

    fn read(body: &str) -> Result<Value, JsonError> {
        fields(&format!(r#"{{"body":{body}}}"#)).map(|(wire, _)| wire.body)
    }

    #[test]
    fn fields_that_nobody_knows_are_checked_like_the_others_and_the_least_of_them_is_named() {
        let wire = Wire { seq: Some(7), body: serde_json::json!({ "a": [1] }) };
        let text = r#"{"z":{"x":[1]},"seq":7,"later":null,"body":{"a":[1]}}"#;
        assert_eq!(fields(text), Ok((wire, Some("later".to_owned()))));
        for bad in [
            r#"{"seq":1,"seq":1}"#,
            r#"{"seq":1,"\u0073eq":1}"#,
            r#"{"z":1,"\u007a":1}"#,
            r#"{"z":{"a":1,"a":2}}"#,
            r#"{"z":1.5}"#,
            r#"{"seq":1.0}"#,
            r#"{"seq":-0}"#,
            r#"{"body":1e2}"#,
            r#"{"seq":9223372036854775808}"#,
            r#"[1,2]"#,
            r#"{"seq":1} 1"#,
            r#"{"seq":1"#,
        ] {
            assert!(fields(bad).is_err(), "{bad}");
        }
        let nested = |n: usize| format!(r#"{{"z":{}{}}}"#, "[".repeat(n), "]".repeat(n));
        assert!(fields(&nested(MAX_DEPTH - 1)).is_ok() && fields(&nested(MAX_DEPTH)).is_err());
    }

    #[test]
    fn what_is_kept_is_what_is_written_also_under_names_that_the_reader_uses_itself() {
        let text = r#"{"a":[1,-2,true,null,"x"],"$serde_json::private::RawValue":"{\"a\":1.5}","b":{}}"#;
        let value = read(text).unwrap();
        assert_eq!(value.as_object().map(Map::len), Some(3));
        assert_eq!(value["$serde_json::private::RawValue"], Value::from("{\"a\":1.5}"));
        assert_eq!(value["a"], serde_json::json!([1, -2, true, null, "x"]));
        for bad in [r#"{"a":1,"\u0061":2}"#, "[1.5]", "[[]] 1", r#"{"a":9223372036854775808}"#] {
            assert!(read(bad).is_err() && check(bad.as_bytes()).is_err(), "{bad}");
        }
        let error = from_fields::<Wire>(text.as_bytes(), 9, "a document", &[]).unwrap_err();
        assert_eq!(error, JsonError::TooLarge { allowed: 9, seen: text.len() });
    }
}
