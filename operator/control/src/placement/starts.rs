//! How long copies take to start, as their home sees it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{ConditionType, Reason, find};
use koinon_api::time;
use koinon_core::ids::{Seconds, UnixSeconds};
use koinon_telemetry::Registrar;
use prometheus::Histogram;

/// From a host that answers at once to one that fetches weights for hours.
const BUCKETS: [f64; 14] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 14_400.0];

/// The metrics.
#[derive(Clone, Debug)]
pub struct StartMetrics {
    granted: Histogram,
    routable: Histogram,
}

impl StartMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub(crate) fn register(new: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            granted: new.histogram(
                "koinon_placement_grant_seconds",
                "From asking a host for a copy until it had granted the GPUs, of those that were granted.",
                BUCKETS.to_vec(),
            )?,
            routable: new.histogram(
                "koinon_placement_start_seconds",
                "From the grant of a copy until calls went to it, weights and engine included, of those that came so far.",
                BUCKETS.to_vec(),
            )?,
        })
    }

    /// The conditions of a copy at home have changed.
    pub fn changed(&self, before: &[Condition], after: &[Condition], now: UnixSeconds) {
        let steps = [(granted(before, after, now), &self.granted), (routable(before, after, now), &self.routable)];
        for (took, histogram) in steps {
            if let Some(took) = took {
                #[allow(clippy::cast_precision_loss)] // a histogram is of floats, and no start comes near 2^52 seconds
                histogram.observe(took.0.max(0) as f64);
            }
        }
    }
}

/// How long a host took to grant it, if it has just done so for the first time.
fn granted(before: &[Condition], after: &[Condition], now: UnixSeconds) -> Option<Seconds> {
    let asked = find(before, ConditionType::Granted).filter(|asked| asked.reason == Reason::AwaitingGrant.as_str())?;
    find(after, ConditionType::Granted).filter(|granted| granted.status == "True")?;
    Some(since(asked, now))
}

/// How long a granted copy took until calls went to it, if it was never called before.
fn routable(before: &[Condition], after: &[Condition], now: UnixSeconds) -> Option<Seconds> {
    find(before, ConditionType::Routable).filter(|not_yet| not_yet.reason == Reason::NotReady.as_str())?;
    find(after, ConditionType::Routable).filter(|routable| routable.status == "True")?;
    let granted = find(after, ConditionType::Granted).filter(|granted| granted.status == "True")?;
    Some(since(granted, now))
}

fn since(condition: &Condition, now: UnixSeconds) -> Seconds {
    now.since(UnixSeconds(time::to_unix(&condition.last_transition_time)))
}

#[cfg(test)]
mod tests {
    use koinon_api::conditions::{Verdict, set};

    use super::*;

    const T0: UnixSeconds = UnixSeconds(1_795_000_000);

    /// The conditions after each of these was set, so many seconds after the first.
    fn told(steps: &[(i64, ConditionType, Verdict)]) -> Vec<Condition> {
        let mut conditions = Vec::new();
        for (at, type_, verdict) in steps {
            let time = time::from_unix(T0.0 + at).unwrap();
            let _ = set(&mut conditions, *type_, verdict.clone(), None, &time);
        }
        conditions
    }

    fn asked() -> Vec<(i64, ConditionType, Verdict)> {
        vec![
            (0, ConditionType::Granted, Verdict::unknown(Reason::AwaitingGrant, "asked")),
            (0, ConditionType::Routable, Verdict::no(Reason::NotReady, "not yet")),
        ]
    }

    fn later(steps: &[(i64, ConditionType, Verdict)]) -> Vec<Condition> {
        told(&[asked(), steps.to_vec()].concat())
    }

    fn yes(at: i64, type_: ConditionType, reason: Reason) -> (i64, ConditionType, Verdict) {
        (at, type_, Verdict::yes(reason, "yes"))
    }

    #[test]
    fn a_grant_counts_from_the_question_and_a_start_from_the_grant() {
        let grant = yes(7, ConditionType::Granted, Reason::Granted);
        let route = yes(37, ConditionType::Routable, Reason::Routable);
        let (first, second) = (later(&[]), later(std::slice::from_ref(&grant)));
        let third = later(&[grant, route]);
        let at = |seconds: i64| UnixSeconds(T0.0 + seconds);
        assert_eq!(granted(&first, &second, at(7)), Some(Seconds(7)));
        assert_eq!(routable(&first, &second, at(7)), None);
        assert_eq!(routable(&second, &third, at(37)), Some(Seconds(30)));
        assert_eq!(granted(&second, &third, at(37)), None, "counted once");
        assert_eq!(routable(&third, &third, at(40)), None, "counted once");
    }

    #[test]
    fn a_copy_that_is_called_again_has_not_started_again() {
        let grant = yes(7, ConditionType::Granted, Reason::Granted);
        let left = (50, ConditionType::Routable, Verdict::no(Reason::Suspended, "silent"));
        let route = |at| yes(at, ConditionType::Routable, Reason::Routable);
        let before = later(&[grant.clone(), route(37), left.clone()]);
        let after = later(&[grant, route(37), left, route(60)]);
        assert_eq!(routable(&before, &after, UnixSeconds(T0.0 + 60)), None);
    }

    #[test]
    fn a_refusal_is_no_start() {
        let refused = (3, ConditionType::Granted, Verdict::no(Reason::NoCapacity, "full"));
        assert_eq!(granted(&later(&[]), &later(&[refused]), UnixSeconds(T0.0 + 3)), None);
        assert_eq!(granted(&[], &[], T0), None);
    }
}
