//! `Cooperative`: this cluster's membership.

use std::borrow::Borrow;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use koinon_core::ids::IdError;
use koinon_core::planner::OwnerRules;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Endpoints, GuestMode, LocalRef, Site};
use crate::envelope::Envelope;

/// This cluster's membership in one cooperative. The resource only ever joins an id: founding is a signed charter that
/// `kubectl koinon found` makes. One for each release namespace; a second cooperative is a second release.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "koinon.dev",
    version = "v1alpha1",
    kind = "Cooperative",
    namespaced,
    status = "CooperativeStatus",
    derive = "PartialEq",
    cel,
    shortname = "kcoop",
    category = "koinon",
    doc = "This cluster's membership in one cooperative.",
    printcolumn(name = "Member", type_ = "string", json_path = ".spec.member"),
    printcolumn(name = "Active", type_ = "integer", json_path = ".status.active"),
    printcolumn(name = "Members", type_ = "integer", json_path = ".status.members"),
    printcolumn(name = "Guests", type_ = "string", json_path = ".spec.guests.mode"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.charter) != has(self.application)").message("give exactly one of charter (founding) and application (joining)"))]
#[x_kube(validation = Rule::new("!has(self.inviteSecretRef) || has(self.application)").message("inviteSecretRef goes with an application; founders need no invite"))]
pub struct CooperativeSpec {
    /// The cooperative: the digest of its founding charter's payload.
    #[schemars(schema_with = "crate::schema::digest")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("id is immutable; to join another cooperative, install a second release"))]
    pub id: String,
    /// This member's id in the cooperative.
    #[schemars(schema_with = "crate::schema::member")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("member is immutable; ids are never reused"))]
    pub member: String,
    /// Where this cluster stands.
    pub site: Site,
    /// When founding: the charter, signed by every founder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charter: Option<Envelope>,
    /// When joining: this member's application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<Envelope>,
    /// When joining: the Secret with the invite. Ignored once admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite_secret_ref: Option<LocalRef>,
    /// Where other members reach this cluster. Empty lists: outbound only, which may be a home and not a host.
    #[serde(default)]
    pub endpoints: Endpoints,
    /// What happens with foreign work.
    #[serde(default)]
    pub guests: Guests,
    /// How much the weights cache may keep.
    #[serde(default)]
    pub weights: Weights,
    /// Where to fetch weights instead of their public source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub sources: Vec<Source>,
    /// Where to pull engine images instead of their public registry.
    #[serde(default)]
    pub images: Images,
    /// What this owner allows less than the cooperative does.
    #[serde(default)]
    pub limits: Limits,
}

impl Cooperative {
    /// Which of several in one namespace counts: the oldest, so that a second one never takes a running membership over.
    pub fn chosen<C: Borrow<Self>>(all: &[C]) -> Option<&C> {
        all.iter().min_by_key(|one| {
            let metadata = &(*one).borrow().metadata;
            (metadata.creation_timestamp.clone().map(|time| time.0), metadata.name.clone())
        })
    }
}

/// What this owner allows less than the cooperative does, to its own jobs elsewhere and to others' work here. It can only
/// narrow; single members and releases are kept out by `cordoned` of a Member and `denied` of a ModelRelease.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Work is exchanged only with members whose site is in one of these. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::jurisdictions")]
    pub jurisdictions: Vec<String>,
    /// Only models under these licences, in the words of their releases, as `Apache-2.0`. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "licenses")]
    pub licenses: Vec<String>,
}

impl TryFrom<&Limits> for OwnerRules {
    type Error = IdError;

    fn try_from(limits: &Limits) -> Result<Self, IdError> {
        Ok(Self {
            jurisdictions: limits.jurisdictions.iter().map(|word| word.parse()).collect::<Result<_, _>>()?,
            licenses: limits.licenses.iter().map(|word| word.parse()).collect::<Result<_, _>>()?,
        })
    }
}

/// What the owner allows to foreign work.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Guests {
    /// Accept; Drain lets what runs end in its own time; Stop frees all foreign GPUs within two minutes.
    #[serde(default)]
    pub mode: GuestMode,
    /// Required refuses guests while NetworkPolicies are not enforced here. AcceptUnenforced says so openly in every offer.
    #[serde(default)]
    pub network_policy: NetworkPolicyDemand,
}

/// Whether guests need NetworkPolicies that are enforced.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum NetworkPolicyDemand {
    /// They do.
    #[default]
    Required,
    /// They do not, and offers say so.
    AcceptUnenforced,
}

/// How much the weights cache may keep. Where it keeps it is the chart's business: `weights.persistence`.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Weights {
    /// What models may take together, as `180Gi`. It decides when the next one is fetched: those of least recent use go
    /// first, those in use never. Absent: all that the volume holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "size")]
    pub size: Option<Quantity>,
}

/// A source of weights that stands in for others.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The beginning of the URIs that this is for, as `hf://`. The longest match wins.
    #[schemars(schema_with = "prefix")]
    #[serde(rename = "match")]
    pub match_: String,
    /// The URL that replaces the matched beginning. Only what is named here may be fetched from a private network: any other
    /// URI, whoever names it, leads to public addresses only. An address may stand in for itself.
    #[schemars(schema_with = "mirror")]
    pub mirror: String,
    /// A Secret in this namespace whose `token` is sent to the mirror, and to no other host, as a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
    /// A ConfigMap in this namespace whose `ca.crt` the source's certificate is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<LocalRef>,
}

/// Where engine images are pulled from.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Registries that stand in for others. The digest stays, so the image is the voted one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub mirrors: Vec<ImageMirror>,
    /// Names of image pull Secrets that engine pods use. They must exist in the guest namespaces: this operator writes no
    /// Secrets outside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub pull_secrets: Vec<LocalRef>,
}

/// A registry that stands in for another.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageMirror {
    /// The beginning of the repositories that this is for, as `docker.io/`.
    #[schemars(schema_with = "repository")]
    pub from: String,
    /// What replaces it.
    #[schemars(schema_with = "repository")]
    pub to: String,
}

/// What this cluster knows of its membership.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CooperativeStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The cooperative's id, once its charter is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The cooperative's name in its charter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// This member's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// This operator's public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// How many members there are, in whatever state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<i32>,
    /// How many of them are Active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<i32>,
    /// The version of the membership in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership_head: Option<String>,
    /// The versions in force, by scope.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["scope".into()]))]
    #[schemars(length(max = 16))]
    pub policy_heads: Vec<PolicyHead>,
    /// Foreign work in this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guests: Option<GuestCount>,
    /// The fleet breaker, which keeps the work on devices that fail where very many do at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine_breaker: Option<QuarantineBreaker>,
    /// Joined, Signing, PeersReachable, EndpointReachable, NetworkPolicyEnforced, AcceptingGuests, WeightsCacheReady,
    /// ClockSynced, AsAdvised, MayWork, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The version of one scope that is in force.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyHead {
    /// The part of the rules.
    #[schemars(schema_with = "crate::schema::scope")]
    pub scope: String,
    /// The version in force.
    #[schemars(schema_with = "crate::schema::digest")]
    pub version: String,
}

/// What the fleet breaker remembers.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineBreaker {
    /// When it opened. Absent: it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_time: Option<Time>,
    /// How many devices had failed within its period then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub quarantined: Option<i64>,
    /// How many were healthy before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub healthy: Option<i64>,
    /// The owner's reset that was used last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_time: Option<Time>,
}

/// How much foreign work runs in a cluster.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestCount {
    /// Placements of other members.
    pub placements: i32,
    /// GPUs that they hold.
    pub gpus: i32,
}

fn size(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": "^[0-9]{1,15}(k|M|G|T|Ki|Mi|Gi|Ti)?$", "maxLength": 17})
}

fn licenses(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "array", "maxItems": 64,
        "items": {"type": "string", "pattern": "^[!-~]+$", "maxLength": 64}})
}

fn prefix(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": "^[a-z][a-z0-9+.-]{0,15}://[^\\s]*$", "maxLength": 512})
}

fn mirror(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": "^https?://[^\\s/]+(/[^\\s]*)?$", "maxLength": 512})
}

fn repository(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": "^[a-z0-9][a-zA-Z0-9._:/-]*$", "maxLength": 255})
}
