//! The proof that an operator signed two seals where it promised one.

use super::{Entry, Replica, Standing};
use crate::body::Body;
use crate::body::entry::SealEvidence;
use crate::dsse::Envelope;
use crate::ids::{CoopId, MemberId, PublicKey, StatementId};
use crate::policy::{Offence, Proof, close_offences, enact_offence};
use crate::statement::{Position, Statement};

/// Two seals of one log that contradict each other. Anybody can check it, and it can be stored and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealConflict {
    /// Whose log.
    pub author: MemberId,
    /// The log.
    pub log: PublicKey,
    /// What they prove.
    pub offence: Offence,
    /// The entry with the smaller id.
    pub first: (StatementId, Envelope),
    /// The other.
    pub second: (StatementId, Envelope),
}

impl SealConflict {
    /// The proof of `offence` that two entries are, if they are one.
    pub fn of(a: &Statement, b: &Statement, offence: Offence) -> Option<Self> {
        Self::all(a, b).into_iter().find(|conflict| conflict.offence == offence)
    }

    /// Everything that two entries prove about their log.
    fn all(a: &Statement, b: &Statement) -> Vec<Self> {
        let entries = matches!(a.position(), Position::Log { .. }) && matches!(b.position(), Position::Log { .. });
        let same = a.header().key == b.header().key && a.author() == b.author() && a.coop() == b.coop();
        if !entries || !same || a.id() == b.id() {
            return Vec::new();
        }
        let offences = match (a.body(), b.body()) {
            (Body::CloseSeal(a), Body::CloseSeal(b)) => close_offences(a, b),
            (Body::EnactSeal(a), Body::EnactSeal(b)) => enact_offence(a, b).into_iter().collect(),
            _ => Vec::new(),
        };
        let (first, second) = if a.id() < b.id() { (a, b) } else { (b, a) };
        let conflict = |offence| Self {
            author: a.author().clone(),
            log: a.header().key,
            offence,
            first: (first.id(), first.envelope().clone()),
            second: (second.id(), second.envelope().clone()),
        };
        offences.into_iter().map(conflict).collect()
    }

    /// Verifies the evidence in a log; nothing if it proves nothing.
    pub fn of_evidence(evidence: &SealEvidence, coop: CoopId) -> Vec<Self> {
        let verified = |envelope: &Envelope| Statement::verify(envelope.clone()).ok().filter(|s| s.coop() == coop);
        match (verified(&evidence.first), verified(&evidence.second)) {
            (Some(a), Some(b)) => Self::all(&a, &b),
            _ => Vec::new(),
        }
    }

    /// The two entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = Statement> {
        [&self.first.1, &self.second.1].into_iter().filter_map(|envelope| Statement::verify(envelope.clone()).ok())
    }

    /// The body of an evidence entry.
    pub fn to_evidence(&self) -> SealEvidence {
        SealEvidence { first: self.first.1.clone(), second: self.second.1.clone() }
    }

    /// What it proves, by name.
    pub fn proof(&self) -> Proof {
        Proof { log: self.log, offence: self.offence, entries: [self.first.0, self.second.0] }
    }
}

impl Replica {
    /// Takes over what evidence entries prove, once, when they are stored, together with the entries in them.
    pub(super) fn read_seal_evidence(&mut self, log: &PublicKey, ids: &[StatementId]) {
        let Some(chain) = self.chains.get(log) else { return };
        let valid = |entry: &&Entry| entry.standing == Standing::Valid;
        let bodies = ids.iter().filter_map(|id| match chain.get(id).filter(valid)?.statement.body() {
            Body::SealEvidence(evidence) => Some((*id, (**evidence).clone())),
            _ => None,
        });
        for (id, evidence) in bodies.collect::<Vec<_>>() {
            for conflict in SealConflict::of_evidence(&evidence, self.coop()) {
                // An author writes in its own log only: in another's name this would prove nothing about it.
                let others = self.chains.get(&conflict.log).is_some_and(|chain| *chain.owner() != conflict.author);
                if others {
                    continue;
                }
                let (about, both) = (conflict.log, conflict.entries().collect());
                if self.knows(&about) {
                    self.note_conflict(conflict);
                }
                self.take_proved(about, (*log, id), both);
            }
        }
    }

    /// Of several proofs of one name the one with the smallest ids, so that all show the same.
    fn note_conflict(&mut self, conflict: SealConflict) {
        let entries = |conflict: &SealConflict| (conflict.first.0, conflict.second.0);
        let known = self.conflicts.entry(conflict.proof().id()).or_insert_with(|| conflict.clone());
        if entries(&conflict) < entries(known) {
            *known = conflict;
        }
    }

    /// Proofs of two seals that stand in somebody's log.
    pub fn seal_conflicts(&self) -> impl Iterator<Item = &SealConflict> {
        self.conflicts.values()
    }
}
