//! What votes make of single members, and what a few order at once.

use std::collections::BTreeSet;

use koinon_core::body::entry::{EnactSeal, SealEvidence, Slot};
use koinon_core::body::hearing::{Appeal, Document, EvidenceRef, Notice, NoticeSent, Reply};
use koinon_core::body::proposal::{Admit, Expel};
use koinon_core::body::{
    Action, Body, Cause, CoSignature, Confirm, EmergencyOrder, LiftQuarantine, MarkDormant, Reactivate, Reinstate,
    Scope, Stop, Suspend,
};
use koinon_core::dsse::Signer as _;
use koinon_core::ids::{BoxRoot, CoopId, Digest, ManifestDigest, MemberId, Seconds, StatementId};
use koinon_core::log::{ForkProof, SealConflict};
use koinon_core::policy::{MemberStanding, Offence, version_hash};
use koinon_core::statement::{Position, Statement};

use crate::charters::newcomer;
use crate::stories::{agree, pass_time, propose, propose_bent, until_open, until_queued};
use crate::world::{NAMES, World};

fn decide(world: &mut World, action: Action) -> Option<StatementId> {
    let who = world.anybody();
    let proposal = propose(world, who, action, &[])?;
    agree(world, proposal);
    until_queued(world, proposal);
    pass_time(world);
    Some(proposal)
}

fn with_standing(world: &World, standing: MemberStanding) -> Option<MemberId> {
    let members = world.state(0).members().values();
    members.into_iter().find(|m| m.standing == standing).map(|m| m.member.id.clone())
}

/// Somebody comes, perhaps on probation, and is confirmed, perhaps too early.
pub fn probation(world: &mut World) {
    let known = world.people.len();
    if let Some(name) = NAMES.get(known) {
        let coop = world.commons(0).founding().coop();
        let mut person = newcomer(name);
        if world.random.once_in(4) {
            person.member.control_group = world.people[0].member.control_group.clone();
        }
        let application = person.application(coop, world.now).envelope().clone();
        world.welcome(person);
        let who = world.random.below(known);
        let sponsor = world.random.below(known);
        let sponsor = koinon_core::testkit::person(world.id(sponsor).as_str()).governance;
        let admit = Action::Admit(Admit { application });
        let Some(proposal) = propose(world, who, admit, &[&sponsor]) else { return };
        agree(world, proposal);
        until_queued(world, proposal);
        pass_time(world);
    }
    let whom = match with_standing(world, MemberStanding::Probationary) {
        Some(new) if !world.random.once_in(6) => new,
        _ => {
            let anybody = world.anybody();
            world.id(anybody)
        }
    };
    if world.random.once_in(2) {
        let later = world.random.between(0, 400);
        world.wait(later);
    }
    if world.random.once_in(4) {
        // It never fell silent.
        decide(world, Action::Reactivate(Reactivate { member: whom.clone() }));
    }
    decide(world, Action::Confirm(Confirm { member: whom }));
}

/// A member falls silent, or is said to have, and comes back.
pub fn dormancy(world: &mut World) {
    let whom = world.anybody();
    let member = world.id(whom);
    let after = world.state(0).parameters().deliberation.map_or(0, |rules| rules.members.dormant_after_seconds.0);
    let silent = after + if world.random.once_in(3) { world.random.between(-60, 5) } else { 1 };
    world.wait(silent);
    if !world.random.once_in(3) {
        world.silent.push(whom);
    }
    decide(world, Action::MarkDormant(MarkDormant { member: member.clone() }));
    if !world.random.once_in(4) {
        world.silent.clear();
    }
    match world.random.below(4) {
        0 => return,
        1 => drop(decide(world, Action::Expel(document_against(member.clone())))),
        2 => drop(world.say(whom, Body::Leave(koinon_core::body::Leave::default()))),
        _ => {}
    }
    if world.random.once_in(2) {
        let proposal = StatementId(Digest::of(b"any"));
        world.append(whom, Body::NoticeSent(NoticeSent { proposal, notice: Notice::Received }));
    }
    decide(world, Action::Reactivate(Reactivate { member }));
    world.silent.clear();
}

/// One of four is said to be silent, or is to go, and signs that itself in the place of somebody who stays.
pub fn out_of_four(world: &mut World) {
    let active: Vec<MemberId> = world.state(0).active().map(|member| member.id.clone()).collect();
    let seats: Vec<usize> = (0..world.people.len()).filter(|who| active.contains(&world.id(*who))).collect();
    let Some(whom) = world.random.pick(&seats).copied().filter(|_| seats.len() == 4) else { return };
    let after = world.state(0).parameters().deliberation.map_or(0, |rules| rules.members.dormant_after_seconds.0);
    world.wait(after + 1);
    let member = world.id(whom);
    let action = match world.random.below(4) {
        0 => Action::Expel(document_against(member)),
        _ => Action::MarkDormant(MarkDormant { member }),
    };
    let who = seats.iter().copied().find(|who| *who != whom).unwrap_or(whom);
    world.silent.push(whom);
    let proposal = propose(world, who, action, &[]);
    if let Some(proposal) = proposal {
        agree(world, proposal);
        until_queued(world, proposal);
        let state = world.state(0);
        let certified = state.proposals().get(&proposal).and_then(|known| known.certificates.first().cloned());
        if let Some(certificate) = certified {
            world.now = world.state(0).proposals().get(&proposal).map_or(world.now, |known| known.proposal.eta);
            let (slot, root) = (certificate.slot, certificate.root);
            let version = version_hash(slot.scope, slot.parent, proposal, root);
            world.append(whom, Body::EnactSeal(EnactSeal { slot, proposal, root, version }));
            let stay = seats.iter().copied().filter(|seat| *seat != whom);
            let signs = if world.random.once_in(4) { 3 } else { 2 };
            for who in stay.take(signs) {
                world.seal(who);
            }
        }
    }
    world.silent.clear();
}

/// A member is expelled for something, replies or not, is told or not, and appeals.
pub fn hearing(world: &mut World) {
    let (who, whom) = (world.anybody(), world.anybody());
    let document = |name: &str| {
        let text = "What the meters showed".parse().ok()?;
        Some(EvidenceRef::Document(Document { digest: Digest::of(name.as_bytes()), text }))
    };
    let (Some(first), Some(second)) = (document("first"), document("second")) else { return };
    let mut evidence = vec![first.clone(), EvidenceRef::Entry(StatementId(Digest::of(b"entry")))];
    match world.random.below(16) {
        0 => evidence.clear(),
        1 => evidence = vec![second.clone(); 17],
        _ => {}
    }
    let expel = Expel { member: world.id(whom), evidence, appeal: None };
    let Some(proposal) = propose(world, who, Action::Expel(expel.clone()), &[]) else { return };
    if world.random.once_in(2) {
        world.silent.push(whom);
    }
    until_open(world, proposal);
    match world.random.below(6) {
        0..=1 => drop(reply(world, whom, proposal)),
        2 => drop(reply(world, who, proposal)),
        3 => {
            // Whoever says so may not know.
            for who in 0..world.people.len() {
                let notice = [Notice::Received, Notice::Delivered, Notice::Tried][world.random.below(3)];
                if world.random.once_in(2) {
                    world.append(who, Body::NoticeSent(NoticeSent { proposal, notice }));
                }
            }
        }
        _ => {}
    }
    let notice = world.random.between(0, 200);
    world.wait(notice);
    world.settle();
    agree(world, proposal);
    let queued = until_queued(world, proposal);
    world.silent.clear();
    if queued && !world.random.once_in(4) && appeal(world, whom, proposal, &expel, first, second).is_none() {
        return;
    }
    pass_time(world);
}

fn document_against(member: MemberId) -> Expel {
    let evidence = vec![EvidenceRef::Entry(StatementId(Digest::of(b"entry")))];
    Expel { member, evidence, appeal: None }
}

fn reply(world: &mut World, who: usize, proposal: StatementId) -> Option<StatementId> {
    world.say(who, Body::Reply(Reply { proposal, text: "It was the meter".parse().ok()? }))
}

fn appeal(
    world: &mut World,
    whom: usize,
    proposal: StatementId,
    expel: &Expel,
    old: EvidenceRef,
    new: EvidenceRef,
) -> Option<()> {
    let evidence = if world.random.once_in(6) { vec![old] } else { vec![old, new.clone()] };
    let body = Body::Appeal(Appeal { proposal, evidence, text: "Another meter".parse().ok()? });
    let late = if world.random.once_in(5) { world.random.between(0, 900) } else { 0 };
    world.wait(late);
    let stranger = world.anybody();
    let author = if world.random.once_in(8) { stranger } else { whom };
    let signer =
        if world.random.once_in(8) { &world.people[author].operator } else { &world.people[author].governance };
    let appeal = world.draft(author, Position::Human, body).sign(signer, &[]).ok()?;
    world.anchor(author, &appeal);
    world.settle();
    let appeal = if world.random.once_in(8) { StatementId(Digest::of(b"none")) } else { appeal.id() };
    if world.random.once_in(3) {
        return None;
    }
    let again = Expel { evidence: vec![new], appeal: Some(appeal), ..expel.clone() };
    if world.random.once_in(3) {
        // The appeal is somebody else's, or not the first one.
        let (who, other) = (world.anybody(), world.anybody());
        let member = if world.random.once_in(2) { world.id(other) } else { expel.member.clone() };
        let body =
            Body::Appeal(Appeal { proposal, evidence: again.evidence.clone(), text: "And another".parse().ok()? });
        world.wait(1);
        let later = world.say(whom, body).unwrap_or(appeal);
        let appeal = if member == expel.member { later } else { appeal };
        propose(world, who, Action::Expel(Expel { member, appeal: Some(appeal), ..again.clone() }), &[]);
    }
    decide(world, Action::Expel(again.clone()))?;
    if world.random.once_in(3) {
        let other = world.anybody();
        let member = if world.random.once_in(2) { world.id(other) } else { expel.member.clone() };
        decide(world, Action::Expel(Expel { member, ..again }));
    }
    Some(())
}

/// A member is suspended by a vote, and let work again.
pub fn suspension(world: &mut World) {
    let (who, whom, somebody) = (world.anybody(), world.anybody(), world.anybody());
    let member = world.id(whom);
    if world.random.once_in(3) {
        // It is about somebody else, or about nobody, if one believes it.
        let subject = world.random.once_in(2).then(|| world.id(somebody));
        let action = Action::Suspend(Suspend { member: member.clone() });
        propose_bent(world, who, action, &[], |proposal| proposal.subject = subject.clone());
    }
    decide(world, Action::Suspend(Suspend { member: member.clone() }));
    if world.random.once_in(2) {
        let other = world.anybody();
        let member = if world.random.once_in(6) { world.id(other) } else { member };
        decide(world, Action::Reinstate(Reinstate { member }));
    }
}

/// What is known against a member is weighed, and it works again until the next proof.
pub fn lift(world: &mut World) {
    let accused = world.state(0).members().values().find(|m| !m.quarantine.is_empty());
    let Some((member, mut proofs)) =
        accused.map(|m| (m.member.id.clone(), m.quarantine.keys().copied().collect::<BTreeSet<_>>()))
    else {
        return;
    };
    match world.random.below(8) {
        0 => proofs = Default::default(),
        1 => proofs.extend([Digest::of(b"another proof")]),
        2 => drop(proofs.pop_first()),
        _ => {}
    }
    decide(world, Action::LiftQuarantine(LiftQuarantine { member, proofs }));
}

/// Somebody reports what two seals show, or what they do not.
pub fn report(world: &mut World) {
    let (who, whom) = (world.anybody(), world.anybody());
    let log = world.people[whom].operator.public_key();
    let entries: Vec<Statement> = world.commons(who).replica().entries(&log).map(|e| (*e.statement).clone()).collect();
    let offences: Vec<(Offence, [StatementId; 2])> = {
        let quarantined = world.state(who).quarantined(&world.id(whom));
        quarantined.into_iter().flatten().map(|(_, proof)| (proof.offence, proof.entries)).collect()
    };
    let replica = world.commons(who).replica();
    let proved = offences.iter().find_map(|(offence, entries)| {
        let [first, second] = entries.map(|id| replica.get(&id).map(|e| (*e.statement).clone()));
        SealConflict::of(&first?, &second?, *offence).map(|found| found.to_evidence())
    });
    let made_up = world.random.pick(&entries).cloned().zip(world.random.pick(&entries).cloned());
    let closes = entries.iter().filter(|entry| matches!(entry.body(), Body::CloseSeal(_)));
    let closes: Vec<Statement> = closes.cloned().collect();
    let two_closes = world.random.pick(&closes).cloned().zip(world.random.pick(&closes).cloned());
    let made_up = if world.random.once_in(2) { two_closes } else { made_up };
    let hidden = hidden_seal(world, whom, &entries);
    let body = match world.random.below(6) {
        4 => of_another_coop(world, whom, None),
        5 => of_another_coop(world, whom, Some(who)),
        0 => made_up.map(|(a, b)| SealEvidence { first: a.envelope().clone(), second: b.envelope().clone() }),
        1..=2 => hidden.or(proved),
        _ => proved,
    };
    if let Some(body) = body {
        world.append(who, Body::SealEvidence(Box::new(body)));
    }
}

/// Two seals of a slot that show nothing here: of another cooperative, or in the name of somebody whose log it is not.
fn of_another_coop(world: &World, whom: usize, name: Option<usize>) -> Option<SealEvidence> {
    let slot = Slot { scope: Scope::Releases, parent: world.state(whom).head(Scope::Releases), term: 0 };
    let seal = |name_of: &str| {
        let proposal = StatementId(Digest::of(name_of.as_bytes()));
        let root = BoxRoot(Digest::of(b"a box"));
        let version = version_hash(slot.scope, slot.parent, proposal, root);
        let body = Body::EnactSeal(EnactSeal { slot, proposal, root, version });
        let position = Position::Log { seq: koinon_core::ids::Seq(1_000), prev: Digest::of(b"elsewhere") };
        let mut draft = world.draft(whom, position, body);
        match name {
            Some(name) => draft.author = world.id(name),
            None => draft.coop = Some(CoopId(Digest::of(b"another cooperative"))),
        }
        draft.sign(&world.people[whom].operator, &[]).ok()
    };
    Some(SealEvidence { first: seal("one")?.envelope().clone(), second: seal("two")?.envelope().clone() })
}

/// A second seal of a slot that its author has shown to one member alone: it stands in no log, on no branch that others hold.
fn hidden_seal(world: &mut World, whom: usize, entries: &[Statement]) -> Option<SealEvidence> {
    let shown = entries.iter().find(|entry| matches!(entry.body(), Body::EnactSeal(_) | Body::CloseSeal(_)))?;
    let body = match shown.body() {
        Body::EnactSeal(seal) => {
            let mut other = seal.clone();
            other.proposal = StatementId(Digest::of(b"another"));
            Body::EnactSeal(other)
        }
        Body::CloseSeal(seal) => {
            let mut other = seal.clone();
            other.count += 1;
            Body::CloseSeal(other)
        }
        _ => return None,
    };
    let far = if world.random.once_in(2) { 1_000 } else { entries.len() as u64 };
    let position = Position::Log { seq: koinon_core::ids::Seq(far), prev: Digest::of(b"elsewhere") };
    let other = world.draft(whom, position, body).sign(&world.people[whom].operator, &[]).ok()?;
    Some(SealEvidence { first: shown.envelope().clone(), second: other.envelope().clone() })
}

/// A third payload of a position, which only evidence shows.
pub fn third_branch(world: &mut World) {
    let (who, reporter) = (world.anybody(), world.anybody());
    let log = world.people[who].operator.public_key();
    let Some(fork) = world.commons(reporter).replica().fork(&log).cloned() else { return };
    let Some(held) = world.commons(reporter).replica().get(&fork.first.0).map(|e| (*e.statement).clone()) else {
        return;
    };
    let resume = koinon_core::body::LogResume { old_log: log, old_head: None };
    let further = world.random.once_in(3);
    let position = match held.position() {
        Position::Log { seq, .. } if further => {
            Position::Log { seq: koinon_core::ids::Seq(seq.0 + 1), prev: Digest::of(b"a branch") }
        }
        position => position.clone(),
    };
    world.wait(1);
    let sign = |world: &World| {
        let draft = world.draft(who, position.clone(), Body::LogResume(resume.clone()));
        draft.sign(&world.people[who].operator, &[]).ok()
    };
    let (third, fourth) = (sign(world), {
        world.wait(1);
        sign(world)
    });
    let second = if further { fourth } else { Some(held) };
    let (Some(third), Some(second)) = (third, second) else { return };
    if let Some(proof) = ForkProof::of(&third, &second) {
        world.append(reporter, Body::Evidence(Box::new(proof.to_evidence())));
    }
}

/// A few order something, perhaps too few, too late or again.
pub fn order(world: &mut World) {
    let whom = world.anybody();
    for _ in 0..1 + world.random.below(3) {
        order_against(world, whom);
    }
}

fn order_against(world: &mut World, whom: usize) {
    let who = world.anybody();
    let state = world.state(who);
    let (membership, charter) = (state.head(Scope::Membership), state.head(Scope::Charter));
    let versions: Vec<_> = state.chain(Scope::Membership).iter().map(|version| version.hash).collect();
    let membership =
        if world.random.once_in(6) { world.random.pick(&versions).copied().unwrap_or(membership) } else { membership };
    let keys = [world.people[whom].operator.public_key(), world.people[whom].governance.public_key()];
    let stop = match world.random.below(6) {
        0 => Stop::Release(ManifestDigest(Digest::of(&[0]))),
        1 => Stop::Key(keys[world.random.below(2)]),
        _ => Stop::Member(world.id(whom)),
    };
    let cause = if world.random.once_in(3) { Cause::Fraud } else { Cause::Safety };
    let order = EmergencyOrder { stop, cause, membership, charter, text: Default::default() };
    let mut draft = world.draft(who, Position::Human, Body::EmergencyOrder(Box::new(order)));
    if world.random.once_in(6) {
        draft.issued_at = draft.issued_at.plus(Seconds(world.random.between(-900, 900)));
    }
    let by_operator = world.random.once_in(12);
    let signer = if by_operator { &world.people[who].operator } else { &world.people[who].governance };
    let Ok(order) = draft.sign(signer, &[]) else { return };
    world.anchor(who, &order);
    for other in 0..world.people.len() {
        if world.random.once_in(6) {
            let later = world.random.between(0, 300);
            world.wait(later);
        }
        if !world.random.once_in(3) {
            world.say(other, Body::CoSignature(CoSignature { order: order.id() }));
        }
    }
}

/// What people have said is anchored again, in its author's own log or another's.
pub fn again(world: &mut World) {
    let all = world.spoken.len();
    let at = world.random.below(all);
    let Some((who, statement)) = world.spoken.get(at).map(|(who, said)| (*who, said.clone())) else { return };
    let stranger = world.anybody();
    let seat = if world.random.once_in(5) { stranger } else { who };
    world.anchor(seat, &statement);
}
