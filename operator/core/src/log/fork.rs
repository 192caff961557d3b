//! The proof that a log forked: two payloads of one position, both signed by the log's key.

use crate::body::entry::Evidence;
use crate::dsse::{Envelope, MAX_PAYLOAD};
use crate::ids::{CoopId, MemberId, PublicKey, Seq, StatementId};
use crate::statement::{Position, Statement};

/// Two payloads at one (author, log, seq). Anybody can check it, and it can be stored and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkProof {
    /// Whose log.
    pub author: MemberId,
    /// The log.
    pub log: PublicKey,
    /// The position.
    pub seq: Seq,
    /// The payload with the smaller id.
    pub first: (StatementId, Envelope),
    /// The other.
    pub second: (StatementId, Envelope),
}

impl ForkProof {
    /// The proof that two entries are, if they are one.
    pub fn of(a: &Statement, b: &Statement) -> Option<Self> {
        let (Position::Log { seq, .. }, Position::Log { seq: other, .. }) = (a.position(), b.position()) else {
            return None;
        };
        let same = seq == other && a.header().key == b.header().key && a.author() == b.author() && a.coop() == b.coop();
        if !same || a.id() == b.id() {
            return None;
        }
        let (first, second) = if a.id() < b.id() { (a, b) } else { (b, a) };
        Some(Self {
            author: a.author().clone(),
            log: a.header().key,
            seq: *seq,
            first: (first.id(), first.envelope().clone()),
            second: (second.id(), second.envelope().clone()),
        })
    }

    /// Verifies two envelopes and the proof that they are.
    pub fn of_envelopes(a: &Envelope, b: &Envelope, coop: CoopId) -> Option<Self> {
        let (a, b) = (Statement::verify(a.clone()).ok()?, Statement::verify(b.clone()).ok()?);
        Self::of(&a, &b).filter(|_| a.coop() == coop)
    }

    /// Verifies the evidence in a log; `None` if it proves nothing, or names its payloads without holding them.
    pub fn of_evidence(evidence: &Evidence, coop: CoopId) -> Option<Self> {
        let [a, b] = evidence.envelopes.as_slice() else { return None };
        Self::of_envelopes(a, b, coop).filter(|proof| proof.log == evidence.log && proof.seq == evidence.seq)
    }

    /// The two entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = Statement> {
        [&self.first.1, &self.second.1].into_iter().filter_map(|envelope| Statement::verify(envelope.clone()).ok())
    }

    /// The body of an evidence entry; without the envelopes if they do not fit.
    pub fn to_evidence(&self) -> Evidence {
        let envelopes = vec![self.first.1.clone(), self.second.1.clone()];
        let size: usize = envelopes.iter().map(|e| e.to_json().len()).sum();
        // One KiB is ample for the header around it.
        let envelopes = if size + 1024 <= MAX_PAYLOAD { envelopes } else { Vec::new() };
        Evidence { log: self.log, seq: self.seq, first: self.first.0, second: self.second.0, envelopes }
    }
}
