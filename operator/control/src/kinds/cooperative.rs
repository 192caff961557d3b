//! `Cooperative`: how far this cluster's membership has come, and what stands in its way.

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::common::GuestMode;
use koinon_api::conditions::{ConditionStatus, ConditionType, Reason, Verdict};
use koinon_api::cooperative::{Cooperative, CooperativeSpec, CooperativeStatus, NetworkPolicyDemand, PolicyHead};
use koinon_core::body::Scope;
use koinon_core::body::latest::NetworkPolicyState;
use koinon_core::ids::{Endpoint, MemberId};
use koinon_core::policy::{Halted, MemberStanding};

use crate::commons::candidate::Refusal;
use crate::commons::reach::Reach;
use crate::commons::view::{CommonsView, Signing, Standing};
use crate::context::{HostFacts, WindUp};
use crate::keys::OperatorKey;
use crate::kinds::member;
use crate::kinds::projections::{Moment, Projected, set};
use crate::peers::{Liveness, PeersSnapshot};
use crate::placement::quarantine;

impl Projected for Cooperative {
    type Status = CooperativeStatus;

    fn bare(name: &str) -> Self {
        // Never written: the owner alone makes a Cooperative.
        Cooperative::new(
            name,
            CooperativeSpec {
                id: String::new(),
                member: String::new(),
                site: Default::default(),
                charter: None,
                application: None,
                invite_secret_ref: None,
                endpoints: Default::default(),
                guests: Default::default(),
                weights: Default::default(),
                sources: Vec::new(),
                images: Default::default(),
                limits: Default::default(),
            },
        )
    }

    fn status(&self) -> Option<&CooperativeStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: CooperativeStatus) {
        self.status = Some(status);
    }

    fn conditions(status: &CooperativeStatus) -> &[Condition] {
        &status.conditions
    }
}

/// Everything that a `Cooperative`'s status says.
pub(crate) struct Facts<'a> {
    /// The operator's key, or why there is none.
    pub key: Result<&'a OperatorKey, &'a Refusal>,
    /// Why the membership has not begun, if it has not.
    pub held: Option<&'a Refusal>,
    /// The commons, once they run.
    pub view: Option<&'a CommonsView>,
    /// What is heard.
    pub peers: &'a PeersSnapshot,
    /// Who reaches this member.
    pub reach: &'a Reach,
    /// What the placement side knows.
    pub host: &'a HostFacts,
    /// What is still to be wound up, when the membership is.
    pub ending: Option<&'a [WindUp]>,
}

/// The status of one that does not count.
pub(crate) fn status_of_another(object: &Cooperative, counts: &str, moment: &Moment) -> CooperativeStatus {
    let mut status = object.status.clone().unwrap_or_default();
    status.observed_generation = object.metadata.generation;
    let message =
        format!("the Cooperative {counts} is older; a second cooperative is a second release in its own namespace");
    set(
        &mut status.conditions,
        ConditionType::Ready,
        Verdict::no(Reason::AnotherExists, message),
        object.metadata.generation,
        moment,
    );
    status
}

/// The status of the one that counts.
pub(crate) fn status(object: &Cooperative, facts: &Facts<'_>, moment: &Moment) -> CooperativeStatus {
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let mut status = CooperativeStatus {
        observed_generation: generation,
        public_key: facts.key.ok().map(|key| key.public().to_string()).or(before.public_key.clone()),
        guests: facts.host.guests.clone(),
        quarantine_breaker: facts.host.breaker.as_ref().map(quarantine::shown).or(before.quarantine_breaker.clone()),
        ..before
    };
    if let Some(view) = facts.view {
        let small = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        status.id = Some(view.coop.to_string());
        status.name = Some(view.charter.name.to_string());
        status.member = Some(view.me.to_string());
        status.members = Some(small(view.state.members().len()));
        status.active = Some(small(view.state.active().count()));
        status.membership_head = Some(view.state.head(Scope::Membership).to_string());
        status.policy_heads = Scope::ALL
            .into_iter()
            .map(|scope| PolicyHead { scope: scope.to_string(), version: view.state.head(scope).to_string() })
            .collect();
    }
    let joined = joined(&object.spec, facts);
    let signing = signing(facts);
    let reachable = reachable(facts);
    let may_work = may_work(facts, moment);
    let ready = ready(facts, [&joined, &signing, &reachable, &may_work]);
    for (type_, verdict) in [
        (ConditionType::Joined, joined),
        (ConditionType::Signing, signing),
        (ConditionType::PeersReachable, reachable),
        (ConditionType::EndpointReachable, endpoint(&object.spec, facts)),
        (ConditionType::ClockSynced, clock(facts)),
        (ConditionType::AsAdvised, as_advised(facts)),
        (ConditionType::NetworkPolicyEnforced, network_policy(facts.host)),
        (ConditionType::MayWork, may_work),
        (ConditionType::AcceptingGuests, accepting(&object.spec, facts, moment)),
        (ConditionType::WeightsCacheReady, weights(facts.host)),
        (ConditionType::Ready, ready),
    ] {
        set(&mut status.conditions, type_, verdict, generation, moment);
    }
    status
}

fn starting() -> Verdict {
    Verdict::unknown(Reason::Starting, "the operator has just begun to look")
}

fn joined(spec: &CooperativeSpec, facts: &Facts<'_>) -> Verdict {
    if let Err(refusal) = facts.key {
        return Verdict::no(refusal.reason, refusal.message.clone());
    }
    if let Some(refusal) = facts.held {
        return Verdict::no(refusal.reason, refusal.message.clone());
    }
    let Some(view) = facts.view else { return starting() };
    match &view.standing {
        Standing::Member if spec.charter.is_some() => Verdict::yes(Reason::Founded, "a founder"),
        Standing::Member => Verdict::yes(Reason::Admitted, "admitted by a vote"),
        Standing::Applicant => applying(view),
        Standing::Truncated(missing) => Verdict::no(
            Reason::HistoryTruncated,
            format!(
                "the sponsor's history lacks membership version {missing}, which its invite names: it lost data, or hides some"
            ),
        ),
        Standing::Left => {
            let expelled = view.state.member(&view.me).filter(|me| me.standing == MemberStanding::Expelled);
            match expelled.map(|me| Halted::Expelled { version: me.left }) {
                Some(halted) => {
                    Verdict::no(halted.into(), format!("this member {halted}; delete the Cooperative to wind up"))
                }
                None => Verdict::no(Reason::Left, "this member has left; delete the Cooperative to wind up"),
            }
        }
        Standing::OtherKey(key) => Verdict::no(
            Reason::KeyMismatch,
            format!(
                "the cooperative knows this member by operator key {key}: restore that key (kubectl koinon keys restore)"
            ),
        ),
    }
}

fn applying(view: &CommonsView) -> Verdict {
    let mut about_me =
        view.state.proposals().values().filter(|p| p.applicant.as_ref().is_some_and(|a| a.id == view.me));
    if let Some(proposal) = about_me.next_back() {
        use koinon_core::body::Outcome;
        let ended = proposal.certificates.first().map(|certificate| certificate.outcome);
        if matches!(ended, Some(Outcome::Rejected | Outcome::Vetoed | Outcome::QuorumNotMet)) {
            let message = format!("proposal {} was not accepted; ask the sponsor for another invite", proposal.id);
            return Verdict::no(Reason::ApplicationRejected, message);
        }
        return Verdict::no(Reason::Applying, format!("the members vote on proposal {}", proposal.id));
    }
    Verdict::no(Reason::Applying, "the sponsor has the application; its people propose the admission next")
}

fn signing(facts: &Facts<'_>) -> Verdict {
    if let Err(refusal) = facts.key {
        return Verdict::no(refusal.reason, refusal.message.clone());
    }
    match facts.view.map(|view| &view.signing) {
        None => starting(),
        Some(Signing::Yes) => Verdict::yes(Reason::Signing, "log entries are signed"),
        Some(Signing::No(refusal)) => Verdict::no(refusal.reason, refusal.message.clone()),
    }
}

fn reachable(facts: &Facts<'_>) -> Verdict {
    let others = facts.peers.members.iter().filter(|(_, peer)| peer.liveness != Liveness::Own);
    let (heard, silent): (Vec<_>, Vec<_>) = others.partition(|(_, peer)| peer.liveness == Liveness::Fresh);
    if facts.peers.members.is_empty() {
        return starting();
    }
    let all = heard.len() + silent.len();
    if all == 0 {
        return Verdict::yes(Reason::NoPeers, "there is no other member yet");
    }
    if silent.is_empty() {
        return Verdict::yes(Reason::AllReachable, format!("all {all} others are heard"));
    }
    let names = silent.iter().map(|(member, _)| member.as_str()).collect::<Vec<_>>().join(", ");
    let message = format!("{} of {all} others are heard, not heard: {names}", heard.len());
    if facts.peers.isolated {
        Verdict::no(Reason::Isolated, format!("{message}; what runs goes on, nothing new is placed or sealed"))
    } else {
        Verdict::yes(Reason::QuorumReachable, message)
    }
}

/// Whether others reach this member, as those said that dialled it back. What is not dialled is not known to be reached.
fn endpoint(spec: &CooperativeSpec, facts: &Facts<'_>) -> Verdict {
    let Some(view) = facts.view else { return starting() };
    if view.standing != Standing::Member {
        return Verdict::unknown(Reason::NotDialled, "peers dial back members, and this is none");
    }
    let Reach { endpoints, gateways, told } = facts.reach;
    if endpoints.is_empty() && gateways.is_empty() {
        let message = "the membership names no endpoint of this member: it is heard over the connections that it opens";
        return Verdict::unknown(Reason::NoEndpoint, message);
    }
    let list = |members: Vec<&MemberId>| members.into_iter().map(MemberId::as_str).collect::<Vec<_>>().join(", ");
    let mut message = String::new();
    let services = endpoints.iter().map(|endpoint| (endpoint, "koinon-peer"));
    for (endpoint, service) in services.chain(gateways.iter().map(|gateway| (gateway, "koinon-gateway-peer"))) {
        let by = list(facts.reach.reached(endpoint).collect());
        let mut missed = facts.reach.missed(endpoint).peekable();
        if by.is_empty() {
            return match missed.peek() {
                Some((peer, error)) => Verdict::no(
                    Reason::EndpointUnreachable,
                    format!(
                        "{endpoint} is not reached by {peer}: {error}; lead this address to the Service {service} as TCP passthrough"
                    ),
                ),
                None if told.is_empty() => Verdict::unknown(
                    Reason::NotDialled,
                    format!(
                        "nobody has dialled {endpoint} back yet: a peer that is connected is asked within a minute"
                    ),
                ),
                None => Verdict::unknown(
                    Reason::NotDialled,
                    format!("{} dialled other endpoints and not {endpoint}", list(told.keys().collect())),
                ),
            };
        }
        let _ = write!(message, "{endpoint} is reached by {by}");
        for (peer, error) in missed {
            let _ = write!(message, ", not by {peer}: {error}");
        }
        message.push_str(". ");
    }
    let wished: Vec<Endpoint> = spec.endpoints.peer.iter().filter_map(|url| url.parse().ok()).collect();
    let wished_gateways: Vec<Endpoint> = spec.endpoints.gateway.iter().filter_map(|url| url.parse().ok()).collect();
    if (&wished, &wished_gateways) != (endpoints, gateways) {
        message.push_str("The membership names these, whatever spec.endpoints says.");
    }
    Verdict::yes(Reason::EndpointReached, message.trim_end())
}

/// Advice and no more: each owner upgrades its own cluster, when it is ready to.
fn as_advised(facts: &Facts<'_>) -> Verdict {
    let Some(view) = facts.view else { return starting() };
    let own = env!("CARGO_PKG_VERSION");
    if let Some(rules) = view.state.needs_rules() {
        return Verdict::no(
            Reason::UnsupportedRules,
            format!(
                "the others decide by rules {rules}, which release {own} cannot: upgrade it with helm upgrade; until then it keeps and passes on what they decide, and what it shows may no longer be in force"
            ),
        );
    }
    match &view.state.norms().operator_release {
        None => Verdict::yes(Reason::NoAdvice, "the cooperative advises no release of the operator"),
        Some(advised) if advised.version.as_str() == own => {
            Verdict::yes(Reason::AdvisedRelease, format!("this is release {own}, as the cooperative advises"))
        }
        Some(advised) => Verdict::no(
            Reason::OtherRelease,
            format!(
                "this is release {own}; the cooperative advises {}, image {}: helm upgrade when it suits",
                advised.version, advised.image
            ),
        ),
    }
}

fn clock(facts: &Facts<'_>) -> Verdict {
    let Some(view) = facts.view else { return starting() };
    let tolerance = view.state.parameters().clock_tolerance_seconds.0;
    let mut far = String::new();
    for (member, peer) in &facts.peers.members {
        if let Some(offset) = peer.clock_offset_micros.map(|micros| micros / 1_000_000)
            && offset.abs() > tolerance
        {
            // Whole minutes: a message that changes every second would be a write every second.
            let _ = write!(far, " {member} is {} min off.", offset / 60);
        }
    }
    match (view.clock_in_tolerance, far.is_empty()) {
        (true, true) => {
            Verdict::yes(Reason::ClockInTolerance, format!("within {tolerance} s of everybody who is heard"))
        }
        (true, false) => Verdict::yes(Reason::ClockInTolerance, format!("within {tolerance} s of a quorum;{far}")),
        (false, _) => Verdict::no(
            Reason::ClockOffset,
            format!(
                "more than {tolerance} s away from a quorum: nothing is sealed; check this cluster's time service.{far}"
            ),
        ),
    }
}

fn network_policy(host: &HostFacts) -> Verdict {
    let message = host.network_policy_message.clone();
    match host.network_policy {
        NetworkPolicyState::Enforced => Verdict::yes(Reason::Enforced, message),
        NetworkPolicyState::Unenforced => Verdict::no(Reason::NotEnforced, message),
        NetworkPolicyState::AcceptedUnenforced => Verdict::no(Reason::AcceptedUnenforced, message),
        NetworkPolicyState::Unknown => Verdict::unknown(Reason::NotProbed, message),
    }
}

/// Whether the cooperative lets this member work with others.
fn may_work(facts: &Facts<'_>, moment: &Moment) -> Verdict {
    let Some(view) = facts.view else { return starting() };
    let Some(me) = view.state.member(&view.me) else {
        return Verdict::unknown(Reason::NotAdmitted, "this is no member yet");
    };
    member::may_work("this member", me.standing, view.state.halted(&view.me, moment.now))
}

fn accepting(spec: &CooperativeSpec, facts: &Facts<'_>, moment: &Moment) -> Verdict {
    if facts.ending.is_some() {
        return Verdict::no(Reason::Deleting, "this membership is being wound up");
    }
    if facts.view.is_some_and(|view| view.standing == Standing::Left) {
        return Verdict::no(Reason::Left, "this member has left; its guests drain");
    }
    let member = facts.view.filter(|view| view.standing == Standing::Member);
    if let Some(halted) = member.and_then(|view| view.state.halted(&view.me, moment.now)) {
        let guests = match halted {
            Halted::Leaving => "no new guests come",
            Halted::Quarantined { .. } => "no new guests come, and those that are here have the notice of their pool",
            _ => "its guests drain",
        };
        return Verdict::no(halted.into(), format!("this member {halted}; {guests}"));
    }
    if spec.endpoints.gateway.is_empty() {
        return Verdict::no(Reason::HomeOnly, "spec.endpoints.gateway is empty: nobody could reach a guest here");
    }
    match spec.guests.mode {
        GuestMode::Stop => Verdict::no(Reason::GuestsStopped, "the owner stopped all foreign work"),
        GuestMode::Drain => Verdict::no(Reason::DrainingGuests, "what runs may end in its own time, nothing new comes"),
        GuestMode::Accept => match (facts.host.network_policy, spec.guests.network_policy) {
            (NetworkPolicyState::Unenforced, NetworkPolicyDemand::Required) => Verdict::no(
                Reason::NotEnforced,
                "NetworkPolicies are not enforced here; install a network plugin that does, or say AcceptUnenforced",
            ),
            (NetworkPolicyState::Unknown, NetworkPolicyDemand::Required) => {
                Verdict::unknown(Reason::NotProbed, "guests are taken once the probe has shown that they are confined")
            }
            _ => Verdict::yes(Reason::AcceptingGuests, "foreign work is accepted"),
        },
    }
}

fn weights(host: &HostFacts) -> Verdict {
    match host.weights_cache {
        None => Verdict::unknown(Reason::Starting, "the weights cache has not been asked yet"),
        Some(true) => Verdict::yes(Reason::CacheReady, "the weights cache answers"),
        Some(false) => Verdict::no(Reason::CacheUnreachable, "the weights cache does not answer: look at its pod"),
    }
}

fn ready(facts: &Facts<'_>, needed: [&Verdict; 4]) -> Verdict {
    if let Some(left) = facts.ending {
        let left: Vec<&str> = left
            .iter()
            .map(|part| match part {
                WindUp::Guests => "guests",
                WindUp::Placements => "own placements elsewhere",
            })
            .collect();
        let left = if left.is_empty() { "nothing".to_owned() } else { left.join(" and ") };
        return Verdict::no(Reason::Deleting, format!("winding up; still draining: {left}"));
    }
    match needed.into_iter().find(|verdict| verdict.status != ConditionStatus::True) {
        Some(verdict) => Verdict { status: verdict.status, reason: verdict.reason, message: verdict.message.clone() },
        None => Verdict::yes(Reason::Ready, "a member that signs and hears a quorum"),
    }
}

#[cfg(test)]
#[path = "cooperative_tests.rs"]
mod tests;
