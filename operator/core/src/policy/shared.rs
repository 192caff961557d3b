//! Seals and proposals as a state holds them: shared with the state before it, so that what has not changed is not copied.

use std::collections::{BTreeMap, btree_map};
use std::ops::Index;
use std::sync::Arc;

use super::ProposalState;
use super::gather::Sealed;
use crate::ids::StatementId;

type Unshare<'a, T> = fn(&'a Arc<T>) -> &'a T;

fn unshare<T>(shared: &Arc<T>) -> &T {
    shared
}

/// The seals of one sort about one thing, in the order of their logs and positions.
#[derive(Debug, PartialEq, Eq)]
pub struct Seals<T>(Arc<Vec<Arc<Sealed<T>>>>);

impl<T> Seals<T> {
    /// Each of them.
    pub fn iter(&self) -> std::iter::Map<std::slice::Iter<'_, Arc<Sealed<T>>>, Unshare<'_, Sealed<T>>> {
        self.0.iter().map(unshare)
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn shared(&self) -> impl Iterator<Item = &Arc<Sealed<T>>> {
        self.0.iter()
    }

    /// Puts a seal into its place, which does not depend on when it came. True if its operator had sealed in the same log
    /// what `same` says.
    fn add(&mut self, sealed: Sealed<T>, same: impl Fn(&T) -> bool) -> bool {
        let place = |sealed: &Sealed<T>| (sealed.log, sealed.seq, sealed.id);
        let before = |other: &Arc<Sealed<T>>| place(other) < place(&sealed);
        let at = self.0.partition_point(before);
        let of_log = self.0.partition_point(|other| other.log < sealed.log);
        let known = self.0[of_log..].iter().take_while(|other| other.log == sealed.log).any(|other| same(&other.seal));
        Arc::make_mut(&mut self.0).insert(at, Arc::new(sealed));
        known
    }
}

impl<T> Clone for Seals<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
impl<T> Default for Seals<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}
impl<T> FromIterator<Arc<Sealed<T>>> for Seals<T> {
    fn from_iter<I: IntoIterator<Item = Arc<Sealed<T>>>>(seals: I) -> Self {
        Self(Arc::new(seals.into_iter().collect()))
    }
}
impl<'a, T> IntoIterator for &'a Seals<T> {
    type Item = &'a Sealed<T>;
    type IntoIter = std::iter::Map<std::slice::Iter<'a, Arc<Sealed<T>>>, Unshare<'a, Sealed<T>>>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// All seals of one sort, by what they are about.
#[derive(Debug, PartialEq, Eq)]
pub struct AllSeals<T>(BTreeMap<StatementId, Seals<T>>);

impl<T> AllSeals<T> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Sealed<T>> {
        self.0.values().flatten()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Those about one proposal or leaving.
    pub fn of<'s>(&'s self, about: &StatementId) -> impl Iterator<Item = &'s Sealed<T>> + use<'s, T> {
        self.shared(about).map(unshare)
    }

    pub(super) fn shared<'s>(&'s self, about: &StatementId) -> impl Iterator<Item = &'s Arc<Sealed<T>>> + use<'s, T> {
        self.0.get(about).into_iter().flat_map(Seals::shared)
    }

    /// See [`Seals::add`].
    pub(super) fn add(&mut self, about: StatementId, sealed: Sealed<T>, same: impl Fn(&T) -> bool) -> bool {
        self.0.entry(about).or_default().add(sealed, same)
    }
}

impl<T> Clone for AllSeals<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
impl<T> Default for AllSeals<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// Proposals by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposals(BTreeMap<StatementId, Arc<ProposalState>>);

impl Proposals {
    /// One of them.
    pub fn get(&self, id: &StatementId) -> Option<&ProposalState> {
        self.0.get(id).map(unshare)
    }
    /// Whether there is this one.
    pub fn contains_key(&self, id: &StatementId) -> bool {
        self.0.contains_key(id)
    }
    /// Their ids.
    pub fn keys(&self) -> impl Iterator<Item = &StatementId> {
        self.0.keys()
    }
    /// Each of them.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &ProposalState> + Clone {
        self.0.values().map(unshare)
    }
    /// Each of them with its id.
    pub fn iter(&self) -> ProposalsIter<'_> {
        ProposalsIter(self.0.iter())
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, state: Arc<ProposalState>) {
        self.0.insert(state.id, state);
    }
    pub(super) fn shared(&self) -> impl Iterator<Item = &Arc<ProposalState>> {
        self.0.values()
    }
}

impl Index<&StatementId> for Proposals {
    type Output = ProposalState;
    fn index(&self, id: &StatementId) -> &ProposalState {
        &self.0[id]
    }
}
impl<'a> IntoIterator for &'a Proposals {
    type Item = (&'a StatementId, &'a ProposalState);
    type IntoIter = ProposalsIter<'a>;
    fn into_iter(self) -> ProposalsIter<'a> {
        self.iter()
    }
}

/// See [`Proposals::iter`].
#[derive(Clone, Debug)]
pub struct ProposalsIter<'a>(btree_map::Iter<'a, StatementId, Arc<ProposalState>>);

impl<'a> Iterator for ProposalsIter<'a> {
    type Item = (&'a StatementId, &'a ProposalState);
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(id, state)| (id, &**state))
    }
}
