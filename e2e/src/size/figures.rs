//! The figures of a measurement and how they grow. Pure.

use std::time::Duration;

use serde::Serialize;

/// The smallest of `values` that at least so many thousandths of them do not exceed: the nearest rank, no value that was never
/// seen.
pub fn percentile(values: &[Duration], thousandths: usize) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort();
    let rank = (sorted.len() * thousandths).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied()
}

/// The exponent of a power law through these points, by least squares on the logarithms of both; none of fewer than two sizes.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> =
        points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = logs.iter().map(|point| (point.0 - x).powi(2)).sum();
    let common: f64 = logs.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    (spread > 0.0).then(|| common / spread)
}

/// How long failures took to be known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Delays {
    /// How many were seen to arrive.
    pub seen: usize,
    /// Half of them took no longer, in milliseconds.
    pub p50_ms: u64,
    /// Of a hundred ninety-nine took no longer, in milliseconds.
    pub p99_ms: u64,
    /// The longest, in milliseconds.
    pub max_ms: u64,
}

impl Delays {
    /// Of these.
    pub fn of(values: &[Duration]) -> Self {
        let millis = |thousandths| percentile(values, thousandths).map_or(0, |value| value.as_millis() as u64);
        Self { seen: values.len(), p50_ms: millis(500), p99_ms: millis(990), max_ms: millis(1000) }
    }
}

/// What a process holds of the machine's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident, in KiB: the kernel's `VmRSS`.
    pub resident_kib: u64,
    /// The most that was ever resident, in KiB: `VmHWM`.
    pub peak_kib: u64,
    /// Its own and its share of what it shares, in KiB: `Pss`.
    pub proportional_kib: u64,
}

/// One size, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Nodes, of eight GPUs each.
    pub nodes: usize,
    /// For how long, in seconds.
    pub seconds: u64,
    /// The operator at the end.
    pub memory: Memory,
    /// The largest of its samples of a second during the measurement, resident, in KiB.
    pub steady_kib: u64,
    /// The same operator before there was any node, resident, in KiB.
    pub empty_kib: u64,
    /// Its processor time a minute, in milliseconds.
    pub cpu_ms_a_minute: u64,
    /// Its looks at the pools a minute, and how long one takes on average, in microseconds.
    pub looks_a_minute: u64,
    /// See `looks_a_minute`.
    pub look_us: u64,
    /// Its requests to the API server a minute, by verb, by the server's own audit.
    pub requests_a_minute: std::collections::BTreeMap<String, f64>,
    /// Of those the ones that write.
    pub writes_a_minute: f64,
    /// From a failure to less in the own GPUPool.
    pub at_host: Delays,
    /// From a failure to less in the peer's GPUOffer.
    pub at_peer: Delays,
    /// From the one to the other.
    pub between: Delays,
    /// Heartbeats that agents wrote a minute.
    pub heartbeats_a_minute: u64,
    /// Other changes of nodes a minute.
    pub changes_a_minute: u64,
    /// Processor time a minute of the API server, etcd and kwok of the host together, in milliseconds.
    pub cluster_cpu_ms_a_minute: u64,
    /// The other side: the peer's operator, resident, in KiB.
    pub peer_kib: u64,
}

/// A line a figure, a column a size, and how it grows.
pub fn table(all: &[Measured]) -> String {
    type Row = (&'static str, fn(&Measured) -> f64, usize);
    const MIB: f64 = 1024.0;
    let rows: [Row; 14] = [
        ("operator, resident (MiB)", |one| one.memory.resident_kib as f64 / MIB, 1),
        ("  most in a second (MiB)", |one| one.steady_kib as f64 / MIB, 1),
        ("  most ever (MiB)", |one| one.memory.peak_kib as f64 / MIB, 1),
        ("  proportional (MiB)", |one| one.memory.proportional_kib as f64 / MIB, 1),
        (
            "  above that without nodes (MiB)",
            |one| one.memory.resident_kib.saturating_sub(one.empty_kib) as f64 / MIB,
            1,
        ),
        ("processor time (s a minute)", |one| one.cpu_ms_a_minute as f64 / 1000.0, 2),
        ("looks at pools (a minute)", |one| one.looks_a_minute as f64, 0),
        ("  one look (ms)", |one| one.look_us as f64 / 1000.0, 1),
        ("API writes (a minute)", |one| one.writes_a_minute, 1),
        ("API requests (a minute)", |one| one.requests_a_minute.values().sum(), 1),
        ("failure to own pool, p99 (ms)", |one| one.at_host.p99_ms as f64, 0),
        ("failure to peer's offer, p50 (ms)", |one| one.at_peer.p50_ms as f64, 0),
        ("failure to peer's offer, p99 (ms)", |one| one.at_peer.p99_ms as f64, 0),
        ("  of which own pool to peer, p99 (ms)", |one| one.between.p99_ms as f64, 0),
    ];
    let mut text = format!("{:<40}", "nodes (8 GPUs each)");
    for one in all {
        text.push_str(&format!("{:>10}", one.nodes));
    }
    text.push_str("   grows as nodes^\n");
    for (what, figure, digits) in rows {
        text.push_str(&format!("{what:<40}"));
        for one in all {
            text.push_str(&format!("{:>10.digits$}", figure(one)));
        }
        let points: Vec<(f64, f64)> = all.iter().map(|one| (one.nodes as f64, figure(one))).collect();
        match exponent(&points) {
            Some(exponent) => text.push_str(&format!("   {exponent:.2}\n")),
            None => text.push_str("   -\n"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_seen_and_that_so_many_do_not_exceed() {
        let values: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let millis = |thousandths| percentile(&values, thousandths).map(|value| value.as_millis());
        assert_eq!([millis(500), millis(990), millis(1000)], [Some(100), Some(198), Some(200)]);
        assert_eq!(percentile(&values[..1], 990), Some(Duration::from_millis(200)));
        assert_eq!(percentile(&[], 990), None);
    }

    #[test]
    fn the_exponent_of_a_power_is_that_power_and_of_one_size_there_is_none() {
        let points = |power: f64| [500.0, 1000.0, 5000.0].map(|nodes: f64| (nodes, 3.0 * nodes.powf(power)));
        for power in [0.0, 1.0, 1.5] {
            assert!((exponent(&points(power)).unwrap() - power).abs() < 1e-9);
        }
        assert_eq!(exponent(&[(500.0, 1.0)]), None);
        assert_eq!(exponent(&[(500.0, 1.0), (500.0, 2.0)]), None);
    }
}
