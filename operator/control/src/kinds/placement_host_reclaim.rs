//! What the owner takes back, carried out: marks on Placements, and what they mean for each.

use std::sync::Arc;

use koinon_api::conditions::Reason;
use koinon_api::reclaim::{Asked, Mark};
use koinon_api::{Placement, labels};
use koinon_core::body::latest::RefusalReason;
use kube::api::Api;
use kube::{Resource, ResourceExt};

use super::placement_host::{Guests, Scene};
use super::placement_host_state::{Announced, End};
use crate::events::Severity;
use crate::placement::metrics::Part;
use crate::placement::reclaim::{self, Step};

impl Guests {
    /// Tells copies that they go, or that they stay after all, as the owner's pools say now; and returns them as they are told.
    ///
    /// A mark that could not be written is no mark: the notice begins when it is durable.
    pub(super) async fn reclaim(&self, scene: &Scene, mut placements: Vec<Arc<Placement>>) -> Vec<Arc<Placement>> {
        let favours =
            |home: &_| scene.rules.as_ref().is_none_or(|rules| rules.halted(home).is_none() && !rules.cordoned(home));
        let (pools, nodes) = (self.stores.pools.all(), self.stores.nodes.all());
        let steps = reclaim::decide(&reclaim::Inputs {
            me: &scene.me,
            placements: &placements,
            terms: &scene.survey.terms,
            pools: &pools,
            complete: self.stores.pools.undecodable().is_empty() && self.stores.nodes.undecodable().is_empty(),
            nodes: &nodes,
            favours: &favours,
        });
        for (placement, step) in steps {
            let change = match &step {
                Step::Tell(mark) => mark.put(scene.now.unix),
                Step::Keep(_) => Mark::take_away(),
            };
            let (namespace, name) = (placement.namespace().unwrap_or_default(), placement.name_any());
            let api = Api::<Placement>::namespaced(self.ctx.client.clone(), &namespace);
            if let Err(error) = self.writer.merge(&api, &name, &change).await {
                self.metrics.failed(Part::Guests);
                tracing::warn!(%name, %error, "what the owner takes back could not be marked; the next look does it");
                continue;
            }
            tracing::info!(%name, ?step, "the owner's wish for its GPUs changed");
            if let Step::Keep(mark) = &step {
                self.metrics.reclaim.kept(mark);
                let note = "the owner no longer takes its GPUs back: it stays";
                self.ctx.events.tell(placement.object_ref(&()), Severity::Normal, Reason::NothingReclaimed, note);
            }
            if let Some(known) = placements.iter_mut().find(|known| known.uid() == placement.uid()) {
                *known = Arc::new(told(&placement, &change));
            }
        }
        placements
    }
}

/// The Placement with its annotations as they were just written.
fn told(placement: &Placement, change: &serde_json::Value) -> Placement {
    let mut told = placement.clone();
    for name in [labels::RECLAIM, labels::RECLAIM_WHY] {
        match change["metadata"]["annotations"][name].as_str() {
            Some(value) => told.annotations_mut().insert(name.to_owned(), value.to_owned()),
            None => told.annotations_mut().remove(name),
        };
    }
    told
}

/// The end of a Placement whose owner wants its GPUs, once it is due.
pub(super) fn due(placement: &Placement, scene: &Scene) -> Option<End> {
    let asked = Asked::of(placement)?;
    if asked.ends_at(scene.survey.notice(placement)).is_some_and(|at| scene.now.unix < at) {
        return None;
    }
    let end = End::new(RefusalReason::Reclaimed, format!("the owner takes the GPUs back: {}", why(&asked, placement)));
    let numbers = asked.mark.map(|mark| (mark.most, mark.held));
    Some(match numbers {
        Some((Some(most), Some(held))) => end.with("limit", most).with("held", held),
        _ => end,
    })
}

/// The end that is announced to a Placement; none also where it comes at once.
pub(super) fn announced(placement: &Placement, scene: &Scene) -> Option<Announced> {
    let asked = Asked::of(placement)?;
    let at = asked.ends_at(scene.survey.notice(placement))?;
    Some(Announced { at, why: why(&asked, placement) })
}

fn why(asked: &Asked, placement: &Placement) -> String {
    match &asked.mark {
        Some(mark) => mark.words(&placement.spec.gpu.class),
        None => format!("somebody set {}", labels::RECLAIM),
    }
}
