//! `GPUOffer`: what each member offers, as it was last heard from the member itself, with its age.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{ConditionType, Reason, Verdict};
use koinon_api::gpu_offer::{GPUOffer, GPUOfferSpec, GPUOfferStatus, OfferClass};
use koinon_api::time;
use koinon_core::belief::Belief;
use koinon_core::body::latest::{GuestsMode, Offer, OfferedClass};
use koinon_core::ids::UnixSeconds;
use koinon_core::policy::{Halted, MemberStanding};

use crate::challenges::Beliefs;
use crate::context::CooperativeView;
use crate::kinds::gpuoffer_challenges;
use crate::kinds::projections::{Moment, Projected, set};
use crate::peers::{Heard, Liveness, PeersSnapshot};

/// Most classes that the resource shows of one offer, as its schema says.
const MAX_CLASSES: usize = 64;
/// Most gateways of one offer, as its schema says.
const MAX_GATEWAYS: usize = 8;
/// Most weights of one offer, as its schema says.
const MAX_WEIGHTS: usize = 256;

impl Projected for GPUOffer {
    type Status = GPUOfferStatus;

    fn bare(name: &str) -> Self {
        GPUOffer::new(name, GPUOfferSpec {})
    }

    fn status(&self) -> Option<&GPUOfferStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: GPUOfferStatus) {
        self.status = Some(status);
    }

    fn conditions(status: &GPUOfferStatus) -> &[Condition] {
        &status.conditions
    }

    fn seen_at(status: &GPUOfferStatus) -> Option<i64> {
        status.as_of_time.as_ref().map(time::to_unix)
    }
}

/// The status of the offer of every member from which one was heard.
pub(crate) fn statuses(
    view: &CooperativeView,
    peers: &PeersSnapshot,
    beliefs: &Beliefs,
    moment: &Moment,
    stored: impl Fn(&str) -> Option<Arc<GPUOffer>>,
) -> BTreeMap<String, GPUOfferStatus> {
    let mut statuses = BTreeMap::new();
    for (id, peer) in &peers.members {
        let Some(offer) = &peer.offer else { continue };
        let member = Stands {
            halted: view.state.halted(id, moment.now),
            on_probation: view.state.member(id).is_some_and(|m| m.standing == MemberStanding::Probationary),
            liveness: peer.liveness,
        };
        let name = id.to_string();
        let before = stored(&name).and_then(|stored| stored.status.clone()).unwrap_or_default();
        let mut status = status(name.clone(), offer, &member, moment, before);
        gpuoffer_challenges::show(&mut status, id, beliefs, moment);
        statuses.insert(name, status);
    }
    statuses
}

/// What the offering member is, and how it is heard.
struct Stands {
    halted: Option<Halted>,
    on_probation: bool,
    liveness: Liveness,
}

fn status(
    member: String,
    heard: &Heard<Offer>,
    stands: &Stands,
    moment: &Moment,
    before: GPUOfferStatus,
) -> GPUOfferStatus {
    let offer = heard.body.as_ref();
    // Ages are by the own clock: another member's clock says nothing here.
    let age = moment.monotonic.saturating_sub(heard.heard_at).as_secs();
    let heard_at = moment.now.0.saturating_sub(i64::try_from(age).unwrap_or(i64::MAX));
    let left = i64::try_from(heard.remaining(moment.monotonic).as_secs()).unwrap_or(i64::MAX);
    let current = heard.is_current(moment.monotonic);
    let not_after = if current { time::from_unix(moment.now.0.saturating_add(left)) } else { before.not_after_time };
    let mut seen = BTreeSet::new();
    let once = offer.classes.iter().filter(|offered| seen.insert(&offered.class));
    let classes: Vec<OfferClass> = once.filter_map(class).take(MAX_CLASSES).collect();
    let mut status = GPUOfferStatus {
        member: Some(member),
        statement: Some(heard.id.to_string()),
        offered: Some(classes.iter().fold(0, |sum: i32, class| sum.saturating_add(class.offered))),
        largest_block: classes.iter().map(|class| class.largest_block).max(),
        classes,
        guests: Some(offer.guests.into()),
        network_policy: Some(offer.network_policy.into()),
        jurisdiction: Some(offer.jurisdiction.to_string()),
        // What the resource does not take would keep an older, better offer in its place.
        gateway: offer.gateway.iter().map(ToString::to_string).take(MAX_GATEWAYS).collect(),
        weights: offer.weights.iter().map(ToString::to_string).take(MAX_WEIGHTS).collect(),
        as_of_time: time::from_unix(UnixSeconds(heard_at).0),
        not_after_time: not_after,
        challenges: before.challenges,
        conditions: before.conditions,
    };
    let fresh = if current {
        Verdict::yes(Reason::Fresh, "it holds until notAfterTime")
    } else {
        Verdict::no(Reason::Expired, "it has expired: it offers nothing")
    };
    let liveness = stands.liveness;
    let usable = if let Some(halted) = stands.halted {
        // Before its age: nothing newer is taken from a member that may not work, so it soon is old.
        Verdict::no(halted.into(), format!("its member {halted}"))
    } else if !current {
        fresh.clone()
    } else if !matches!(liveness, Liveness::Own | Liveness::Fresh) {
        Verdict::no(Reason::MemberNotUsable, format!("its member is {}", liveness.as_str()))
    } else if offer.guests != GuestsMode::Accept && liveness != Liveness::Own {
        Verdict::no(Reason::GuestsNotAccepted, format!("its owner's guests.mode is {}", offer.guests))
    } else if stands.on_probation {
        Verdict::yes(Reason::OnProbation, "jobs may be placed on a quarter of it until its member is confirmed")
    } else {
        Verdict::yes(Reason::Sharing, "jobs may be placed on it")
    };
    set(&mut status.conditions, ConditionType::Fresh, fresh, None, moment);
    set(&mut status.conditions, ConditionType::Usable, usable, None, moment);
    status
}

/// A class as the resource shows it; numbers beyond what a resource can hold are no offer.
fn class(class: &OfferedClass) -> Option<OfferClass> {
    Some(OfferClass {
        class: class.class.to_string(),
        product: class.product.to_string(),
        memory_bytes: i64::try_from(class.memory_bytes.0).ok()?,
        offered: i32::try_from(class.offered).ok()?,
        largest_block: i32::try_from(class.largest_block).ok()?,
        largest_node: class.largest_node.map(i32::try_from).transpose().ok()?,
        // No further than an owner's own word reaches; the rest follows from what others measured.
        evidence: Belief::unmeasured(class.evidence).level.into(),
        said: Some(class.evidence.into()),
        ..OfferClass::default()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use koinon_core::body::latest::{EvidenceLevel, NetworkPolicyState};
    use koinon_core::ids::{Bytes, Digest, Seq, StatementId};

    use super::*;

    fn heard(at: Duration) -> Heard<Offer> {
        let offer = Offer {
            classes: vec![OfferedClass {
                class: "h100-80".parse().unwrap(),
                product: "NVIDIA H100 80GB HBM3".parse().unwrap(),
                memory_bytes: Bytes(80 << 30),
                offered: 3,
                largest_block: 2,
                largest_node: Some(4),
                evidence: EvidenceLevel::SchedulerConsistent,
            }],
            guests: GuestsMode::Accept,
            network_policy: NetworkPolicyState::Enforced,
            weights: vec![],
            gateway: vec![],
            jurisdiction: "IE".parse().unwrap(),
        };
        Heard {
            id: StatementId(Digest::of(b"offer")),
            seq: Seq(1),
            issued_at: UnixSeconds(5_000),
            not_after: UnixSeconds(5_060),
            body: Arc::new(offer),
            heard_at: at,
        }
    }

    fn at(unix: i64, monotonic: u64) -> Moment {
        Moment {
            now: UnixSeconds(unix),
            time: time::from_unix(unix).unwrap(),
            monotonic: Duration::from_secs(monotonic),
        }
    }

    fn shown(moment: &Moment, liveness: Liveness) -> GPUOfferStatus {
        of(&Stands { halted: None, on_probation: false, liveness }, moment)
    }

    fn of(stands: &Stands, moment: &Moment) -> GPUOfferStatus {
        let heard = heard(Duration::from_secs(100));
        status("cork".to_owned(), &heard, stands, moment, GPUOfferStatus::default())
    }

    #[test]
    fn what_a_member_may_not_do_stands_where_its_offer_is_read() {
        let proof = Digest::of(b"proof");
        let version = koinon_core::ids::PolicyHash(Digest::of(b"version"));
        let quarantined = Halted::Quarantined { proof, proofs: 2 };
        let suspended = Halted::Suspended { version };
        let usable = |halted, on_probation, now| {
            let stands = Stands { halted, on_probation, liveness: Liveness::Fresh };
            let shown = of(&stands, &at(now, u64::try_from(now - 8_900).unwrap()));
            let usable = koinon_api::conditions::find(&shown.conditions, ConditionType::Usable).unwrap();
            (usable.status.clone(), usable.reason.clone(), usable.message.clone())
        };
        let (status, reason, message) = usable(Some(suspended), false, 9_010);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "Suspended"));
        assert_eq!(message, format!("its member is suspended since version {version}, until a vote reinstates it"));
        assert_eq!(usable(Some(suspended), true, 9_070).1, "Suspended", "also when it is old");
        assert_eq!(usable(Some(quarantined), false, 9_010).1, "Quarantined");
        let (status, reason, _) = usable(None, true, 9_010);
        assert_eq!((status.as_str(), reason.as_str()), ("True", "OnProbation"));
    }

    #[test]
    fn an_offer_shows_its_age_by_the_own_clock_and_not_by_its_author_s() {
        let shown = shown(&at(9_010, 110), Liveness::Fresh);
        assert_eq!(shown.as_of_time.as_ref().map(time::to_unix), Some(9_000));
        assert_eq!(shown.not_after_time.as_ref().map(time::to_unix), Some(9_060));
        assert_eq!((shown.offered, shown.largest_block), (Some(3), Some(2)));
    }

    #[test]
    fn an_expired_offer_is_not_usable() {
        let shown = shown(&at(9_060, 160), Liveness::Fresh);
        let usable = koinon_api::conditions::find(&shown.conditions, ConditionType::Usable).unwrap();
        assert_eq!((usable.status.as_str(), usable.reason.as_str()), ("False", "Expired"));
    }

    #[test]
    fn the_offer_of_a_suspect_member_is_not_usable() {
        let shown = shown(&at(9_010, 110), Liveness::Suspect);
        let usable = koinon_api::conditions::find(&shown.conditions, ConditionType::Usable).unwrap();
        assert_eq!((usable.status.as_str(), usable.message.as_str()), ("False", "its member is Suspect"));
    }
}
