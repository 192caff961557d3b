//! Members that come and go while something else is decided, and the step to the complete rules.

use std::collections::BTreeSet;

use koinon_core::body::entry::Slot;
use koinon_core::body::proposal::{Action, Admit, Leave, Proposal, Scope, SetRules};
use koinon_core::body::{Body, BoxOffer, Notice, NoticeSent};
use koinon_core::ids::{PolicyHash, Seconds, StatementId, UnixSeconds};
use koinon_core::policy::version_hash;
use koinon_core::testkit::{T0, person};
use koinon_core::{merkle, presets};

use super::super::scenario::{Child, Scenario};
use super::super::stage::{GRACE, Stage, TOLERANCE, WINDOW};
use super::{FOUR, LIAR, THREE, approve, children, ends};

const PERIOD: i64 = 120;

fn after(seconds: i64) -> UnixSeconds {
    T0.plus(Seconds(seconds))
}

/// Two proposals to expel, each of which takes another one's signature away; one of them is the liar's own.
fn expelling() -> (Stage, StatementId, StatementId) {
    let mut stage = Stage::new(&FOUR, |_| ());
    let (liar, first) = (stage.people[LIAR].id(), stage.people[0].id());
    let x = stage.propose(0, koinon_core::testkit::expel(liar), |_| ());
    let y = stage.propose(LIAR, koinon_core::testkit::expel(first), |_| ());
    stage.yes(0..3, x);
    stage.yes(1..4, y);
    // Whom it is about is heard before it may be expelled.
    for (about, subject) in [(x, LIAR), (y, 0)] {
        for who in 0..FOUR.len() {
            let notice = if who == subject { Notice::Received } else { Notice::Delivered };
            stage.append(who, Body::NoticeSent(NoticeSent { proposal: about, notice }));
        }
    }
    stage.offer(after(PERIOD + GRACE));
    (stage, x, y)
}

fn expulsion(name: &'static str, what: &'static str, stage: Stage, x: StatementId, y: StatementId) -> Scenario {
    let named = children(&stage, &[("expel delft", x), ("expel aarhus", y)]);
    let mut scenario = Scenario::new(name, what, stage, true);
    scenario.children.extend(named);
    for (id, member) in [(x, LIAR), (y, 0)] {
        if let Some(child) = scenario.children.get_mut(&id) {
            child.parts = Some(member);
        }
    }
    scenario.classes = vec![0, 1, 1, LIAR];
    scenario.times = vec![(after(PERIOD + 2 * GRACE), "seals are due")];
    scenario.tell(0, vec![]);
    scenario
}

/// The liar and another member are to be expelled, across a partition that may be anywhere.
pub fn expulsions() -> Scenario {
    let (stage, x, y) = expelling();
    let mut scenario = expulsion("expulsions", "two that are to expel each other", stage, x, y);
    scenario.tell_readers(&[vec![]]);
    scenario
}

/// Somebody leaves while another one is to be expelled.
pub fn leaving() -> Scenario {
    let (mut stage, x, y) = expelling();
    let leave = stage.say(2, Body::Leave(Leave::default()));
    let mut scenario = expulsion("leaving", "somebody leaves while others are to be expelled", stage, x, y);
    scenario.classes = vec![0, 1, 2, LIAR];
    scenario.children.remove(&y);
    if let Some(child) = scenario.children.get(&x).cloned() {
        scenario.children.insert(leave, Child { name: "cork leaves", parts: None, ..child });
    }
    scenario.tell_readers(&[vec![]]);
    scenario
}

/// Signs `proposal` although what it pins is not decided yet, with the votes and offers of `who`.
fn ahead(stage: &mut Stage, author: usize, who: &[usize], edit: impl Fn(&mut Proposal)) -> StatementId {
    let y = stage.propose(author, approve("y"), edit);
    let votes: BTreeSet<StatementId> = who
        .iter()
        .map(|member| {
            let (anchor, _) = stage.signed(*member, Stage::ballot(y, koinon_core::body::proposal::Choice::Yes));
            stage.append(*member, anchor)
        })
        .collect();
    stage.now = stage.now.plus(Seconds(PERIOD + GRACE));
    for member in who {
        stage.append(*member, Body::BoxOffer(BoxOffer { proposal: y, entries: votes.clone() }));
    }
    y
}

/// Admits a fourth member, as everybody has heard.
fn admit(stage: &mut Stage) {
    let newcomer = person("delft");
    let application = newcomer.application(stage.commons.founding().coop(), stage.now).envelope().clone();
    let admission = stage.propose(0, Action::Admit(Admit { application }), |_| ());
    stage.yes(0..3, admission);
    stage.offer(after(PERIOD + GRACE));
    stage.now = after(PERIOD + 2 * GRACE);
    let is_it = |body: &Body| match body {
        Body::CloseSeal(seal) => seal.proposal == admission,
        Body::EnactSeal(seal) => seal.proposal == admission,
        _ => false,
    };
    stage.seal(&[0, 1, 2], is_it);
    stage.people.push(newcomer);
    stage.said.push(Vec::new());
}

/// A fourth member has come, which lies: a proposal of the three is still open, and one of the four competes with it. If the
/// slot `ends`, it does so for the three and for the four.
pub fn fourth_member(may_end: bool) -> Scenario {
    let mut stage = Stage::new(&THREE, |_| ());
    let x = stage.propose(1, approve("x"), |_| ());
    stage.yes(0..3, x);
    admit(&mut stage);
    let y = ahead(&mut stage, 0, &[0, 1, 2, 3], |_| ());
    let named = children(&stage, &[("X of three", x), ("Y of four", y)]);
    let (seals, ending) = (stage.now.plus(Seconds(GRACE)), stage.now.plus(Seconds(WINDOW + 2 * TOLERANCE + 1)));
    let (name, what) = if may_end {
        (
            "fourth-member-slot-ends",
            "a fourth member has come while a proposal of the three is open, and the slot may end",
        )
    } else {
        ("fourth-member", "a fourth member has come while a proposal of the three is open")
    };
    let mut scenario = Scenario::new(name, what, stage, true);
    scenario.children.extend(named);
    scenario.classes = vec![0, 0, 0, LIAR];
    scenario.times = vec![(seals, "seals are due")];
    scenario.tell(0, vec![]);
    if may_end {
        scenario.times.push((ending, "the slot may end"));
        let slot = scenario.children.get(&x).map(|child| child.slot);
        for signed in [None, Some(x), Some(y)] {
            scenario.tell(1, slot.map(|slot| ends(ending, slot, signed)).into_iter().collect());
        }
    }
    scenario.tell_readers(&[vec![]]);
    scenario
}

/// Four members, one of which leaves: what three of them began two steps earlier competes with what three others begin.
pub fn stale_pins() -> Scenario {
    let mut stage = Stage::new(&THREE, |_| ());
    let x = stage.propose(1, approve("x"), |_| ());
    stage.yes(0..3, x);
    admit(&mut stage);
    let leave = stage.say(0, Body::Leave(Leave::default()));
    let four = stage.commons.state().head(Scope::Membership);
    let root = merkle::root(&BTreeSet::from([leave]));
    let next = version_hash(Scope::Membership, four, leave, root);
    let y = ahead(&mut stage, 1, &[1, 2, 3], |proposal| proposal.membership = next);
    let slot = |scope, parent| Slot { scope, parent, term: 0 };
    let of = |name, slot, sealers: [usize; 3]| Child {
        name,
        slot,
        sealers: sealers.into(),
        quorum: 2,
        enact_quorum: 2,
        parts: None,
        cancels: None,
    };
    let releases = slot(Scope::Releases, stage.commons.state().head(Scope::Releases));
    let leaving = Child {
        name: "aarhus leaves",
        slot: slot(Scope::Membership, four),
        sealers: (0..4).collect(),
        quorum: 3,
        enact_quorum: 3,
        parts: None,
        cancels: None,
    };
    let seals = stage.now.plus(Seconds(GRACE));
    let mut scenario = Scenario::new(
        "stale-pins",
        "a proposal of the members of two versions ago, and one of the members of now",
        stage,
        false,
    );
    scenario.children.insert(x, of("X of two versions ago", releases, [0, 1, 2]));
    scenario.children.insert(y, of("Y of now", releases, [1, 2, 3]));
    scenario.children.insert(leave, leaving);
    scenario.classes = vec![0, 1, 1, 3];
    scenario.times = vec![(seals, "seals are due")];
    scenario
}

/// Three members that step from rules 1 to rules 2 while a proposal of rules 1 is half sealed.
pub fn step_to_rules_2() -> Scenario {
    let mut stage = Stage::founded(&THREE, |_| ());
    let x = stage.propose(0, approve("x"), |_| ());
    let step = SetRules { rules: 2, deliberation: presets::deliberation() };
    let step = stage.propose(1, Action::SetRules(step), |_| ());
    stage.yes(0..3, x);
    stage.yes(0..3, step);
    let state = stage.commons.state();
    let root = state.proposals().get(&step).map(|proposal| proposal.ballot.root);
    let charter = state.head(Scope::Charter);
    let next: Option<PolicyHash> = root.map(|root| version_hash(Scope::Charter, charter, step, root));
    let y = ahead(&mut stage, 2, &[0, 1, 2], |proposal| proposal.charter = next);
    let mut named = children(&stage, &[("X of rules 1", x), ("the step to rules 2", step)]);
    if let Some((_, child)) = named.first().cloned() {
        named.push((y, Child { name: "Y of rules 2", ..child }));
    }
    let seals = stage.now.plus(Seconds(GRACE));
    let mut scenario = Scenario::new(
        "step-to-rules-2",
        "the step to rules 2 while a proposal of rules 1 is half sealed",
        stage,
        false,
    );
    scenario.children.extend(named);
    scenario.classes = vec![0, 0, 0];
    // Under rules 1 each seal can end the term for which it was signed.
    scenario.every_seal_counts = true;
    scenario.times = vec![(seals, "seals are due")];
    scenario
}
