//! Where statements are kept.
//!
//! Guarantees that an implementation gives: what [`StatementStore::reserve`] and [`StatementStore::keep`] report as
//! stored survives this process; of two that reserve one position, one is told that it is occupied, and by what.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use koinon_core::log::Settled;
use koinon_core::statement::Statement;
use thiserror::Error;

/// Why the store did not do what was asked. Nothing may be concluded about whether it took effect.
#[derive(Debug, Error)]
pub enum StoreError {
    /// This replica may not write.
    #[error("the statement was not stored: {0}")]
    NotLeader(#[from] crate::lease::NotLeader),
    /// No answer, or a refusal.
    #[error("storing or reading {what} in the API server failed: {why}")]
    Unavailable {
        /// Which object.
        what: String,
        /// What came back.
        why: String,
    },
    /// The API server takes no such object, now or later.
    #[error("the API server refuses to store {what}: {why}")]
    Refused {
        /// Which object.
        what: String,
        /// What it said.
        why: String,
    },
    /// Something else has the name that this statement must have.
    #[error(
        "the Statement {name} holds something else than its name says: look at it, and delete it if nobody needs it"
    )]
    Blocked {
        /// The object.
        name: String,
    },
}

/// What became of a reservation.
#[derive(Debug)]
pub enum Reserved {
    /// The entry has its position.
    Stored,
    /// Another entry of the same log had it already: the decision that the new one was about must be made again.
    Occupied(Box<Statement>),
}

/// One object of the store.
#[derive(Debug)]
pub enum Kept {
    /// A statement that holds.
    Statement(Box<Statement>),
    /// Something that does not; it is left where it is and named.
    Spoilt {
        /// The object's name.
        name: String,
        /// Why it does not hold.
        why: String,
    },
}

/// Durable memory for statements.
pub trait StatementStore: Send + Sync + 'static {
    /// Hands over everything that is stored, one by one, so that it need not all be in memory. If it fails, nothing may be
    /// concluded from what was handed over.
    fn list<'a>(&'a self, take: &'a mut (dyn FnMut(Kept) + Send)) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The statement under a name.
    fn fetch<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Statement>, StoreError>>;

    /// The names of everything that is stored, completely or not at all.
    fn names(&self) -> BoxFuture<'_, Result<BTreeSet<String>, StoreError>>;

    /// Stores an entry of the own log under its position.
    fn reserve<'a>(&'a self, entry: &'a Statement) -> BoxFuture<'a, Result<Reserved, StoreError>>;

    /// Stores any other statement under its id. Storing one again is no error.
    fn keep<'a>(&'a self, statement: &'a Statement) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Notes what remains of the entries that are from now on here alone, in place of what was noted before.
    fn remember<'a>(&'a self, settled: &'a Settled) -> BoxFuture<'a, Result<(), StoreError>>;

    /// What was noted last; `None` where that is nothing, or cannot be read any more: then every entry is needed.
    fn remembered(&self) -> BoxFuture<'_, Result<Option<Settled>, StoreError>>;
}

#[cfg(test)]
pub mod memory {
    //! A store in memory whose content can be copied and put back, as an etcd snapshot can.

    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use koinon_core::dsse::Envelope;

    use super::*;

    /// Objects by name.
    pub type Objects = BTreeMap<String, Envelope>;

    /// Clones share the content.
    #[derive(Clone, Debug, Default)]
    pub struct MemoryStore {
        objects: Arc<Mutex<Objects>>,
        /// What remains of what was forgotten.
        pub settled: Arc<Mutex<Option<Settled>>>,
        /// How often a statement was fetched by its name.
        pub fetched: Arc<std::sync::atomic::AtomicUsize>,
        /// Writes from now on land, but their answer is lost.
        pub lose_answers: Arc<std::sync::atomic::AtomicBool>,
        /// Whose statements it takes no more, as an API server whose schema they break.
        pub refuses: Arc<Mutex<Option<koinon_core::ids::MemberId>>>,
    }

    impl MemoryStore {
        /// A copy of the content.
        pub fn snapshot(&self) -> Objects {
            self.objects.lock().unwrap().clone()
        }

        /// Puts a copy in place of the content.
        pub fn restore(&self, objects: Objects) {
            *self.objects.lock().unwrap() = objects;
        }

        fn answer<T>(&self, answer: T) -> Result<T, StoreError> {
            if self.lose_answers.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(StoreError::Unavailable { what: "a statement".into(), why: "no answer".into() });
            }
            Ok(answer)
        }
    }

    impl StatementStore for MemoryStore {
        fn list<'a>(&'a self, take: &'a mut (dyn FnMut(Kept) + Send)) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async move {
                let read = |(name, envelope): (String, Envelope)| match Statement::verify(envelope) {
                    Ok(statement) => Kept::Statement(Box::new(statement)),
                    Err(error) => Kept::Spoilt { name, why: error.to_string() },
                };
                self.snapshot().into_iter().map(read).for_each(take);
                Ok(())
            })
        }

        fn fetch<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Statement>, StoreError>> {
            Box::pin(async move {
                self.fetched.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let found = self.objects.lock().unwrap().get(name).cloned();
                self.answer(found.map(|envelope| Statement::verify(envelope).unwrap()))
            })
        }

        fn names(&self) -> BoxFuture<'_, Result<BTreeSet<String>, StoreError>> {
            Box::pin(async move { Ok(self.snapshot().into_keys().collect()) })
        }

        fn reserve<'a>(&'a self, entry: &'a Statement) -> BoxFuture<'a, Result<Reserved, StoreError>> {
            Box::pin(async move {
                let seq = entry.log_seq().unwrap();
                let name = koinon_api::names::own_entry(&entry.header().key.to_string(), seq.0);
                let found = {
                    let mut objects = self.objects.lock().unwrap();
                    objects.entry(name).or_insert_with(|| entry.envelope().clone()).clone()
                };
                let found = Statement::verify(found).unwrap();
                let is_ours = found.id() == entry.id();
                self.answer(if is_ours { Reserved::Stored } else { Reserved::Occupied(Box::new(found)) })
            })
        }

        fn keep<'a>(&'a self, statement: &'a Statement) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async move {
                let name = koinon_api::names::statement(&statement.id().to_string());
                if self.refuses.lock().unwrap().as_ref() == Some(&statement.header().author) {
                    return Err(StoreError::Refused { what: name, why: "its schema".into() });
                }
                self.objects.lock().unwrap().entry(name).or_insert_with(|| statement.envelope().clone());
                self.answer(())
            })
        }

        fn remember<'a>(&'a self, settled: &'a Settled) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async move {
                *self.settled.lock().unwrap() = Some(settled.clone());
                self.answer(())
            })
        }

        fn remembered(&self) -> BoxFuture<'_, Result<Option<Settled>, StoreError>> {
            Box::pin(async move { self.answer(self.settled.lock().unwrap().clone()) })
        }
    }
}
