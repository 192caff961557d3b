//! What follows from what the probe's pods could reach. Pure.

use koinon_api::common::NetworkPolicyState;
use serde::Deserialize;

/// What one call came to, in the words of `koinon probe connect`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Call {
    /// Who was called.
    pub target: String,
    /// What happened.
    pub outcome: String,
}

impl Call {
    fn got_through(&self) -> bool {
        self.outcome == "Connected"
    }
}

/// What was reached in one round of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The other pod of the namespace.
    pub pod: bool,
    /// The API server, which stands for everything outside of the namespace.
    pub outside: bool,
}

/// Reads the result of a calling pod.
///
/// # Errors
/// When it is none, in words for a person.
pub fn read(message: &str, pod: &str, outside: &str) -> Result<Reached, String> {
    let calls: Vec<Call> =
        serde_json::from_str(message).map_err(|error| format!("the result cannot be read: {error}"))?;
    let reached = |target: &str| {
        let call = calls.iter().find(|call| call.target == target);
        call.map(Call::got_through).ok_or_else(|| format!("the result says nothing about {target}"))
    };
    Ok(Reached { pod: reached(pod)?, outside: reached(outside)? })
}

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In one word.
    pub state: NetworkPolicyState,
    /// With what it rests on.
    pub message: String,
}

impl Found {
    /// Nothing is known, for this reason.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> Self {
        Self { state: NetworkPolicyState::Unknown, message: message.into() }
    }
}

/// What follows from a round without policies, one with ingress denied, and one with egress denied as well; `None` where
/// the rounds before it made it needless.
#[must_use]
pub fn conclude(open: Reached, ingress: Option<Reached>, egress: Option<Reached>) -> Found {
    if !open.pod || !open.outside {
        let what = match (open.pod, open.outside) {
            (false, false) => "neither another pod nor the API server",
            (false, true) => "no other pod",
            _ => "no API server",
        };
        return Found::unknown(format!("without any policy the probe reached {what}, so it shows nothing"));
    }
    let unenforced = |message: &str| Found { state: NetworkPolicyState::Unenforced, message: message.to_owned() };
    match (ingress, egress) {
        (Some(Reached { pod: true, .. }), _) => {
            unenforced("a pod was reached although a NetworkPolicy lets nothing in: install a CNI that enforces them")
        }
        (_, Some(Reached { outside: true, .. })) => unenforced(
            "a pod reached the API server although a NetworkPolicy lets nothing out: install a CNI that enforces them",
        ),
        (Some(_), Some(_)) => Found {
            state: NetworkPolicyState::Enforced,
            message: "a probe was held back in both directions".to_owned(),
        },
        _ => Found::unknown("the probe was cut short"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Reached = Reached { pod: true, outside: true };
    const NOTHING: Reached = Reached { pod: false, outside: false };

    fn state(open: Reached, ingress: Option<Reached>, egress: Option<Reached>) -> NetworkPolicyState {
        conclude(open, ingress, egress).state
    }

    #[test]
    fn policies_are_enforced_when_what_was_reachable_is_held_back_in_both_directions() {
        let ingress = Some(Reached { pod: false, outside: true });
        assert_eq!(state(ALL, ingress, Some(NOTHING)), NetworkPolicyState::Enforced);
    }

    #[test]
    fn one_direction_alone_is_not_enforced() {
        let held_in = Some(Reached { pod: false, outside: true });
        assert_eq!(state(ALL, Some(ALL), Some(NOTHING)), NetworkPolicyState::Unenforced);
        assert_eq!(state(ALL, held_in, Some(Reached { pod: false, outside: true })), NetworkPolicyState::Unenforced);
    }

    #[test]
    fn a_probe_that_reaches_nothing_even_without_policies_proves_nothing() {
        for open in [NOTHING, Reached { pod: true, outside: false }, Reached { pod: false, outside: true }] {
            assert_eq!(state(open, Some(NOTHING), Some(NOTHING)), NetworkPolicyState::Unknown);
        }
        assert_eq!(state(ALL, None, None), NetworkPolicyState::Unknown);
    }

    #[test]
    fn a_result_that_lacks_a_target_is_no_result() {
        let said = r#"[{"target":"10.0.0.1:8080","outcome":"Connected"},{"target":"10.0.0.2:443","outcome":"TimedOut","message":"m"}]"#;
        assert_eq!(read(said, "10.0.0.1:8080", "10.0.0.2:443"), Ok(Reached { pod: true, outside: false }));
        assert!(read(said, "10.0.0.1:8080", "10.0.0.3:443").is_err());
        assert!(read("killed", "a", "b").is_err());
    }
}
