//! Ballot boxes: what is in them, when they grow, and what came late.

use koinon_core::body::proposal::Choice;
use koinon_core::body::{Body, BoxOffer};
use koinon_core::ids::{Seconds, StatementId, UnixSeconds};
use koinon_core::testkit::T0;

use super::super::scenario::Scenario;
use super::super::stage::{GRACE, Stage, TOLERANCE};
use super::{FOUR, LIAR, approve, children};

const PERIOD: i64 = 120;

fn after(seconds: i64) -> UnixSeconds {
    T0.plus(Seconds(seconds))
}

fn offer(proposal: StatementId, entries: &[StatementId]) -> (UnixSeconds, Body) {
    let entries = entries.iter().copied().collect();
    (after(PERIOD + GRACE), Body::BoxOffer(BoxOffer { proposal, entries }))
}

/// The votes of the first honest members on `proposal`, heard by everybody, as the entries that anchor them.
fn votes(stage: &mut Stage, proposal: StatementId, choices: &[Choice]) -> Vec<StatementId> {
    let vote = |(who, choice): (usize, &Choice)| {
        let (anchor, _) = stage.signed(who, Stage::ballot(proposal, *choice));
        stage.append(who, anchor)
    };
    choices.iter().enumerate().map(vote).collect()
}

/// A veto that not everybody has heard: with it the box is larger, and what it amounts to is another thing.
pub fn growing_box() -> Scenario {
    let mut stage = Stage::new(&FOUR, |_| ());
    let x = stage.propose(0, approve("x"), |_| ());
    let small = votes(&mut stage, x, &[Choice::Yes, Choice::Yes]);
    let (veto, _) = stage.signed(2, Stage::ballot(x, Choice::Veto));
    let named = children(&stage, &[("X", x)]);
    let mut scenario =
        Scenario::new("growing-box", "a veto that reaches some operators only, so that boxes differ", stage, true);
    scenario.children.extend(named);
    let veto = scenario.tail(2, T0, veto);
    let large = [small.clone(), vec![veto]].concat();
    for (member, entries) in [(0, &small), (1, &small), (2, &large)] {
        let (at, body) = offer(x, entries);
        scenario.tail(member, at, body);
    }
    scenario.classes = vec![0, 1, 2, LIAR];
    scenario.times = vec![(after(PERIOD + 2 * GRACE), "seals are due")];
    scenario.tell(0, vec![]);
    scenario.tell(0, vec![offer(x, &large)]);
    scenario.tell_readers(&[vec![offer(x, &large)]]);
    scenario
}

/// The liar's vote, dated in time and shown to anybody only when the offers have been exchanged.
pub fn late_vote() -> Scenario {
    let mut stage = Stage::new(&FOUR, |_| ());
    let x = stage.propose(0, approve("x"), |_| ());
    let in_time = votes(&mut stage, x, &[Choice::Yes, Choice::Yes, Choice::No]);
    let (vote, _) = stage.signed(LIAR, Stage::ballot(x, Choice::No));
    let named = children(&stage, &[("X", x)]);
    let mut scenario =
        Scenario::new("late-vote", "a vote that is shown to nobody before the offers are exchanged", stage, true);
    scenario.children.extend(named);
    let anchor = (T0, vote);
    let late = scenario.entry(LIAR, std::slice::from_ref(&anchor));
    scenario.late.insert(late);
    scenario.classes = vec![0, 1, 2, LIAR];
    scenario.clocks_agree = true;
    scenario.times = vec![
        (after(PERIOD + GRACE), "offers are due"),
        (after(PERIOD + 2 * GRACE), "seals are due"),
        (after(PERIOD + 2 * GRACE + 2 * TOLERANCE + 1), "the late vote appears"),
    ];
    let vouched = vec![anchor, offer(x, &[in_time, vec![late]].concat())];
    scenario.tell(0, vec![]);
    scenario.tell(2, vouched.clone());
    scenario.tell_readers(&[vouched]);
    scenario
}

/// A box that closes as soon as all have voted, where the liar shows its vote to some only.
pub fn early_close() -> Scenario {
    let mut stage = Stage::new(&FOUR, |charter| charter.parameters.close_when_all_voted = true);
    let x = stage.propose(0, approve("x"), |_| ());
    let small = votes(&mut stage, x, &[Choice::Yes, Choice::Yes, Choice::No]);
    let (vote, _) = stage.signed(LIAR, Stage::ballot(x, Choice::Veto));
    let named = children(&stage, &[("X", x)]);
    let mut scenario = Scenario::new(
        "early-close",
        "a box that closes when all have voted, and a vote that some have not heard",
        stage,
        true,
    );
    scenario.children.extend(named);
    let anchor = (T0, vote);
    let last = scenario.entry(LIAR, std::slice::from_ref(&anchor));
    let large = [small.clone(), vec![last]].concat();
    scenario.classes = vec![0, 1, 2, LIAR];
    // For those who have heard the last vote the box has closed long ago.
    scenario.times = vec![(after(PERIOD + 2 * GRACE), "seals are due")];
    scenario.tell(0, vec![]);
    scenario.tell(0, vec![anchor.clone(), offer(x, &large)]);
    scenario.tell_readers(&[vec![anchor, offer(x, &large)]]);
    scenario
}
