//! What the operator says of itself in conditions, and what to do where it does not say yes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::GPUPool;
use koinon_api::conditions::{self, ConditionType, Reason};
use kube::ResourceExt as _;

use super::{Findings, Verdict};

/// What somebody chose, or what takes its course: nothing is broken.
const NOTES: [Reason; 9] = [
    Reason::HomeOnly,
    Reason::AcceptedUnenforced,
    Reason::GuestsStopped,
    Reason::DrainingGuests,
    Reason::NoEndpoint,
    Reason::Deleting,
    Reason::Left,
    Reason::OutsideHours,
    Reason::Overlaps,
];

/// Notes the conditions of a membership. `home` says that it names no gateway: then it hosts nobody.
pub fn membership(conditions: &[Condition], home: bool, findings: &mut Findings) {
    if conditions.is_empty() {
        let fix = "wait until the operator is ready (koinon-operator above)";
        findings.add("membership", Verdict::Unknown, "the operator has not reported yet", fix);
    }
    for condition in conditions {
        findings.add(
            &condition.type_,
            judge(condition, home),
            format!("{}: {}", condition.reason, condition.message),
            if condition.status == "True" { "" } else { fix(condition) },
        );
    }
    // That an endpoint answers from here says nothing of who else reaches it.
    let reachable = ConditionType::EndpointReachable;
    if conditions::find(conditions, reachable).is_none() {
        let detail = "no peer has said yet whether it reaches this member";
        findings.add(reachable.as_str(), Verdict::Unknown, detail, "ask again once a peer is connected");
    }
}

/// Notes whether each pool shares anything.
pub fn pools(pools: &[GPUPool], findings: &mut Findings) {
    for pool in pools {
        let what = format!("pool {}", pool.name_any());
        let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        match conditions::find(conditions, ConditionType::Ready) {
            Some(ready) if ready.status == "True" => findings.good(what, &ready.message),
            Some(ready) => {
                let name = pool.name_any();
                let fix = format!("kubectl describe gpupools -n {} {name}", pool.namespace().unwrap_or_default());
                findings.add(what, judge(ready, false), format!("{}: {}", ready.reason, ready.message), fix);
            }
            None => {
                findings.add(what, Verdict::Unknown, "the operator has not looked at it yet", "ask again in a minute")
            }
        }
    }
}

fn judge(condition: &Condition, home: bool) -> Verdict {
    // Who hosts nobody has nobody to confine.
    let for_guests = [ConditionType::NetworkPolicyEnforced, ConditionType::AcceptingGuests];
    let idle = home && for_guests.iter().any(|type_| type_.as_str() == condition.type_);
    match condition.status.as_str() {
        "True" => Verdict::Good,
        _ if idle || NOTES.iter().any(|reason| reason.as_str() == condition.reason) => Verdict::Note,
        "False" => Verdict::Bad,
        _ => Verdict::Unknown,
    }
}

fn fix(condition: &Condition) -> &'static str {
    let is = |reason: Reason| condition.reason == reason.as_str();
    let of = |type_: ConditionType| condition.type_ == type_.as_str();
    if is(Reason::HomeOnly) {
        "nothing, unless it shall host others' work: then name a gateway in spec.endpoints.gateway"
    } else if is(Reason::AcceptedUnenforced) {
        "nothing, as you chose it; a network plugin that enforces NetworkPolicies would confine guests"
    } else if is(Reason::GuestsStopped) || is(Reason::DrainingGuests) {
        "nothing, as you chose it; set spec.guests.mode of the Cooperative to Accept to take foreign work again"
    } else if is(Reason::NoEndpoint) {
        "nothing, if it shall only be heard over connections of its own; else join with --peer-endpoint"
    } else if is(Reason::KeyMissing) || is(Reason::KeyMismatch) {
        "kubectl koinon keys restore BACKUP, with the key that this member has been known by"
    } else if of(ConditionType::Joined) {
        "while the vote runs, wait; else ask the sponsor for another invite (kubectl koinon proposals at the sponsor)"
    } else if of(ConditionType::Signing) {
        "in a cloned or restored cluster see kubectl koinon adopt; where no peer can answer see kubectl koinon resume"
    } else if of(ConditionType::PeersReachable) {
        "see the peers below: this cluster has to reach their endpoints, or they this one's"
    } else if of(ConditionType::EndpointReachable) {
        "lead the endpoint to the Service koinon-peer as TCP passthrough"
    } else if of(ConditionType::ClockSynced) {
        "run a time service on this cluster's nodes"
    } else if of(ConditionType::NetworkPolicyEnforced) {
        "install a network plugin that enforces NetworkPolicies, or accept it with spec.guests.networkPolicy: AcceptUnenforced"
    } else if of(ConditionType::AcceptingGuests) {
        "see NetworkPolicyEnforced, or set spec.guests of the Cooperative"
    } else if of(ConditionType::WeightsCacheReady) {
        "look at the pod of the StatefulSet koinon-weights: its volume, its logs"
    } else if of(ConditionType::Ready) {
        "see the lines above"
    } else {
        "kubectl describe kcoop shows since when"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(type_: ConditionType, status: &str, reason: Reason) -> Condition {
        let said = json!({"type": type_.as_str(), "status": status, "reason": reason.as_str(), "message": "m",
            "lastTransitionTime": "2026-11-21T00:00:00Z"});
        serde_json::from_value(said).unwrap()
    }

    fn verdict(conditions: &[Condition], home: bool, type_: ConditionType) -> Verdict {
        let mut findings = Findings::default();
        membership(conditions, home, &mut findings);
        let finding = findings.0.into_iter().find(|finding| finding.what == type_.as_str()).unwrap();
        assert_eq!(finding.fix.is_empty(), finding.verdict == Verdict::Good, "{finding:?}");
        finding.verdict
    }

    #[test]
    fn an_own_endpoint_passes_only_where_a_peer_has_dialled_it_back() {
        let type_ = ConditionType::EndpointReachable;
        let said = |status, reason| verdict(&[condition(type_, status, reason)], false, type_);
        assert_eq!(said("True", Reason::EndpointReached), Verdict::Good);
        assert_eq!(said("False", Reason::EndpointUnreachable), Verdict::Bad);
        assert_eq!(said("Unknown", Reason::NotDialled), Verdict::Unknown);
        assert_eq!(verdict(&[], false, type_), Verdict::Unknown);
    }

    #[test]
    fn what_the_owner_chose_is_a_note_and_no_failure() {
        let (guests, network) = (ConditionType::AcceptingGuests, ConditionType::NetworkPolicyEnforced);
        for (type_, reason) in [
            (guests, Reason::HomeOnly),
            (guests, Reason::GuestsStopped),
            (guests, Reason::DrainingGuests),
            (network, Reason::AcceptedUnenforced),
        ] {
            assert_eq!(verdict(&[condition(type_, "False", reason)], false, type_), Verdict::Note, "{reason:?}");
        }
    }

    #[test]
    fn a_network_that_confines_nobody_is_wrong_at_a_host_and_of_no_account_at_a_pure_home() {
        let network = ConditionType::NetworkPolicyEnforced;
        let found = [condition(network, "False", Reason::NotEnforced)];
        assert_eq!(verdict(&found, false, network), Verdict::Bad);
        assert_eq!(verdict(&found, true, network), Verdict::Note);
    }

    #[test]
    fn whoever_lost_its_key_is_told_to_restore_it_and_not_to_apply_again() {
        for (type_, reason) in
            [(ConditionType::Joined, Reason::KeyMissing), (ConditionType::Signing, Reason::KeyMismatch)]
        {
            assert!(fix(&condition(type_, "False", reason)).contains("keys restore"), "{type_:?} {reason:?}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_wrong_anywhere() {
        let clock = ConditionType::ClockSynced;
        for home in [false, true] {
            assert_eq!(verdict(&[condition(clock, "False", Reason::ClockOffset)], home, clock), Verdict::Bad);
        }
    }
}
