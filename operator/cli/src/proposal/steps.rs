//! What operators have signed of a proposal, whose signature is missing, and what happens when.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use koinon_core::body::entry::Outcome;
use koinon_core::ids::{BoxRoot, MemberId, UnixSeconds};
use koinon_core::policy::{Phase, ProposalState, seal_from};
use serde::Serialize;

use crate::moment::Moment;

/// What operators have signed.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seals {
    /// Who must sign.
    pub sealers: BTreeSet<MemberId>,
    /// How many must agree on a box.
    pub needed: usize,
    /// How many must sign that it takes effect.
    pub needed_to_enact: usize,
    /// Who has said what it held; absent under rules 1, which know no offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offers: Option<Signed>,
    /// Who has sealed which box.
    pub boxes: Vec<SealedBox>,
    /// Who has sealed none.
    pub not_closed: BTreeSet<MemberId>,
    /// Who has signed that it takes effect.
    pub enact: Signed,
}

/// Who has signed, and who has not.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// These.
    pub by: BTreeSet<MemberId>,
    /// Not these.
    pub missing: BTreeSet<MemberId>,
}

/// A box that operators have sealed.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedBox {
    /// Which.
    pub root: BoxRoot,
    /// What it amounts to.
    pub outcome: Outcome,
    /// How many entries are in it.
    pub entries: u32,
    /// By whom it is sealed.
    pub by: BTreeSet<MemberId>,
}

/// Something that the clock brings.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When.
    pub at: Moment,
    /// What.
    pub what: &'static str,
}

/// What operators have signed of `proposal`. Of several seals of one operator the last one is its word.
pub fn seals(proposal: &ProposalState) -> Seals {
    let signed = |by: BTreeSet<MemberId>| Signed { missing: missing(proposal, &by), by };
    let mut boxes: BTreeMap<(u32, BoxRoot), SealedBox> = BTreeMap::new();
    let mut closed = BTreeSet::new();
    for member in &proposal.sealers {
        let Some(last) = proposal.last_close_seal(member) else { continue };
        let (root, outcome, entries) = (last.seal.root, last.seal.outcome, last.seal.count);
        let fresh = SealedBox { root, outcome, entries, by: BTreeSet::new() };
        boxes.entry((entries, root)).or_insert(fresh).by.insert(member.clone());
        closed.insert(member.clone());
    }
    Seals {
        sealers: proposal.sealers.clone(),
        needed: proposal.quorum,
        needed_to_enact: proposal.enact_quorum,
        offers: (proposal.rules >= 2).then(|| signed(proposal.offers.iter().map(|offer| offer.by.clone()).collect())),
        boxes: boxes.into_values().rev().collect(),
        not_closed: missing(proposal, &closed),
        enact: signed(proposal.enact_seals.iter().map(|seal| seal.by.clone()).collect()),
    }
}

fn missing(proposal: &ProposalState, have: &BTreeSet<MemberId>) -> BTreeSet<MemberId> {
    proposal.sealers.difference(have).cloned().collect()
}

/// What is still to come of `proposal`, in order.
pub fn steps(proposal: &ProposalState, phase: &Phase, now: UnixSeconds, zone: &TimeZone) -> Vec<Step> {
    if phase.is_final() {
        return Vec::new();
    }
    let body = &proposal.proposal;
    let certificate = proposal.certificates.first();
    let closed_at = certificate.map_or(proposal.ballot.closed_at, |sealed| sealed.closed_at);
    let early = proposal.parameters.close_when_all_voted && !proposal.ballot.all_voted && certificate.is_none();
    let closes = if early {
        "votes count until here, or until everybody with a vote has voted"
    } else {
        "votes count until here"
    };
    let mut all = vec![(body.opens_at, "votes count from here on"), (closed_at, closes)];
    if certificate.is_none() {
        let offered = closed_at.plus(proposal.parameters.grace_seconds);
        if proposal.rules >= 2 {
            all.push((offered, "operators offer the votes that they hold"));
            all.push((seal_from(closed_at, &proposal.parameters), "operators seal the box that enough offers make"));
            all.push((proposal.seal_by(), "without enough seals on one box it is Stalled after this"));
        } else {
            all.push((offered, "operators seal the box"));
        }
    }
    // A class without a timelock takes effect as soon as its box can be sealed.
    let sealed = certificate.map_or(seal_from(closed_at, &proposal.parameters), |_| closed_at);
    let in_force = proposal.eta(closed_at).max(if proposal.rules >= 2 { sealed } else { closed_at });
    all.push((in_force, "if it passes: operators sign that it takes effect, and it is in force"));
    let last = certificate.map_or(body.expires_at, |sealed| proposal.deadline(sealed.slot));
    all.push((last, "without enough of those signatures it is not enacted in this term"));
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().filter(|(at, _)| *at > now).map(|(at, what)| Step { at: Moment::new(at, zone), what }).collect()
}
