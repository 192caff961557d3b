//! Safety: what must never be, whoever lies, as long as they are few enough.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_core::body::entry::Outcome;
use koinon_core::body::proposal::{Action, Scope};
use koinon_core::ids::{MemberId, PolicyHash, StatementId, UnixSeconds};
use koinon_core::policy::{Commons, ProposalState, State, Verdict};
use koinon_core::recovery::resumed_at;
use koinon_core::sealing::{self, Circumstances};
use koinon_core::statement::Statement;

use super::node::Node;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Violation {
    /// One version has two children.
    #[error("{scope} has two versions after {parent}")]
    TwoVersions {
        /// The chain.
        scope: Scope,
        /// What both follow.
        parent: PolicyHash,
    },
    /// A replica held a version that it holds no more.
    #[error("a version of {0} that was in force is undone")]
    Undone(Scope),
    /// A cancellation passed, and what it stops is in force.
    #[error("{0} is in force and cancelled")]
    CancelledAndEnacted(StatementId),
    /// An entry counts that no honest operator held in time.
    #[error("entry {entry} counts for {proposal}, and no honest operator held it in time")]
    Late {
        /// On what.
        proposal: StatementId,
        /// The entry.
        entry: StatementId,
    },
    /// A statement counts that its author never made.
    #[error("{0} counts, and nobody said it")]
    Forged(StatementId),
    /// Two replicas hold the same and conclude different things.
    #[error("members that hold the same entries conclude different things")]
    Unequal,
    /// Who forgets what a checkpoint settles concludes something else than who does not.
    #[error("forgetting what was settled up to {before} changes {what}")]
    Forgotten {
        /// Up to when.
        before: UnixSeconds,
        /// What differs.
        what: &'static str,
    },
    /// What was signed does not read back.
    #[error("entry {0} does not read back as it was signed")]
    ReadBack(StatementId),
    /// The code panicked.
    #[error("panic")]
    Panic,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub violations: BTreeSet<Violation>,
    /// What people have said themselves.
    pub said: BTreeSet<StatementId>,
    /// Entries that liars have written in others' names.
    pub forgeries: BTreeSet<StatementId>,
    children: BTreeMap<(Scope, PolicyHash), PolicyHash>,
    enacted: BTreeSet<StatementId>,
    cancelled: BTreeSet<StatementId>,
    /// What each replica held last.
    chains: BTreeMap<(usize, usize), BTreeMap<Scope, Vec<PolicyHash>>>,
}

impl Watch {
    fn found(&mut self, violation: Violation) {
        self.violations.insert(violation);
    }

    /// Looks at what one replica concludes now.
    pub fn observe(&mut self, who: usize, face: usize, state: &State) {
        for scope in Scope::ALL {
            let chain = state.chain(scope);
            let known = self.chains.entry((who, face)).or_default().entry(scope).or_default();
            let same =
                known.len() <= chain.len() && known.iter().zip(chain).all(|(hash, version)| *hash == version.hash);
            if same && known.len() == chain.len() {
                continue;
            }
            *known = chain.iter().map(|version| version.hash).collect();
            if !same {
                self.found(Violation::Undone(scope));
            }
            for version in chain {
                let (Some(parent), Some(enacted)) = (version.parent, &version.enacted) else { continue };
                self.child(scope, parent, version.hash);
                self.enacted.insert(enacted.proposal);
            }
        }
        for proposal in state.proposals().values() {
            if let Action::CancelProposal(cancel) = &proposal.proposal.action
                && proposal.certificates.iter().any(|c| c.outcome == Outcome::Passed)
            {
                self.cancelled.insert(cancel.proposal);
            }
        }
        if let Some(both) = self.enacted.intersection(&self.cancelled).next() {
            self.found(Violation::CancelledAndEnacted(*both));
        }
    }

    fn child(&mut self, scope: Scope, parent: PolicyHash, hash: PolicyHash) {
        if *self.children.entry((scope, parent)).or_insert(hash) != hash {
            self.found(Violation::TwoVersions { scope, parent });
        }
    }

    /// A replica was replaced by an older one.
    pub fn replaced(&mut self, who: usize, face: usize, state: &State) {
        self.chains.remove(&(who, face));
        self.observe(who, face, state);
    }

    /// An entry was stored.
    pub fn forged(&mut self, id: StatementId) {
        if self.forgeries.contains(&id) {
            self.found(Violation::Forged(id));
        }
    }

    /// A false signature was taken for a good one.
    pub fn forged_signature(&mut self, id: StatementId) {
        self.found(Violation::Forged(id));
    }

    /// Reads an entry as a stranger would.
    pub fn reads_back(&mut self, entry: &Statement) {
        if Statement::verify(entry.envelope().clone()).as_ref() != Ok(entry) {
            self.found(Violation::ReadBack(entry.id()));
        }
    }

    /// Members that hold the same must conclude the same.
    pub fn same(&mut self, who: usize, member: &Commons, outsider: &Commons) {
        let held = |commons: &Commons| -> BTreeSet<StatementId> {
            let replica = commons.replica();
            replica.logs().flat_map(|(log, _)| replica.all(log)).map(|entry| entry.id()).collect()
        };
        let equal = Arc::ptr_eq(member.state(), outsider.state()) || member.state() == outsider.state();
        if !equal && held(member) == held(outsider) {
            self.found(Violation::Unequal);
        }
        self.observe(who, 0, member.state());
    }

    /// Looks at everything that anybody holds.
    pub fn outsider(&mut self, outsider: &Commons, nodes: &[Node]) {
        let state = outsider.state();
        self.observe(usize::MAX, 0, state);
        let longest = self.chains.clone();
        for (scope, chain) in longest.values().flatten() {
            let known: Vec<PolicyHash> = state.chain(*scope).iter().map(|version| version.hash).collect();
            if !known.starts_with(chain) {
                self.found(Violation::Undone(*scope));
            }
        }
        for proposal in state.proposals().values() {
            self.proven(proposal);
            self.late(proposal, outsider, nodes);
            let counted = proposal.votes.iter().filter(|vote| vote.verdict == Verdict::Counted);
            for vote in counted.filter(|vote| !self.said.contains(&vote.id)).collect::<Vec<_>>() {
                self.violations.insert(Violation::Forged(vote.id));
            }
        }
    }

    /// Whether whoever forgets what would be settled at `before` decides and seals as whoever holds everything. It forgets
    /// the way it would in operation: first up to some time, then up to a later one.
    pub fn forgetful(&mut self, outsider: &Commons, nodes: &[Node], before: [UnixSeconds; 2], now: UnixSeconds) {
        let mut forgetful = outsider.clone();
        for before in before {
            let [full, short] = [outsider, &forgetful].map(|commons| commons.as_if_settled(before));
            let (Some(full), Some(short)) = (full, short) else { continue };
            let remains = |commons: &Commons| commons.replica().settled().map(|settled| settled.digest());
            let mut honest = nodes.iter().filter(|node| !node.lies);
            let seal_alike = honest.all(|node| {
                let at = Circumstances {
                    resumed_at: resumed_at(outsider.replica(), &node.log()),
                    ..Circumstances::good(now)
                };
                let me = &node.who.member.id;
                sealing::next(outsider.state(), me, &at) == sealing::next(short.state(), me, &at)
            });
            let (all, less) = (outsider.state(), short.state());
            let versions = |state: &State| Scope::ALL.map(|scope| state.chain(scope).last().map(|v| v.hash));
            let same = [
                ("versions", versions(all) == versions(less)),
                ("members", all.members() == less.members()),
                ("what is in force", (all.releases(), all.norms()) == (less.releases(), less.norms())),
                ("open proposals", open(all) == open(less)),
                ("what is sealed", seal_alike),
                ("what remains", remains(&full) == remains(&short)),
            ];
            for (what, _) in same.into_iter().filter(|(_, same)| !same) {
                self.found(Violation::Forgotten { before, what });
            }
            forgetful = short;
        }
    }

    /// Notes every version that seals prove, also those that a replica would not take because it has another.
    fn proven(&mut self, proposal: &ProposalState) {
        let (scope, parent) = (proposal.proposal.scope, proposal.proposal.parent);
        for certificate in proposal.certificates.iter().filter(|c| c.outcome == Outcome::Passed) {
            let (eta, latest) = (proposal.eta(certificate.closed_at), proposal.deadline(certificate.slot));
            let signed: BTreeMap<&MemberId, PolicyHash> = proposal
                .enact_seals
                .iter()
                .filter(|s| s.seal.slot == certificate.slot && s.seal.root == certificate.root)
                .filter(|s| s.at >= eta && s.at <= latest)
                .map(|s| (&s.by, s.seal.version))
                .collect();
            if scope != Scope::Cancellations
                && signed.len() >= proposal.enact_quorum
                && let Some(version) = signed.into_values().next()
            {
                self.child(scope, parent, version);
                self.enacted.insert(proposal.id);
            }
        }
    }

    /// Whether a certified box holds what no honest operator had when it closed.
    fn late(&mut self, proposal: &ProposalState, outsider: &Commons, nodes: &[Node]) {
        let parameters = proposal.parameters;
        let last = proposal.proposal.closes_at.plus(parameters.grace_seconds).plus(parameters.clock_tolerance_seconds);
        // Operators that lost their memory are among the faulty that the quorums bear: they witness nothing.
        let is_witness = |node: &&Node| !node.lies && !node.forgot && proposal.sealers.contains(&node.who.member.id);
        let witnesses: Vec<&Node> = nodes.iter().filter(is_witness).collect();
        let in_time =
            |entry: &StatementId| witnesses.iter().any(|node| node.held.get(entry).is_some_and(|at| *at <= last));
        let boxed = proposal.certificates.iter().flat_map(|c| &c.entries);
        let entries: BTreeSet<StatementId> = boxed.copied().filter(|e| outsider.replica().contains(e)).collect();
        for entry in entries {
            if !in_time(&entry) {
                self.found(Violation::Late { proposal: proposal.id, entry });
            }
        }
    }
}

/// The proposals that something may still come of.
fn open(state: &State) -> Vec<&ProposalState> {
    let is_next = |p: &ProposalState| p.proposal.parent == state.head(p.proposal.scope);
    let may_follow = |p: &&ProposalState| match &p.proposal.action {
        // It is over with what it would stop.
        Action::CancelProposal(cancel) => state.proposals().get(&cancel.proposal).is_some_and(is_next),
        _ => is_next(p),
    };
    state.proposals().values().filter(|p| p.invalid.is_none()).filter(may_follow).collect()
}
