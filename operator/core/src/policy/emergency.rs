//! Orders that a few members give, and for how long each of them holds.
//!
//! Who stands behind an order follows from what is anchored, on whatever branch of a log: later entries only ever add to it.

use std::collections::{BTreeMap, BTreeSet};

use super::gather::{Anchored, Gathered, Void};
use super::keys::governs;
use super::{Membership, State};
use crate::body::Body;
use crate::body::emergency::{Cause, EmergencyOrder, Stop};
use crate::ids::{ControlGroup, ManifestDigest, MemberId, PolicyHash, PublicKey, Seconds, StatementId, UnixSeconds};

/// An order, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmergencyState {
    /// The order.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// What it stops, and why.
    pub stop: Stop,
    /// See `stop`.
    pub cause: Cause,
    /// Who stands behind it, its author included, without the member that it is about.
    pub signed: BTreeSet<MemberId>,
    /// How many owners do.
    pub owners: usize,
    /// How many must.
    pub needed: usize,
    /// When it lapses.
    pub until: UnixSeconds,
    /// The order that it may not follow so soon.
    pub barred_by: Option<StatementId>,
}

impl EmergencyState {
    /// Whether it holds at `now`.
    pub fn holds(&self, now: UnixSeconds) -> bool {
        self.takes_effect() && now < self.until
    }

    /// Whether enough members stand behind it, and nothing bars it.
    pub fn takes_effect(&self) -> bool {
        self.owners >= self.needed && self.barred_by.is_none()
    }
}

/// Why a member does no new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// A vote decided it, until another one.
    Voted(PolicyHash),
    /// An order.
    Ordered {
        /// Which one.
        order: StatementId,
        /// When it lapses.
        until: UnixSeconds,
    },
}

/// How many owners of `owners` must stand behind an order; those of the member that it is about do not.
pub fn co_signers(owners: usize) -> usize {
    owners.saturating_sub(1).min(owners.div_ceil(3).max(2)).max(1)
}

impl State {
    /// Every order that was anchored and names versions that are known here.
    pub fn emergencies(&self) -> &BTreeMap<StatementId, EmergencyState> {
        &self.emergencies
    }

    /// What stops `member` from new work at `now`, a vote before an order.
    pub fn suspended(&self, member: &MemberId, now: UnixSeconds) -> Option<Suspension> {
        let voted = self.member(member).and_then(|state| state.suspended).map(Suspension::Voted);
        voted.or_else(|| self.stopped(now, |stop| matches!(stop, Stop::Member(stopped) if stopped == member)))
    }

    /// What stops new copies of a model at `now`.
    pub fn frozen(&self, release: &ManifestDigest, now: UnixSeconds) -> Option<Suspension> {
        self.stopped(now, |stop| matches!(stop, Stop::Release(stopped) if stopped == release))
    }

    /// What stops work over connections of a key at `now`.
    pub fn blocked(&self, key: &PublicKey, now: UnixSeconds) -> Option<Suspension> {
        self.stopped(now, |stop| matches!(stop, Stop::Key(stopped) if stopped == key))
    }

    /// The next time after `now` at which an order lapses.
    pub fn next_lapse(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        self.emergencies.values().filter(|order| order.holds(now)).map(|order| order.until).min()
    }

    fn stopped(&self, now: UnixSeconds, about: impl Fn(&Stop) -> bool) -> Option<Suspension> {
        let orders = self.emergencies.values().filter(|order| order.holds(now) && about(&order.stop));
        let longest = orders.max_by_key(|order| (order.until, order.id))?;
        Some(Suspension::Ordered { order: longest.id, until: longest.until })
    }

    pub(super) fn read_emergencies(&mut self, gathered: &Gathered) {
        let read = |anchored: &Anchored| self.read_order(anchored, gathered);
        let mut orders: Vec<EmergencyState> = gathered.orders.values().filter_map(read).collect();
        orders.sort_by_key(|order| (order.issued_at, order.id));
        // The earlier one bars, and one that is barred itself bars nothing.
        let mut effective: Vec<(Stop, Cause, UnixSeconds, StatementId)> = Vec::new();
        for mut order in orders {
            let same = |(stop, cause, again_at, _): &&(Stop, Cause, UnixSeconds, StatementId)| {
                (stop, *cause) == (&order.stop, order.cause) && order.issued_at < *again_at
            };
            order.barred_by = effective.iter().find(same).map(|(.., id)| *id);
            if order.takes_effect() {
                let again_at = order.issued_at.plus(self.again_after(&order.id, gathered));
                effective.push((order.stop.clone(), order.cause, again_at, order.id));
            }
            self.emergencies.insert(order.id, order);
        }
    }

    fn again_after(&self, order: &StatementId, gathered: &Gathered) -> Seconds {
        let order = gathered.orders.get(order).and_then(as_order);
        order.and_then(|order| self.periods(&order.charter)).map_or(Seconds(0), |(_, again)| again)
    }

    /// How long an order holds, and for how long nobody may repeat it.
    fn periods(&self, charter: &PolicyHash) -> Option<(Seconds, Seconds)> {
        let members = self.charters.get(charter)?.parameters.deliberation?.members;
        Some((members.emergency_seconds, members.emergency_again_seconds))
    }

    fn read_order(&self, anchored: &Anchored, gathered: &Gathered) -> Option<EmergencyState> {
        let (statement, order) = (anchored.statement()?, as_order(anchored)?);
        let header = statement.header();
        let (holds, _) = self.periods(&order.charter)?;
        let pinned = self.membership_version(&order.membership)?;
        let until = header.issued_at.plus(holds);
        let subject = self.subject(order);
        let group = subject.as_ref().and_then(|member| pinned.get(member)).map(|member| &member.control_group);
        let co_signatures = gathered.co_signatures.get(&statement.id()).into_iter().flat_map(BTreeMap::values);
        let tolerance = self.charters.get(&order.charter)?.parameters.clock_tolerance_seconds;
        let mut signed = BTreeSet::new();
        for anchored in std::iter::once(anchored).chain(co_signatures) {
            let Some(author) = anchored.statement().map(|statement| statement.author()) else { continue };
            // A signature from before the order, or after its time, is for something else.
            let earliest = header.issued_at.minus(tolerance);
            let member = pinned.members.get(author).filter(|member| Some(&member.control_group) != group);
            let counts = |place: &Anchored| {
                place.anchor.void != Some(Void::OverBudget)
                    && (earliest..until).contains(&place.anchor.at)
                    && governs(&self.logs, pinned, place)
            };
            signed.extend(member.filter(|_| anchored.places().any(counts)).map(|member| member.id.clone()));
        }
        if !signed.contains(&header.author) {
            return None;
        }
        let (owners, needed) = (owners(pinned, &signed), co_signers(pinned.electors([]).len()));
        Some(EmergencyState {
            id: statement.id(),
            author: header.author.clone(),
            issued_at: header.issued_at,
            stop: order.stop.clone(),
            cause: order.cause,
            signed,
            owners,
            needed,
            until,
            barred_by: None,
        })
    }

    /// The member that an order is about.
    fn subject(&self, order: &EmergencyOrder) -> Option<MemberId> {
        match &order.stop {
            Stop::Member(member) => Some(member.clone()),
            Stop::Key(key) => self.key_began(key).cloned(),
            Stop::Release(_) => None,
        }
    }

    /// Whether a co-signature of `author` would count at `now`.
    pub(super) fn may_co_sign(&self, author: &MemberId, order: StatementId, now: UnixSeconds) -> bool {
        let Some(order) = self.emergencies.get(&order) else { return false };
        let is_about = matches!(&order.stop, Stop::Member(member) if member == author);
        order.barred_by.is_none() && now < order.until && !is_about
    }

    /// What keeps an order of `author` from taking effect, however many sign it.
    pub(super) fn order_problem(
        &self,
        author: &MemberId,
        order: &EmergencyOrder,
        now: UnixSeconds,
    ) -> Option<OrderProblem> {
        let pinned = self.membership_version(&order.membership);
        if pinned.is_none_or(|pinned| !pinned.members.contains_key(author)) || self.periods(&order.charter).is_none() {
            return Some(OrderProblem::UnknownVersion);
        }
        if self.subject(order).as_ref() == Some(author) {
            return Some(OrderProblem::OwnSubject);
        }
        if matches!(&order.stop, Stop::Member(member) if self.member(member).is_none_or(|m| m.standing.is_gone())) {
            return Some(OrderProblem::NoMember);
        }
        let earlier = self.emergencies.values().find(|earlier| {
            let again = self.parameters.deliberation.map_or(Seconds(0), |rules| rules.members.emergency_again_seconds);
            let same = (&earlier.stop, earlier.cause) == (&order.stop, order.cause);
            same && earlier.takes_effect() && now < earlier.issued_at.plus(again)
        });
        earlier.map(|earlier| OrderProblem::Again(earlier.id))
    }
}

/// Why an order is not anchored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderProblem {
    /// The membership or the charter that it names.
    #[error(
        "the membership that it names is not known here, its author is not Active in it, or the charter has no such orders"
    )]
    UnknownVersion,
    /// Nobody orders against itself.
    #[error("it is about its own author: cordon this member's cluster instead")]
    OwnSubject,
    /// It is about nobody.
    #[error("the member that it is about is none")]
    NoMember,
    /// The same was ordered for the same cause.
    #[error(
        "order {0} has stopped the same for the same cause, and it cannot be repeated so soon: propose it for a vote"
    )]
    Again(StatementId),
}

fn as_order(anchored: &Anchored) -> Option<&EmergencyOrder> {
    match anchored.statement()?.body() {
        Body::EmergencyOrder(order) => Some(order),
        _ => None,
    }
}

/// How many control groups these members are.
fn owners(pinned: &Membership, members: &BTreeSet<MemberId>) -> usize {
    let groups: BTreeSet<&ControlGroup> =
        members.iter().filter_map(|member| pinned.members.get(member)).map(|member| &member.control_group).collect();
    groups.len()
}
