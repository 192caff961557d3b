//! The metrics that every process has: which build it is, and what it costs its node.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge, Registry};

use crate::registrar::{Described, Kind, Registrar};

/// Registers `koinon_build_info` and the `koinon_process_*` metrics.
///
/// # Errors
/// When one of the names is registered already.
pub fn register(new: &Registrar<'_>, role: &'static str) -> Result<(), prometheus::Error> {
    let info = new.gauges(
        "koinon_build_info",
        "Always 1; the labels say which build runs in which role.",
        &["version", "commit", "role"],
    )?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION"), commit(), role]).set(1);
    let kind = |name: &str| if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
    new.keep(ProcessCost::new()?, kind).map(drop)
}

/// Every metric that each process has.
///
/// # Errors
/// When two have one name.
pub fn described() -> Result<Vec<Described>, prometheus::Error> {
    let registry = Registry::new();
    let new = Registrar::new(&registry);
    register(&new, "operator")?;
    Ok(new.described())
}

/// The commit this was built from, or `unknown` when the build did not say (it sets `KOINON_COMMIT`).
pub fn commit() -> &'static str {
    option_env!("KOINON_COMMIT").unwrap_or("unknown")
}

/// Memory, processor time and open files of this process, read from `/proc/self` at each scrape.
///
/// A figure that cannot be read is left out: unknown is not zero.
#[derive(Clone)]
struct ProcessCost {
    memory: IntGauge,
    cpu: Counter,
    files: IntGauge,
    start: Gauge,
}

/// Ticks a second in `/proc/<pid>/stat`: the kernel converts to this fixed rate for user space on every
/// architecture that Kubernetes runs on.
const USER_HZ: f64 = 100.0;

impl ProcessCost {
    fn new() -> Result<Self, prometheus::Error> {
        let start = Gauge::new("koinon_process_start_time_seconds", "When this process started, in Unix time.")?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        start.set(now.map_or(0.0, |since| since.as_secs_f64()));
        Ok(Self {
            memory: IntGauge::new("koinon_process_resident_memory_bytes", "Memory held in RAM by this process.")?,
            cpu: Counter::new("koinon_process_cpu_seconds_total", "Processor time used by this process.")?,
            files: IntGauge::new("koinon_process_open_files", "File descriptors that this process has open.")?,
            start,
        })
    }
}

impl Collector for ProcessCost {
    fn desc(&self) -> Vec<&Desc> {
        [self.memory.desc(), self.cpu.desc(), self.files.desc(), self.start.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.start.collect();
        if let Some(bytes) = std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) {
            self.memory.set(bytes);
            families.extend(self.memory.collect());
        }
        if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds) {
            // A counter can only be added to, and two scrapes may run at once: the difference may be negative by one tick.
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
            families.extend(self.cpu.collect());
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(i64::try_from(entries.count()).unwrap_or(i64::MAX));
            families.extend(self.files.collect());
        }
        families
    }
}

fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()?.checked_mul(1024)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in brackets and may itself contain spaces and brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_memory_and_processor_time_as_the_kernel_prints_them() {
        assert_eq!(resident_bytes("Name:\tkoinon\nVmRSS:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(resident_bytes("Name:\tkoinon\n"), None);
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("garbage"), None);
    }

    #[test]
    fn every_name_begins_with_koinon() {
        let registry = Registry::new();
        register(&Registrar::new(&registry), "gateway").unwrap();
        let families = registry.gather();
        assert_eq!(families.len(), 5);
        assert!(families.iter().all(|family| family.name().starts_with("koinon_")));
    }
}
