//! The ballot box of a proposal: which votes are in it, which of them count, when it closes.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::Membership;
use super::cooldown::Refusal;
use super::gather::{AnchorAt, Anchored, Void};
use super::keys::{Logs, governs};
use super::shown::{DelegationFate, Heard, StandIn, Through};
use crate::body::Body;
use crate::body::charter::{ClassRules, Parameters};
use crate::body::keys::KeyRevocation;
use crate::body::proposal::{Choice, Ground, Proposal, Vote};
use crate::ids::{BoxRoot, ControlGroup, MemberId, StatementId, UnixSeconds};
use crate::merkle;
use crate::statement::Statement;
use crate::tally::{Counts, Tally, tally};

/// Whether a vote counts, or what keeps it from counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Verdict {
    /// It counts.
    #[error("counted")]
    Counted,
    /// A later vote of the same control group replaces it.
    #[error("replaced by a later vote of the same owner")]
    Superseded,
    /// Its author gave two choices under one number: neither counts.
    #[error("its author cast two different votes under one vseq, so neither counts")]
    Equivocation,
    /// Votes are final here, and its author had voted.
    #[error("its author had voted already, and this cooperative's votes are final")]
    AlreadyFinal,
    /// Its author may not vote on this.
    #[error("its author is not among the electors of this proposal")]
    NotElector,
    /// It is signed by a key that may not vote.
    #[error("it is signed by a key that is no governance key of its author (an operator key cannot vote)")]
    WrongKeyRole,
    /// Its author has taken the key back.
    #[error("its author has revoked the key that signed it, from before it was anchored")]
    Revoked,
    /// It is dated before the opening.
    #[error("it is dated before the vote opened")]
    TooEarly,
    /// It is dated after the close.
    #[error("it is dated after the vote closed")]
    TooLate,
    /// It reached its author's operator too late.
    #[error("its author's operator anchored it too late")]
    AnchoredTooLate,
    /// A veto without ground.
    #[error("a veto needs a ground: legal, safety, solvency or charter")]
    VetoWithoutGround,
    /// Its author declared an interest.
    #[error("its author has recused itself from this proposal")]
    Recused,
    /// Too few operators had it when the vote closed.
    #[error("too few operators held it when the vote closed, so it is not in the sealed box")]
    NotInBox,
    /// A number beyond those that a box takes.
    #[error("its vseq is beyond the {} that one author may use on one proposal", super::MAX_VSEQ)]
    TooManyVotes,
    /// The log in which it is anchored forked before it.
    #[error("the log of its author's operator forked before it was anchored")]
    LogForked,
    /// The log in which it is anchored had used up its day.
    #[error("its author's operator had used up the charter's budget of the day")]
    OverBudget,
    /// The proposal is not valid, or not known here.
    #[error("its proposal is not valid or not known here")]
    NoProposal,
}

impl Verdict {
    /// A short name for conditions and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counted => "Counted",
            Self::Superseded => "Superseded",
            Self::Equivocation => "Equivocation",
            Self::AlreadyFinal => "AlreadyFinal",
            Self::NotElector => "NotElector",
            Self::WrongKeyRole => "WrongKeyRole",
            Self::Revoked => "Revoked",
            Self::TooEarly => "TooEarly",
            Self::TooLate => "TooLate",
            Self::AnchoredTooLate => "AnchoredTooLate",
            Self::VetoWithoutGround => "VetoWithoutGround",
            Self::Recused => "Recused",
            Self::NotInBox => "NotInBox",
            Self::TooManyVotes => "TooManyVotes",
            Self::LogForked => "LogForked",
            Self::OverBudget => "OverBudget",
            Self::NoProposal => "NoProposal",
        }
    }

    /// Whether the vote is sealed into the box: it counts, or shows why another one does not.
    fn in_box(self) -> bool {
        matches!(self, Self::Counted | Self::Superseded | Self::Equivocation)
    }
}

/// A vote and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteRecord {
    /// The vote.
    pub id: StatementId,
    /// Whose.
    pub author: MemberId,
    /// How.
    pub choice: Choice,
    /// Its number among its author's votes.
    pub vseq: u32,
    /// Why, for a veto.
    pub ground: Option<Ground>,
    /// When it was signed.
    pub issued_at: UnixSeconds,
    /// Where it was anchored.
    pub anchor: AnchorAt,
    /// Whether it counts.
    pub verdict: Verdict,
}

impl VoteRecord {
    pub(super) fn of(anchored: &Anchored) -> Option<Self> {
        let statement = anchored.statement()?;
        let Body::Vote(vote) = statement.body() else { return None };
        Some(Self {
            id: statement.id(),
            author: statement.author().clone(),
            choice: vote.choice,
            vseq: vote.vseq,
            ground: vote.ground,
            issued_at: statement.header().issued_at,
            anchor: anchored.anchor,
            verdict: Verdict::NoProposal,
        })
    }
}

/// A ballot box as this replica holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BallotBox {
    /// The ids of the votes in it.
    pub ids: BTreeSet<StatementId>,
    /// Their Merkle root.
    pub root: BoxRoot,
    /// When it closed or will.
    pub closed_at: UnixSeconds,
    /// Whether it closed because all have voted.
    pub all_voted: bool,
    /// The count.
    pub tally: Tally,
    /// What counts for each control group, and how it came about.
    pub counted: BTreeMap<ControlGroup, Heard>,
    /// What members have left to others, as far as the charter lets it for this proposal.
    pub stand_ins: Vec<StandIn>,
}

/// Who does not vote itself, and who votes for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Standins {
    /// Members that have declared an interest.
    pub recused: BTreeSet<MemberId>,
    /// The newest delegation of every member, by its id: from whom, to whom.
    pub delegated: BTreeMap<StatementId, (MemberId, MemberId)>,
    /// What members take back of what their keys have signed.
    pub revocations: Vec<(MemberId, KeyRevocation)>,
}

/// What votes amount to, before anybody names the box that holds them.
pub(super) struct Counted {
    /// The votes that count, or show why another one does not.
    pub ids: BTreeSet<StatementId>,
    pub closed_at: UnixSeconds,
    pub all_voted: bool,
    pub tally: Tally,
    pub counted: BTreeMap<ControlGroup, Heard>,
    pub stand_ins: Vec<StandIn>,
}

/// What is fixed for every vote on a proposal.
pub(super) struct Poll<'a> {
    pub proposal: &'a Proposal,
    pub membership: &'a Membership,
    pub rules: &'a ClassRules,
    pub parameters: &'a Parameters,
    /// All logs, to judge which key was in force where.
    pub logs: &'a Logs,
    /// Who votes: the control groups and their members.
    electors: BTreeMap<ControlGroup, BTreeSet<MemberId>>,
    /// Earlier votes that refused the same.
    pub refusals: Vec<Refusal>,
}

impl<'a> Poll<'a> {
    pub fn new(
        proposal: &'a Proposal,
        membership: &'a Membership,
        rules: &'a ClassRules,
        parameters: &'a Parameters,
        logs: &'a Logs,
    ) -> Self {
        let electors = membership.electors(proposal.subject.iter().chain(&proposal.interested));
        Self { proposal, membership, rules, parameters, logs, electors, refusals: Vec::new() }
    }

    /// Whether `member` votes.
    pub fn is_elector(&self, member: &MemberId) -> bool {
        let group = self.membership.members.get(member).and_then(|m| self.electors.get(&m.control_group));
        group.is_some_and(|members| members.contains(member))
    }

    /// Whether it is decided by rules 2, where a box is what enough operators held, not what their authors' clocks say.
    pub fn is_complete(&self) -> bool {
        self.proposal.since_rules() >= 2
    }

    /// Whether a statement is signed by a key that may speak for its author where it is anchored. Under rules 1 keys do not
    /// change.
    pub fn governs(&self, anchored: &Anchored) -> bool {
        if self.is_complete() {
            return governs(self.logs, self.membership, anchored);
        }
        let header = anchored.statement().map(Statement::header);
        header.is_some_and(|header| self.membership.governance(&header.author, &header.key))
    }

    /// Judges one vote by itself; `governs` says whether its key may vote where it is or would be anchored.
    pub fn judge(&self, statement: &Statement, vote: &Vote, governs: bool) -> Verdict {
        let (header, tolerance) = (statement.header(), self.parameters.clock_tolerance_seconds);
        if !self.is_elector(&header.author) {
            Verdict::NotElector
        } else if !governs {
            Verdict::WrongKeyRole
        } else if header.issued_at < self.proposal.opens_at.minus(tolerance) {
            Verdict::TooEarly
        } else if header.issued_at > self.proposal.closes_at {
            Verdict::TooLate
        } else if vote.choice == Choice::Veto && vote.ground.is_none() {
            Verdict::VetoWithoutGround
        } else if self.is_complete() && vote.vseq > super::MAX_VSEQ {
            Verdict::TooManyVotes
        } else {
            Verdict::Counted
        }
    }

    pub(super) fn judge_anchored(&self, anchored: &Anchored) -> Verdict {
        // Votes on their way at the close still count, but a box must be complete at some time.
        let latest =
            self.proposal.closes_at.plus(self.parameters.grace_seconds).plus(self.parameters.clock_tolerance_seconds);
        match (anchored.anchor.void, anchored.statement().map(|s| (s, s.body()))) {
            (Some(Void::LogForked), _) => Verdict::LogForked,
            (Some(Void::OverBudget), _) => Verdict::OverBudget,
            (None, Some((statement, Body::Vote(vote)))) => match self.judge(statement, vote, self.governs(anchored)) {
                Verdict::Counted if anchored.anchor.at > latest && !self.is_complete() => Verdict::AnchoredTooLate,
                verdict => verdict,
            },
            _ => Verdict::NoProposal,
        }
    }

    /// The box that `votes` make, and what became of each of them.
    pub fn count<'v>(&self, votes: impl Iterator<Item = &'v Anchored>) -> (BallotBox, Vec<VoteRecord>) {
        let (counted, records) = self.count_with(votes, &Standins::default());
        let Counted { ids, closed_at, all_voted, tally, counted, stand_ins } = counted;
        (BallotBox { root: merkle::root(&ids), ids, closed_at, all_voted, tally, counted, stand_ins }, records)
    }

    /// The same, where members may have declared an interest or left their vote to another.
    pub fn count_with<'v>(
        &self,
        votes: impl Iterator<Item = &'v Anchored>,
        standins: &Standins,
    ) -> (Counted, Vec<VoteRecord>) {
        let mut records: Vec<VoteRecord> = Vec::new();
        for anchored in votes {
            if let Some(mut record) = VoteRecord::of(anchored) {
                record.verdict = match self.judge_anchored(anchored) {
                    Verdict::Counted if anchored.is_revoked(&standins.revocations) => Verdict::Revoked,
                    verdict => verdict,
                };
                records.push(record);
            }
        }
        if self.parameters.close_when_all_voted {
            keep_first(&mut records, self.logs);
        } else {
            keep_newest_log(&mut records, self.logs);
            void_equivocation(&mut records);
        }
        let electors = &self.electors;
        let declared: BTreeSet<&MemberId> =
            electors.values().filter(|members| !standins.recused.is_disjoint(members)).flatten().collect();
        // An interest is the owner's, whichever of its members declares it.
        let recused =
            |record: &&mut VoteRecord| record.verdict == Verdict::Counted && declared.contains(&record.author);
        records.iter_mut().filter(recused).for_each(|record| record.verdict = Verdict::Recused);
        let mut counted = one_for_each(electors, &mut records);
        let stand_ins = self.stand_in(electors, &records, standins, &mut counted);
        records.sort_by(|a, b| (&a.author, a.vseq, a.id).cmp(&(&b.author, b.vseq, b.id)));
        let mut counts = Counts::default();
        counted.values().for_each(|counted| counts.add(counted.choice));
        // All members, not only all owners: otherwise a second member of one owner could still add to a closed box.
        let voted: BTreeSet<&MemberId> = records.iter().filter(|r| r.verdict.in_box()).map(|r| &r.author).collect();
        let all_voted =
            self.parameters.close_when_all_voted && electors.values().flatten().all(|member| voted.contains(member));
        let in_box = records.iter().filter(|r| r.verdict.in_box());
        let last = in_box.map(|r| r.issued_at.max(r.anchor.at)).max().unwrap_or(self.proposal.closes_at);
        let closed_at = if all_voted {
            last.max(self.proposal.opens_at).min(self.proposal.closes_at)
        } else {
            self.proposal.closes_at
        };
        let ids: BTreeSet<StatementId> = records.iter().filter(|r| r.verdict.in_box()).map(|r| r.id).collect();
        let electors = u32::try_from(electors.len()).unwrap_or(u32::MAX);
        let tally = tally(counts, electors, self.rules);
        (Counted { ids, closed_at, all_voted, tally, counted, stand_ins }, records)
    }
}

impl Poll<'_> {
    /// Adds the choices of those who did not vote themselves. One hop: who has no vote of its own passes none on.
    fn stand_in(
        &self,
        electors: &BTreeMap<ControlGroup, BTreeSet<MemberId>>,
        records: &[VoteRecord],
        standins: &Standins,
        counted: &mut BTreeMap<ControlGroup, Heard>,
    ) -> Vec<StandIn> {
        let group_of = |member: &MemberId| {
            let group = &self.membership.members.get(member)?.control_group;
            electors.get_key_value(group).filter(|(_, members)| members.contains(member)).map(|(group, _)| group)
        };
        for group in standins.recused.iter().filter_map(group_of) {
            let abstains = Heard { choice: Choice::Abstain, through: Through::Recusal };
            counted.entry(group.clone()).or_insert(abstains);
        }
        let liars: BTreeSet<&MemberId> = records
            .iter()
            .filter(|record| record.verdict == Verdict::Equivocation)
            .map(|record| &record.author)
            .collect();
        let direct = counted.clone();
        let Some(rules) = self.parameters.deliberation.filter(|_| self.rules.delegation) else { return Vec::new() };
        let cap =
            (electors.len() * rules.delegation_cap.num as usize / rules.delegation_cap.den.max(1) as usize).max(1);
        let mut through: BTreeMap<&ControlGroup, usize> = BTreeMap::new();
        let mut became = |from: &MemberId, to: &MemberId| {
            let (Some(from), Some(to_group)) = (group_of(from), group_of(to)) else {
                return DelegationFate::NotElector;
            };
            if liars.contains(to) || electors[from].iter().any(|member| liars.contains(member)) {
                return DelegationFate::Equivocation;
            }
            // The abstention of who has declared an interest is nobody else's vote.
            if electors[to_group].iter().any(|member| standins.recused.contains(member)) {
                return DelegationFate::OtherRecused;
            }
            if counted.contains_key(from) {
                return DelegationFate::Own;
            }
            let used = through.entry(to_group).or_default();
            if *used >= cap {
                return DelegationFate::OverCap;
            }
            // One that waits takes its place, too: it is the one that counts once the other votes.
            *used += 1;
            let Some(Heard { choice, .. }) = direct.get(to_group) else { return DelegationFate::Waits };
            counted.insert(from.clone(), Heard { choice: *choice, through: Through::Delegate(to.clone()) });
            DelegationFate::Counts
        };
        let stand_in = |(delegation, (from, to)): (&StatementId, &(MemberId, MemberId))| {
            let fate = became(from, to);
            StandIn { delegation: *delegation, from: from.clone(), to: to.clone(), fate }
        };
        standins.delegated.iter().map(stand_in).collect()
    }
}

/// Where votes are final, the first one in its author's log counts: the log has no gaps, so nobody can learn of an
/// earlier one later, and a box that all have voted into never changes again.
fn keep_first(records: &mut [VoteRecord], logs: &Logs) {
    let place = |record: &VoteRecord| (generation(logs, record), record.anchor);
    let mut first: BTreeMap<MemberId, (u32, AnchorAt)> = BTreeMap::new();
    for record in records.iter().filter(|r| r.verdict == Verdict::Counted) {
        let known = first.entry(record.author.clone()).or_insert_with(|| place(record));
        *known = (*known).min(place(record));
    }
    for record in records.iter_mut().filter(|r| r.verdict == Verdict::Counted) {
        if first.get(&record.author) != Some(&place(record)) {
            record.verdict = Verdict::AlreadyFinal;
        }
    }
}

fn generation(logs: &Logs, record: &VoteRecord) -> u32 {
    logs.get(&record.anchor.log).map_or(0, |log| log.generation)
}

/// Whoever got other keys in the middle of a vote is heard by the log that it has now: somebody else may hold the old ones.
fn keep_newest_log(records: &mut [VoteRecord], logs: &Logs) {
    let mut newest: BTreeMap<MemberId, u32> = BTreeMap::new();
    for record in records.iter().filter(|r| r.verdict == Verdict::Counted) {
        let known = newest.entry(record.author.clone()).or_default();
        *known = (*known).max(generation(logs, record));
    }
    for record in records.iter_mut().filter(|r| r.verdict == Verdict::Counted) {
        if newest.get(&record.author).is_some_and(|newest| generation(logs, record) < *newest) {
            record.verdict = Verdict::Superseded;
        }
    }
}

/// Two different choices under one number void all votes of their author.
fn void_equivocation(records: &mut [VoteRecord]) {
    let mut choices: BTreeMap<(&MemberId, u32), BTreeSet<Choice>> = BTreeMap::new();
    for record in records.iter().filter(|r| r.verdict == Verdict::Counted) {
        choices.entry((&record.author, record.vseq)).or_default().insert(record.choice);
    }
    let liars: BTreeSet<MemberId> =
        choices.into_iter().filter(|(_, choices)| choices.len() > 1).map(|((author, _), _)| author.clone()).collect();
    for record in records.iter_mut().filter(|r| r.verdict == Verdict::Counted && liars.contains(&r.author)) {
        record.verdict = Verdict::Equivocation;
    }
}

/// One vote for each control group: its newest; the others are superseded. Returns what counts.
fn one_for_each(
    electors: &BTreeMap<ControlGroup, BTreeSet<MemberId>>,
    records: &mut [VoteRecord],
) -> BTreeMap<ControlGroup, Heard> {
    let group_of: BTreeMap<&MemberId, &ControlGroup> =
        electors.iter().flat_map(|(group, members)| members.iter().map(move |member| (member, group))).collect();
    let mut by_group: BTreeMap<&ControlGroup, Vec<&mut VoteRecord>> = BTreeMap::new();
    for record in records.iter_mut().filter(|r| r.verdict == Verdict::Counted) {
        if let Some(group) = group_of.get(&record.author) {
            by_group.entry(group).or_default().push(record);
        }
    }
    let mut counted = BTreeMap::new();
    for (group, mut votes) in by_group {
        // Among equal numbers the smallest id: they say the same, or come from two members of one owner.
        votes.sort_by_key(|r| (std::cmp::Reverse(r.vseq), r.id));
        for (index, record) in votes.into_iter().enumerate() {
            if index == 0 {
                let vote = Heard { choice: record.choice, through: Through::Vote(record.id) };
                counted.insert(group.clone(), vote);
            } else {
                record.verdict = Verdict::Superseded;
            }
        }
    }
    counted
}
