//! The small cooperatives that are explored: each shows one corner in which two honest members might conclude otherwise.

mod boxes;
mod members;
mod slots;

use koinon_core::body::Body;
use koinon_core::body::catalogue::ModelRelease;
use koinon_core::body::entry::{Slot, SlotStatus};
use koinon_core::body::proposal::Action;
use koinon_core::ids::{Digest, ManifestDigest, StatementId, UnixSeconds};
use koinon_core::sealing::Promise;

pub use boxes::{early_close, growing_box, late_vote};
pub use members::{expulsions, fourth_member, leaving, stale_pins, step_to_rules_2};
pub use slots::{cancellation, next_term, one_slot, restored, split_slot, three_terms};

use super::scenario::{Child, Scenario};
use super::stage::Stage;

const FOUR: [&str; 4] = ["aarhus", "bilbao", "cork", "delft"];
const THREE: [&str; 3] = ["aarhus", "bilbao", "cork"];
/// The one that lies, where there is one.
const LIAR: usize = 3;

/// The scenarios that are small enough to be visited in full in a test.
pub fn small() -> Vec<Scenario> {
    vec![
        one_slot(),
        cancellation(),
        growing_box(),
        early_close(),
        expulsions(),
        leaving(),
        fourth_member(false),
        restored(true),
    ]
}

/// The others.
pub fn large() -> Vec<Scenario> {
    vec![late_vote(), split_slot(), next_term(), stale_pins(), step_to_rules_2(), fourth_member(true), three_terms()]
}

/// Where to look for what each promise prevents.
pub fn broken() -> Vec<(Promise, Scenario)> {
    Promise::ALL
        .into_iter()
        .map(|promise| {
            let scenario = match promise {
                Promise::OfferOnce | Promise::OfferInTime => late_vote(),
                Promise::EnoughOffers | Promise::NoShrink => growing_box(),
                Promise::OnePassedInSlot => split_slot(),
                Promise::OneEnactInSlot => step_to_rules_2(),
                Promise::CancelOrEnact => cancellation(),
                Promise::StalePins => stale_pins(),
                Promise::StatusEndsSlot | Promise::CarryOn => next_term(),
                Promise::NothingOld => restored(true),
            };
            (promise, scenario)
        })
        .collect()
}

/// Approves a model.
// A fixed name that does not parse is a mistake in the scenario itself.
#[allow(clippy::unwrap_used)]
fn approve(name: &str) -> Action {
    Action::AddModelRelease(ModelRelease {
        uri: format!("https://models.example/{name}").parse().unwrap(),
        revision: "main".parse().unwrap(),
        manifest_digest: ManifestDigest(Digest::of(name.as_bytes())),
        quantization: "none".parse().unwrap(),
        license: "Apache-2.0".parse().unwrap(),
        engines: vec![],
        memory_bytes: None,
    })
}

/// What can be enacted of `named`, as it stands on `stage`.
fn children(stage: &Stage, named: &[(&'static str, StatementId)]) -> Vec<(StatementId, Child)> {
    let proposals = stage.commons.state().proposals();
    named.iter().filter_map(|(name, id)| Some((*id, Child::of(stage, name, proposals.get(id)?)))).collect()
}

/// Somebody ends `slot`, where it has signed `signed`.
fn ends(at: UnixSeconds, slot: Slot, signed: Option<StatementId>) -> (UnixSeconds, Body) {
    (at, Body::SlotStatus(SlotStatus { slot, signed }))
}
