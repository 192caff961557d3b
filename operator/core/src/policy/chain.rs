//! Policy chains: for every scope a hash-linked list of versions, and the members of every membership version.

use std::collections::{BTreeMap, BTreeSet};

use crate::body::member::{Member, MemberKeys};
use crate::body::proposal::Scope;
use crate::ids::{BoxRoot, ControlGroup, CoopId, Digest, MemberId, PolicyHash, PublicKey, StatementId, UnixSeconds};
use crate::tally::seal_quorum;

/// The version of `scope` that the charter itself is.
pub fn genesis(scope: Scope, coop: CoopId) -> PolicyHash {
    PolicyHash(Digest::of(format!("koinon/policy/v1\n{scope}\ngenesis\n{coop}\n").as_bytes()))
}

/// The version that enacting `proposal` on the box `root` after `parent` results in.
pub fn version_hash(scope: Scope, parent: PolicyHash, proposal: StatementId, root: BoxRoot) -> PolicyHash {
    PolicyHash(Digest::of(format!("koinon/policy/v1\n{scope}\n{parent}\n{proposal}\n{root}\n").as_bytes()))
}

/// One version of a policy chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its name.
    pub hash: PolicyHash,
    /// Its chain.
    pub scope: Scope,
    /// Counted from the charter, which is 0.
    pub number: u64,
    /// The version before it.
    pub parent: Option<PolicyHash>,
    /// What enacted it; `None` for the charter.
    pub enacted: Option<Enactment>,
}

/// What made a version, and the log entries that prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enactment {
    /// The proposal, or the statement with which a member left.
    pub proposal: StatementId,
    /// The box.
    pub root: BoxRoot,
    /// The version that results.
    pub version: PolicyHash,
    /// The attempt in which it succeeded.
    pub term: u32,
    /// From when on everybody can have known it: statements later than that cannot claim the version before.
    pub settled_at: UnixSeconds,
    /// The close seals that agree; none where a member left.
    pub close_seals: BTreeSet<StatementId>,
    /// The enact seals that agree.
    pub enact_seals: BTreeSet<StatementId>,
}

/// The members of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The version.
    pub hash: PolicyHash,
    /// Counted from the charter.
    pub number: u64,
    /// Its Active members: they vote, seal, and are counted.
    pub members: BTreeMap<MemberId, Member>,
    /// Members that are not counted: they neither vote nor seal.
    pub aside: BTreeMap<MemberId, Aside>,
    /// Ids and keys that were ever a member's up to this version: neither is used again.
    pub used_ids: BTreeSet<MemberId>,
    /// See `used_ids`.
    pub used_keys: BTreeSet<PublicKey>,
    /// See [`Enactment::settled_at`].
    pub settled_at: UnixSeconds,
}

impl Membership {
    pub(super) fn founding(coop: CoopId, founders: &[Member]) -> Self {
        let mut first = Self {
            hash: genesis(Scope::Membership, coop),
            number: 0,
            members: BTreeMap::new(),
            aside: BTreeMap::new(),
            used_ids: BTreeSet::new(),
            used_keys: BTreeSet::new(),
            settled_at: UnixSeconds(i64::MIN),
        };
        founders.iter().for_each(|founder| first.add(founder));
        first
    }

    fn add(&mut self, member: &Member) {
        self.use_up(member);
        self.members.insert(member.id.clone(), member.clone());
    }

    fn use_up(&mut self, member: &Member) {
        self.used_ids.insert(member.id.clone());
        self.used_keys.extend(member.keys.all());
    }

    pub(super) fn next(&self, enacted: &Enactment, change: MembershipChange<'_>) -> Self {
        let mut next = self.clone();
        (next.hash, next.number, next.settled_at) = (enacted.version, self.number + 1, enacted.settled_at);
        match change {
            MembershipChange::Admit(member) => next.add(member),
            MembershipChange::Probation(member, until) => {
                next.use_up(member);
                let aside = Aside { member: member.clone(), why: Why::Probation { until } };
                next.aside.insert(member.id.clone(), aside);
            }
            MembershipChange::Count(member) => {
                let counted = next.aside.remove(member).map(|aside| aside.member);
                next.members.extend(counted.map(|counted| (member.clone(), counted)));
            }
            MembershipChange::SetAside(id, since) => {
                let silent = next.members.remove(id).map(|member| Aside { member, why: Why::Dormant { since } });
                next.aside.extend(silent.map(|silent| (id.clone(), silent)));
            }
            MembershipChange::Part(member) => {
                next.members.remove(member);
                next.aside.remove(member);
            }
            MembershipChange::ResetKeys(member, keys) => {
                next.used_keys.extend(keys.all());
                let aside = next.aside.get_mut(member).map(|aside| &mut aside.member);
                if let Some(member) = next.members.get_mut(member).or(aside) {
                    member.keys = keys.clone();
                }
            }
        }
        next
    }

    /// How many of its members must seal.
    pub fn quorum(&self) -> usize {
        seal_quorum(self.members.len())
    }

    /// A member of this version, counted or not.
    pub fn get(&self, member: &MemberId) -> Option<&Member> {
        self.members.get(member).or_else(|| self.aside.get(member).map(|aside| &aside.member))
    }

    /// Whether `member` can go: the last one that is counted stays.
    pub(crate) fn may_part(&self, member: &MemberId) -> bool {
        self.aside.contains_key(member) || (self.members.contains_key(member) && self.members.len() > 1)
    }

    /// Whether `log` is the log of `member`'s operator in this version.
    pub fn is_log_of(&self, log: &PublicKey, member: &MemberId) -> bool {
        self.members.get(member).is_some_and(|m| m.keys.operator == *log)
    }

    /// The member whose governance key this is.
    pub fn governance(&self, author: &MemberId, key: &PublicKey) -> bool {
        self.members.get(author).is_some_and(|m| m.keys.governance.contains(key))
    }

    /// Who votes: the control groups and their members, without those of the members that it is about, counted or not.
    pub fn electors<'a>(
        &self,
        concerned: impl IntoIterator<Item = &'a MemberId>,
    ) -> BTreeMap<ControlGroup, BTreeSet<MemberId>> {
        let left_out: BTreeSet<&ControlGroup> =
            concerned.into_iter().filter_map(|id| self.get(id)).map(|m| &m.control_group).collect();
        let mut groups: BTreeMap<ControlGroup, BTreeSet<MemberId>> = BTreeMap::new();
        for member in self.members.values().filter(|m| !left_out.contains(&m.control_group)) {
            groups.entry(member.control_group.clone()).or_default().insert(member.id.clone());
        }
        groups
    }
}

/// A member that is not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// The member.
    pub member: Member,
    /// Why it is not.
    pub why: Why,
}

/// Why a member is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is new.
    Probation {
        /// From when on a vote may confirm it.
        until: UnixSeconds,
    },
    /// It has fallen silent.
    Dormant {
        /// When the vote on that closed.
        since: UnixSeconds,
    },
}

/// What a new membership version changes: one member at a time, so that quorums of neighbours overlap.
#[derive(Clone, Copy, Debug)]
pub(super) enum MembershipChange<'a> {
    Admit(&'a Member),
    /// It comes, and is not counted until it is confirmed, from that time on.
    Probation(&'a Member, UnixSeconds),
    /// It is counted from now on.
    Count(&'a MemberId),
    /// It is counted no more: it had been silent until that time.
    SetAside(&'a MemberId, UnixSeconds),
    /// It has left, or was expelled.
    Part(&'a MemberId),
    /// It has other keys.
    ResetKeys(&'a MemberId, &'a MemberKeys),
}
