//! What a `GPUOffer` shows of challenges: how far each class is believed, from whom that is known, and what failed. Pure.

use koinon_api::conditions::{ConditionType, Reason, Verdict};
use koinon_api::gpu_offer::{GPUOfferStatus, OfferChallenge, OfferClass};
use koinon_api::time;
use koinon_core::belief::Belief;
use koinon_core::body::latest::EvidenceLevel;
use koinon_core::ids::{GpuClass, MemberId, UnixMicros};

use crate::challenges::Beliefs;
use crate::kinds::projections::{Moment, set};

/// Most measurements that the resource shows of one offer, as its schema says.
const MAX_CHALLENGES: usize = 64;

/// Shows in the offer of `host` what `beliefs` make of it.
pub(crate) fn show(status: &mut GPUOfferStatus, host: &MemberId, beliefs: &Beliefs, moment: &Moment) {
    let now = UnixMicros(moment.now.0.saturating_mul(1_000_000));
    let mut judged: Vec<(GpuClass, Belief)> = Vec::new();
    status.challenges.clear();
    for shown in &mut status.classes {
        let Ok(class) = shown.class.parse::<GpuClass>() else { continue };
        let said = shown.said.map_or(EvidenceLevel::Claimed, EvidenceLevel::from);
        let belief = beliefs.of(host, &class, said, now);
        class_of(shown, &belief);
        status.challenges.extend(beliefs.entries(host, &class).map(|entry| OfferChallenge {
            class: class.to_string(),
            by: entry.measured.by.to_string(),
            result: entry.measured.finding.name().to_owned(),
            devices: entry.measured.devices.into(),
            message: entry.message.clone(),
            measured_time: time::from_unix(entry.measured.ended.0.div_euclid(1_000_000)),
        }));
        if beliefs.asks(&class) {
            judged.push((class, belief));
        }
    }
    status.challenges.truncate(MAX_CHALLENGES);
    let shown_before = koinon_api::conditions::find(&status.conditions, ConditionType::Challenged).is_some();
    if judged.is_empty() && !shown_before {
        // Where nobody votes for challenges there is nothing to say of them.
        return;
    }
    set(&mut status.conditions, ConditionType::Challenged, verdict(&judged, beliefs), None, moment);
}

fn class_of(shown: &mut OfferClass, belief: &Belief) {
    shown.evidence = belief.level.into();
    let challenged = belief.level == EvidenceLevel::Challenged;
    shown.challenged_devices = i32::try_from(belief.devices).ok().filter(|_| challenged);
    shown.evidence_until_time = belief.until.and_then(|until| time::from_unix(until.0.div_euclid(1_000_000)));
}

/// Of all classes that are asked for: the worst that is known of one.
fn verdict(judged: &[(GpuClass, Belief)], beliefs: &Beliefs) -> Verdict {
    let Some(rules) = beliefs.rules().filter(|_| !judged.is_empty()) else {
        return Verdict::unknown(Reason::NotAsked, "the cooperative voted for no challenges of these classes");
    };
    let needed = rules.challengers;
    let lowered: Vec<String> = judged
        .iter()
        .filter(|(_, belief)| belief.level == EvidenceLevel::Claimed && !belief.failing.is_empty())
        .map(told)
        .collect();
    if !lowered.is_empty() {
        return Verdict::no(Reason::ChallengeFailed, format!("{}, {needed} are enough", lowered.join("; ")));
    }
    let lacking: Vec<String> =
        judged.iter().filter(|(_, belief)| belief.level != EvidenceLevel::Challenged).map(told).collect();
    if !lacking.is_empty() {
        return Verdict::unknown(Reason::TooFewChallengers, format!("{}, {needed} are needed", lacking.join("; ")));
    }
    let fits: Vec<String> = judged.iter().map(told).collect();
    Verdict::yes(Reason::ChallengeFits, fits.join("; "))
}

fn told((class, belief): &(GpuClass, Belief)) -> String {
    let names = |members: &mut dyn Iterator<Item = String>| {
        let names: Vec<String> = members.take(8).collect();
        if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
    };
    let fitting = names(&mut belief.fitting.iter().map(ToString::to_string));
    let failing = &mut belief.failing.iter().map(|(member, finding)| format!("{member} ({})", finding.name()));
    format!("{class}: fits for {fitting}, fails for {}", names(failing))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use koinon_api::common::Evidence;
    use koinon_api::conditions::find;
    use koinon_core::body::challenge_report::{ChallengeReport, Outcome};
    use koinon_core::body::norms::PlacementRules;
    use koinon_core::body::{Action, Challenges};
    use koinon_core::challenge::{Nonce, Occasion, Secret, Timing, Transcript};
    use koinon_core::ids::{CoopId, Digest, Seq, StatementId, UnixSeconds};
    use koinon_core::testkit::T0;
    use serde_json::json;

    use super::*;
    use crate::challenges::checker::Checked;
    use crate::peers::{Heard, Liveness, PeerView, PeersSnapshot};
    use crate::placement::fixture::view_with;

    /// The example of the repository, with one challenger.
    fn voted() -> Challenges {
        let text = include_str!("../../../../manifests/challenges/h100.yaml");
        serde_yaml::from_str(&text.replace("challengers: 2", "challengers: 1")).unwrap()
    }

    fn report(outcome: Outcome) -> ChallengeReport {
        ChallengeReport {
            host: "bilbao".parse().unwrap(),
            class: "h100-80".parse().unwrap(),
            rules: voted().digest(),
            devices: 0,
            began: UnixMicros((T0.0 - 60) * 1_000_000),
            ended: UnixMicros((T0.0 - 30) * 1_000_000),
            outcome,
        }
    }

    fn answered(by: &str) -> Outcome {
        let occasion = Occasion {
            coop: CoopId(Digest::of(b"coop")),
            challenger: by.parse().unwrap(),
            host: "bilbao".parse().unwrap(),
            class: "h100-80".parse().unwrap(),
            after: StatementId(Digest::of(b"entry")),
            nonce: Nonce([1; 32]),
        };
        let timing = Timing { compute_millis: 30_000, recall_millis: 300 };
        let size = voted().classes.values().next().unwrap().size;
        Outcome::Answered(Box::new(Transcript { occasion, size, secret: Secret([2; 32]), timing, devices: vec![] }))
    }

    /// What aarhus shows of bilbao's offer, given what it measured itself and what cork says.
    fn shown(own: Option<Outcome>, cork: Option<Outcome>) -> GPUOfferStatus {
        let rules = PlacementRules { challenges: Some(voted()), ..PlacementRules::default() };
        let view = view_with("aarhus", json!({}), Some(Action::SetPlacementRules(rules)));
        let heard = cork.map(|outcome| Heard {
            id: StatementId(Digest::of(b"said")),
            seq: Seq(1),
            issued_at: T0,
            not_after: UnixSeconds(T0.0 + 60),
            body: Arc::new(report(outcome)),
            heard_at: Duration::ZERO,
        });
        let mut peer = PeerView::silent(Liveness::Fresh, Duration::ZERO);
        peer.challenges = heard.map(|heard| ("challenge/0".parse().unwrap(), heard)).into_iter().collect();
        let peers = PeersSnapshot { members: [("cork".parse().unwrap(), peer)].into(), ..PeersSnapshot::default() };
        let own: Vec<ChallengeReport> = own.map(report).into_iter().collect();
        let beliefs = Beliefs::of_peers(&view.me, &view.state, &peers, &own, &Checked::default());
        let mut status: GPUOfferStatus =
            serde_json::from_value(json!({"classes": [{"class": "h100-80", "product": "x",
            "memoryBytes": 1, "offered": 8, "largestBlock": 8, "evidence": "SchedulerConsistent",
            "said": "SchedulerConsistent"}]}))
            .unwrap();
        let moment = Moment { now: T0, time: time::from_unix(T0.0).unwrap(), monotonic: Duration::ZERO };
        show(&mut status, &"bilbao".parse().unwrap(), &beliefs, &moment);
        status
    }

    fn told_of(status: &GPUOfferStatus) -> (Evidence, &str, &str) {
        let condition = find(&status.conditions, ConditionType::Challenged).unwrap();
        (status.classes[0].evidence, condition.reason.as_str(), condition.message.as_str())
    }

    #[test]
    fn a_class_that_nobody_measured_lacks_challengers() {
        let status = shown(None, None);
        let (level, reason, message) = told_of(&status);
        assert_eq!((level, reason), (Evidence::SchedulerConsistent, "TooFewChallengers"));
        assert!(message.contains("fits for nobody") && message.ends_with("1 are needed"), "{message}");
    }

    #[test]
    fn a_failure_lowers_the_class_and_says_who_found_it() {
        let status = shown(None, Some(Outcome::Refuted { why: "row 7\nis wrong".to_owned() }));
        let (level, reason, message) = told_of(&status);
        assert_eq!((level, reason), (Evidence::Claimed, "ChallengeFailed"));
        assert!(message.contains("fails for cork (Refuted)"), "{message}");
        let measured = &status.challenges[0];
        assert_eq!((measured.by.as_str(), measured.result.as_str()), ("cork", "Refuted"));
        assert_eq!(measured.message, "row 7 is wrong", "on one line");
        assert_eq!(measured.measured_time.as_ref().map(time::to_unix), Some(T0.0 - 30));
    }

    #[test]
    fn a_class_that_fits_says_for_how_many_gpus_and_until_when() {
        // A transcript of no device is enough for nothing, whoever shows it.
        let status = shown(Some(answered("aarhus")), None);
        assert_eq!(told_of(&status).1, "TooFewChallengers");
        assert_eq!((status.classes[0].challenged_devices, status.challenges[0].result.as_str()), (None, "Fits"));
        let status = shown(None, Some(answered("cork")));
        assert!(status.challenges.is_empty(), "it was not checked");
    }

    #[test]
    fn without_a_vote_nothing_is_said_of_challenges() {
        let mut status: GPUOfferStatus =
            serde_json::from_value(json!({"classes": [{"class": "h100-80", "product": "x", "memoryBytes": 1,
            "offered": 8, "largestBlock": 8, "evidence": "Claimed", "said": "Challenged"}]}))
            .unwrap();
        let moment = Moment { now: T0, time: time::from_unix(T0.0).unwrap(), monotonic: Duration::ZERO };
        show(&mut status, &"bilbao".parse().unwrap(), &Beliefs::default(), &moment);
        assert!(status.conditions.is_empty());
        assert_eq!(status.classes[0].evidence, Evidence::SchedulerConsistent, "a host's own word is no challenge");
    }
}
