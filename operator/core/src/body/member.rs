//! Who a member is: its owner, keys and addresses, as the charter or its application states them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::{ControlGroup, Endpoint, Jurisdiction, Line, MemberId, PublicKey, Region, SiteName};

/// One member as its owner presents it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// Its name in the cooperative.
    pub id: MemberId,
    /// The legal owner.
    pub owner: Line,
    /// The beneficial owner that casts one vote.
    pub control_group: ControlGroup,
    /// Its site.
    pub site: Site,
    /// Its keys.
    pub keys: MemberKeys,
    /// Where it can be reached; empty lists mean outbound only.
    pub endpoints: Endpoints,
}

/// Where a member's hardware stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Site {
    /// The site's name.
    pub name: SiteName,
    /// Its region.
    pub region: Region,
    /// The country whose law holds there.
    pub jurisdiction: Jurisdiction,
}

/// The keys of a member, by role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemberKeys {
    /// Kept offline, to replace the others.
    #[serde(default)]
    pub recovery: Vec<PublicKey>,
    /// People vote with them; never in a cluster.
    pub governance: Vec<PublicKey>,
    /// The machine's key: offers, requests, grants, seals.
    pub operator: PublicKey,
}

/// Where a member can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoints {
    /// Peer endpoints.
    #[serde(default)]
    pub peer: Vec<Endpoint>,
    /// Gateways for other members.
    #[serde(default)]
    pub gateway: Vec<Endpoint>,
}

/// A request to be admitted, signed by the applicant's governance key and by its operator key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Application {
    /// The member that wants in.
    pub member: Member,
}

/// Why a member's description cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// No or too many keys of a role.
    #[error("member {member} has {seen} {role} keys: between {least} and {most} are allowed")]
    KeyCount {
        /// Whose.
        member: MemberId,
        /// Which role.
        role: &'static str,
        /// How many.
        seen: usize,
        /// At least.
        least: usize,
        /// At most.
        most: usize,
    },
    /// One key in two roles: a stolen operator key could vote.
    #[error("member {member} uses key {key} twice: every role needs a key of its own")]
    KeyReused {
        /// Whose.
        member: MemberId,
        /// The key.
        key: PublicKey,
    },
    /// More addresses than anybody would try.
    #[error("member {0} names more than 8 endpoints of one sort")]
    TooManyEndpoints(MemberId),
    /// The legal owner is missing.
    #[error("member {0} names no legal owner")]
    NoOwner(MemberId),
}

impl Member {
    /// Checks what the types alone cannot say.
    pub fn validate(&self) -> Result<(), MemberError> {
        let member = || self.id.clone();
        let count = |role, seen: usize, least, most| {
            if (least..=most).contains(&seen) {
                Ok(())
            } else {
                Err(MemberError::KeyCount { member: member(), role, seen, least, most })
            }
        };
        count("governance", self.keys.governance.len(), 1, 3)?;
        count("recovery", self.keys.recovery.len(), 0, 5)?;
        let mut seen = BTreeSet::new();
        for key in self.keys.all() {
            if !seen.insert(key) {
                return Err(MemberError::KeyReused { member: member(), key });
            }
        }
        if self.endpoints.peer.len() > 8 || self.endpoints.gateway.len() > 8 {
            return Err(MemberError::TooManyEndpoints(member()));
        }
        if self.owner.as_str().trim().is_empty() {
            return Err(MemberError::NoOwner(member()));
        }
        Ok(())
    }
}

impl MemberKeys {
    /// Every key of every role.
    pub fn all(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.recovery.iter().chain(&self.governance).copied().chain([self.operator])
    }
}
