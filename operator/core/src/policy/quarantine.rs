//! What an honest operator does not do, proved by its own signatures; its member does no new work until a vote says so.
//!
//! The effect follows from proofs that anybody can check, so it is the same wherever they are known. It stops work, not
//! speech: votes, seals and replies of the member go on, and whatever was certified stays certified.
//!
//! It must not be a weapon. Only entries in the log that the member has now count: whoever holds the key of one that was
//! replaced can write what it likes there. A report that proves nothing has no effect.

use std::collections::{BTreeMap, BTreeSet};

use super::gather::{Gathered, Sealed};
use super::{BoxRoot, Fault, PolicyHash, State};
use crate::body::entry::{CloseSeal, EnactSeal, Outcome, SealEvidence, Slot};
use crate::body::proposal::Scope;
use crate::body::standing::LiftQuarantine;
use crate::ids::{Digest, MemberId, PublicKey, Seq, StatementId};
use crate::log::{Replica, SealConflict};

/// What names a proof: what was done, and where. The same wherever it is known, whichever entries show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offence {
    /// Two entries of one position.
    Fork {
        /// The position.
        seq: Seq,
    },
    /// Two close seals of one round.
    TwoInRound {
        /// On which proposal.
        proposal: StatementId,
        /// Which round.
        round: u32,
    },
    /// Two close seals that bind one slot to two proposals.
    TwoPassed {
        /// Which slot.
        slot: Slot,
    },
    /// Two enact seals.
    TwoEnacted {
        /// For which slot.
        slot: Slot,
    },
}

/// A proof against the log of one operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The log.
    pub log: PublicKey,
    /// What was done.
    pub offence: Offence,
    /// The two entries that show it.
    pub entries: [StatementId; 2],
}

impl Proof {
    /// Its name.
    pub fn id(&self) -> Digest {
        proof_id(&self.log, &self.offence)
    }
}

fn proof_id(log: &PublicKey, offence: &Offence) -> Digest {
    let slot = |Slot { scope, parent, term }: &Slot| format!("{scope}\n{parent}\n{term}");
    let text = match offence {
        Offence::Fork { seq } => format!("fork\n{}", seq.0),
        Offence::TwoInRound { proposal, round } => format!("round\n{proposal}\n{round}"),
        Offence::TwoPassed { slot: at } => format!("passed\n{}", slot(at)),
        Offence::TwoEnacted { slot: at } => format!("enacted\n{}", slot(at)),
    };
    Digest::of(format!("koinon/proof/v1\n{log}\n{text}\n").as_bytes())
}

/// What two close seals of one operator prove. Under rules 1 rounds were all there was.
pub(crate) fn close_offences(a: &CloseSeal, b: &CloseSeal) -> Vec<Offence> {
    let (Some(left), Some(right)) = (&a.basis, &b.basis) else { return Vec::new() };
    let mut offences = Vec::new();
    if (a.proposal, a.round) == (b.proposal, b.round) && (!says_same(a, b) || left.slot != right.slot) {
        offences.push(Offence::TwoInRound { proposal: a.proposal, round: a.round });
    }
    let both_passed = a.outcome == Outcome::Passed && b.outcome == Outcome::Passed;
    if both_passed && left.slot == right.slot && a.proposal != b.proposal && left.slot.scope != Scope::Cancellations {
        offences.push(Offence::TwoPassed { slot: left.slot });
    }
    offences
}

/// Whether two close seals say the same: the same box can be named by other offers.
fn says_same(a: &CloseSeal, b: &CloseSeal) -> bool {
    let said = |seal: &CloseSeal| {
        let CloseSeal { proposal, round, root, count, membership_head, outcome, closed_at, basis: _ } = *seal;
        (proposal, round, root, count, membership_head, outcome, closed_at)
    };
    said(a) == said(b)
}

/// The slot that a close seal binds to its proposal.
fn passed_in(seal: &CloseSeal) -> Option<Slot> {
    seal.basis.as_ref().filter(|_| seal.outcome == Outcome::Passed).map(|basis| basis.slot)
}

/// Where seals may contradict each other: to look at all of them each time would cost more than everything else.
#[derive(Clone, Debug, Default)]
pub(super) struct Tangles {
    /// Proposals on which some operator signed two close seals of one round, differing or not.
    rounds: BTreeSet<StatementId>,
    /// The proposals that close seals say passed in a slot.
    passed: BTreeMap<Slot, BTreeSet<StatementId>>,
    /// What enact seals say of a slot.
    enacted: BTreeMap<Slot, BTreeSet<(StatementId, BoxRoot, PolicyHash)>>,
}

impl Tangles {
    /// Takes a close seal; `again` says whether its operator had signed one of the same round.
    pub fn note_close(&mut self, seal: &CloseSeal, again: bool) {
        if again {
            self.rounds.insert(seal.proposal);
        }
        if let Some(slot) = passed_in(seal) {
            self.passed.entry(slot).or_default().insert(seal.proposal);
        }
    }

    pub fn note_enact(&mut self, seal: &EnactSeal) {
        self.enacted.entry(seal.slot).or_default().insert((seal.proposal, seal.root, seal.version));
    }

    fn passed(&self) -> impl Iterator<Item = (&Slot, &BTreeSet<StatementId>)> {
        self.passed.iter().filter(|(_, proposals)| proposals.len() > 1 || !proposals.is_disjoint(&self.rounds))
    }

    fn enacted(&self) -> impl Iterator<Item = (&Slot, BTreeSet<StatementId>)> {
        let several = self.enacted.iter().filter(|(_, said)| said.len() > 1);
        several.map(|(slot, said)| (slot, said.iter().map(|(proposal, ..)| *proposal).collect()))
    }
}

/// What two enact seals of one operator prove.
pub(crate) fn enact_offence(a: &EnactSeal, b: &EnactSeal) -> Option<Offence> {
    (a.slot == b.slot && a != b).then_some(Offence::TwoEnacted { slot: a.slot })
}

impl State {
    /// The proofs for which `member` does no new work, by their names.
    pub fn quarantined(&self, member: &MemberId) -> Option<&BTreeMap<Digest, Proof>> {
        self.member(member).map(|state| &state.quarantine).filter(|proofs| !proofs.is_empty())
    }

    pub(super) fn lift(&mut self, lift: &LiftQuarantine) {
        self.lifted.entry(lift.member.clone()).or_default().extend(&lift.proofs);
        // In a fold nothing is there yet; in a preview it is what people are asked about.
        if let Some(state) = self.members.get_mut(&lift.member) {
            state.quarantine.retain(|proof, _| !lift.proofs.contains(proof));
        }
    }

    /// Reads the proofs in the logs that members have now, less those that a vote has lifted.
    pub(super) fn read_quarantine(&mut self, gathered: &Gathered, replica: &Replica) {
        let mut proofs = self.conflicts(gathered);
        proofs.extend(replica.seal_conflicts().map(SealConflict::proof));
        for member in self.members.values_mut() {
            let log = member.member.keys.operator;
            let fork = replica.fork(&log).map(|fork| {
                let entries = [fork.first.0, fork.second.0];
                Proof { log, offence: Offence::Fork { seq: fork.seq }, entries }
            });
            member.forked_at = replica.fork(&log).map(|fork| fork.seq);
            let lifted = self.lifted.get(&member.member.id);
            let of_member = proofs.iter().filter(|proof| proof.log == log).cloned().chain(fork);
            let standing = of_member.filter(|proof| !lifted.is_some_and(|lifted| lifted.contains(&proof.id())));
            // By whichever two entries it is shown: the smallest ones, so that all show the same.
            for proof in standing {
                let known = member.quarantine.entry(proof.id()).or_insert_with(|| proof.clone());
                if proof.entries < known.entries {
                    *known = proof;
                }
            }
        }
    }

    /// The conflicts between seals that are held here.
    fn conflicts(&mut self, gathered: &Gathered) -> Vec<Proof> {
        let mut proofs = Vec::new();
        let mut note = |log: PublicKey, offence: Offence, a: StatementId, b: StatementId| {
            proofs.push(Proof { log, offence, entries: [a.min(b), a.max(b)] });
        };
        for sealed in gathered.tangles.rounds.iter().map(|proposal| gathered.close.of(proposal)) {
            let mut rounds: BTreeMap<(PublicKey, u32), &Sealed<CloseSeal>> = BTreeMap::new();
            let mut complete: BTreeMap<(PublicKey, u32), &Sealed<CloseSeal>> = BTreeMap::new();
            for sealed in sealed {
                let round = (sealed.log, sealed.seal.round);
                let first = *rounds.entry(round).or_insert(sealed);
                if !says_same(&first.seal, &sealed.seal) {
                    let (member, proposal) = (sealed.by.clone(), sealed.seal.proposal);
                    self.faults.insert(Fault::TwoCloseSeals { member, proposal, first: first.id, second: sealed.id });
                }
                // One of rules 1 that came before it proves nothing, and hides nothing.
                if sealed.seal.basis.is_some() {
                    let first = *complete.entry(round).or_insert(sealed);
                    for offence in close_offences(&first.seal, &sealed.seal) {
                        note(sealed.log, offence, first.id, sealed.id);
                    }
                }
            }
        }
        for (slot, proposals) in gathered.tangles.passed() {
            let mut slots: BTreeMap<PublicKey, &Sealed<CloseSeal>> = BTreeMap::new();
            let seals = proposals.iter().flat_map(|proposal| gathered.close.of(proposal));
            for sealed in seals.filter(|sealed| passed_in(&sealed.seal) == Some(*slot)) {
                let first = *slots.entry(sealed.log).or_insert(sealed);
                for offence in close_offences(&first.seal, &sealed.seal) {
                    note(sealed.log, offence, first.id, sealed.id);
                }
            }
        }
        for (slot, proposals) in gathered.tangles.enacted() {
            let mut enact: BTreeMap<PublicKey, &Sealed<EnactSeal>> = BTreeMap::new();
            let seals = proposals.iter().flat_map(|proposal| gathered.enact.of(proposal));
            for sealed in seals.filter(|sealed| sealed.seal.slot == *slot) {
                let first = *enact.entry(sealed.log).or_insert(sealed);
                if let Some(offence) = enact_offence(&first.seal, &sealed.seal) {
                    note(sealed.log, offence, first.id, sealed.id);
                    let (member, scope) = (sealed.by.clone(), sealed.seal.slot.scope);
                    self.faults.insert(Fault::TwoEnactSeals { member, scope, first: first.id, second: sealed.id });
                }
            }
        }
        proofs
    }

    /// Conflicts between seals that stand in nobody's log as evidence yet: whoever holds both entries publishes them, so that
    /// those see them who were shown one branch only. Nobody is asked to report its `own` log.
    pub fn unreported_seals(&self, replica: &Replica, own: &PublicKey) -> Vec<SealEvidence> {
        let known: BTreeSet<Digest> = replica.seal_conflicts().map(|conflict| conflict.proof().id()).collect();
        let proofs = self.members.values().flat_map(|member| member.quarantine.values());
        let unreported =
            proofs.filter(|proof| !matches!(proof.offence, Offence::Fork { .. }) && !known.contains(&proof.id()));
        let unreported = unreported.filter(|proof| proof.log != *own);
        unreported
            .filter_map(|proof| {
                let [first, second] = proof.entries.map(|id| replica.get(&id));
                SealConflict::of(&first?.statement, &second?.statement, proof.offence).map(|found| found.to_evidence())
            })
            .collect()
    }
}
