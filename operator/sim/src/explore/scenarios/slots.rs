//! Slots and terms: competing proposals, the end of a slot, cancellation, a member that forgets.

use koinon_core::body::proposal::{Action, CancelProposal};
use koinon_core::body::{Body, Class};
use koinon_core::ids::{Seconds, StatementId, UnixSeconds};
use koinon_core::testkit::T0;

use super::super::scenario::{Restores, Scenario};
use super::super::stage::{GRACE, Stage, TOLERANCE, WINDOW, closing_at};
use super::{FOUR, LIAR, THREE, approve, children, ends};

/// A vote lasts as long as the trial preset says.
const PERIOD: i64 = 120;

fn after(seconds: i64) -> UnixSeconds {
    T0.plus(Seconds(seconds))
}

/// When the seals of what closes at `closes` may be signed.
fn sealing(closes: i64) -> i64 {
    closes + 2 * GRACE
}

/// When the slot of what closes at `closes` may end.
fn ending(closes: i64) -> i64 {
    closes + GRACE + WINDOW + 2 * TOLERANCE + 1
}

/// Tells of every way in which the liar can end the slot of `children`, from time `from` on.
fn tell_of_the_end(scenario: &mut Scenario, at: i64, from: usize, children: &[StatementId]) {
    let Some(slot) = children.first().and_then(|id| scenario.children.get(id)).map(|child| child.slot) else { return };
    let named = children.iter().map(|id| Some(*id));
    for signed in std::iter::once(None).chain(named) {
        scenario.tell(from, vec![ends(after(at), slot, signed)]);
    }
}

/// Two proposals of one slot, as everybody has heard, with all offers made.
fn competing() -> (Stage, StatementId, StatementId) {
    let mut stage = Stage::new(&FOUR, |_| ());
    let x = stage.propose(0, approve("x"), |_| ());
    let y = stage.propose(1, approve("y"), |_| ());
    stage.yes(0..4, x);
    stage.yes(0..4, y);
    stage.offer(after(PERIOD + GRACE));
    (stage, x, y)
}

/// Two proposals of one slot.
pub fn one_slot() -> Scenario {
    let (stage, x, y) = competing();
    let named = children(&stage, &[("X", x), ("Y", y)]);
    let mut scenario = Scenario::new("one-slot", "two proposals of one slot", stage, true);
    scenario.children.extend(named);
    scenario.classes = vec![0, 0, 0, LIAR];
    scenario.times = vec![(after(sealing(PERIOD)), "seals are due")];
    scenario.tell(0, vec![]);
    scenario.tell_readers(&[vec![]]);
    scenario
}

/// Two proposals of one slot, between which the operators have begun to split: then it ends and is tried again.
pub fn split_slot() -> Scenario {
    let (mut stage, x, y) = competing();
    stage.now = after(sealing(PERIOD));
    // What is carried on in a tie is the smaller one: the other one may have been enacted.
    let (first, second) = if x < y { (y, x) } else { (x, y) };
    for (who, what) in [(0, first), (1, first), (2, second)] {
        if let Some(seal) =
            stage.next(who).into_iter().find(|body| matches!(body, Body::CloseSeal(s) if s.proposal == what))
        {
            stage.append(who, seal);
        }
    }
    let named = children(&stage, &[("X", first), ("Y", second)]);
    let mut scenario = Scenario::new(
        "split-slot",
        "two proposals that split the operators of a slot, which ends and is tried again",
        stage,
        true,
    );
    scenario.children.extend(named);
    scenario.classes = vec![0, 0, 2, LIAR];
    scenario.times = vec![(after(sealing(PERIOD)), "seals are due"), (after(ending(PERIOD)), "the slot may end")];
    scenario.tell(0, vec![]);
    tell_of_the_end(&mut scenario, ending(PERIOD), 1, &[first, second]);
    scenario.tell_readers(&[vec![]]);
    scenario
}

/// One proposal whose slot ends, and another one for the next term.
pub fn next_term() -> Scenario {
    let mut stage = Stage::new(&FOUR, |_| ());
    let later = ending(PERIOD) - 2 * GRACE;
    let x = stage.propose(0, approve("x"), |_| ());
    let z = stage.propose(1, approve("z"), |proposal| {
        closing_at(proposal, after(later));
        proposal.term = 1;
    });
    stage.yes(0..4, x);
    stage.yes(0..4, z);
    stage.offer(after(PERIOD + GRACE));
    stage.offer(after(later + GRACE));
    let named = children(&stage, &[("X", x), ("Z", z)]);
    let mut scenario =
        Scenario::new("next-term", "a proposal whose slot ends, and another one for the term after it", stage, true);
    scenario.children.extend(named);
    scenario.classes = vec![0, 0, 0, LIAR];
    scenario.times = vec![(after(sealing(PERIOD)), "seals are due"), (after(sealing(later)), "the slot may end")];
    scenario.tell(0, vec![]);
    tell_of_the_end(&mut scenario, ending(PERIOD), 1, &[x]);
    scenario.tell_readers(&[vec![]]);
    scenario
}

/// Two proposals of one slot, another one for the term after it, and the end of that term too.
pub fn three_terms() -> Scenario {
    let mut stage = Stage::new(&FOUR, |_| ());
    let later = ending(PERIOD) - 2 * GRACE;
    let x = stage.propose(0, approve("x"), |_| ());
    let y = stage.propose(2, approve("y"), |_| ());
    let z = stage.propose(1, approve("z"), |proposal| {
        closing_at(proposal, after(later));
        proposal.term = 1;
    });
    for proposal in [x, y, z] {
        stage.yes(0..4, proposal);
    }
    stage.offer(after(PERIOD + GRACE));
    stage.offer(after(later + GRACE));
    let named = children(&stage, &[("X", x), ("Y", y), ("Z", z)]);
    let mut scenario =
        Scenario::new("three-terms", "two proposals of one slot and a third for the term after it", stage, true);
    scenario.children.extend(named);
    scenario.classes = vec![0, 0, 0, LIAR];
    scenario.times = vec![(after(sealing(PERIOD)), "seals are due"), (after(sealing(later)), "the slot may end")];
    scenario.tell(0, vec![]);
    tell_of_the_end(&mut scenario, ending(PERIOD), 1, &[x, y]);
    scenario.tell_readers(&[vec![]]);
    scenario.twice = false;
    scenario
}

/// A proposal that has passed, and one that stops it.
pub fn cancellation() -> Scenario {
    let mut stage = Stage::new(&FOUR, |charter| {
        if let Some(rules) = charter.classes.get_mut(&Class::Routine) {
            rules.timelock_seconds = Seconds(WINDOW);
        }
    });
    let x = stage.propose(0, approve("x"), |_| ());
    let k = stage.propose(1, Action::CancelProposal(CancelProposal { proposal: x }), |_| ());
    stage.yes(0..4, x);
    stage.yes(0..4, k);
    stage.offer(after(PERIOD + GRACE));
    let named = children(&stage, &[("X", x), ("the cancellation", k)]);
    let mut scenario =
        Scenario::new("cancellation", "a proposal that has passed, and a cancellation of it", stage, true);
    scenario.children.extend(named);
    if let Some(child) = scenario.children.get_mut(&k) {
        child.cancels = Some(x);
    }
    scenario.classes = vec![0, 0, 0, LIAR];
    let eta = PERIOD + GRACE + WINDOW;
    scenario.times = vec![(after(sealing(PERIOD)), "seals are due"), (after(eta), "it takes effect")];
    scenario.tell(0, vec![]);
    tell_of_the_end(&mut scenario, ending(PERIOD), 1, &[x]);
    scenario.tell_readers(&[vec![]]);
    // What follows a slot that ends early has its own scenario.
    scenario.leaves_out = |body| matches!(body, Body::SlotStatus(_));
    scenario
}

/// Three members, one of which is restored from a backup: by a person's word, or as if nothing had happened.
pub fn restored(by_word: bool) -> Scenario {
    let mut stage = Stage::new(&THREE, |_| ());
    let x = stage.propose(0, approve("x"), |_| ());
    let y = stage.propose(1, approve("y"), |_| ());
    stage.yes(0..3, x);
    stage.yes(0..3, y);
    stage.offer(after(PERIOD + GRACE));
    let named = children(&stage, &[("X", x), ("Y", y)]);
    let restores = Restores::new(&stage.people[0], 0, by_word);
    let (name, what) = if by_word {
        ("restored", "a member that is restored from a backup and resumes by a person's word")
    } else {
        ("forgetful", "a member that is restored from a backup and goes on as if nothing had happened")
    };
    let mut scenario = Scenario::new(name, what, stage, false);
    scenario.children.extend(named);
    scenario.classes = vec![0, 1, 1];
    scenario.times = vec![(after(sealing(PERIOD)), "seals are due")];
    scenario.restores = Some(restores);
    scenario
}
