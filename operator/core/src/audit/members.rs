//! What an audit reports of members: their standing, keys and logs, proofs against them, and orders about them.

use std::collections::BTreeSet;

use serde::Serialize;

use super::report::Signed;
use crate::body::Body;
use crate::body::emergency::{Cause, Stop};
use crate::body::hearing::Notice;
use crate::ids::{Digest, Line, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds};
use crate::log::Replica;
use crate::policy::{EmergencyState, KeyChange, MemberStanding, MemberState, Offence, Proof, State, Why};

/// A member, present or past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberReport {
    /// Its id.
    pub id: MemberId,
    /// The legal owner.
    pub owner: Line,
    /// What it is.
    pub standing: &'static str,
    /// The membership version with which it came.
    pub since: PolicyHash,
    /// The one with which it left.
    pub left: Option<PolicyHash>,
    /// Where its log forked.
    pub forked_at: Option<Seq>,
    /// Where it is not counted: until when it is new, or since when it is silent.
    pub aside: Option<UnixSeconds>,
    /// The version that suspended it, while it is.
    pub suspended: Option<PolicyHash>,
    /// The number of its key set.
    pub key_number: Option<u32>,
    /// The governance keys that are in force.
    pub governance: BTreeSet<PublicKey>,
    /// Its logs, the first one first.
    pub logs: Vec<LogReport>,
    /// Proofs against its operator that no vote has lifted.
    pub quarantine: Vec<ProofReport>,
}

/// A log of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogReport {
    /// The log.
    pub log: PublicKey,
    /// How many its owner had before.
    pub generation: u32,
    /// The number of the membership version that put another one in its place.
    pub replaced: Option<u64>,
}

/// A proof against an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProofReport {
    /// Its name.
    pub id: Digest,
    /// What was done, and where.
    pub offence: String,
    /// One entry that shows it.
    pub first: StatementId,
    /// The other.
    pub second: StatementId,
}

/// Something that people said about their keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyReport {
    /// The entry that anchors it.
    pub entry: StatementId,
    /// Whose keys.
    pub member: MemberId,
    /// The statement.
    pub id: StatementId,
    /// What it says.
    pub change: String,
    /// Whether it holds, by name.
    pub verdict: &'static str,
    /// The same for people, where it does not.
    pub why: Option<String>,
}

/// An emergency order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderReport {
    /// The order.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// What it stops.
    pub stop: String,
    /// Why.
    pub cause: &'static str,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// When it lapses.
    pub until: UnixSeconds,
    /// Who stands behind it.
    pub signed: BTreeSet<MemberId>,
    /// How many owners do.
    pub owners: usize,
    /// How many must.
    pub needed: usize,
    /// The order that it may not follow so soon.
    pub barred_by: Option<StatementId>,
    /// What became of it when the bundle was exported.
    pub standing: OrderStanding,
}

/// See [`OrderReport::standing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum OrderStanding {
    /// It stops what it names.
    Holds,
    /// Its time is over.
    Lapsed,
    /// Too few stand behind it.
    Short,
    /// An earlier one bars it.
    Barred,
}

/// What an operator said of whether a member was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NoticeReport {
    /// The entry, whose, and when.
    pub by: Signed,
    /// What it says.
    pub notice: Notice,
}

/// An entry on a branch that the bundle does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BranchReport {
    /// Whose log.
    pub member: MemberId,
    /// The log.
    pub log: PublicKey,
    /// The position.
    pub seq: Seq,
    /// The entry.
    pub entry: StatementId,
}

pub(super) fn members(state: &State) -> Vec<MemberReport> {
    state.members().values().map(|member| MemberReport::of(state, member)).collect()
}

pub(super) fn branches(replica: &Replica) -> Vec<BranchReport> {
    let beyond = replica.unlisted().filter_map(|(entry, _)| {
        let (member, log) = (entry.author().clone(), entry.header().key);
        Some(BranchReport { member, log, seq: entry.log_seq()?, entry: entry.id() })
    });
    beyond.collect()
}

pub(super) fn keys(state: &State) -> Vec<KeyReport> {
    state.key_changes().iter().map(|(entry, change)| KeyReport::of(*entry, change)).collect()
}

pub(super) fn orders(state: &State, as_of: UnixSeconds) -> Vec<OrderReport> {
    state.emergencies().values().map(|order| OrderReport::of(order, as_of)).collect()
}

pub(super) fn notices(state: &State, proposal: StatementId) -> Vec<NoticeReport> {
    let about = state.notices().iter().filter(|notice| notice.seal.proposal == proposal);
    about
        .map(|sealed| {
            let by = Signed { id: sealed.id, by: sealed.by.clone(), at: sealed.at };
            NoticeReport { by, notice: sealed.seal.notice }
        })
        .collect()
}

impl MemberReport {
    fn of(state: &State, m: &MemberState) -> Self {
        let id = &m.member.id;
        let aside = state.membership().and_then(|membership| membership.aside.get(id));
        let keys = state.key_set(id);
        let logs = state.logs().iter().filter(|(_, log)| log.owner == *id);
        let mut logs: Vec<LogReport> = logs
            .map(|(log, began)| LogReport { log: *log, generation: began.generation, replaced: began.replaced })
            .collect();
        logs.sort_by_key(|log| log.generation);
        Self {
            id: id.clone(),
            owner: m.member.owner.clone(),
            standing: match m.standing {
                MemberStanding::Active => "Active",
                MemberStanding::Probationary => "Probationary",
                MemberStanding::Dormant => "Dormant",
                MemberStanding::Leaving => "Leaving",
                MemberStanding::Left => "Left",
                MemberStanding::Expelled => "Expelled",
            },
            since: m.since,
            left: m.left,
            forked_at: m.forked_at,
            aside: aside.map(|aside| match aside.why {
                Why::Probation { until } => until,
                Why::Dormant { since } => since,
            }),
            suspended: m.suspended,
            key_number: keys.map(|set| set.number),
            governance: keys.map(|set| set.governance.clone()).unwrap_or_default(),
            logs,
            quarantine: m.quarantine.iter().map(|(name, proof)| ProofReport::of(*name, proof)).collect(),
        }
    }
}

impl ProofReport {
    fn of(id: Digest, proof: &Proof) -> Self {
        let offence = match proof.offence {
            Offence::Fork { seq } => format!("fork {seq}"),
            Offence::TwoInRound { proposal, round } => format!("round {proposal} {round}"),
            Offence::TwoPassed { slot } => format!("passed {} {} {}", slot.scope, slot.parent, slot.term),
            Offence::TwoEnacted { slot } => format!("enacted {} {} {}", slot.scope, slot.parent, slot.term),
        };
        let [first, second] = proof.entries;
        Self { id, offence, first, second }
    }
}

impl KeyReport {
    fn of(entry: StatementId, said: &KeyChange) -> Self {
        let change = match &said.body {
            Body::KeyUpdate(update) => {
                let keys: Vec<String> = update.governance.iter().map(ToString::to_string).collect();
                format!("update {} {}", update.number, if keys.is_empty() { "-".to_owned() } else { keys.join(",") })
            }
            Body::KeyRevocation(revoked) => format!("revoke {} {} {}", revoked.key, revoked.log, revoked.since_seq),
            _ => String::new(),
        };
        Self {
            entry,
            member: said.member.clone(),
            id: said.id,
            change,
            verdict: said.problem.as_ref().map_or("Holds", |problem| problem.category()),
            why: said.problem.as_ref().map(ToString::to_string),
        }
    }

    /// What it says and what became of it.
    pub(super) fn told(&self) -> String {
        format!("{} {}", self.change, self.verdict)
    }
}

impl OrderReport {
    fn of(order: &EmergencyState, as_of: UnixSeconds) -> Self {
        let standing = match order {
            barred if barred.barred_by.is_some() => OrderStanding::Barred,
            short if !short.takes_effect() => OrderStanding::Short,
            holds if holds.holds(as_of) => OrderStanding::Holds,
            _ => OrderStanding::Lapsed,
        };
        Self {
            id: order.id,
            author: order.author.clone(),
            stop: match &order.stop {
                Stop::Member(member) => format!("member {member}"),
                Stop::Release(digest) => format!("release {digest}"),
                Stop::Key(key) => format!("key {key}"),
            },
            cause: match order.cause {
                Cause::KeyCompromise => "keyCompromise",
                Cause::Safety => "safety",
                Cause::Fraud => "fraud",
                Cause::Legal => "legal",
            },
            issued_at: order.issued_at,
            until: order.until,
            signed: order.signed.clone(),
            owners: order.owners,
            needed: order.needed,
            barred_by: order.barred_by,
            standing,
        }
    }
}
