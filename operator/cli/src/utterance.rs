//! What people have said, found again in the logs by its id.

use anyhow::bail;
use koinon_api::names;
use koinon_core::ids::StatementId;
use koinon_core::log::Entry;
use koinon_core::policy::Commons;
use koinon_core::statement::Statement;

/// A statement of people, and the entry that gives it its place.
#[derive(Clone, Copy, Debug)]
pub struct Utterance<'a> {
    /// What was said.
    pub said: &'a Statement,
    /// Where it was anchored.
    pub entry: &'a Entry,
}

/// Everything that people said without a resource of its own, in the order of its anchors; a statement that was anchored more
/// than once stands at its first place.
pub fn all(commons: &Commons) -> Vec<Utterance<'_>> {
    let replica = commons.replica();
    let mut all: Vec<Utterance<'_>> = Vec::new();
    for (log, owner) in replica.logs() {
        let anchored = replica.all(log).filter_map(|entry| Some(Utterance { said: entry.statement.nested()?, entry }));
        // In another log it is a copy, which has no effect.
        all.extend(anchored.filter(|one| one.said.kind().is_said() && one.said.author() == owner));
    }
    all.sort_by_key(|one| (one.entry.statement.header().issued_at, one.entry.statement.header().key, one.entry.seq()));
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|one| seen.insert(one.said.id()));
    all
}

/// The one whose resource's name or id begins with `wanted`.
///
/// # Errors
/// Where several do.
pub fn find<'a>(commons: &'a Commons, wanted: &str) -> anyhow::Result<Option<Utterance<'a>>> {
    let fits = |one: &Utterance<'_>| named(one.said.id(), wanted);
    let fitting: Vec<Utterance<'a>> = all(commons).into_iter().filter(fits).collect();
    match fitting.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => {
            let ids: Vec<String> = several.iter().map(|one| one.said.id().to_string()).collect();
            bail!("{wanted} fits several statements: {}", ids.join(", "))
        }
    }
}

/// Whether `wanted` begins the id, or the name of the resource that carries it.
pub fn named(id: StatementId, wanted: &str) -> bool {
    let id = id.to_string();
    id.starts_with(wanted) || names::statement(&id).starts_with(wanted)
}
