//! Which of a model's copies gets a call.

use super::{Route, Target};

/// What is known of a copy's load and health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Calls that this gateway has there.
    pub in_flight: u32,
    /// It failed so often lately that it is tried last.
    pub ejected: bool,
}

/// The copies in the order to try: those that work before those that failed, the least loaded first, own ones first where
/// they are as good, and among equals as `turn` says, so that a tie does not always hit the same one.
pub fn order(routes: &[(&Route, Load)], turn: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..routes.len()).collect();
    let rank = |at: usize| {
        let (route, load) = &routes[at];
        // In thousandths of what the copy works on at a time: whole numbers, so that equal loads compare equal.
        let share = u64::from(load.in_flight) * 1000 / u64::from(route.concurrency.max(1));
        let foreign = matches!(route.target, Target::Gateway { .. });
        (load.ejected, share, foreign, (at + routes.len() - turn % routes.len()) % routes.len())
    };
    order.sort_by_key(|at| rank(*at));
    order
}
