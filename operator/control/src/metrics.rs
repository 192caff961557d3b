//! The operator's metrics about the commons, its watches and its leadership.
//!
//! Labels are closed: members are at most 64 by the charter, everything else is an enum. A member that is gone is taken
//! out, so that a dashboard does not show it as down for ever.

use koinon_telemetry::{Described, Registrar};
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::requests::Requests;

/// Everything this crate's commons side measures. Clones share the figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// 1 on the replica that leads.
    pub leader: IntGauge,
    /// How often this process became leader.
    pub leader_terms: IntCounter,
    /// 1 while a connection to the member is open and heard.
    pub peer_up: IntGaugeVec,
    /// When the member's last beacon was heard over a connection to itself, in Unix time; absent if never.
    pub peer_last_seen: GaugeVec,
    /// Liveness as it is heard here: 1 for the one that holds, 0 for the others. Membership is the log's, and the same everywhere.
    pub member_state: IntGaugeVec,
    /// Bytes of the statements that are kept of each member.
    pub log_bytes: IntGaugeVec,
    /// Entries that are known to exist in the member's log and are missing here.
    pub log_gaps: IntGaugeVec,
    /// Forks that were proven, by the member whose log forked.
    pub forks: IntCounterVec,
    /// The member's clock minus ours when its last beacon was heard.
    pub clock_offset: GaugeVec,
    /// Age of the offer that was last heard of the member.
    pub offer_age: GaugeVec,
    /// Proposals by state.
    pub proposals: IntGaugeVec,
    /// Anchored votes, by whether they count and if not why.
    pub votes: IntGaugeVec,
    /// How many of its electors took part in the last decision, in thousandths.
    pub turnout: IntGauge,
    /// When the member last signed an offer or a seal, in Unix time; absent if never.
    pub last_seal: GaugeVec,
    /// 1 while this member hears fewer than a quorum.
    pub isolated: IntGauge,
    /// What is proved against members, by kind.
    pub evidence: IntGaugeVec,
    /// `koinon_member_work{member,state}`.
    pub member_work: IntGaugeVec,
    /// `koinon_orders_in_force{stops}`.
    pub orders: IntGaugeVec,
    /// The fewest owners that together hold more than a part of something.
    pub nakamoto: IntGaugeVec,
    /// In how few hands something is, in thousandths.
    pub concentration: IntGaugeVec,
    /// Statements that were refused, by reason.
    pub refused: IntCounterVec,
    /// Own entries that another process had already put at their position.
    pub reservation_conflicts: IntCounter,
    /// Handshakes at the peer endpoint that came to nothing, by reason.
    pub peer_handshake_failures: IntCounterVec,
    /// Requests at the peer endpoint that met a limit, by limit.
    pub peer_limits: IntCounterVec,
    /// Requests that the peer endpoint answered.
    pub peer_requests: IntCounter,
    /// Events that could not be published.
    pub events_dropped: IntCounter,
    /// Attempts that failed and are made again, by part.
    pub commons_errors: IntCounterVec,
    /// What is asked of the API server.
    pub requests: Requests,
    watch: WatchMetrics,
}

/// Whose attempt failed, of the commons side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommonsPart {
    /// The status of an object.
    Status,
    /// An object that shows a foreign statement.
    Mirror,
    /// The operator key.
    Key,
    /// The gateway's certificate.
    Leaf,
    /// The gathered API keys.
    ApiKeys,
    /// The label by which peers find the leader's pod.
    LeaderLabel,
}

impl CommonsPart {
    const ALL: [Self; 6] = [Self::Status, Self::Mirror, Self::Key, Self::Leaf, Self::ApiKeys, Self::LeaderLabel];

    fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Mirror => "mirror",
            Self::Key => "key",
            Self::Leaf => "leaf",
            Self::ApiKeys => "apikeys",
            Self::LeaderLabel => "leader_label",
        }
    }
}

/// What the watches measure.
#[derive(Clone, Debug)]
pub struct WatchMetrics {
    errors: IntCounterVec,
    undecodable: IntGaugeVec,
}

impl WatchMetrics {
    /// A watch failed and is tried again.
    pub fn error(&self, kind: &str) {
        self.errors.with_label_values(&[kind]).inc();
    }

    /// Counts what one watch of the kind cannot read. Several watches of one kind add up, and one that ends counts nothing.
    #[must_use]
    pub fn undecodable(&self, kind: &str) -> UndecodableCount {
        UndecodableCount { gauge: self.undecodable.with_label_values(&[kind]), count: 0 }
    }
}

/// One watch's part of `koinon_undecodable_objects`.
#[derive(Debug)]
pub struct UndecodableCount {
    gauge: IntGauge,
    count: i64,
}

impl UndecodableCount {
    /// So many objects cannot be read now.
    pub fn set(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.gauge.add(count.saturating_sub(self.count));
        self.count = count;
    }
}

impl Drop for UndecodableCount {
    fn drop(&mut self) {
        self.gauge.sub(self.count);
    }
}

impl Metrics {
    /// Makes and registers all of them.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::with(&Registrar::new(registry))
    }

    fn with(new: &Registrar<'_>) -> Result<Self, prometheus::Error> {
        let member = &["member"];
        let metrics = Metrics {
            leader: new.gauge("koinon_leader", "1 on the replica that leads.")?,
            leader_terms: new.counter("koinon_leader_terms_total", "How often this process became leader.")?,
            peer_up: new.gauges("koinon_peer_up", "1 while a connection to the member is open and heard.", member)?,
            peer_last_seen: new.floats(
                "koinon_peer_last_seen_timestamp_seconds",
                "When the member was last heard over a connection to itself, in Unix time.",
                member,
            )?,
            member_state: new.gauges(
                "koinon_member_state",
                "Whether the member is heard here: 1 for the liveness that holds (Self, Fresh, Suspect or Lost), 0 for the others.",
                &["member", "state"],
            )?,
            log_bytes: new.gauges("koinon_log_bytes", "Bytes of the statements kept of each member.", member)?,
            log_gaps: new.gauges("koinon_log_gaps", "Entries of the member's log that are missing here.", member)?,
            forks: new.counters("koinon_forks_total", "Proven forks, by the member whose log forked.", member)?,
            clock_offset: new.floats(
                "koinon_clock_offset_seconds",
                "The member's clock minus ours, as of its last beacon.",
                member,
            )?,
            offer_age: new.floats("koinon_offer_age_seconds", "Age of the member's last offer.", member)?,
            proposals: new.gauges("koinon_proposals", "Proposals by state.", &["state"])?,
            votes: new.gauges(
                "koinon_votes",
                "Anchored votes: Counted ones, and the others by what keeps them from counting.",
                &["verdict"],
            )?,
            turnout: new.gauge(
                "koinon_turnout_thousandths",
                "How many of a thousand electors took part in the last decision.",
            )?,
            last_seal: new.floats(
                "koinon_last_seal_timestamp_seconds",
                "When the member last signed an offer or a seal, in Unix time.",
                member,
            )?,
            isolated: new.gauge("koinon_isolated", "1 while this member hears fewer than a quorum.")?,
            evidence: new.gauges("koinon_evidence", "What is proved against members, by kind.", &["kind"])?,
            member_work: new.gauges(
                "koinon_member_work",
                "Whether the cooperative lets the member work: 1 for what holds (Active, OnProbation, Dormant, Leaving, Suspended, KeyBlocked or Quarantined), 0 for the others.",
                &["member", "state"],
            )?,
            orders: new.gauges("koinon_orders_in_force", "Emergency orders that hold, by what they stop.", &["stops"])?,
            nakamoto: new.gauges(
                "koinon_nakamoto_owners",
                "The fewest owners that together hold more than a part (third or half) of something.",
                &["of", "part"],
            )?,
            concentration: new.gauges(
                "koinon_concentration_thousandths",
                "In how few hands something is: the normalised HHI, and the Gini coefficient.",
                &["of", "measure"],
            )?,
            refused: new.counters("koinon_statements_refused_total", "Statements refused, by reason.", &["reason"])?,
            reservation_conflicts: new.counter(
                "koinon_log_reservation_conflicts_total",
                "Own entries whose position another process had taken.",
            )?,
            peer_handshake_failures: new.counters(
                "koinon_peer_handshake_failures_total",
                "Handshakes at the peer endpoint that came to nothing, by reason.",
                &["reason"],
            )?,
            peer_limits: new.counters(
                "koinon_peer_limits_total",
                "Requests at the peer endpoint that met a limit, by limit.",
                &["limit"],
            )?,
            peer_requests: new.counter("koinon_peer_requests_total", "Requests that the peer endpoint answered.")?,
            events_dropped: new.counter("koinon_events_dropped_total", "Events that could not be published.")?,
            commons_errors: new.counters(
                "koinon_commons_errors_total",
                "Attempts of the commons side that failed and are made again, by part.",
                &["part"],
            )?,
            requests: Requests::register(new)?,
            watch: WatchMetrics {
                errors: new.counters("koinon_watch_errors_total", "Failed watches, by kind.", &["kind"])?,
                undecodable: new.gauges("koinon_undecodable_objects", "Objects that cannot be read.", &["kind"])?,
            },
        };
        // A counter that does not exist yet cannot be alerted on.
        for part in CommonsPart::ALL {
            metrics.commons_errors.with_label_values(&[part.as_str()]).inc_by(0);
        }
        Ok(metrics)
    }

    /// The part that the watches use.
    #[must_use]
    pub fn watch(&self) -> WatchMetrics {
        self.watch.clone()
    }

    /// An attempt failed.
    pub fn commons_failed(&self, part: CommonsPart) {
        self.commons_errors.with_label_values(&[part.as_str()]).inc();
    }

    /// An event could not be published.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }
}

/// Every metric of an operator, with or without series.
///
/// # Errors
/// When two have one name.
pub fn described() -> Result<Vec<Described>, prometheus::Error> {
    let registry = Registry::new();
    let new = Registrar::new(&registry);
    Metrics::with(&new)?;
    crate::placement::metrics::with(&new)?;
    Ok(new.described())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_belong_to_koinon_and_register_once() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let mut first = metrics.watch().undecodable("Secret");
        let mut second = metrics.watch().undecodable("Secret");
        let told = || metrics.watch().undecodable.with_label_values(&["Secret"]).get();
        first.set(2);
        second.set(1);
        assert_eq!(told(), 3);
        second.set(0);
        drop(first);
        assert_eq!(told(), 0);
        assert!(registry.gather().iter().all(|family| family.name().starts_with("koinon_")));
        assert!(Metrics::register(&registry).is_err());
    }
}
