//! What people do: propose, vote, change their minds, leave their votes to others, take back, leave, put out.

use std::collections::BTreeSet;

use koinon_core::body::charter::Class;
use koinon_core::body::proposal::{
    Action, Admit, CancelProposal, ChangeCharter, Choice, Delegation, Ground, Leave, Recusal, Vote, Withdrawal,
};
use koinon_core::body::{Body, ModelRelease};
use koinon_core::ids::{Digest, ManifestDigest, MemberId, Prose, Seconds, StatementId};
use koinon_core::policy::{Anchoring, Phase, ProposalState, State};

use super::cast::{self, Line};
use super::world::World;

impl World {
    /// The people of `who` look at what is open and act; its operator gives their words their place.
    pub(super) fn people(&mut self, who: usize, face: usize) {
        let state = std::sync::Arc::clone(self.nodes[who].faces[face].state());
        let (me, now) = (self.nodes[who].id(), self.nodes[who].reads(self.now));
        let mut words = Vec::new();
        for proposal in state.proposals().values().filter(|p| p.invalid.is_none() && now <= p.proposal.closes_at) {
            if state.phase(proposal, now).is_final() {
                continue;
            }
            words.extend(self.vote(who, face, proposal));
            if proposal.author == me && self.dice.percent(1) {
                words.push(Body::Withdrawal(Withdrawal { proposal: proposal.id }));
            } else if self.dice.percent(1) {
                words.push(Body::Recusal(Recusal { proposal: proposal.id }));
            }
        }
        if self.dice.percent(1) {
            words.extend(self.delegate(who));
        }
        let words = words.into_iter().map(|word| (word, now)).collect();
        self.speak(who, face, words);
    }

    /// `who` says `words` as a person, each at the time beside it, and its operator anchors what it agrees to.
    pub(super) fn speak(&mut self, who: usize, face: usize, words: Vec<(Body, koinon_core::ids::UnixSeconds)>) {
        let (node, coop) = (&self.nodes[who], self.coop());
        let now = node.reads(self.now);
        let mut lines = Vec::new();
        for (body, at) in words {
            let Some(statement) = cast::said(node.who, coop, at, body) else { continue };
            if node.faces[face].anchoring(&node.id(), &node.log(), &statement, now) == Anchoring::Anchor {
                self.watch.said.insert(statement.id());
                lines.push((Line::Anchor(statement), now));
            }
        }
        if !lines.is_empty() {
            self.write(who, face, &lines);
        }
    }

    fn vote(&mut self, who: usize, face: usize, proposal: &ProposalState) -> Option<Body> {
        let last = self.nodes[who].voted.get(&(face, proposal.id)).copied();
        let closing = self.nodes[who].reads(self.now) >= proposal.proposal.closes_at.minus(Seconds(600));
        let eager = match (last, closing) {
            (None, false) => 35,
            (None, true) => 70,
            (Some(_), _) => 3,
        };
        if !self.dice.percent(eager) {
            return None;
        }
        let vseq = last.map_or(0, |last| last + 1);
        self.nodes[who].voted.insert((face, proposal.id), vseq);
        let choice = if self.is_unwelcome(&proposal.proposal.action, proposal.id) && !self.nodes[who].lies {
            Choice::No
        } else {
            self.dice.weighted(Choice::Yes, &[(12, Choice::No), (8, Choice::Abstain), (2, Choice::Veto)])
        };
        let ground = (choice == Choice::Veto).then_some(Ground::Legal);
        Some(Body::Vote(Vote { proposal: proposal.id, choice, vseq, ground, reason: None }))
    }

    /// Whether it would put out an honest member although the liars would then be too many.
    fn is_unwelcome(&self, action: &Action, proposal: StatementId) -> bool {
        let Action::Expel(expel) = action else { return false };
        !self.is_liar(&expel.member) && !self.permitted.contains(&proposal)
    }

    fn is_liar(&self, member: &MemberId) -> bool {
        self.nodes.iter().any(|node| node.lies && node.who.member.id == *member)
    }

    fn delegate(&mut self, who: usize) -> Option<Body> {
        let other = self.dice.below(self.nodes.len());
        let to = (other != who).then(|| self.nodes[other].id());
        let not_after = self.nodes[who].reads(self.now).plus(Seconds(7 * 24 * 3600));
        let vseq = u32::try_from(self.nodes[who].voted.len()).unwrap_or(0);
        Some(Body::Delegation(Delegation {
            to,
            classes: BTreeSet::from([Class::Routine, Class::Admit]),
            vseq,
            not_after,
        }))
    }

    /// Somebody proposes something.
    pub(super) fn propose(&mut self) {
        let who = self.dice.below(self.nodes.len());
        let state = std::sync::Arc::clone(self.nodes[who].state());
        let now = self.nodes[who].reads(self.now);
        if !self.nodes[who].up || self.dice.percent(5) && self.leave(who) {
            return;
        }
        let Some(action) = self.action(who, &state) else { return };
        let puts_out_honest = matches!(&action, Action::Expel(expel) if !self.is_liar(&expel.member));
        let title = "A change".parse().unwrap_or_default();
        let Some(proposal) = state.draft_proposal(action, title, Prose::default(), now) else { return };
        let node = &self.nodes[who];
        let body = Body::Proposal(Box::new(proposal));
        let application = match &body {
            Body::Proposal(p) if matches!(p.action, Action::Admit(_)) => {
                Some(cast::newcomer(self.newcomers - 1).application(self.coop(), now))
            }
            _ => None,
        };
        let said = cast::said_with(node.who, &node.who.governance, self.coop(), now, body, application.as_ref());
        let Some(statement) = said else { return };
        if node.faces[0].anchoring(&node.id(), &node.log(), &statement, now) != Anchoring::Anchor {
            return;
        }
        if puts_out_honest && !node.lies {
            self.permitted.insert(statement.id());
        }
        self.watch.said.insert(statement.id());
        self.say(|_| format!("{who} proposes {}", statement.id()));
        self.write(who, 0, &[(Line::Anchor(statement), now)]);
    }

    fn action(&mut self, who: usize, state: &State) -> Option<Action> {
        match self.dice.below(100) {
            0..50 => {
                let number = self.dice.roll();
                let name = format!("https://models.example/{number:x}");
                Some(Action::AddModelRelease(ModelRelease {
                    uri: name.parse().ok()?,
                    revision: "main".parse().ok()?,
                    manifest_digest: ManifestDigest(Digest::of(name.as_bytes())),
                    quantization: "none".parse().ok()?,
                    license: "Apache-2.0".parse().ok()?,
                    engines: vec![],
                    memory_bytes: None,
                }))
            }
            50..70 => self.cancellation(who, state),
            70..82 => {
                self.newcomers += 1;
                let application =
                    cast::newcomer(self.newcomers - 1).application(state.coop(), self.nodes[who].reads(self.now));
                Some(Action::Admit(Admit { application: application.envelope().clone() }))
            }
            82..94 => self.expulsion(state),
            _ => {
                let mut parameters = *state.parameters();
                parameters.max_open_proposals = 4;
                let classes = Class::ALL.into_iter().filter_map(|class| Some((class, *state.class(class)?))).collect();
                Some(Action::ChangeCharter(Box::new(ChangeCharter { parameters, classes })))
            }
        }
    }

    fn cancellation(&mut self, who: usize, state: &State) -> Option<Action> {
        let now = self.nodes[who].reads(self.now);
        let stops = |p: &&ProposalState| {
            matches!(state.phase(p, now), Phase::Open { .. } | Phase::Closing { .. } | Phase::Queued { .. })
                && !matches!(p.proposal.action, Action::CancelProposal(_))
        };
        let open: Vec<StatementId> = state.proposals().values().filter(stops).map(|p| p.id).collect();
        self.dice.pick(&open).map(|proposal| Action::CancelProposal(CancelProposal { proposal: *proposal }))
    }

    fn expulsion(&mut self, state: &State) -> Option<Action> {
        let mut targets: Vec<MemberId> = state.active().map(|m| m.id.clone()).filter(|m| self.is_liar(m)).collect();
        if self.departures > 0 && (targets.is_empty() || self.dice.percent(30)) {
            self.departures -= 1;
            targets = state.active().map(|m| m.id.clone()).filter(|m| !self.is_liar(m)).collect();
        }
        self.dice.pick(&targets).cloned().map(|member| koinon_core::testkit::expel(member))
    }

    /// A member leaves, if those that stay can bear the liars.
    fn leave(&mut self, who: usize) -> bool {
        let lies = self.nodes[who].lies;
        if !lies && self.departures == 0 {
            return false;
        }
        self.departures = self.departures.saturating_sub(usize::from(!lies));
        let now = self.nodes[who].reads(self.now);
        self.say(|_| format!("{who} leaves"));
        self.speak(who, 0, vec![(Body::Leave(Leave::default()), now)]);
        true
    }
}
