//! What an owner takes back, in resources: the wish in its pools, the mark on a Placement that goes, and the Placement as the
//! order of [`koinon_core::placement::reclaim`] sees it. Operator and `kubectl koinon` read all three here.

use std::collections::BTreeMap;

use koinon_core::ids::{Epoch, GpuClass, NodeName, ReplicaIndex, Seconds, UnixSeconds};
use koinon_core::placement::ReplicaKey;
use koinon_core::placement::reclaim::{Going, Running, Standing};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::placement::{PlacementState, Side};
use crate::{GPUPool, Placement, labels, time};

/// Calls in flight may go on for this long after a copy has begun to end.
pub const DRAIN: Seconds = Seconds(5);
/// How long an engine may take to end after it is told to.
pub const GRACE: Seconds = Seconds(30);
/// How long before a notice is over a copy begins to end. Calls in flight and an engine that does not heed that it is told to end
/// take 35 s together; with 52 such copies ending at once on a busy machine, looks and writes took up to 10 s more.
pub const LEAVING: Seconds = Seconds(60);

/// What of `GPUPool.spec` asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// `drain.nodes`.
    Drain,
    /// `limits`.
    Limit,
    /// A cause of another version.
    #[default]
    #[serde(other)]
    Other,
}

/// Why the operator told a copy to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mark {
    /// What asks for it.
    pub cause: Cause,
    /// Whose pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The notice that was due when it was told: where its pool is gone, that still holds.
    pub notice_seconds: i64,
    /// How many GPUs of its class others may hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
    /// How many they held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<u32>,
}

impl Mark {
    /// The change that puts it on a Placement.
    #[must_use]
    pub fn put(&self, now: UnixSeconds) -> Value {
        let at = time::from_unix(now.0).map_or_else(|| "now".to_owned(), |time| time.0.to_string());
        let why = serde_json::to_string(self).unwrap_or_default();
        json!({"metadata": {"annotations": {labels::RECLAIM: at, labels::RECLAIM_WHY: why}}})
    }

    /// The change that takes it away.
    #[must_use]
    pub fn take_away() -> Value {
        json!({"metadata": {"annotations": {labels::RECLAIM: null, labels::RECLAIM_WHY: null}}})
    }

    /// In words, with the numbers.
    #[must_use]
    pub fn words(&self, class: &str) -> String {
        let pool = self.pool.as_ref().map_or_else(|| "a pool".to_owned(), |pool| format!("pool {pool}"));
        match (self.cause, self.most, self.held) {
            (Cause::Limit, Some(most), Some(held)) => {
                format!("spec.limits of {pool} lets others hold {most} {class}, and they held {held}")
            }
            (Cause::Drain, ..) => "spec.drain of a pool names its node".to_owned(),
            _ => format!("the owner of {pool} wants them"),
        }
    }
}

/// What a Placement's annotations say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When the owner asked; none means that it ends at once.
    pub at: Option<UnixSeconds>,
    /// Whether the operator wrote them, and may take them away.
    pub ours: bool,
    /// Why, as far as it can be read.
    pub mark: Option<Mark>,
}

impl Asked {
    /// What they say, if the owner wants the Placement's GPUs.
    #[must_use]
    pub fn of(placement: &Placement) -> Option<Self> {
        let annotations = placement.annotations();
        let at = annotations.get(labels::RECLAIM)?.parse::<k8s_openapi::jiff::Timestamp>().ok();
        let why = annotations.get(labels::RECLAIM_WHY);
        Some(Self {
            at: at.map(|at| UnixSeconds(at.as_second())),
            ours: why.is_some(),
            mark: why.and_then(|why| serde_json::from_str(why).ok()),
        })
    }

    /// When the Placement begins to end, given what its pool gives as notice; none means now.
    ///
    /// So early that the GPUs are free when the notice is over, also where an engine does not heed that it is told to end: but
    /// half of the notice, at least, is the copy's.
    #[must_use]
    pub fn ends_at(&self, notice: Option<Seconds>) -> Option<UnixSeconds> {
        let told = || self.mark.as_ref().map(|mark| Seconds(mark.notice_seconds));
        let notice = notice.or_else(told).unwrap_or(Seconds(0));
        let leaving = LEAVING.min(Seconds(notice.0 / 2));
        Some(self.at?.plus(notice).minus(leaving))
    }
}

/// What the owner of a pool lets others hold, by class.
#[must_use]
pub fn limits(pool: &GPUPool) -> BTreeMap<GpuClass, u32> {
    let limits = pool.spec.limits.iter();
    limits.filter_map(|limit| Some((limit.class.parse().ok()?, u32::try_from(limit.gpus).unwrap_or(0)))).collect()
}

/// Where a Placement's GPUs are.
#[must_use]
pub fn node_of(placement: &Placement) -> Option<NodeName> {
    placement.annotations().get(labels::NODE)?.parse().ok()
}

/// The Placement as a copy that holds GPUs of this host; none if it is at home, holds nothing any more, or cannot be read.
#[must_use]
pub fn running(placement: &Placement, standing: Standing) -> Option<Running> {
    let spec = &placement.spec;
    let state = placement.status.as_ref().and_then(|status| status.state).unwrap_or(PlacementState::Granted);
    if spec.side != Side::Host || matches!(state, PlacementState::Released | PlacementState::Refused) {
        return None;
    }
    let replica = ReplicaKey {
        home: spec.home.parse().ok()?,
        job: spec.job.uid.parse().ok()?,
        replica: ReplicaIndex(u32::try_from(spec.replica).ok()?),
    };
    let going = match Asked::of(placement) {
        _ if state == PlacementState::Draining => Going::Ends,
        Some(asked) if asked.ours => Going::Told(asked.at.unwrap_or(UnixSeconds(0))),
        Some(_) => Going::Ends,
        None => Going::Stays,
    };
    Some(Running {
        copy: (replica, Epoch(u64::try_from(spec.epoch).unwrap_or(0))),
        class: spec.gpu.class.parse().ok()?,
        gpus: u32::try_from(spec.gpu.count).unwrap_or(0),
        node: node_of(placement)?,
        // Not the time of the last grant: a home could make an old copy young by raising its epoch, or the reverse.
        granted_at: UnixSeconds(placement.creation_timestamp().map_or(0, |at| time::to_unix(&at))),
        standing,
        going,
    })
}
