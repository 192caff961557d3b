//! The records in memory, with the API server's rules: one version counter, conflicts, and writes whose answer is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use koinon_core::ids::NodeName;
use koinon_core::placement::reservations::NodeReservations;

use super::{Read, RecordStore, StoreError, Version};
use crate::placement::writer::WriteError;

#[derive(Debug, Default)]
struct State {
    version: u64,
    records: BTreeMap<NodeName, (u64, NodeReservations)>,
    /// Answers of writes that get lost after they took effect.
    lose_answers: usize,
}

/// Clones share the records, as processes share an API server.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

impl Memory {
    /// The next `count` writes take effect and then seem to fail, as when the writer is killed before it hears.
    pub fn lose_answers(&self, count: usize) {
        self.state.lock().unwrap().lose_answers = count;
    }
}

impl RecordStore for Memory {
    async fn list(&self) -> Result<BTreeMap<NodeName, Read>, StoreError> {
        // Other writers run between a look and the write that rests on it, as they do over a network.
        tokio::task::yield_now().await;
        let state = self.state.lock().unwrap();
        let read = |(version, record): &(u64, NodeReservations)| Read {
            record: record.clone(),
            version: Some(Version(version.to_string())),
        };
        Ok(state.records.iter().map(|(node, stored)| (node.clone(), read(stored))).collect())
    }

    async fn write(&self, record: &NodeReservations, expected: Option<&Version>) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        let mut state = self.state.lock().unwrap();
        let node = record.node().clone();
        let stored = state.records.get(&node).map(|(version, _)| Version(version.to_string()));
        if stored.as_ref() != expected {
            return Err(StoreError::Conflict(node));
        }
        state.version += 1;
        let version = state.version;
        state.records.insert(node, (version, record.clone()));
        if state.lose_answers > 0 {
            state.lose_answers -= 1;
            return Err(StoreError::Write(WriteError::NoAnswer { what: "a record".to_owned() }));
        }
        Ok(())
    }
}
