//! What the logs hold, sorted for the fold: human statements with their anchors, and seals with their signers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ancestry::Ancestry;
use super::chain::Membership;
use super::cooldown::refuses;
use super::gathering::{Gathering, News};
use super::hearing::Sign;
use super::keys::KeyHistory;
use super::quarantine::Tangles;
use super::shared::AllSeals;
use crate::body::entry::{BoxOffer, CloseSeal, EnactSeal, SlotStatus};
use crate::body::hearing::NoticeSent;
use crate::body::proposal::Proposal;
use crate::body::{Body, Opaque};
use crate::ids::{CoopId, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds};
use crate::log::{Entry, Replica, Standing};
use crate::statement::Statement;

/// Where a human statement counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnchorAt {
    /// In which log.
    pub log: PublicKey,
    /// At which position.
    pub seq: Seq,
    /// When, by the operator's clock.
    pub at: UnixSeconds,
    /// What keeps the anchor from counting, if anything does.
    pub void: Option<Void>,
}

/// Why an anchor does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Void {
    /// The log forked at or before it.
    LogForked,
    /// Its author had used up the day.
    OverBudget,
}

/// A human statement and where it was anchored by its author's own operator.
#[derive(Clone, Debug)]
pub(super) struct Anchored {
    pub carrier: Arc<Statement>,
    pub anchor: AnchorAt,
    /// Keys that signed any anchored copy; copies differ only in their co-signatures.
    pub signers: BTreeSet<PublicKey>,
    /// What was said about its author's keys before it.
    pub keys: Arc<KeyHistory>,
    /// For a proposal: how many earlier ones of its author were open when it was issued.
    pub open_before: u32,
    /// The other places at which its author's operators anchored it.
    pub elsewhere: Vec<Anchored>,
}

impl Anchored {
    pub fn statement(&self) -> Option<&Statement> {
        self.carrier.nested()
    }

    /// Every place at which it stands. What holds at one of them holds: whoever has the key of a log that was replaced, and
    /// whoever forks its own, can anchor a statement anew where its key was not in force, and must undo nothing by that.
    pub fn places(&self) -> impl Iterator<Item = &Anchored> {
        std::iter::once(self).chain(&self.elsewhere)
    }

    fn also(&mut self, mut found: Self) {
        if found.anchor.void.is_none() {
            if self.anchor.void.is_some() {
                // The first place is the one by which it is told.
                std::mem::swap(self, &mut found);
                self.elsewhere = std::mem::take(&mut found.elsewhere);
            } else {
                self.signers.extend(&found.signers);
            }
        }
        self.elsewhere.push(found);
    }
}

/// A seal in somebody's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed<T> {
    /// The entry.
    pub id: StatementId,
    /// Whose.
    pub by: MemberId,
    /// In which log.
    pub log: PublicKey,
    /// Its position there.
    pub seq: Seq,
    /// When, by the operator's clock.
    pub at: UnixSeconds,
    /// What is sealed.
    pub seal: T,
}

impl Sealed<()> {
    fn of<T: Clone>(self, seal: &T) -> Sealed<T> {
        let Sealed { id, by, log, seq, at, seal: () } = self;
        Sealed { id, by, log, seq, at, seal: seal.clone() }
    }
}

impl<T> Sealed<T> {
    /// Whether it counts in `membership`: it stands in the log of a member's operator there. Somebody may still hold the key
    /// of a log that was replaced.
    pub(super) fn is_of(&self, membership: &Membership) -> bool {
        membership.is_log_of(&self.log, &self.by)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    pub proposals: BTreeMap<StatementId, Anchored>,
    /// The proposals that would follow each version.
    pub children: BTreeMap<PolicyHash, BTreeSet<StatementId>>,
    /// By what they are about.
    pub votes: BTreeMap<StatementId, BTreeMap<StatementId, Anchored>>,
    pub leaves: BTreeMap<StatementId, Anchored>,
    pub close: AllSeals<CloseSeal>,
    pub enact: AllSeals<EnactSeal>,
    pub offers: AllSeals<BoxOffer>,
    /// In the order of their logs and positions.
    pub statuses: Vec<Sealed<SlotStatus>>,
    /// Where seals may contradict each other.
    pub tangles: Tangles,
    /// By their entries.
    pub notices: BTreeMap<StatementId, Sealed<NoticeSent>>,
    /// By what they are about.
    pub appeals: BTreeMap<StatementId, BTreeMap<StatementId, Anchored>>,
    pub orders: BTreeMap<StatementId, Anchored>,
    /// By what they are about.
    pub co_signatures: BTreeMap<StatementId, BTreeMap<StatementId, Anchored>>,
    /// Members whose silence is voted on.
    pub watched: BTreeSet<MemberId>,
    /// Their entries.
    pub signs: BTreeMap<StatementId, Sign>,
    /// The time of the newest entry of each log.
    pub last_at: BTreeMap<PublicKey, UnixSeconds>,
    /// What may stand in a box of rules 2, by the entry that anchors it.
    pub said: BTreeMap<StatementId, Anchored>,
    /// The entries of `said` about each proposal.
    pub about: BTreeMap<StatementId, BTreeSet<StatementId>>,
    /// The entries of `said` that delegate or take a key back: they may stand in the box of any proposal.
    pub everywhere: BTreeSet<StatementId>,
    /// Close seals of rules 2 that say that a proposal was refused, and of which.
    pub refused: BTreeMap<StatementId, StatementId>,
    /// See `refused`.
    pub refused_proposals: BTreeSet<StatementId>,
    /// Whose logs hold what follows rules that this release cannot decide by.
    pub later_rules: BTreeMap<u32, BTreeSet<MemberId>>,
    /// What was said about keys up to the end of the part of each log that may have an effect.
    pub key_heads: BTreeMap<PublicKey, Arc<KeyHistory>>,
    /// Every step on the way there, on either branch.
    pub key_steps: BTreeMap<PublicKey, Vec<Arc<KeyHistory>>>,
    /// Whether a fork takes the place away from something that rules 1 may have decided.
    pub undoes: bool,
    forked: Option<Forked>,
}

/// What becomes of what rules 1 decided where the log that anchors it forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forked {
    /// Its anchor does not count, as under rules 1.
    Void,
    /// It stands.
    Stands,
}

pub(super) fn gather(replica: &Replica, forked: Forked) -> Gathered {
    Gathering::of(replica, forked).gathered
}

/// Where an entry stands.
pub(super) struct At<'a> {
    pub log: &'a PublicKey,
    pub owner: &'a MemberId,
    /// Where the log forked.
    pub fork: Option<Seq>,
    pub ancestry: &'a Ancestry,
    pub coop: CoopId,
}

impl Gathered {
    pub fn new(forked: Forked) -> Self {
        Self { forked: Some(forked), ..Self::default() }
    }

    /// Takes an entry; of those about one statement the ones at lower positions come first.
    pub fn add(&mut self, entry: &Entry, at: &At<'_>, news: &mut News) {
        let statement = &entry.statement;
        let (id, seq, time) = (statement.id(), entry.seq(), statement.header().issued_at);
        let counts = entry.standing == Standing::Valid;
        if counts {
            let last = self.last_at.entry(*at.log).or_insert(time);
            *last = (*last).max(time);
        }
        let inner = statement.nested().map(Statement::body);
        if let Body::Opaque(Opaque::UnsupportedRules(rules)) = inner.unwrap_or(statement.body()) {
            self.later_rules.entry(*rules).or_default().insert(at.owner.clone());
        }
        let sealed = Sealed { id, by: at.owner.clone(), log: *at.log, seq, at: time, seal: () };
        match statement.body() {
            Body::BoxOffer(offer) if counts => {
                news.about.insert(offer.proposal);
                self.offers.add(offer.proposal, sealed.of(offer), |_| false);
            }
            Body::CloseSeal(seal) if counts => {
                news.about.insert(seal.proposal);
                if refuses(seal) {
                    news.entries.push(id);
                    news.refused.insert(seal.proposal);
                    self.refused.insert(id, seal.proposal);
                    self.refused_proposals.insert(seal.proposal);
                }
                let again = self.close.add(seal.proposal, sealed.of(seal), |other| other.round == seal.round);
                self.tangles.note_close(seal, again);
            }
            Body::EnactSeal(seal) if counts => {
                news.about.insert(seal.proposal);
                self.enact.add(seal.proposal, sealed.of(seal), |_| false);
                self.tangles.note_enact(seal);
            }
            Body::SlotStatus(status) if counts => {
                let before = self.statuses.partition_point(|s| (s.log, s.seq, s.id) < (*at.log, seq, id));
                self.statuses.insert(before, sealed.of(status));
            }
            Body::NoticeSent(notice) if counts => {
                news.about.insert(notice.proposal);
                news.entries.push(id);
                self.notices.insert(id, sealed.of(notice));
            }
            Body::Anchor(_) => {
                let anchor = AnchorAt { log: *at.log, seq, at: time, void: None };
                if counts {
                    self.say(id, statement, anchor, at, news);
                }
                let void = match entry.standing {
                    // The budget is counted along the own chain: nothing that is learned later changes that.
                    Standing::OverBudget(_) => Some(Void::OverBudget),
                    Standing::Valid if at.fork.is_some_and(|fork| seq >= fork) => Some(Void::LogForked),
                    Standing::Valid => None,
                };
                self.anchor(statement, AnchorAt { void, ..anchor }, at, news);
            }
            _ => {}
        }
    }

    /// Notes what may stand in a box of rules 2: whether it does, its entry's id decides, and never what else is known.
    fn say(&mut self, entry: StatementId, carrier: &Arc<Statement>, anchor: AnchorAt, at: &At<'_>, news: &mut News) {
        let Some(inner) = carrier.nested() else { return };
        if inner.author() != at.owner || inner.coop() != at.coop {
            return;
        }
        let proposal = match inner.body() {
            Body::Vote(vote) => Some(vote.proposal),
            Body::Withdrawal(withdrawal) => Some(withdrawal.proposal),
            Body::Recusal(recusal) => Some(recusal.proposal),
            Body::Reply(reply) => Some(reply.proposal),
            Body::Delegation(_) | Body::KeyRevocation(_) => None,
            _ => return,
        };
        news.entries.push(entry);
        match proposal {
            Some(proposal) => {
                news.about.insert(proposal);
                self.about.entry(proposal).or_default().insert(entry);
            }
            None => {
                news.everything = true;
                self.everywhere.insert(entry);
            }
        }
        let (signers, keys) = (inner.signers().copied().collect(), Arc::clone(&at.ancestry.keys));
        let carrier = Arc::clone(carrier);
        self.said.insert(entry, Anchored { carrier, anchor, signers, keys, open_before: 0, elsewhere: Vec::new() });
    }

    fn anchor(&mut self, carrier: &Arc<Statement>, mut anchor: AnchorAt, at: &At<'_>, news: &mut News) {
        let Some(inner) = carrier.nested() else { return };
        // Only the operator of its author's own seat gives a statement its place; in any other log it is a copy.
        if inner.author() != at.owner || inner.coop() != at.coop {
            return;
        }
        let issued_at = inner.header().issued_at;
        let by_first_rules = match inner.body() {
            Body::Proposal(proposal) => proposal.since_rules() < 2,
            Body::Leave(_) => true,
            _ => false,
        };
        if by_first_rules && anchor.void == Some(Void::LogForked) {
            self.undoes = true;
            anchor.void = anchor.void.filter(|_| self.forked != Some(Forked::Stands));
        }
        let (place, open_before) = match inner.body() {
            Body::Proposal(proposal) => {
                if proposal.since_rules() >= 2 && anchor.void == Some(Void::LogForked) {
                    // Its author could undo what was decided by forking its own past.
                    anchor.void = None;
                }
                news.about.insert(inner.id());
                // Seals that refuse it were here before it.
                news.everything |= self.refused_proposals.contains(&inner.id());
                self.children.entry(proposal.parent).or_default().insert(inner.id());
                let earlier = at.ancestry.proposals.iter();
                let others = earlier.filter(|(id, closes)| **id != inner.id() && **closes > issued_at).count();
                (&mut self.proposals, others)
            }
            Body::Vote(vote) => {
                news.about.insert(vote.proposal);
                (self.votes.entry(vote.proposal).or_default(), 0)
            }
            Body::Leave(_) => (&mut self.leaves, 0),
            Body::EmergencyOrder(_) => (&mut self.orders, 0),
            Body::CoSignature(signature) => (self.co_signatures.entry(signature.order).or_default(), 0),
            Body::Appeal(appeal) => (self.appeals.entry(appeal.proposal).or_default(), 0),
            _ => return,
        };
        let open_before = u32::try_from(open_before).unwrap_or(u32::MAX);
        let (signers, keys) = (inner.signers().copied().collect(), Arc::clone(&at.ancestry.keys));
        let carrier = Arc::clone(carrier);
        let found = Anchored { carrier, anchor, signers, keys, open_before, elsewhere: Vec::new() };
        match place.get_mut(&inner.id()) {
            None => {
                place.insert(inner.id(), found);
            }
            Some(known) => known.also(found),
        }
    }
}

/// The proposal that a statement is.
pub(super) fn as_proposal(statement: &Statement) -> Option<&Proposal> {
    match statement.body() {
        Body::Proposal(proposal) => Some(proposal),
        _ => None,
    }
}
