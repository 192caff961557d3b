//! The file: one JSON document a line, so that it is written and read without ever being held as a whole.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::body::entry::Head;
use crate::body::proposal::Scope;
use crate::dsse::Envelope;
use crate::ids::{CoopId, PolicyHash, PublicKey, Seq, UnixSeconds};
use crate::json::{self, JsonError};
use crate::log::Replica;
use crate::policy::Commons;

/// The version of the format.
pub const FORMAT: u32 = 1;
/// The longest line: the claims about the logs of some ten thousand members that came and went.
pub const MAX_LINE: usize = 4 << 20;

/// One line of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Line {
    /// The first one.
    Founding(Box<Opening>),
    /// An entry of somebody's log, behind the one that it names; both branches of a fork.
    Entry(Box<Envelope>),
    /// The last one.
    End(Box<Claims>),
}

/// What a bundle is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Opening {
    /// See [`FORMAT`].
    pub format: u32,
    /// The cooperative.
    pub coop: CoopId,
    /// When it was exported. What is still open is reported as of then.
    pub as_of: UnixSeconds,
    /// The founding charter.
    pub charter: Envelope,
}

/// What the exporter claims that the entries amount to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claims {
    /// How many entries there are.
    pub entries: u64,
    /// The newest version of every policy.
    pub policy: BTreeMap<Scope, PolicyHash>,
    /// The last entries of every log: one, or one for each branch of a fork.
    pub logs: BTreeMap<PublicKey, BTreeSet<Head>>,
}

impl Line {
    /// Reads one line.
    pub fn from_json(bytes: &[u8]) -> Result<Self, JsonError> {
        let line: Self = json::from_slice(bytes, MAX_LINE, "a line of a bundle")?;
        json::check_form(bytes, &line, "a line of a bundle")?;
        Ok(line)
    }

    /// The line without its line break.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and maps with string keys cannot fail to serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The bundle of everything that `commons` holds.
pub fn export(commons: &Commons, as_of: UnixSeconds) -> impl Iterator<Item = Line> + '_ {
    let (founding, replica) = (commons.founding(), commons.replica());
    let charter = founding.statement().envelope().clone();
    let opening = Opening { format: FORMAT, coop: founding.coop(), as_of, charter };
    let entries = replica.logs().flat_map(|(log, _)| replica.range(log, Seq(0), usize::MAX));
    let claims = Claims {
        entries: replica.logs().map(|(log, _)| replica.all(log).count() as u64).sum(),
        policy: commons.state().heads(),
        logs: last_entries(replica),
    };
    std::iter::once(Line::Founding(Box::new(opening)))
        .chain(entries.map(|entry| Line::Entry(Box::new(entry.envelope().clone()))))
        .chain(std::iter::once(Line::End(Box::new(claims))))
}

/// The entries of every log that no other one names. Unlike a replica's head they do not depend on which branch of a
/// fork came first.
pub(super) fn last_entries(replica: &Replica) -> BTreeMap<PublicKey, BTreeSet<Head>> {
    let mut last: BTreeMap<PublicKey, BTreeSet<Head>> = BTreeMap::new();
    for (log, _) in replica.logs() {
        let followed: BTreeSet<crate::ids::Digest> = replica
            .all(log)
            .filter_map(|entry| match *entry.statement.position() {
                crate::statement::Position::Log { prev, .. } => Some(prev),
                _ => None,
            })
            .collect();
        for entry in replica.all(log).filter(|entry| !followed.contains(&entry.id().0)) {
            last.entry(*log).or_default().insert(Head { seq: entry.seq(), id: entry.id() });
        }
    }
    last
}
