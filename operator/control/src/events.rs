//! Kubernetes Events. Their reasons are those of the conditions, so that whoever reads one can search for the other.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koinon_api::conditions::{ConditionType, Reason};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// Events that wait to be published. Beyond it they are dropped and counted: an event is never worth a stalled decision.
const QUEUE: usize = 256;
/// The API server refuses longer notes.
const MAX_NOTE_BYTES: usize = 1000;

/// How an event is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something happened.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Severity {
    /// How a condition's change is shown: a False that is only a step on the way is nothing to look at.
    #[must_use]
    pub fn of_condition(condition: &Condition) -> Self {
        const ON_THE_WAY: [Reason; 6] = [
            Reason::AwaitingGrant,
            Reason::EngineStarting,
            Reason::NotReady,
            Reason::Replacing,
            Reason::ScaledToZero,
            Reason::WeightsLoading,
        ];
        let on_the_way = condition.reason.parse().is_ok_and(|reason| ON_THE_WAY.contains(&reason));
        let bad = if condition.type_ == ConditionType::Reclaiming.as_str() { "True" } else { "False" };
        if condition.status == bad && !on_the_way { Severity::Warning } else { Severity::Normal }
    }
}

/// One event that waits to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// About which object.
    pub about: ObjectReference,
    /// How it is shown.
    pub severity: Severity,
    /// The reason, as in the condition.
    pub reason: Reason,
    /// What happened, with the numbers.
    pub note: String,
}

/// Where controllers put events. Never blocks.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Told>,
    metrics: Metrics,
}

impl Events {
    /// The handle, and what it is told.
    #[must_use]
    pub fn new(metrics: Metrics) -> (Self, mpsc::Receiver<Told>) {
        let (queue, told) = mpsc::channel(QUEUE);
        (Events { queue, metrics }, told)
    }

    /// Tells what happened to an object.
    pub fn tell(&self, about: ObjectReference, severity: Severity, reason: Reason, note: impl Into<String>) {
        let told = Told { about, severity, reason, note: cut(note.into()) };
        if self.queue.try_send(told).is_err() {
            self.metrics.event_dropped();
        }
    }
}

/// Publishes what was told, for as long as it is polled.
pub async fn publish(client: kube::Client, pod: String, mut told: mpsc::Receiver<Told>, metrics: Metrics) {
    let recorder = Recorder::new(client, Reporter { controller: "koinon-operator".into(), instance: Some(pod) });
    while let Some(Told { about, severity, reason, note }) = told.recv().await {
        let event = Event {
            type_: match severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: reason.as_str().to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        match tokio::time::timeout(Duration::from_secs(5), recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                metrics.event_dropped();
                tracing::debug!(%error, reason = %reason, "an event could not be published");
            }
            Err(_) => metrics.event_dropped(),
        }
    }
}

fn cut(mut note: String) -> String {
    if note.len() > MAX_NOTE_BYTES {
        let mut end = MAX_NOTE_BYTES - '…'.len_utf8();
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_events_and_counts_them_instead_of_waiting() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let (events, mut told) = Events::new(metrics.clone());
        for _ in 0..QUEUE + 3 {
            events.tell(ObjectReference::default(), Severity::Warning, Reason::Lost, "ß".repeat(2000));
        }
        assert_eq!(metrics.events_dropped.get(), 3);
        let first = told.recv().await.unwrap();
        assert!(first.note.len() <= MAX_NOTE_BYTES && first.note.ends_with('…'));
    }
}
