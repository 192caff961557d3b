//! What is in memory of the commons, and what of it is served.
//!
//! The engine alone changes it; connections read it at any time. An entry is served only when the store has confirmed
//! it: a peer that was shown an entry which a crash then erased would hold a proof against an honest operator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use koinon_core::body::entry::Head;
use koinon_core::dsse::Envelope;
use koinon_core::ids::{CoopId, MemberId, PublicKey, Seq, StatementId};
use koinon_core::log::Settled;
use koinon_core::policy;
use koinon_core::statement::Statement;
use koinon_net::commons::{Access, Commons, CommonsError, Entry, Heads, Latest};
use koinon_net::wire::{JoinAccepted, JoinRefused, JoinRequest};
use tokio::sync::watch;

use super::logs;
use super::publisher::LatestPublisher;
use super::store::StatementStore;

/// Reads from the store at one time for one reader: a batch of entries that are no longer in memory takes no minute then, and
/// a reader that asks for all of them again and again does not keep the API server busy.
const READS_AT_ONCE: usize = 8;

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
    kept: KeptIn,
    pulse: Arc<watch::Sender<u64>>,
}

/// Where entries are that are no longer in memory.
#[derive(Clone)]
pub struct KeptIn {
    /// The store.
    pub store: Arc<dyn StatementStore>,
    /// The own log, whose entries have other names there.
    pub own: PublicKey,
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
    pub fn new(
        commons: policy::Commons,
        kept: KeptIn,
        publisher: LatestPublisher,
        desk: Arc<dyn JoinDesk>,
    ) -> Arc<Self> {
        let charter = Arc::new(commons.founding().statement().envelope().clone());
        let (coop, pulse) = (commons.founding().coop(), publisher.pulse());
        let book =
            Book { commons, charter, unstored: BTreeSet::new(), access: BTreeMap::new(), accepted: BTreeSet::new() };
        Arc::new(Shelf { coop, book: RwLock::new(book), publisher, desk, kept, pulse })
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

    /// Lets go of what a checkpoint has settled, which is served from the store from now on; what remains of it, if something
    /// was let go.
    pub fn forget(&self) -> Option<Arc<Settled>> {
        let mut book = self.write();
        if !book.unstored.is_empty() {
            return None;
        }
        book.commons.forget_settled()
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

    /// Where up to `limit` entries of a log are, without a gap: what comes behind one that the store has not confirmed, or that
    /// was moved to an archive, is no part of a chain for whoever lacks it.
    fn places(&self, log: &PublicKey, from: Seq, limit: usize) -> Vec<Place> {
        let replica = self.commons.replica();
        let held = replica.range(log, from, limit).into_iter().take_while(|entry| self.is_stored(&entry.id()));
        let past =
            replica.past(log, from).take(limit).map(|past| ((past.seq, past.id), Place::Kept(past.seq, past.id)));
        let held = held.map(|held| ((held.log_seq().unwrap_or_default(), held.id()), Place::Held(held)));
        let all: BTreeMap<(Seq, StatementId), Place> = past.chain(held).collect();
        let mut next = from;
        let gapless = all.into_iter().take_while(|((seq, _), _)| {
            let follows = *seq <= next;
            next = Seq(seq.0.saturating_add(1));
            follows
        });
        gapless.map(|(_, place)| place).take(limit).collect()
    }
}

/// Where an entry is.
enum Place {
    Held(Arc<Statement>),
    Kept(Seq, StatementId),
}

fn entry(statement: &Statement) -> Entry {
    Entry {
        log: statement.header().key,
        seq: statement.log_seq().unwrap_or_default(),
        id: statement.id(),
        envelope: Arc::new(statement.envelope().clone()),
    }
}

impl Shelf {
    async fn fetch(&self, log: &PublicKey, at: (Seq, StatementId)) -> Result<Option<Statement>, CommonsError> {
        let found = logs::fetch(self.kept.store.as_ref(), &self.kept.own, log, at).await;
        found.map_err(|error| CommonsError(error.to_string()))
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
            let places = self.with(|book| book.places(log, from, limit));
            let entries = places.into_iter().map(|place| async move {
                match place {
                    Place::Held(statement) => Ok(Some(entry(&statement))),
                    Place::Kept(seq, id) => Ok(self.fetch(log, (seq, id)).await?.map(|statement| entry(&statement))),
                }
            });
            // What lies in an archive ends the range: whoever lacks it cannot use what follows.
            let entries = stream::iter(entries).buffered(READS_AT_ONCE);
            entries
                .try_take_while(|entry| std::future::ready(Ok(entry.is_some())))
                .try_filter_map(|e| std::future::ready(Ok(e)))
                .try_collect()
                .await
        })
    }

    fn forks(&self) -> Vec<Entry> {
        self.with(|book| {
            let replica = book.commons.replica();
            let ids = replica.forks().flat_map(|fork| [fork.first.0, fork.second.0]);
            let stored = ids.filter(|id| book.is_stored(id)).filter_map(|id| replica.get(&id));
            stored.map(|held| entry(&held.statement)).collect()
        })
    }

    fn document<'a>(&'a self, id: &'a StatementId) -> BoxFuture<'a, Result<Option<Arc<Envelope>>, CommonsError>> {
        Box::pin(async move {
            enum Found {
                Here(Arc<Envelope>),
                Kept(PublicKey, Seq),
            }
            let found = self.with(|book| {
                if id.0 == self.coop.0 {
                    return Some(Found::Here(book.charter.clone()));
                }
                let replica = book.commons.replica();
                if let Some(held) = replica.get(id).filter(|_| book.is_stored(id)) {
                    return Some(Found::Here(Arc::new(held.statement.envelope().clone())));
                }
                replica.place_of_past(id).map(|(log, seq)| Found::Kept(log, seq))
            });
            match found {
                Some(Found::Here(envelope)) => Ok(Some(envelope)),
                Some(Found::Kept(log, seq)) => {
                    let kept = self.fetch(&log, (seq, *id)).await?;
                    Ok(kept.map(|statement| Arc::new(statement.envelope().clone())))
                }
                None => Ok(None),
            }
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
