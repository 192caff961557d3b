//! What can be voted about one member, written as the wire writes it.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::member::MemberKeys;

/// A member by its id.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberName {
    /// Its id.
    #[schemars(schema_with = "crate::schema::member")]
    pub member: String,
}

/// A member to be expelled.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expel {
    /// Its id.
    #[schemars(schema_with = "crate::schema::member")]
    pub member: String,
    /// What for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub evidence: Vec<EvidenceRef>,
    /// The appeal that this is the second vote on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::digest")]
    pub appeal: Option<String>,
}

/// What an expulsion or an appeal rests on. Exactly one of these.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EvidenceRef {
    /// A log entry that proves something by itself, by its id.
    Entry(#[schemars(schema_with = "crate::schema::digest")] String),
    /// A document.
    Document(Document),
}

/// A document that is evidence.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// The digest of its bytes.
    #[schemars(schema_with = "crate::schema::digest")]
    pub digest: String,
    /// What it shows, in one line.
    #[schemars(schema_with = "crate::schema::line")]
    pub text: String,
}

/// New keys for a member.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResetKeys {
    /// Whose.
    #[schemars(schema_with = "crate::schema::member")]
    pub member: String,
    /// All its keys from then on; none of them was ever used.
    pub keys: MemberKeys,
}

/// Proofs that were weighed.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LiftQuarantine {
    /// Of which member.
    #[schemars(schema_with = "crate::schema::member")]
    pub member: String,
    /// The names of the proofs, as the member's status shows them, in ascending order.
    #[schemars(schema_with = "proofs")]
    pub proofs: Vec<String>,
}

fn proofs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 64,
        "items": {"type": "string", "pattern": crate::schema::DIGEST, "maxLength": 71}})
}
