//! Schemas of the strings that name something. One place for each pattern, so that the CRDs and the Rust side bound the
//! same thing and a CEL rule over such a field has an estimate of its cost.

use schemars::{Schema, SchemaGenerator, json_schema};

/// What a member may be called: a DNS label of at most 30 characters, so that names made of it stay below 63.
pub const MEMBER: &str = "^[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?$";
/// A SHA-256 as it is written everywhere.
pub const DIGEST: &str = "^sha256:[0-9a-f]{64}$";
/// A public key, which is its own id.
pub const PUBLIC_KEY: &str = "^ed25519:[0-9a-f]{64}$";
/// A DNS label.
pub const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
/// The name of a GPU class, as `h100-80`.
pub const GPU_CLASS: &str = DNS_LABEL;
/// Where a model's weights come from, as `hf://org/model`.
pub const URI: &str = "^(hf|https|http)://[!-~]+$";
/// An image by digest. A tag would let the catalogue's meaning change under the voters.
pub const IMAGE: &str = "^[a-z0-9][a-zA-Z0-9._:/-]{0,399}@sha256:[0-9a-f]{64}$";
/// A jurisdiction: a country of ISO 3166-1.
pub const JURISDICTION: &str = "^[A-Z]{2}$";
/// Text that people wrote, on one line.
pub const LINE: &str = "^[^\\n\\r\\t]*$";

/// Builds the schema functions that `#[schemars(schema_with = …)]` names.
macro_rules! strings {
    ($($(#[$doc:meta])* $one:ident, $many:ident, $pattern:expr, $length:expr, $items:expr;)*) => {$(
        $(#[$doc])*
        pub fn $one(_: &mut SchemaGenerator) -> Schema {
            json_schema!({"type": "string", "pattern": $pattern, "maxLength": $length})
        }
        /// The same, in a bounded list.
        pub fn $many(_: &mut SchemaGenerator) -> Schema {
            json_schema!({"type": "array", "maxItems": $items,
                "items": {"type": "string", "pattern": $pattern, "maxLength": $length}})
        }
    )*};
}

strings! {
    /// A member's id.
    member, members, MEMBER, 30, 64;
    /// A SHA-256.
    digest, digests, DIGEST, 71, 256;
    /// A public key.
    public_key, public_keys, PUBLIC_KEY, 72, 16;
    /// A DNS label.
    dns_label, dns_labels, DNS_LABEL, 63, 64;
    /// A GPU class.
    gpu_class, gpu_classes, GPU_CLASS, 63, 64;
    /// A URI of weights.
    uri, uris, URI, 512, 16;
    /// An endpoint, as `https://HOST:PORT`.
    url, urls, "^https://[^\\s/?#@]+:[1-9][0-9]{0,4}$", 269, 8;
    /// A jurisdiction.
    jurisdiction, jurisdictions, JURISDICTION, 2, 64;
    /// A short text on one line.
    line, lines, LINE, 200, 32;
    /// A name in CamelCase, as reasons are.
    reason, reasons, "^[A-Z][A-Za-z0-9]{0,62}$", 63, 8;
    /// The part of the rules that a chain of versions is about.
    scope, scopes, "^[a-z][a-z0-9-]{0,29}$", 30, 16;
    /// A revision or a licence: visible characters without spaces.
    token, tokens, "^[!-~]+$", 128, 32;
    /// A value of an engine's option.
    word, words, "^[A-Za-z0-9._-]+$", 63, 64;
    /// The name of a Kubernetes object.
    object_name, object_names, "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", 253, 32;
}

/// Text that people wrote, over several lines.
pub fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 8192})
}
