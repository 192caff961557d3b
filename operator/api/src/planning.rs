//! From resources to what the planner of `koinon-core` reads.

pub mod check;

use koinon_core::body::latest::{EvidenceLevel, GpuNeed, ModelRef, Offer, OfferedClass};
use koinon_core::body::norms::PlacementRules;
use koinon_core::ids::{Seconds, UnixSeconds};
use koinon_core::liveness::Liveness as CoreLiveness;
use koinon_core::planner::{Need, OwnerRules};

use crate::convert::ConvertError;
use crate::gpu_offer::{GPUOfferStatus, OfferClass};
use crate::inference_job::InferenceJobSpec;
use crate::member::{Liveness, Member};
use crate::time;

fn name<T: std::str::FromStr<Err = koinon_core::ids::IdError>>(
    what: &'static str,
    text: &str,
) -> Result<T, ConvertError> {
    text.parse().map_err(|source| ConvertError::Name { what, source })
}

fn names<T, C>(what: &'static str, texts: &[String]) -> Result<C, ConvertError>
where
    T: std::str::FromStr<Err = koinon_core::ids::IdError>,
    C: FromIterator<T>,
{
    texts.iter().map(|text| name(what, text)).collect()
}

fn count(what: &'static str, from: i32) -> Result<u32, ConvertError> {
    from.try_into().map_err(|_| ConvertError::Range { what, value: from.to_string() })
}

/// What one replica of a job needs, with `gpus` as its computed or given number of GPUs.
///
/// # Errors
/// Where a name of the job breaks its rule.
pub fn need(spec: &InferenceJobSpec, gpus: u32) -> Result<Need, ConvertError> {
    let model = ModelRef::try_from(&spec.model)?;
    let rules = &spec.placement;
    Ok(Need {
        model: model.manifest_digest,
        gpu: GpuNeed { class: name("spec.gpu.class", &spec.gpu.class)?, count: gpus },
        members: names("spec.placement.members", &rules.members)?,
        exclude_members: names("spec.placement.excludeMembers", &rules.exclude_members)?,
        jurisdictions: names("spec.placement.jurisdictions", &rules.jurisdictions)?,
        min_evidence: rules.min_evidence.unwrap_or_default().into(),
        max_per_member: rules.max_per_member.map(|most| count("spec.placement.maxPerMember", most)).transpose()?,
        rules: PlacementRules::default(),
        owner: OwnerRules::default(),
    })
}

/// An offer as the resource shows it.
///
/// # Errors
/// Where the status is not complete or a name breaks its rule.
pub fn offer(status: &GPUOfferStatus) -> Result<Offer, ConvertError> {
    let jurisdiction = status.jurisdiction.as_deref().unwrap_or_default();
    Ok(Offer {
        classes: status.classes.iter().map(offered_class).collect::<Result<_, _>>()?,
        guests: status.guests.unwrap_or_default().into(),
        network_policy: status.network_policy.unwrap_or_default().into(),
        weights: names("status.weights", &status.weights)?,
        gateway: names("status.gateway", &status.gateway)?,
        jurisdiction: name("status.jurisdiction", jurisdiction)?,
    })
}

fn offered_class(class: &OfferClass) -> Result<OfferedClass, ConvertError> {
    let bytes = class.memory_bytes;
    let range = |_| ConvertError::Range { what: "memoryBytes", value: bytes.to_string() };
    Ok(OfferedClass {
        class: name("class", &class.class)?,
        product: name("product", &class.product)?,
        memory_bytes: koinon_core::ids::Bytes(bytes.try_into().map_err(range)?),
        offered: count("offered", class.offered)?,
        largest_block: count("largestBlock", class.largest_block)?,
        largest_node: class.largest_node.map(|most| count("largestNode", most)).transpose()?,
        evidence: class.evidence.into(),
    })
}

/// How far a job of `gpus` GPUs on one node is believed to find them, where the status shows how many were challenged at once.
#[must_use]
pub fn evidence_for(status: &GPUOfferStatus, class: &str, gpus: u32) -> EvidenceLevel {
    let Some(shown) = status.classes.iter().find(|shown| shown.class == class) else { return EvidenceLevel::Claimed };
    let devices = shown.challenged_devices.and_then(|devices| u32::try_from(devices).ok()).unwrap_or(0);
    let most = if gpus > devices { EvidenceLevel::SchedulerConsistent } else { EvidenceLevel::Challenged };
    EvidenceLevel::from(shown.evidence).min(most)
}

/// The offer that a resource shows and its age, where it still holds at `now`.
///
/// # Errors
/// Where the resource holds what is none of the domain's.
pub fn current_offer(status: &GPUOfferStatus, now: UnixSeconds) -> Result<Option<(Offer, Seconds)>, ConvertError> {
    let holds = status.not_after_time.as_ref().is_some_and(|end| time::to_unix(end) > now.0);
    if !holds {
        return Ok(None);
    }
    let age = status.as_of_time.as_ref().map_or(0, |as_of| now.0 - time::to_unix(as_of));
    Ok(Some((offer(status)?, Seconds(age.max(0)))))
}

/// How a member is heard, as its resource says.
#[must_use]
pub fn heard(member: &Member) -> Option<CoreLiveness> {
    match member.status.as_ref()?.liveness? {
        Liveness::Own | Liveness::Fresh => Some(CoreLiveness::Fresh),
        Liveness::Suspect => Some(CoreLiveness::Suspect),
        Liveness::Lost => Some(CoreLiveness::Lost),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_of_more_gpus_than_were_challenged_at_once_is_believed_less() {
        let status = json!({"classes": [{"class": "h100-80", "product": "x", "memoryBytes": 1, "offered": 8,
            "largestBlock": 8, "evidence": "Challenged", "challengedDevices": 4}]});
        let status: GPUOfferStatus = serde_json::from_value(status).unwrap();
        let level = |class, gpus| evidence_for(&status, class, gpus);
        assert_eq!(level("h100-80", 4), EvidenceLevel::Challenged);
        assert_eq!(level("h100-80", 5), EvidenceLevel::SchedulerConsistent);
        assert_eq!(level("a100-40", 1), EvidenceLevel::Claimed);
    }

    #[test]
    fn a_member_that_shares_nothing_has_a_valid_offer_of_nothing_until_it_ends() {
        let status = json!({"jurisdiction": "DK", "asOfTime": "2026-11-21T00:00:00Z",
            "notAfterTime": "2026-11-21T00:01:00Z"});
        let status: GPUOfferStatus = serde_json::from_value(status).unwrap();
        let as_of = time::to_unix(status.as_of_time.as_ref().unwrap());
        let seen = |after: i64| current_offer(&status, UnixSeconds(as_of + after)).unwrap();
        let (offer, age) = seen(40).unwrap();
        assert_eq!((offer.classes.len(), age), (0, Seconds(40)));
        assert_eq!(seen(60), None);
    }
}
