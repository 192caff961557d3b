//! Identities, digests, names and units: parsed once at the edge, never bare strings afterwards.
//!
//! Every type here refuses what it cannot mean, so code behind the edge needs no second look.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Why a piece of text is not the identity, name or unit it was read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {what} from {shown:?}: {rule}")]
pub struct IdError {
    /// The kind of thing that was expected.
    pub what: &'static str,
    /// The rule that the text breaks.
    pub rule: &'static str,
    /// The beginning of the offending text.
    pub shown: String,
}

impl IdError {
    pub(crate) fn new(what: &'static str, rule: &'static str, text: &str) -> Self {
        // Hostile text reaches logs and conditions through here, so only its beginning is kept.
        Self { what, rule, shown: text.chars().take(64).collect() }
    }
}

/// Implements the string face of a type that has `FromStr` and `Display`.
macro_rules! as_string {
    ($name:ty) => {
        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::ids::Parsed(::std::marker::PhantomData))
            }
        }
        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}
pub(crate) use as_string;

/// Reads a type from the text that it is written as, where it stands: entries name the same things by the thousand.
pub(crate) struct Parsed<T>(pub(crate) std::marker::PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> serde::de::Visitor<'_> for Parsed<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// A name with a rule: `$check` returns the broken rule. Shared, because a fold copies names of members by the thousand.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(::std::sync::Arc<str>);

        impl $name {
            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl ::std::str::FromStr for $name {
            type Err = $crate::ids::IdError;
            fn from_str(text: &str) -> Result<Self, $crate::ids::IdError> {
                let check: fn(&str) -> Option<&'static str> = $check;
                match check(text) {
                    None => Ok(Self(text.into())),
                    Some(rule) => Err($crate::ids::IdError::new($what, rule, text)),
                }
            }
        }
        impl TryFrom<&str> for $name {
            type Error = $crate::ids::IdError;
            fn try_from(text: &str) -> Result<Self, $crate::ids::IdError> {
                text.parse()
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        $crate::ids::as_string!($name);
    };
}
pub(crate) use name_type;

fn is_lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// The rule of a DNS label of at most `max` characters that `text` breaks, if any.
pub(crate) fn dns_label(text: &str, max: usize) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(|b| is_lower_alnum(*b));
    bytes.len() <= max
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| is_lower_alnum(*b) || *b == b'-')
}

fn dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|label| dns_label(label, 63))
}

fn visible(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && text.bytes().all(|b| b.is_ascii_graphic())
}

const LABEL_30: &str =
    "must be lower case letters, digits and '-', begin and end with a letter or digit, at most 30 characters";
const LABEL_63: &str =
    "must be lower case letters, digits and '-', begin and end with a letter or digit, at most 63 characters";

name_type!(
    /// A member of the cooperative; never reused.
    MemberId, "a member id", |t| (!dns_label(t, 30)).then_some(LABEL_30));
name_type!(
    /// A site of a member.
    SiteName, "a site name", |t| (!dns_label(t, 30)).then_some(LABEL_30));
name_type!(
    /// A region as its owner names it.
    Region, "a region", |t| (!dns_label(t, 63)).then_some(LABEL_63));
name_type!(
    /// The declared beneficial owner that casts one vote however many members it has.
    ControlGroup, "a control group", |t| (!dns_label(t, 63)).then_some(LABEL_63));
name_type!(
    /// The name under which a model is served; unique in its namespace.
    ServedName, "a served name", |t| (!dns_label(t, 63)).then_some(LABEL_63));
name_type!(
    /// A Kubernetes namespace.
    Namespace, "a namespace", |t| (!dns_label(t, 63)).then_some(LABEL_63));
name_type!(
    /// The name of an `InferenceJob`.
    JobName, "a job name", |t| (!dns_subdomain(t)).then_some("must be a DNS subdomain of at most 253 characters"));
name_type!(
    /// The UID that an API server gave an object.
    ObjectUid, "an object uid", |t| (!(visible(t, 64) && t.bytes().all(|b| is_lower_alnum(b) || b == b'-')))
        .then_some("must be lower case letters, digits and '-', at most 64 characters"));
name_type!(
    /// A Kubernetes node.
    NodeName, "a node name", |t| (!dns_subdomain(t)).then_some("must be a DNS subdomain of at most 253 characters"));
name_type!(
    /// A class of interchangeable GPUs, such as `h100-80`; the cooperative's word, not the driver's.
    GpuClass, "a GPU class", |t| (!dns_label(t, 63)).then_some(LABEL_63));
name_type!(
    /// One physical device or MIG instance, as its driver names it.
    DeviceId, "a device id", |t| (!visible(t, 96)).then_some("must be 1 to 96 visible ASCII characters"));
name_type!(
    /// An entry of the voted engine catalogue.
    EngineName, "an engine name", |t| (!dns_label(t, 63)).then_some(LABEL_63));
name_type!(
    /// An ISO 3166 country code.
    Jurisdiction, "a jurisdiction", |t| (!(t.len() == 2 && t.bytes().all(|b| b.is_ascii_uppercase())))
        .then_some("must be a two letter country code in capitals, such as ES"));
name_type!(
    /// Where a model's weights come from: `hf://…`, `https://…` or `http://…`.
    ModelUri, "a model uri", |t| (!(visible(t, 512)
        && ["hf://", "https://", "http://"].iter().any(|s| t.strip_prefix(s).is_some_and(|rest| !rest.is_empty()))))
        .then_some("must begin with hf://, https:// or http:// and have at most 512 visible ASCII characters"));
name_type!(
    /// The revision of a model at its source.
    Revision, "a revision", |t| (!visible(t, 128)).then_some("must be 1 to 128 visible ASCII characters"));
name_type!(
    /// How a model's weights are quantised, such as `none`, `fp8` or `q4-k-m`.
    Quantization, "a quantization", |t| (!dns_label(t, 63)).then_some(LABEL_63));
name_type!(
    /// The licence of a model, preferably an SPDX identifier.
    License, "a licence", |t| (!visible(t, 64)).then_some("must be 1 to 64 visible ASCII characters, such as Apache-2.0"));
name_type!(
    /// An address at which a member can be reached: `https://host:port` and nothing behind it.
    Endpoint, "an endpoint", check_endpoint);

fn check_endpoint(text: &str) -> Option<&'static str> {
    const RULE: &str = "must be https://HOST:PORT without path, user or query";
    let Some(authority) = text.strip_prefix("https://") else { return Some(RULE) };
    let Some((host, port)) = authority.rsplit_once(':') else { return Some(RULE) };
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_is_good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => dns_subdomain(host),
    };
    let port_is_good = !port.starts_with(['0', '+']) && port.parse::<u16>().is_ok();
    (!(host_is_good && port_is_good)).then_some(RULE)
}

impl Endpoint {
    /// Host (brackets of an IPv6 address removed) and port.
    pub fn host_port(&self) -> (&str, u16) {
        let authority = self.0.strip_prefix("https://").unwrap_or(&self.0);
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
        (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or(443))
    }
}

/// Text that people read, at most `MAX` bytes, without control characters that could steer a terminal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Text<const MAX: usize>(String);

/// A line: names of things and people, titles.
pub type Line = Text<200>;
/// A page: the text of a proposal, a reason.
pub type Prose = Text<8192>;

impl<const MAX: usize> Text<MAX> {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
impl<const MAX: usize> FromStr for Text<MAX> {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() > MAX {
            return Err(IdError::new("a text", "is too long", text));
        }
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            return Err(IdError::new("a text", "must not contain control characters", text));
        }
        Ok(Self(text.to_owned()))
    }
}
impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl<const MAX: usize> Serialize for Text<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

pub(crate) fn parse_hex32(text: &str, prefix: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix(prefix)?;
    if digits.bytes().any(|b| b.is_ascii_uppercase()) {
        return None; // one spelling only, or equal ids would compare unequal as text
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

fn write_hex(f: &mut fmt::Formatter<'_>, prefix: &str, bytes: &[u8; 32]) -> fmt::Result {
    let mut digits = [0; 64];
    hex::encode_to_slice(bytes, &mut digits).map_err(|_| fmt::Error)?;
    f.write_str(prefix)?;
    f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
}

/// A SHA-256 digest, written `sha256:<64 lower case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

/// Orders something by its bytes, eight at a time: everything is found by it, and with calls of `memcmp` counting takes at least a
/// third more time.
macro_rules! ordered_by_bytes {
    ($name:ty) => {
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                let (one, _) = self.0.as_chunks();
                let (other, _) = other.0.as_chunks();
                one.iter().copied().map(u64::from_be_bytes).cmp(other.iter().copied().map(u64::from_be_bytes))
            }
        }
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
    };
}
ordered_by_bytes!(Digest);
ordered_by_bytes!(PublicKey);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
    /// The 64 hex digits without prefix.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}
impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex32(text, "sha256:")
            .map(Self)
            .ok_or_else(|| IdError::new("a digest", "must be sha256: and 64 lower case hex digits", text))
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, "sha256:", &self.0)
    }
}
as_string!(Digest);

/// A digest that names one sort of thing.
macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Digest);
        impl $name {
            /// The 64 hex digits without prefix.
            pub fn hex(&self) -> String {
                self.0.hex()
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.parse().map(Self)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        as_string!($name);
    };
}

digest_type!(
    /// A cooperative: the digest of its founding charter's payload.
    CoopId
);
digest_type!(
    /// A statement: the digest of its payload.
    StatementId
);
digest_type!(
    /// A model: the digest of its manifest (see [`crate::manifest`]).
    ManifestDigest
);
digest_type!(
    /// One version in the policy chain of a scope.
    PolicyHash
);
digest_type!(
    /// The Merkle root of a ballot box.
    BoxRoot
);

/// An Ed25519 public key, written `ed25519:<64 lower case hex digits>`. A key's id is the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The 64 hex digits without prefix.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
    /// The first 12 hex digits, by which resources are labelled.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}
impl FromStr for PublicKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex32(text, "ed25519:")
            .map(Self)
            .ok_or_else(|| IdError::new("a public key", "must be ed25519: and 64 lower case hex digits", text))
    }
}
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, "ed25519:", &self.0)
    }
}
as_string!(PublicKey);

/// A number with a meaning, written as a JSON number.
macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_type!(
    /// A point in time as a value; where it comes from is the caller's business.
    UnixSeconds(i64)
);
number_type!(
    /// A point in time as a value, in microseconds.
    UnixMicros(i64)
);
number_type!(
    /// A length of time.
    Seconds(i64)
);
number_type!(
    /// An amount of memory or data.
    Bytes(u64)
);
number_type!(
    /// A position in a log or among the versions of a Latest statement.
    Seq(u64)
);
number_type!(
    /// The fencing number of a placement; minted by its home alone, only ever higher.
    Epoch(u64)
);
number_type!(
    /// Which replica of a job.
    ReplicaIndex(u32)
);

impl FromStr for Bytes {
    type Err = IdError;

    /// Reads a size as Kubernetes writes it.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || {
            let rule = "must be a whole number, with a unit k, M, G, T, Ki, Mi, Gi or Ti or without one, such as 200Gi";
            IdError::new("a size", rule, text)
        };
        let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
        let unit: u64 = match unit {
            "" => 1,
            "k" => 1000,
            "M" => 1000_u64.pow(2),
            "G" => 1000_u64.pow(3),
            "T" => 1000_u64.pow(4),
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl UnixSeconds {
    /// This time and `period` later; saturates, because times come from strangers.
    pub fn plus(self, period: Seconds) -> Self {
        Self(self.0.saturating_add(period.0))
    }
    /// This time and `period` earlier.
    pub fn minus(self, period: Seconds) -> Self {
        Self(self.0.saturating_sub(period.0))
    }
    /// The day since 1970, in UTC.
    pub fn day(self) -> i64 {
        self.0.div_euclid(86_400)
    }
    /// From `earlier` to this time; negative if it is the other way round.
    pub fn since(self, earlier: Self) -> Seconds {
        Seconds(self.0.saturating_sub(earlier.0))
    }
}

impl UnixMicros {
    /// The whole seconds of this time.
    pub fn seconds(self) -> UnixSeconds {
        UnixSeconds(self.0.div_euclid(1_000_000))
    }
}
impl Epoch {
    /// The next higher epoch.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_and_keys_stand_in_the_order_of_their_bytes() {
        let mut all: Vec<[u8; 32]> = (0..200u8).map(|n| Digest::of(&[n]).0).collect();
        for at in [0, 7, 8, 15, 16, 31] {
            all.extend([0, 1, 127, 128, 255].map(|byte| {
                let mut bytes = all[0];
                bytes[at] = byte;
                bytes
            }));
        }
        for (one, other) in all.iter().flat_map(|one| all.iter().map(move |other| (*one, *other))) {
            assert_eq!(Digest(one).cmp(&Digest(other)), one.cmp(&other));
            assert_eq!(PublicKey(one).cmp(&PublicKey(other)), one.cmp(&other));
        }
    }

    #[test]
    fn sizes_are_read_as_kubernetes_writes_them() {
        for (text, size) in [("200Gi", 200 << 30), ("5M", 5_000_000), ("42", 42)] {
            assert_eq!(text.parse(), Ok(Bytes(size)), "{text}");
        }
        for wrong in ["", "Gi", "1.5Gi", "-1", "+1", "5X", "99999999Ti"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
    }
}
