//! The fold itself: from the charter and the logs to what is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ballot::{Poll, Verdict, VoteRecord};
use super::chain::{Membership, MembershipChange};
use super::gather::{Anchored, Forked, Gathered, as_proposal, gather};
use super::readings::{Memory, Readings};
use super::validity::{Known, judge};
use super::*;
use crate::body::Body;
use crate::body::proposal::Action;
use crate::founding::Founding;
use crate::log::{Replica, Settled};
use crate::tally::membership_quorum;

impl State {
    /// What the charter and the logs amount to.
    ///
    /// Under rules 1 a fork takes the place away from what was anchored behind it, also where that was decided. Once later
    /// rules are in force that would let one member undo the step to them, or anything else that it proposed before, by
    /// forking its own past. So of the two readings of such a log the one counts in which more of what was sealed stands.
    pub fn fold(founding: &Founding, replica: &Replica) -> Self {
        Self::fold_again(founding, replica, &mut Memory::default())
    }

    /// The same, by what earlier folds of the same replica remember.
    pub(super) fn fold_again(founding: &Founding, replica: &Replica, memory: &mut Memory) -> Self {
        let (gathered, readings) = memory.renew(replica);
        let as_signed = Self::read(founding, replica, gathered, readings);
        if !gathered.undoes {
            return as_signed;
        }
        let stands = gather(replica, Forked::Stands);
        let whole = Self::read(founding, replica, &stands, &mut Readings::default());
        let decided = |state: &Self| state.chains.values().map(Vec::len).sum::<usize>();
        if whole.rules >= 2 && decided(&whole) > decided(&as_signed) { whole } else { as_signed }
    }

    fn read(founding: &Founding, replica: &Replica, gathered: &Gathered, readings: &mut Readings) -> Self {
        let mut state = Self::founded(founding);
        state.made_before = readings.take_memberships();
        state.slot_statuses.clone_from(&gathered.statuses);
        state.later_rules.clone_from(&gathered.later_rules);
        state.read_keys(gathered);
        if let Some(settled) = replica.settled() {
            state.recall(settled, gathered);
        }
        while let Some(enacted) = state.next_enactment(gathered, readings) {
            let scope = enacted.0;
            state.enact(enacted, gathered);
            // Which logs there are is a matter of the members alone.
            if scope == Scope::Membership {
                state.read_keys(gathered);
            }
        }
        state.read_proposals(gathered, readings, replica.settled());
        state.made_before = Memberships::new();
        readings.end(&state);
        state.read_members(gathered);
        state.show_keys(gathered);
        state.read_stray_votes(gathered);
        state.read_quarantine(gathered, replica);
        state.read_emergencies(gathered);
        state.notices = gathered.notices.values().cloned().collect();
        state.box_offers.clone_from(&gathered.offers);
        state.close_seals.clone_from(&gathered.close);
        state.enact_seals.clone_from(&gathered.enact);
        state
    }

    fn founded(founding: &Founding) -> Self {
        let (coop, charter) = (founding.coop(), founding.charter());
        let first = Membership::founding(coop, &charter.founders);
        let version = |scope| Version { hash: genesis(scope, coop), scope, number: 0, parent: None, enacted: None };
        let since = genesis(Scope::Releases, coop);
        let released = |r: &ModelRelease| ReleaseState { release: r.clone(), since, withdrawn: None };
        let mut state = Self {
            coop,
            rules: founding.rules(),
            parameters: charter.parameters,
            classes: charter.classes.clone(),
            charters: BTreeMap::from([(
                genesis(Scope::Charter, coop),
                Numbers { parameters: charter.parameters, classes: charter.classes.clone(), rules: founding.rules() },
            )]),
            chains: Scope::ALL.into_iter().map(|scope| (scope, vec![version(scope)])).collect(),
            members: first.members.values().map(|m| (m.id.clone(), MemberState::new(m, first.hash))).collect(),
            memberships: BTreeMap::from([(first.hash, Arc::new(first))]),
            made_before: BTreeMap::new(),
            releases: charter.releases.iter().map(|r| (r.manifest_digest, released(r))).collect(),
            engines: charter.engines.iter().map(|e| (e.name.clone(), e.clone())).collect(),
            proposals: Proposals::default(),
            numbered: Scope::ALL.into_iter().map(|scope| ((scope, genesis(scope, coop)), 0)).collect(),
            leaves: BTreeMap::new(),
            appeals: BTreeMap::new(),
            lifted: BTreeMap::new(),
            emergencies: BTreeMap::new(),
            norms: Norms::default(),
            box_offers: AllSeals::default(),
            close_seals: AllSeals::default(),
            enact_seals: AllSeals::default(),
            slot_statuses: Vec::new(),
            notices: Vec::new(),
            stray_votes: Vec::new(),
            faults: BTreeSet::new(),
            logs: BTreeMap::new(),
            key_sets: BTreeMap::new(),
            keys_ever: BTreeMap::new(),
            settleable_proposals: BTreeSet::new(),
            key_changes: BTreeMap::new(),
            later_rules: BTreeMap::new(),
        };
        charter.founders.iter().for_each(|founder| state.begin_log(founder, None));
        state
    }

    pub(super) fn known<R>(&self, judge: impl FnOnce(&Known<'_>) -> R) -> R {
        let is_version = |scope: Scope, hash: &PolicyHash| self.is_version(scope, hash);
        judge(&Known {
            memberships: &self.memberships,
            charters: &self.charters,
            founding: genesis(Scope::Charter, self.coop),
            rules: self.rules,
            is_version: &is_version,
            // A cancellation makes no version that another one could stop; and which of them is read first is chance.
            proposal: &|id| {
                let target = self.proposals.get(&id).map(|target| &target.proposal);
                target.filter(|target| !matches!(target.action, Action::CancelProposal(_)))
            },
            appeal: &|id| self.appeals.get(&id),
            logs: &self.logs,
            keys_ever: &|log| self.keys_ever(log),
        })
    }

    /// Whether a version of `scope` was made, or is the charter's.
    pub(super) fn is_version(&self, scope: Scope, hash: &PolicyHash) -> bool {
        *hash == genesis(scope, self.coop) || self.numbered.contains_key(&(scope, *hash))
    }

    /// The number of a version of `scope`, if it was made.
    pub(super) fn number_of(&self, scope: Scope, version: &PolicyHash) -> Option<usize> {
        self.numbered.get(&(scope, *version)).copied()
    }

    /// The version that follows `parent`.
    pub(super) fn child(&self, scope: Scope, parent: PolicyHash) -> Option<&Version> {
        self.chain(scope).get(self.numbered.get(&(scope, parent))? + 1)
    }

    /// The charter's numbers for a proposal: those that it pins; under rules 1 there are no others than the founding ones.
    pub(super) fn numbers(&self, proposal: &Proposal) -> Option<&Numbers> {
        let founding = genesis(Scope::Charter, self.coop);
        self.charters.get(&proposal.charter.unwrap_or(founding))
    }

    /// The next version that the seals prove. If more faults than the quorum tolerates prove two, every replica
    /// takes the same one.
    fn next_enactment(&self, gathered: &Gathered, readings: &mut Readings) -> Option<(Scope, u32, Enactment)> {
        // The chains in their order: what is proved in an earlier one comes first.
        Scope::ALL.into_iter().find_map(|scope| {
            let mut proved: Vec<Arc<Enactment>> = Vec::new();
            for child in gathered.children.get(&self.head(scope)).into_iter().flatten() {
                let Some(anchored) = gathered.proposals.get(child) else { continue };
                let is_of_scope = anchored.statement().and_then(as_proposal).is_some_and(|p| p.scope == scope);
                // What a version of rules 2 follows from is a version of the same rules: the term is the one it was sealed in.
                if is_of_scope && self.may_be_enacted(anchored, gathered) {
                    proved.extend(readings.enacted(self, anchored, gathered));
                }
            }
            if scope == Scope::Membership {
                let leaves = gathered.leaves.values().filter_map(|leave| self.leave_enactment(leave, gathered));
                proved.extend(leaves.map(|(_, enacted)| Arc::new(enacted)));
            }
            let first = proved.into_iter().min_by_key(|enacted| (enacted.term, enacted.proposal, enacted.root))?;
            Some((scope, first.term, Arc::unwrap_or_clone(first)))
        })
    }

    /// Whether enough of its sealers have signed any enactment of it: counting its box is what costs.
    fn may_be_enacted(&self, anchored: &Anchored, gathered: &Gathered) -> bool {
        let Some(statement) = anchored.statement() else { return false };
        let Some(membership) = as_proposal(statement).and_then(|p| self.membership_version(&p.membership)) else {
            return false;
        };
        let signed = || gathered.enact.of(&statement.id()).map(|s| &s.by);
        let quorum = membership.quorum();
        signed().nth(quorum - 1).is_some() && signed().collect::<BTreeSet<_>>().len() >= quorum
    }

    pub(super) fn enact(&mut self, (scope, _, enacted): (Scope, u32, Enactment), gathered: &Gathered) {
        if let Some(statement) = gathered.proposals.get(&enacted.proposal).and_then(Anchored::statement) {
            if let Some(proposal) = as_proposal(statement) {
                self.apply(proposal, applicant_of(statement), &enacted);
            }
        } else if let Some(leave) = gathered.leaves.get(&enacted.proposal).and_then(Anchored::statement) {
            self.part(&enacted, leave.author(), MemberStanding::Left);
        }
        self.follow(scope, enacted);
    }

    pub(super) fn follow(&mut self, scope: Scope, enacted: Enactment) {
        let (number, parent) = (self.chain(scope).len() as u64, Some(self.head(scope)));
        let next = Version { hash: enacted.version, scope, number, parent, enacted: Some(enacted) };
        let chain = self.chains.entry(scope).or_default();
        self.numbered.insert((scope, next.hash), chain.len());
        chain.push(next);
    }

    pub(super) fn apply(&mut self, proposal: &Proposal, applicant: Option<&Member>, enacted: &Enactment) {
        match &proposal.action {
            Action::AddModelRelease(release) => {
                let state = ReleaseState { release: release.clone(), since: enacted.version, withdrawn: None };
                self.releases.insert(release.manifest_digest, state);
            }
            Action::WithdrawModelRelease(withdraw) => {
                if let Some(state) = self.releases.get_mut(&withdraw.manifest_digest) {
                    state.withdrawn = Some(enacted.version);
                }
            }
            Action::AddEngine(add) => {
                self.engines.insert(add.engine.name.clone(), add.engine.clone());
            }
            Action::RemoveEngine(remove) => {
                self.engines.remove(&remove.name);
            }
            Action::Admit(_) => {
                if let Some(member) = applicant {
                    self.admit(enacted, proposal, member);
                }
            }
            Action::Confirm(confirm) => self.count(enacted, &confirm.member),
            Action::MarkDormant(mark) => self.set_aside(enacted, &mark.member, proposal.closes_at),
            Action::Reactivate(wake) => self.count(enacted, &wake.member),
            Action::Suspend(suspend) => self.suspend(&suspend.member, Some(enacted.version)),
            Action::Reinstate(reinstate) => self.suspend(&reinstate.member, None),
            Action::LiftQuarantine(lift) => self.lift(lift),
            Action::ResetKeys(reset) => self.reset_keys(enacted, reset),
            Action::Expel(expel) => self.part(enacted, &expel.member, MemberStanding::Expelled),
            Action::SetRules(set) => {
                self.rules = set.rules;
                self.parameters.deliberation = Some(set.deliberation);
                self.new_numbers(enacted);
            }
            Action::ChangeCharter(change) => {
                self.parameters = change.parameters;
                self.classes.clone_from(&change.classes);
                self.new_numbers(enacted);
            }
            Action::SetPlacementRules(rules) => self.norms.placement = rules.clone(),
            Action::SetShares(shares) => self.norms.shares = *shares,
            Action::SetPrices(prices) => self.norms.prices = prices.clone(),
            Action::SetAuditRate(rate) => self.norms.audit_rate = *rate,
            Action::AdviseOperatorRelease(release) => self.norms.operator_release = Some(release.clone()),
            // A checkpoint changes nothing that is in force, and a cancellation makes no version.
            Action::Checkpoint(_) | Action::CancelProposal(_) => {}
        }
    }

    fn new_numbers(&mut self, enacted: &Enactment) {
        let numbers = Numbers { parameters: self.parameters, classes: self.classes.clone(), rules: self.rules };
        self.charters.insert(enacted.version, numbers);
    }

    fn part(&mut self, enacted: &Enactment, member: &MemberId, standing: MemberStanding) {
        self.change_members(enacted, MembershipChange::Part(member));
        if let Some(member) = self.members.get_mut(member) {
            (member.standing, member.left) = (standing, Some(enacted.version));
        }
    }

    pub(super) fn change_members(&mut self, enacted: &Enactment, change: MembershipChange<'_>) {
        // Its name tells what it follows, and what was changed how.
        let same = self.made_before.get(&enacted.version).filter(|made| made.settled_at == enacted.settled_at).cloned();
        let next = same.or_else(|| self.membership().map(|current| Arc::new(current.next(enacted, change))));
        self.memberships.extend(next.map(|next| (enacted.version, next)));
    }

    /// Everything about one proposal except what the other proposals mean for it.
    pub(super) fn read_proposal(&self, anchored: &Anchored, gathered: &Gathered) -> Option<ProposalState> {
        let statement = anchored.statement()?;
        let proposal = as_proposal(statement)?;
        let numbers = self.numbers(proposal).or_else(|| self.charters.get(&genesis(Scope::Charter, self.coop)))?;
        let rules = numbers.classes.get(&proposal.class)?;
        let id = statement.id();
        let invalid = self.known(|known| judge(known, anchored)).err();
        let nobody;
        let membership = match self.membership_version(&proposal.membership) {
            Some(membership) => membership,
            None => {
                nobody = Membership::founding(self.coop, &[]);
                &nobody
            }
        };
        let mut poll = Poll::new(proposal, membership, rules, &numbers.parameters, &self.logs);
        poll.refusals = self.refusals(id, statement.author(), proposal, gathered);
        let complete =
            (invalid.is_none() && proposal.since_rules() >= 2).then(|| poll.held(gathered, id, statement.author()));
        let (ballot, votes) = match &complete {
            Some(held) => (held.ballot.clone(), Vec::new()),
            None => {
                let on_this = gathered.votes.get(&id).into_iter().flat_map(BTreeMap::values);
                let (ballot, mut votes) = poll.count(on_this);
                if invalid.is_some() {
                    votes.iter_mut().for_each(|vote| vote.verdict = Verdict::NoProposal);
                }
                (ballot, votes)
            }
        };
        let sealers: BTreeSet<MemberId> = membership.members.keys().cloned().collect();
        let after = standing::counted_after(proposal, membership, &numbers.parameters);
        let mut state = ProposalState {
            id,
            author: statement.author().clone(),
            issued_at: statement.header().issued_at,
            applicant: applicant_of(statement).cloned(),
            quorum: membership.quorum(),
            enact_quorum: membership_quorum(sealers.len(), after),
            close_seals: Seals::default(),
            enact_seals: Seals::default(),
            certificates: Vec::new(),
            enacted: None,
            superseded_by: None,
            stale: false,
            refused: None,
            cancelled_by: None,
            forgotten: false,
            appealed_by: None,
            rules: proposal.since_rules(),
            parameters: numbers.parameters,
            held: ballot.clone(),
            entries: BTreeSet::new(),
            offers: Seals::default(),
            box_complete: false,
            box_outcome: ballot.tally.outcome,
            proposal: proposal.clone(),
            invalid,
            sealers,
            ballot,
            votes,
        };
        match complete {
            Some(held) => self.read_complete(&mut state, &poll, gathered, held),
            None if state.invalid.is_none() => state.read_seals(gathered),
            None => {}
        }
        Some(state)
    }

    fn read_proposals(&mut self, gathered: &Gathered, readings: &mut Readings, settled: Option<&Arc<Settled>>) {
        let cancels = |anchored: &&Anchored| {
            let proposal = anchored.statement().and_then(as_proposal);
            matches!(proposal.map(|proposal| &proposal.action), Some(Action::CancelProposal(_)))
        };
        // A cancellation is judged by what it would stop.
        let (cancelling, others): (Vec<_>, Vec<_>) = gathered.proposals.values().partition(cancels);
        for anchored in others.into_iter().chain(cancelling) {
            if let Some(read) = readings.read(self, anchored, gathered) {
                self.proposals.insert(read);
            }
        }
        let cancelled = self.cancelled();
        let forgotten = settled.map(|settled| self.over_at(settled)).unwrap_or_default();
        let read: Vec<Arc<ProposalState>> = self.proposals.shared().map(Arc::clone).collect();
        for state in read {
            let fate = self.fate(&state, gathered, &cancelled, &forgotten);
            self.proposals.insert(readings.share(&state, fate));
        }
    }

    /// Whether the membership moved on so far that quorums need not overlap, or so long ago that pinning the older
    /// one can only be meant to bring back somebody who is gone.
    pub(super) fn is_stale(&self, proposal: &ProposalState) -> bool {
        let (Some(pinned), Some(head)) = (self.membership_version(&proposal.proposal.membership), self.membership())
        else {
            return false;
        };
        let newer_was_settled =
            self.memberships.values().any(|m| m.number > pinned.number && m.settled_at <= proposal.issued_at);
        head.number >= pinned.number + 2 || newer_was_settled
    }

    fn read_stray_votes(&mut self, gathered: &Gathered) {
        let stray = gathered.votes.iter().filter(|(on, _)| !self.proposals.contains_key(on));
        let records =
            stray.flat_map(|(on, votes)| votes.values().filter_map(|vote| Some((*on, VoteRecord::of(vote)?))));
        self.stray_votes = records.collect();
    }
}

/// Whom a proposal admits.
fn applicant_of(statement: &crate::statement::Statement) -> Option<&Member> {
    match statement.nested().map(|nested| nested.body()) {
        Some(Body::Application(application)) => Some(&application.member),
        _ => None,
    }
}

impl MemberState {
    pub(super) fn new(member: &Member, since: PolicyHash) -> Self {
        Self {
            member: member.clone(),
            standing: MemberStanding::Active,
            forked_at: None,
            quarantine: BTreeMap::new(),
            suspended: None,
            last_entry: None,
            since,
            left: None,
        }
    }
}

/// What close seals must share to add up; rounds may differ.
type Agreement = (u32, BoxRoot, PolicyHash, Outcome, UnixSeconds);

impl ProposalState {
    fn read_seals(&mut self, gathered: &Gathered) {
        let (grace, closes_early) = (self.parameters.grace_seconds, self.parameters.close_when_all_voted);
        let body = &self.proposal;
        let closed_in_time =
            |at: UnixSeconds| at == body.closes_at || (closes_early && at >= body.opens_at && at < body.closes_at);
        let (id, slot) = (self.id, self.slot());
        let close = gathered.close.shared(&id).filter(|s| {
            s.seal.basis.is_none()
                && self.sealers.contains(&s.by)
                && closed_in_time(s.seal.closed_at)
                && s.at >= s.seal.closed_at.plus(grace)
        });
        let enact = gathered.enact.shared(&id).filter(|s| {
            s.seal.slot == slot
                && s.seal.version == version_hash(slot.scope, slot.parent, id, s.seal.root)
                && self.sealers.contains(&s.by)
        });
        let (close, enact) = (close.cloned().collect(), enact.cloned().collect());
        (self.close_seals, self.enact_seals) = (close, enact);
        self.certificates = self.read_certificates();
        self.enacted = self.certificates.iter().find_map(|certificate| self.enacted_on(certificate));
    }

    fn agreements(&self) -> BTreeMap<Agreement, BTreeMap<&MemberId, StatementId>> {
        let mut agreements: BTreeMap<Agreement, BTreeMap<&MemberId, StatementId>> = BTreeMap::new();
        for Sealed { id, by, seal, .. } in &self.close_seals {
            let agreement = (seal.count, seal.root, seal.membership_head, seal.outcome, seal.closed_at);
            agreements.entry(agreement).or_default().insert(by, *id);
        }
        agreements
    }

    /// How many sealers agree on the box that most agree on.
    pub fn best_agreement(&self) -> usize {
        self.agreements().values().map(BTreeMap::len).max().unwrap_or(0)
    }

    fn read_certificates(&self) -> Vec<CloseCertificate> {
        let agreed = self.agreements().into_iter().rev().filter(|(_, seals)| seals.len() >= self.quorum);
        agreed
            .map(|((count, root, membership_head, outcome, closed_at), seals)| {
                let (slot, entries, seals) = (self.slot(), BTreeSet::new(), seals.into_values().collect());
                CloseCertificate { slot, entries, root, count, membership_head, outcome, closed_at, seals }
            })
            .collect()
    }

    pub(super) fn enacted_on(&self, certificate: &CloseCertificate) -> Option<Enactment> {
        if certificate.outcome != Outcome::Passed {
            return None;
        }
        let seals: BTreeMap<&MemberId, StatementId> = self.signed_on(certificate).map(|s| (&s.by, s.id)).collect();
        if seals.len() < self.enact_quorum {
            return None;
        }
        Some(Enactment {
            proposal: self.id,
            root: certificate.root,
            version: version_hash(self.proposal.scope, self.proposal.parent, self.id, certificate.root),
            term: certificate.slot.term,
            settled_at: self.proposal.expires_at,
            close_seals: certificate.seals.clone(),
            enact_seals: seals.into_values().collect(),
        })
    }
}
