//! What is in memory of the commons, and what of it is served.
//!
//! The engine alone changes it; connections read it at any time. An entry is served only when the store has confirmed
//! it: a peer that was shown an entry which a crash then erased would hold a proof against an honest operator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use koinon_core::body::entry::Head;
use koinon_core::dsse::Envelope;
use koinon_core::ids::{CoopId, MemberId, PublicKey, Seq, StatementId};
use koinon_core::policy;
use koinon_core::statement::Statement;
use koinon_net::commons::{Access, Commons, CommonsError, Entry, Heads, Latest};
use koinon_net::wire::{JoinAccepted, JoinRefused, JoinRequest};
use tokio::sync::watch;

use super::publisher::LatestPublisher;

/// Whoever takes applications.
pub trait JoinDesk: Send + Sync + 'static {
    /// Takes the application of whoever has proven to hold `key`.
    fn join<'a>(&'a self, key: &'a PublicKey, request: JoinRequest)
    -> BoxFuture<'a, Result<JoinAccepted, JoinRefused>>;
}

struct Book {
    commons: policy::Commons,
    charter: Arc<Envelope>,
    /// In memory and not confirmed by the store.
    unstored: BTreeSet<StatementId>,
    access: BTreeMap<PublicKey, Access>,
    /// Applicants that the desk has taken and that the engine has not been told of yet.
    accepted: BTreeSet<PublicKey>,
}

/// The commons of one cooperative, as this member holds and serves them.
pub struct Shelf {
    coop: CoopId,
    book: RwLock<Book>,
    publisher: LatestPublisher,
    desk: Arc<dyn JoinDesk>,
    pulse: Arc<watch::Sender<u64>>,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf")
            .field("coop", &self.coop)
            .field("unstored", &self.unstored().len())
            .finish_non_exhaustive()
    }
}

impl Shelf {
    /// A shelf with what the store confirmed.
    pub fn new(commons: policy::Commons, publisher: LatestPublisher, desk: Arc<dyn JoinDesk>) -> Arc<Self> {
        let charter = Arc::new(commons.founding().statement().envelope().clone());
        let (coop, pulse) = (commons.founding().coop(), publisher.pulse());
        let book =
            Book { commons, charter, unstored: BTreeSet::new(), access: BTreeMap::new(), accepted: BTreeSet::new() };
        Arc::new(Shelf { coop, book: RwLock::new(book), publisher, desk, pulse })
    }

    /// Looks at the commons.
    pub fn read<T>(&self, look: impl FnOnce(&policy::Commons) -> T) -> T {
        self.with(|book| look(&book.commons))
    }

    /// Takes entries that the store has not confirmed yet; they are not served before [`Shelf::confirm`].
    pub fn take(&self, entries: Vec<Statement>) -> policy::Taken {
        let mut book = self.write();
        let taken = book.commons.take_all(entries);
        book.unstored.extend(taken.stored.iter().copied());
        taken
    }

    /// Takes an entry that the store has confirmed already.
    pub fn take_stored(&self, entry: Statement) -> policy::Taken {
        let id = entry.id();
        let taken = {
            let mut book = self.write();
            let taken = book.commons.take_all([entry]);
            // What had waited for it comes along, and has not been stored by anybody.
            book.unstored.extend(taken.stored.iter().copied().filter(|other| *other != id));
            taken
        };
        self.bump();
        taken
    }

    /// The store holds these.
    pub fn confirm(&self, ids: &[StatementId]) {
        let mut book = self.write();
        for id in ids {
            book.unstored.remove(id);
        }
        drop(book);
        self.bump();
    }

    /// The store does not hold these after all; they are not served before it does.
    pub fn doubt(&self, ids: impl IntoIterator<Item = StatementId>) {
        self.write().unstored.extend(ids);
        self.bump();
    }

    /// What is to be stored, in an order in which each follows what it names.
    #[must_use]
    pub fn unstored(&self) -> Vec<Arc<Statement>> {
        self.with(|book| {
            let replica = book.commons.replica();
            let mut entries: Vec<Arc<Statement>> =
                book.unstored.iter().filter_map(|id| Some(replica.get(id)?.statement.clone())).collect();
            entries.sort_by_key(|entry| entry.log_seq());
            entries
        })
    }

    /// Everything that counts as stored.
    #[must_use]
    pub fn stored(&self) -> Vec<Arc<Statement>> {
        self.with(|book| {
            let replica = book.commons.replica();
            let all = replica.logs().flat_map(|(log, _)| replica.all(log));
            all.filter(|entry| book.is_stored(&entry.id())).map(|entry| entry.statement.clone()).collect()
        })
    }

    /// Who may read from now on.
    pub fn set_access(&self, mut access: BTreeMap<PublicKey, Access>) {
        let mut book = self.write();
        book.accepted.retain(|key| !access.contains_key(key));
        access.extend(book.accepted.iter().map(|key| (*key, Access::Applicant)));
        let differs = book.access != access;
        book.access = access;
        drop(book);
        if differs {
            self.bump();
        }
    }

    fn bump(&self) {
        self.pulse.send_modify(|version| *version += 1);
    }

    fn with<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Where each log begins to be unconfirmed; what lies behind is no part of a chain for anybody else yet.
    fn first_unstored(&self) -> BTreeMap<PublicKey, Seq> {
        let mut first = BTreeMap::new();
        for entry in self.unstored.iter().filter_map(|id| self.commons.replica().get(id)) {
            let log = entry.statement.header().key;
            let seq: &mut Seq = first.entry(log).or_insert(entry.seq());
            *seq = (*seq).min(entry.seq());
        }
        first
    }

    fn at(&self, log: &PublicKey, seq: Seq) -> Option<Head> {
        let entry = self.commons.replica().range(log, seq, 1).pop()?;
        (entry.log_seq() == Some(seq)).then(|| Head { seq, id: entry.id() })
    }

    fn is_stored(&self, id: &StatementId) -> bool {
        !self.unstored.contains(id)
    }

    fn entry(&self, statement: &Arc<Statement>) -> Entry {
        Entry {
            log: statement.header().key,
            seq: statement.log_seq().unwrap_or_default(),
            id: statement.id(),
            envelope: Arc::new(statement.envelope().clone()),
        }
    }
}

impl Commons for Shelf {
    fn access(&self, key: &PublicKey) -> Access {
        self.with(|book| book.access.get(key).cloned().unwrap_or(Access::Unknown))
    }

    fn heads(&self) -> Heads {
        self.with(|book| {
            let mut heads = book.commons.replica().heads();
            for (log, first) in book.first_unstored() {
                match first.0.checked_sub(1).and_then(|seq| book.at(&log, Seq(seq))) {
                    Some(before) => heads.insert(log, before),
                    None => heads.remove(&log),
                };
            }
            heads
        })
    }

    fn holds(&self, id: &StatementId) -> bool {
        self.with(|book| book.commons.replica().contains(id) && book.is_stored(id))
    }

    fn range<'a>(
        &'a self,
        log: &'a PublicKey,
        from: Seq,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Entry>, CommonsError>> {
        Box::pin(async move {
            Ok(self.with(|book| {
                let range = book.commons.replica().range(log, from, limit);
                // Up to the first one that is not confirmed: what comes behind it is no part of a chain yet.
                range.iter().take_while(|entry| book.is_stored(&entry.id())).map(|entry| book.entry(entry)).collect()
            }))
        })
    }

    fn forks(&self) -> Vec<Entry> {
        self.with(|book| {
            let replica = book.commons.replica();
            let ids = replica.forks().flat_map(|fork| [fork.first.0, fork.second.0]);
            let stored = ids.filter(|id| book.is_stored(id)).filter_map(|id| replica.get(&id));
            stored.map(|entry| book.entry(&entry.statement)).collect()
        })
    }

    fn document<'a>(&'a self, id: &'a StatementId) -> BoxFuture<'a, Result<Option<Arc<Envelope>>, CommonsError>> {
        Box::pin(async move {
            Ok(self.with(|book| {
                if id.0 == self.coop.0 {
                    return Some(book.charter.clone());
                }
                let entry = book.commons.replica().get(id).filter(|_| book.is_stored(id))?;
                Some(Arc::new(entry.statement.envelope().clone()))
            }))
        })
    }

    fn latest_for(&self, reader: &MemberId) -> Vec<Latest> {
        self.publisher.served_to(reader)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.pulse.subscribe()
    }

    fn join<'a>(
        &'a self,
        key: &'a PublicKey,
        request: JoinRequest,
    ) -> BoxFuture<'a, Result<JoinAccepted, JoinRefused>> {
        Box::pin(async move {
            let accepted = self.desk.join(key, request).await?;
            let mut book = self.write();
            if !book.access.contains_key(key) {
                // It reads on over this very connection, before anything else in the process hears of it.
                book.accepted.insert(*key);
                book.access.insert(*key, Access::Applicant);
            }
            drop(book);
            self.bump();
            Ok(accepted)
        })
    }
}
