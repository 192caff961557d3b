//! From resources to what the engine is told: candidates, and the owner's word.

use std::collections::BTreeMap;
use std::sync::Arc;

use koinon_api::{Proposal, Statement, Vote};
use kube::ResourceExt;

use super::candidate::{self, Candidate, Source};
use crate::cache::Cache;

/// Verified candidates by resource. A signed resource never changes, so each is verified once and not at every look.
#[derive(Debug, Default)]
pub struct Reader {
    known: BTreeMap<Source, (Version, Option<Candidate>)>,
}

/// What must be equal for a resource to be the one that was verified.
type Version = (Option<String>, Option<i64>);

impl Reader {
    /// All candidates among what the caches hold, mirrors included: a label is no reason to believe that the fields say
    /// what the envelope says.
    pub fn read(
        &mut self,
        proposals: &Cache<Proposal>,
        votes: &Cache<Vote>,
        statements: &Cache<Statement>,
    ) -> Vec<Candidate> {
        let mut next = BTreeMap::new();
        for proposal in proposals.all() {
            let name = proposal.name_any();
            let read = || candidate::of_proposal(&name, &proposal.spec);
            self.look(Source::Proposal(name.clone()), &*proposal, read, &mut next);
        }
        for vote in votes.all() {
            let name = vote.name_any();
            let read = || candidate::of_vote(&name, &vote.spec);
            self.look(Source::Vote(name.clone()), &*vote, read, &mut next);
        }
        for statement in statements.all() {
            let name = statement.name_any();
            let read = || candidate::of_statement(&name, &statement.spec);
            self.look(Source::Statement(name.clone()), &*statement, read, &mut next);
        }
        self.known = next;
        self.known.values().filter_map(|(_, candidate)| candidate.clone()).collect()
    }

    fn look<K: kube::Resource>(
        &mut self,
        source: Source,
        object: &K,
        read: impl FnOnce() -> Option<Candidate>,
        next: &mut BTreeMap<Source, (Version, Option<Candidate>)>,
    ) {
        let version = (object.meta().uid.clone(), object.meta().generation);
        let candidate = match self.known.remove(&source) {
            Some((before, candidate)) if before == version => candidate,
            _ => read(),
        };
        next.insert(source, (version, candidate));
    }
}

/// Gives the engine a new list only when it differs, so that an unrelated change does not wake it.
pub fn publish(sender: &tokio::sync::watch::Sender<Arc<Vec<Candidate>>>, candidates: Vec<Candidate>) {
    sender.send_if_modified(|current| {
        let differs = **current != candidates;
        if differs {
            *current = Arc::new(candidates);
        }
        differs
    });
}
