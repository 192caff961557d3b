//! What liars do. All of them know each other's tricks; none of them can sign with another's key.

use std::collections::BTreeSet;
use std::sync::Arc;

use koinon_core::body::Body;
use koinon_core::body::entry::{BoxOffer, CloseSeal, EnactSeal, Evidence, Outcome, Slot, SlotStatus};
use koinon_core::body::proposal::{Choice, Vote};
use koinon_core::ids::{BoxRoot, Digest, Seconds, Seq, StatementId, UnixSeconds};
use koinon_core::policy::{ProposalState, State, version_hash};
use koinon_core::sealing::{self, Circumstances, Promise, Promises};
use koinon_core::statement::Statement;

use super::cast::{self, Line, TOLERANCE};
use super::plan::Trick;
use super::world::{Event, World};

/// What a liar writes at once, at most; so that its day is not used up by one trick.
const AT_ONCE: usize = 6;

impl World {
    /// A liar's people and its operator act.
    pub(super) fn lie(&mut self, who: usize) {
        let tricks = self.plan.tricks.clone();
        if tricks.contains(&Trick::TwoFaces) && self.nodes[who].faces.len() == 1 && self.dice.percent(20) {
            let second = self.nodes[who].faces[0].clone();
            self.nodes[who].faces.push(second);
        }
        for face in 0..self.nodes[who].faces.len() {
            let (replica, log) = (self.nodes[who].faces[face].replica(), self.nodes[who].log());
            let from = replica.next_seq(&log);
            // Beyond its budget nothing that it writes counts; it goes there once, by flooding.
            if replica.budget_left(&log, self.now).entries == 0 {
                continue;
            }
            self.people(who, face);
            for trick in &tricks {
                self.play(*trick, who, face);
            }
            self.seal_without_scruples(who, face);
            if self.nodes[who].faces[face].replica().next_seq(&self.nodes[who].log()) > from {
                self.tell_some(who, face, from);
            }
        }
    }

    fn play(&mut self, trick: Trick, who: usize, face: usize) {
        match trick {
            // It lies by what it does not send: see `network`.
            Trick::Withhold | Trick::TwoFaces => {}
            Trick::SealAll => self.seal_all(who, face),
            Trick::Backdate => self.backdate(who, face),
            Trick::Forge => self.forge(who),
            Trick::Flood => self.flood(who, face),
            Trick::Replay => self.replay(who, face),
            Trick::FalseSeals => self.seal_falsely(who, face),
        }
    }

    fn state_of(&self, who: usize, face: usize) -> Arc<State> {
        Arc::clone(self.nodes[who].faces[face].state())
    }

    fn write_own(&mut self, who: usize, face: usize, bodies: Vec<Body>, at: UnixSeconds) {
        let lines: Vec<(Line, UnixSeconds)> =
            bodies.into_iter().take(AT_ONCE).map(|body| (Line::Own(body), at)).collect();
        if !lines.is_empty() {
            self.write(who, face, &lines);
        }
    }

    /// Sends what is new in its log to some members and not to others.
    fn tell_some(&mut self, who: usize, face: usize, from: Seq) {
        let before = Seq(from.0.saturating_sub(3));
        for to in 0..self.nodes.len() {
            let audience = self.nodes[who].faces.len() == 1 || self.nodes[who].face_for(to) == face;
            if to != who && audience && self.dice.percent(40) {
                self.push(who, face, before, to);
            }
        }
    }

    /// Seals what an operator would, but for one promise, and by a clock that suits it.
    fn seal_without_scruples(&mut self, who: usize, face: usize) {
        let state = self.state_of(who, face);
        let now = self.now.plus(self.dice.between(-600, 600));
        let broken = self.dice.pick(&Promise::ALL).copied().unwrap_or(Promise::OfferOnce);
        let promises = Promises::all_but(broken);
        let circumstances = Circumstances { promises, ..Circumstances::good(now) };
        let mut bodies = sealing::next(&state, &self.nodes[who].id(), &circumstances);
        if self.plan.tricks.contains(&Trick::Backdate) {
            // Its offer has to wait for what comes too late.
            bodies.retain(|body| !matches!(body, Body::BoxOffer(_)));
        }
        if self.dice.percent(80) {
            self.write_own(who, face, bodies, now);
        }
    }

    /// Signs whatever anybody could count: every close seal that it sees, every enactment that is certified, and every word
    /// on every slot.
    fn seal_all(&mut self, who: usize, face: usize) {
        let state = self.state_of(who, face);
        let me = self.nodes[who].id();
        let mut bodies = Vec::new();
        for seal in state.close_seals().iter().filter(|s| s.by != me).map(|s| &s.seal) {
            let says = |s: &CloseSeal| CloseSeal { round: 0, ..s.clone() };
            let said = state.close_seals().iter().any(|s| s.by == me && says(&s.seal) == says(seal));
            if !said && self.dice.percent(50) {
                bodies.push(Body::CloseSeal(CloseSeal { round: 1 + self.dice.below(3) as u32, ..seal.clone() }));
            }
        }
        for proposal in state.proposals().values() {
            for certificate in proposal.certificates.iter().filter(|c| c.outcome == Outcome::Passed) {
                bodies.extend(self.co_sign(&state, proposal.id, certificate.slot, certificate.root, who));
            }
        }
        for seal in state.enact_seals().iter().filter(|s| s.by != me).map(|s| &s.seal) {
            bodies.extend(self.co_sign(&state, seal.proposal, seal.slot, seal.root, who));
        }
        let slots: BTreeSet<(Slot, StatementId)> =
            state.close_seals().iter().filter_map(|s| Some((s.seal.basis.as_ref()?.slot, s.seal.proposal))).collect();
        for (slot, child) in slots {
            if self.dice.percent(15) {
                let signed = self.dice.percent(50).then_some(child);
                bodies.push(Body::SlotStatus(SlotStatus { slot, signed }));
            }
        }
        self.dice.shuffle(&mut bodies);
        let at = self.now.plus(self.dice.between(-300, 300));
        self.write_own(who, face, bodies, at);
    }

    fn co_sign(&self, state: &State, child: StatementId, slot: Slot, root: BoxRoot, who: usize) -> Option<Body> {
        let seal =
            EnactSeal { slot, proposal: child, root, version: version_hash(slot.scope, slot.parent, child, root) };
        let me = &self.nodes[who].who.member.id;
        let said = state.enact_seals().iter().any(|s| s.by == *me && s.seal == seal);
        (!said).then_some(Body::EnactSeal(seal))
    }

    /// Votes after the close by dates before it, brings the vote to some, and vouches for it.
    fn backdate(&mut self, who: usize, face: usize) {
        let state = self.state_of(who, face);
        let grace = state.parameters().grace_seconds.0;
        let over = |p: &&ProposalState| {
            let since = self.now.since(p.proposal.closes_at).0;
            p.invalid.is_none() && since > 0 && since < 3 * grace
        };
        let closed: Vec<&ProposalState> = state.proposals().values().filter(over).collect();
        for proposal in closed {
            let before = proposal.proposal.closes_at.minus(self.dice.between(0, 120));
            let offered =
                state.box_offers().iter().any(|s| s.by == self.nodes[who].id() && s.seal.proposal == proposal.id);
            if offered || !self.dice.percent(50) {
                continue;
            }
            let choice = if self.dice.percent(50) { Choice::Yes } else { Choice::No };
            let vote =
                Vote { proposal: proposal.id, choice, vseq: 3 + self.dice.below(9) as u32, ground: None, reason: None };
            let said = cast::said(self.nodes[who].who, self.coop(), before, Body::Vote(vote));
            let Some(vote) = said else { continue };
            self.watch.said.insert(vote.id());
            let first = self.write(who, face, &[(Line::Anchor(vote), before)]);
            let news = self.state_of(who, face);
            let Some(held) = news.proposals().get(&proposal.id).map(|p| p.entries.clone()) else { continue };
            if self.dice.percent(60) {
                let offer = Body::BoxOffer(BoxOffer { proposal: proposal.id, entries: held });
                self.write_own(who, face, vec![offer], proposal.proposal.closes_at.plus(Seconds(grace)));
            }
            let Some(first) = first else { continue };
            for to in 0..self.nodes.len() {
                if self.plan.liars.contains(&to) || self.dice.percent(30) {
                    self.push(who, face, Seq(first.0.saturating_sub(4)), to);
                }
            }
        }
    }

    /// Writes in another member's name, with the wrong key, and with a signature of other bytes.
    fn forge(&mut self, who: usize) {
        let victim = self.dice.below(self.nodes.len());
        let to = self.dice.below(self.nodes.len());
        if victim == who || self.nodes[to].lies || !self.nodes[to].up || !self.dice.percent(30) {
            return;
        }
        let state = self.state_of(who, 0);
        let (mine, theirs, coop) = (self.nodes[who].who, self.nodes[victim].who, self.coop());
        let open: Vec<StatementId> = state.proposals().keys().copied().collect();
        let Some(proposal) = self.dice.pick(&open).copied() else { return };
        let vote = Body::Vote(Vote { proposal, choice: Choice::No, vseq: 14, ground: None, reason: None });
        let said = cast::said_with(theirs, &mine.governance, coop, self.now, vote, None);
        let Some(said) = said else { return };
        // A vote in the victim's name in the liar's own log: it takes its place there, and no effect.
        self.write(who, 0, &[(Line::Anchor(said.clone()), self.now)]);
        let position = self.nodes[to].faces[0].replica().next_position(&self.nodes[victim].log());
        let line = Line::Anchor(said);
        let Some(forged) = cast::entry(theirs, &mine.operator, coop, self.now, position.clone(), &line) else { return };
        self.watch.forgeries.insert(forged.id());
        self.schedule(self.now, Event::Arrive { to, entries: vec![Arc::clone(&forged)] });
        // The victim's key in the header, the liar's signature below.
        let Some(genuine) = cast::entry(theirs, &theirs.operator, coop, self.now, position, &line) else { return };
        let mut envelope = genuine.envelope().clone();
        let liars = forged.envelope().signatures.first().map(|signature| signature.sig.clone());
        if let (Some(signature), Some(liars)) = (envelope.signatures.first_mut(), liars) {
            signature.sig = liars;
        }
        if let Ok(read) = Statement::verify(envelope) {
            self.watch.forged_signature(read.id());
        }
    }

    /// Fills its day, once, somewhere in the run.
    fn flood(&mut self, who: usize, face: usize) {
        if !self.dice.percent(4) || self.nodes[who].flooded {
            return;
        }
        self.nodes[who].flooded = true;
        let log = self.nodes[who].log();
        let note = |number: u64| {
            let id = StatementId(Digest::of(&number.to_le_bytes()));
            Evidence { log, seq: Seq(number), first: id, second: id, envelopes: vec![] }
        };
        let notes = (0..110).map(|number| (Line::Own(Body::Evidence(Box::new(note(number)))), self.now));
        let notes: Vec<(Line, UnixSeconds)> = notes.collect();
        self.write(who, face, &notes);
    }

    /// Anchors what was said long ago, by itself or by others, and sends old entries again.
    fn replay(&mut self, who: usize, face: usize) {
        let old: Vec<Arc<Statement>> = {
            let replica = self.nodes[who].faces[face].replica();
            replica.logs().flat_map(|(log, _)| replica.all(log)).map(|entry| Arc::clone(&entry.statement)).collect()
        };
        let to = self.dice.below(self.nodes.len());
        let again: Vec<Arc<Statement>> = old.iter().filter(|_| self.dice.percent(10)).cloned().collect();
        self.send(to, again);
        if let Some(said) = self.dice.pick(&old).and_then(|entry| entry.nested().cloned())
            && self.dice.percent(40)
        {
            self.write(who, face, &[(Line::Anchor(said), self.now)]);
        }
    }

    /// Seals boxes, outcomes and enactments that follow from nothing.
    fn seal_falsely(&mut self, who: usize, face: usize) {
        let state = self.state_of(who, face);
        let seals: Vec<CloseSeal> = state.close_seals().iter().map(|s| s.seal.clone()).collect();
        let mut bodies = Vec::new();
        if let Some(seal) = self.dice.pick(&seals).cloned() {
            let false_one = match self.dice.below(4) {
                0 => CloseSeal { outcome: self.other(seal.outcome), ..seal },
                1 => CloseSeal { root: BoxRoot(Digest::of(b"another box")), ..seal },
                2 => CloseSeal { closed_at: seal.closed_at.minus(Seconds(60)), ..seal },
                _ => CloseSeal { count: seal.count + 1, ..seal },
            };
            bodies.push(Body::CloseSeal(false_one));
        }
        let proposals: Vec<&ProposalState> = state.proposals().values().collect();
        if let Some(proposal) = self.dice.pick(&proposals) {
            bodies.extend(self.co_sign(&state, proposal.id, proposal.slot(), proposal.ballot.root, who));
            let mut entries = proposal.entries.clone();
            entries.insert(StatementId(Digest::of(b"nothing")));
            bodies.push(Body::BoxOffer(BoxOffer { proposal: proposal.id, entries }));
        }
        bodies.retain(|_| self.dice.percent(30));
        let at = self.now.plus(self.dice.between(-TOLERANCE.0, TOLERANCE.0));
        self.write_own(who, face, bodies, at);
    }

    fn other(&mut self, outcome: Outcome) -> Outcome {
        if outcome == Outcome::Passed { Outcome::Rejected } else { Outcome::Passed }
    }
}
