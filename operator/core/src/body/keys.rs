//! A member's keys change: people rotate theirs by themselves, recovery keys take one back.

use serde::{Deserialize, Serialize};

use crate::ids::{PublicKey, Seq};

/// The next governance keys of a member (rules 2). Signed by one of the keys in force, or by enough recovery keys, and by
/// each key that is new, so that nobody can claim a key that is another's. They are in force from its anchor on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyUpdate {
    /// The number of the set: one more than that of the set in force; a log begins with 0.
    pub number: u32,
    /// All keys of the set.
    pub governance: Vec<PublicKey>,
}

/// A governance key is no longer its member's (rules 2); signed by more than half of the recovery keys. From its anchor on
/// the key signs nothing; what it signed since `since_seq` is void in every ballot box that holds this statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRevocation {
    /// Which key.
    pub key: PublicKey,
    /// In which of its member's logs; what people sign has no position of its own.
    pub log: PublicKey,
    /// From which position of that log on it was in wrong hands.
    pub since_seq: Seq,
}
