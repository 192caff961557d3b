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
        let end = seals.map(|seal| seal.at).max().unwrap_or(UnixSeconds(i64::MIN));
        let mut until = BTreeMap::new();
        for (log, _) in self.replica().logs() {
            let entries = || self.replica().all(log);
            let proved = entries().filter(|entry| proof.contains(&entry.id())).map(|entry| entry.seq()).max();
            let later = entries().find(|entry| entry.statement.header().issued_at > end).map(|entry| entry.seq());
            let later = later.unwrap_or_else(|| self.replica().next_seq(log));
            until.insert(*log, proved.map_or(later, |last| later.max(Seq(last.0.saturating_add(1)))));
        }
        Some(until)
    }
}
