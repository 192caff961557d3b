//! The own log and the others', between memory and the store.
//!
//! Own entries are stored first and taken into memory when the store has answered; foreign ones are taken first, because
//! only the chain says whether they belong, and served when they are stored. Nothing is decided while something that was
//! taken is not stored: a seal promises what the sealer can still show after a crash.

use std::sync::Arc;

use futures::{StreamExt, stream};
use koinon_api::names;
use koinon_core::body::Body;
use koinon_core::dsse::Signer;
use koinon_core::founding::Founding;
use koinon_core::ids::{CoopId, MemberId, PublicKey, Seq, SiteName, StatementId};
use koinon_core::kind::Kind;
use koinon_core::log::{Limits, Recollection, Refused};
use koinon_core::policy;
use koinon_core::statement::{Draft, Statement, StatementError};
use thiserror::Error;

use super::shelf::Shelf;
use super::store::{Kept, Reserved, StatementStore, StoreError};
use crate::clock::Clock;

/// Writes to the API server at one time. One at a time a first sync of thousands of entries would take minutes.
const WRITES_AT_ONCE: usize = 8;

/// Who signs, and where what is signed is kept.
#[derive(Clone)]
pub struct Author {
    /// This member.
    pub me: MemberId,
    /// This site.
    pub site: SiteName,
    /// The operator key.
    pub key: Arc<dyn Signer + Send + Sync>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The durable store.
    pub store: Arc<dyn StatementStore>,
}

impl std::fmt::Debug for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Author").field("me", &self.me).field("log", &self.log()).finish_non_exhaustive()
    }
}

impl Author {
    /// The own log.
    #[must_use]
    pub fn log(&self) -> PublicKey {
        self.key.public_key()
    }
}

/// Why nothing was appended.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The charter gives no more for today.
    #[error("the own log has used up the charter's budget of the day ({bytes} bytes and {entries} entries are left)")]
    OverBudget {
        /// Bytes left.
        bytes: u64,
        /// Entries left.
        entries: u64,
    },
    /// The body does not fit an entry.
    #[error("signing the entry failed")]
    Sign(#[from] Box<StatementError>),
    /// The store did not answer, or holds something else there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The own replica refuses what was stored.
    #[error("the own log refuses its own entry: {0}")]
    Refused(Refused),
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is stored and in memory.
    Done(StatementId),
    /// Another process had taken the position. Its entry is in memory now; what was to be said must be decided anew.
    Occupied,
}

/// Everything that a store holds, but for the entries that a checkpoint has settled: of those what is still needed.
#[derive(Debug, Default)]
pub struct Contents {
    charters: Vec<Statement>,
    entries: Vec<Statement>,
    recalled: Option<Loaded>,
    /// Objects that do not hold, by name.
    pub spoilt: Vec<(String, String)>,
}

/// The commons that entries amount to, and the entries that belong to no log of this cooperative.
pub type Loaded = (policy::Commons, Vec<(StatementId, Refused)>);

impl Contents {
    /// Reads everything that a store holds of one cooperative.
    ///
    /// # Errors
    /// When the store cannot be read completely.
    pub async fn read(store: &dyn StatementStore, coop: CoopId, limits: Limits) -> Result<Self, StoreError> {
        if let Some(settled) = store.remembered().await? {
            let mut recollection = Recollection::new(settled);
            let mut contents = Self::list(store, &mut |entry| recollection.take(entry)).await?;
            if let Some(founding) = contents.founding(coop) {
                match policy::Commons::recall(founding, limits, recollection, std::mem::take(&mut contents.entries)) {
                    Ok(recalled) => return Ok(Self { recalled: Some(recalled), ..contents }),
                    Err(error) => tracing::warn!(%error, "what a checkpoint settled is read again from every entry"),
                }
            }
        }
        Self::list(store, &mut Some).await
    }

    async fn list(
        store: &dyn StatementStore,
        take: &mut (dyn FnMut(Statement) -> Option<Statement> + Send),
    ) -> Result<Self, StoreError> {
        let mut contents = Contents::default();
        let mut sort = |kept| match kept {
            Kept::Statement(statement) if statement.log_seq().is_some() => contents.entries.extend(take(*statement)),
            Kept::Statement(statement) if *statement.kind() == Kind::Charter => contents.charters.push(*statement),
            Kept::Statement(_) => {}
            Kept::Spoilt { name, why } => contents.spoilt.push((name, why)),
        };
        store.list(&mut sort).await?;
        // In the order of their positions, because only a bounded number of entries may wait for one before them.
        contents.entries.sort_by_key(Statement::log_seq);
        Ok(contents)
    }

    /// The founding of this cooperative, if its charter is here.
    #[must_use]
    pub fn founding(&self, coop: CoopId) -> Option<Founding> {
        self.charters.iter().find_map(|charter| Founding::verify_as(charter.envelope().clone(), coop).ok())
    }

    /// The commons that it amounts to.
    #[must_use]
    pub fn load(self, founding: Founding, limits: Limits) -> Loaded {
        self.recalled.unwrap_or_else(|| policy::Commons::load(founding, limits, self.entries))
    }
}

/// The statement at a position of a log, from the store.
///
/// # Errors
/// When the store does not answer.
pub async fn fetch(
    store: &dyn StatementStore,
    own: &PublicKey,
    log: &PublicKey,
    (seq, id): (Seq, StatementId),
) -> Result<Option<Statement>, StoreError> {
    let by_position = || names::own_entry(&log.to_string(), seq.0);
    let by_id = || names::statement(&id.to_string());
    // A log that was this operator's before its key was replaced has names of both sorts.
    let names = if log == own { [by_position(), by_id()] } else { [by_id(), by_position()] };
    for name in names {
        if let Some(found) = store.fetch(&name).await?.filter(|found| found.id() == id) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Compares the store with what is held, and has put back what is missing there. Returns how much that is.
///
/// # Errors
/// When the store cannot be read completely: then nothing is concluded from absence.
pub async fn audit(author: &Author, shelf: &Shelf) -> Result<usize, StoreError> {
    let held = shelf.stored();
    let names = author.store.names().await?;
    let is_there = |entry: &Statement| {
        let by_id = names::statement(&entry.id().to_string());
        let by_position = names::own_entry(&entry.header().key.to_string(), entry.log_seq().unwrap_or_default().0);
        names.contains(&by_id) || (entry.header().key == author.log() && names.contains(&by_position))
    };
    let missing: Vec<StatementId> = held.iter().filter(|entry| !is_there(entry)).map(|entry| entry.id()).collect();
    let count = missing.len();
    if count > 0 {
        shelf.doubt(missing);
    }
    let charter = shelf.read(|commons| commons.founding().statement().clone());
    if !names.contains(&names::statement(&charter.id().to_string())) {
        author.store.keep(&charter).await?;
        return Ok(count + 1);
    }
    Ok(count)
}

/// Stores what was taken from peers.
///
/// # Errors
/// The last failure, if something is still not stored.
pub async fn flush(author: &Author, shelf: &Shelf) -> Result<(), StoreError> {
    let entries = shelf.unstored();
    if entries.is_empty() {
        return Ok(());
    }
    let log = author.log();
    let work = stream::iter(entries).map(|entry| async move {
        match store_one(author, shelf, &log, &entry).await {
            // Somebody else's entry that no API server takes is its author's doing. It is held and passed on like any
            // other, and after a restart it comes from peers again.
            Err(error @ StoreError::Refused { .. }) if entry.header().key != log => {
                tracing::warn!(id = %entry.id(), author = %entry.header().author, %error, "a foreign entry is held in memory only");
                Ok(entry.id())
            }
            stored => stored.map(|()| entry.id()),
        }
    });
    let mut results = work.buffered(WRITES_AT_ONCE);
    let (mut stored, mut failed) = (Vec::new(), None);
    while let Some(result) = results.next().await {
        match result {
            Ok(id) => stored.push(id),
            Err(error) => {
                // One name that is blocked says nothing about the others; a store that does not answer does, and a
                // timeout for each of them would keep this operator silent for minutes.
                let one_only = matches!(error, StoreError::Blocked { .. });
                failed = Some(error);
                if !one_only {
                    break;
                }
            }
        }
    }
    if !stored.is_empty() {
        shelf.confirm(&stored);
    }
    failed.map_or(Ok(()), Err)
}

async fn store_one(author: &Author, shelf: &Shelf, log: &PublicKey, entry: &Statement) -> Result<(), StoreError> {
    if entry.header().key != *log {
        return author.store.keep(entry).await;
    }
    // An own entry that a restored backup had forgotten: it gets its position back.
    match author.store.reserve(entry).await? {
        Reserved::Stored => Ok(()),
        Reserved::Occupied(other) => {
            // Both were signed with this key: the log has forked, and both are kept for everybody to see.
            author.store.keep(entry).await?;
            shelf.take_stored(*other);
            Ok(())
        }
    }
}

/// Signs `body` as the next entry of the own log and stores it.
///
/// # Errors
/// When nothing was appended, or nobody knows whether it was; either way it is decided anew.
pub async fn append(author: &Author, shelf: &Shelf, body: Body) -> Result<Appended, AppendError> {
    let (log, now) = (author.log(), author.clock.unix());
    let (coop, position, left) = shelf.read(|commons| {
        let replica = commons.replica();
        (replica.coop(), replica.next_position(&log), replica.budget_left(&log, now))
    });
    let draft = Draft {
        coop: Some(coop),
        author: author.me.clone(),
        site: author.site.clone(),
        issued_at: now,
        position,
        body,
    };
    let entry = draft.sign(author.key.as_ref(), &[]).map_err(Box::new)?;
    // An entry over the budget has no effect for anybody and would still stand in the log for ever.
    if left.entries == 0 || left.bytes < entry.size() as u64 {
        return Err(AppendError::OverBudget { bytes: left.bytes, entries: left.entries });
    }
    let id = entry.id();
    match author.store.reserve(&entry).await? {
        Reserved::Stored => {
            let taken = shelf.take_stored(entry);
            match taken.refused.into_iter().find(|(refused, _)| *refused == id) {
                Some((_, error)) => Err(AppendError::Refused(error)),
                None => Ok(Appended::Done(id)),
            }
        }
        Reserved::Occupied(other) => {
            shelf.take_stored(*other);
            Ok(Appended::Occupied)
        }
    }
}
