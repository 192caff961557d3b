//! Whether the cooperative has gone on to rules that this release cannot decide by.

use std::collections::BTreeSet;

use super::State;
use crate::body::RULES_SUPPORTED;
use crate::body::proposal::Action;
use crate::ids::MemberId;
use crate::tally::faults_tolerated;

impl State {
    /// The rules by which the others decide, if this release cannot: then what it makes of the logs is no longer what is in
    /// force. More members say so than may lie, or enough operators have signed that such rules take effect.
    pub fn needs_rules(&self) -> Option<u32> {
        let lying = faults_tolerated(self.active().count());
        let used = self
            .later_rules
            .iter()
            .filter(|(_, by)| self.active().filter(|member| by.contains(&member.id)).count() > lying);
        let enacted = self.proposals.values().filter_map(|proposal| match &proposal.proposal.action {
            Action::SetRules(set) if !RULES_SUPPORTED.contains(&set.rules) => {
                let seals = self.enact_seals.iter().filter(|seal| seal.seal.proposal == proposal.id);
                let by: BTreeSet<&MemberId> =
                    seals.map(|seal| &seal.by).filter(|by| proposal.sealers.contains(*by)).collect();
                (by.len() >= proposal.quorum).then_some(set.rules)
            }
            _ => None,
        });
        used.map(|(rules, _)| *rules).chain(enacted).max()
    }
}
