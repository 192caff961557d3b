//! What must never happen, found from what was signed alone: without the fold, so that it can be held against it.
//!
//! The liar signs everything for which that is enough: it has a signature for each side, and shows each side its own.

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::body::entry::Outcome;
use koinon_core::body::proposal::Scope;
use koinon_core::ids::{BoxRoot, PolicyHash, StatementId};

use super::scenario::{Child, Scenario};
use koinon_core::body::{CloseSeal, EnactSeal};

/// Something that must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// One slot, or one version, has two children.
    TwoChildren,
    /// One proposal is enacted with two boxes.
    TwoBoxes,
    /// An enacted proposal stands beside a larger certified box with another outcome.
    TwoOutcomes,
    /// A box is certified with a vote that no honest operator held in time.
    LateVote,
    /// An enacted proposal stands beside its passed cancellation.
    CancelledAndEnacted,
    /// Two replicas hold the same entries and conclude different things.
    DifferentStates,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TwoChildren => "two children of one parent",
            Self::TwoBoxes => "one proposal enacted with two boxes",
            Self::TwoOutcomes => "enacted beside a larger box with another outcome",
            Self::LateVote => "a late vote is counted",
            Self::CancelledAndEnacted => "enacted and cancelled",
            Self::DifferentStates => "two states of the same entries",
        })
    }
}

/// The seals of one honest member.
pub(crate) struct Seals<'a> {
    pub member: usize,
    pub close: Vec<(&'a CloseSeal, BTreeSet<StatementId>)>,
    pub enact: Vec<&'a EnactSeal>,
}

/// A child in a term with a box.
type Held = (StatementId, u32, BoxRoot);

/// What the seals amount to.
#[derive(Debug, Default)]
pub(crate) struct Amounts {
    /// What is certified, with its count, outcome and box.
    pub certified: Vec<(Held, u32, Outcome, BTreeSet<StatementId>)>,
    /// What is enacted, by the version that it follows.
    pub enacted: BTreeMap<(Scope, PolicyHash), BTreeSet<Held>>,
}

impl Amounts {
    /// What `seals` amount to with the liar's signature under everything.
    pub fn of(scenario: &Scenario, seals: &[Seals<'_>]) -> Self {
        let mut close: BTreeMap<_, (BTreeSet<usize>, BTreeSet<StatementId>)> = BTreeMap::new();
        let mut enact: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
        for one in seals {
            for (seal, entries) in &one.close {
                let Some(child) = scenario.children.get(&seal.proposal) else { continue };
                let slot = seal.basis.as_ref().map_or(child.slot, |basis| basis.slot);
                let says =
                    (seal.proposal, slot, seal.root, seal.count, seal.membership_head, seal.outcome, seal.closed_at);
                let (signers, held) = close.entry(says).or_default();
                signers.insert(one.member);
                held.extend(entries);
            }
            for seal in &one.enact {
                enact.entry((seal.slot, seal.proposal, seal.root)).or_default().insert(one.member);
            }
        }
        let signers = |child: &Child, honest: &BTreeSet<usize>| {
            let liar = scenario.liar().filter(|liar| child.sealers.contains(liar));
            honest.iter().copied().chain(liar).filter(|who| child.sealers.contains(who)).collect::<BTreeSet<usize>>()
        };
        let mut amounts = Self::default();
        for ((id, slot, root, count, _, outcome, _), (honest, entries)) in close {
            let Some(child) = scenario.children.get(&id) else { continue };
            if signers(child, &honest).len() >= child.quorum {
                amounts.certified.push(((id, slot.term, root), count, outcome, entries));
            }
        }
        for ((slot, id, root), honest) in enact {
            let Some(child) = scenario.children.get(&id) else { continue };
            let enough =
                signers(child, &honest).iter().filter(|who| child.parts != Some(**who)).count() >= child.enact_quorum;
            let bound = amounts
                .certified
                .iter()
                .any(|(held, _, outcome, _)| *held == (id, slot.term, root) && *outcome == Outcome::Passed);
            if enough && bound {
                amounts.enacted.entry((slot.scope, slot.parent)).or_default().insert((id, slot.term, root));
            }
        }
        amounts
    }

    /// The first thing in it that must never happen.
    pub fn broken(&self, scenario: &Scenario) -> Option<Broken> {
        for of_parent in self.enacted.values() {
            let children: BTreeSet<StatementId> = of_parent.iter().map(|(id, ..)| *id).collect();
            let boxes: BTreeSet<(StatementId, BoxRoot)> = of_parent.iter().map(|(id, _, root)| (*id, *root)).collect();
            if children.len() > 1 {
                return Some(Broken::TwoChildren);
            }
            if boxes.len() > 1 {
                return Some(Broken::TwoBoxes);
            }
        }
        let enacted = || self.enacted.values().flatten();
        for ((id, _, root), count, outcome, entries) in &self.certified {
            if entries.intersection(&scenario.late).next().is_some() {
                return Some(Broken::LateVote);
            }
            let beside = enacted().any(|(other, _, with)| {
                other == id
                    && with != root
                    && self
                        .certified
                        .iter()
                        .any(|((same, _, r), smaller, ..)| same == id && r == with && smaller < count)
            });
            if beside && *outcome != Outcome::Passed {
                return Some(Broken::TwoOutcomes);
            }
            let cancels = scenario.children.get(id).and_then(|child| child.cancels);
            if *outcome == Outcome::Passed && enacted().any(|(target, ..)| cancels == Some(*target)) {
                return Some(Broken::CancelledAndEnacted);
            }
        }
        None
    }
}
