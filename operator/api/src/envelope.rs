//! The signed envelope, as resources carry it.

use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The most base64 characters of a payload: a document of 256 KiB, the largest thing that is ever signed.
pub const MAX_PAYLOAD_CHARS: usize = 349_528;
/// The same for what people sign (40 KiB), which the anchoring operator must be able to wrap into an entry of 64 KiB.
pub const MAX_HUMAN_PAYLOAD_CHARS: usize = 54_616;

/// A DSSE envelope. Only this counts; fields beside it are for reading.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// What the payload is, as `application/vnd.koinon.vote.v1+json`. It is signed together with the payload.
    #[schemars(schema_with = "payload_type")]
    pub payload_type: String,
    /// The exact signed bytes, in base64.
    #[schemars(schema_with = "payload")]
    pub payload: String,
    /// Who signed these bytes.
    #[schemars(length(min = 1, max = 16))]
    pub signatures: Vec<Signature>,
}

/// One signature over an envelope's type and payload.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// The public key that signed. A key's id is the key itself.
    #[schemars(schema_with = "crate::schema::public_key")]
    pub keyid: String,
    /// The Ed25519 signature, in base64.
    #[schemars(schema_with = "signature")]
    pub sig: String,
}

fn payload_type(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 80,
        "pattern": "^application/vnd\\.koinon\\.[a-z]([a-z0-9-]{0,29}[a-z0-9])?\\.v1\\+json$"})
}

fn payload(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 4, "maxLength": MAX_PAYLOAD_CHARS,
        "pattern": "^[A-Za-z0-9+/]+={0,2}$"})
}

fn signature(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 88, "pattern": "^[A-Za-z0-9+/]{86}==$"})
}
