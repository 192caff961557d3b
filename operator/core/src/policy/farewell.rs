//! What a member that was expelled may still read.

use std::collections::{BTreeMap, BTreeSet};

use super::{Commons, MemberStanding};
use crate::ids::{MemberId, PublicKey, Seq, StatementId, UnixSeconds};

impl Commons {
    /// For every log the first position that a member which is gone may not read: it is served the way to its own end and
    /// nothing later. None for whoever is a member.
    pub fn farewell(&self, member: &MemberId) -> Option<BTreeMap<PublicKey, Seq>> {
        let state = self.state();
        let gone =
            state.member(member).filter(|m| matches!(m.standing, MemberStanding::Expelled | MemberStanding::Left))?;
        let enacted = state.version(&gone.left?)?.enacted.as_ref()?;
        let mut proof: BTreeSet<StatementId> = enacted.close_seals.union(&enacted.enact_seals).copied().collect();
        if let Some(proposal) = state.proposals().get(&enacted.proposal) {
            proof.extend(proposal.offers.iter().map(|offer| offer.id));
            proof.extend(proposal.certificates.iter().flat_map(|certificate| &certificate.entries));
        }
        let seals = state.enact_seals().iter().filter(|seal| enacted.enact_seals.contains(&seal.id));
        // Below a checkpoint the seals are forgotten, and when everybody can have known it is remembered.
        let end = seals.map(|seal| seal.at).max().unwrap_or(enacted.settled_at);
        let mut until = BTreeMap::new();
        for (log, _) in self.replica().logs() {
            let held =
                self.replica().all(log).map(|entry| (entry.seq(), entry.id(), entry.statement.header().issued_at));
            let past = self.replica().past(log, Seq(0)).map(|past| (past.seq, past.id, past.issued_at));
            let entries: Vec<(Seq, StatementId, UnixSeconds)> = past.chain(held).collect();
            let proved = entries.iter().filter(|(_, id, _)| proof.contains(id)).map(|(seq, ..)| *seq).max();
            let later = entries.iter().filter(|(.., at)| *at > end).map(|(seq, ..)| *seq).min();
            let later = later.unwrap_or_else(|| self.replica().next_seq(log));
            until.insert(*log, proved.map_or(later, |last| later.max(Seq(last.0.saturating_add(1)))));
        }
        Some(until)
    }
}
