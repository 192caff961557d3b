//! Memory and processor time of everything that a run started.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::process;
use crate::run::Run;

/// One program's use of the machine, all its processes in one datacenter together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// Memory of its own, and its share of what it shares, in bytes.
    pub memory: u64,
    /// Processor time since it started, in milliseconds.
    pub cpu_millis: u64,
    /// How many processes.
    pub processes: u32,
}

/// Programs by datacenter and name.
pub type Uses = BTreeMap<(String, String), Use>;

/// Linux counts processor time in hundredths of a second towards user space on every architecture.
const MILLIS_PER_TICK: u64 = 10;
const BETWEEN_SAMPLES: Duration = Duration::from_millis(1000);

/// Looks at every process of the run now.
pub fn look(run: &Run) -> Uses {
    let mut uses = Uses::new();
    let prefix = run.instance().prefix();
    for datacenter in groups(run, &prefix) {
        for pid in run.groups().processes(&format!("{prefix}/{datacenter}")) {
            // A process may end between being listed and being read.
            let (Some(name), Some(memory), Some(cpu_millis)) = (program(pid), memory(pid), cpu_millis(pid)) else {
                continue;
            };
            let entry = uses.entry((datacenter.clone(), name)).or_default();
            entry.memory += memory;
            entry.cpu_millis += cpu_millis;
            entry.processes += 1;
        }
    }
    uses
}

/// The sum over all programs, in bytes.
pub fn total_memory(uses: &Uses) -> u64 {
    uses.values().map(|one| one.memory).sum()
}

fn groups(run: &Run, prefix: &str) -> Vec<String> {
    let Some(root) = run.groups().join_files(prefix).into_iter().next() else { return Vec::new() };
    let Some(folder) = root.parent() else { return Vec::new() };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// What a person would call it: `kubelet`, `koinon operator`.
fn program(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let path = words.next()?.into_owned();
    let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
    if name.is_empty() {
        return None;
    }
    // Our one binary has a role for each subcommand.
    match words.next() {
        Some(role) if name == "koinon" => Some(format!("koinon {role}")),
        _ => Some(name),
    }
}

fn memory(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn cpu_millis(pid: u32) -> Option<u64> {
    process::cpu_ticks(pid).map(|ticks| ticks * MILLIS_PER_TICK)
}

/// Watches the sum of memory until it is dropped.
#[derive(Debug)]
pub struct Watch {
    peak: Arc<AtomicU64>,
    at_peak: Arc<Mutex<Uses>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to look once a second.
    pub fn begin(run: Arc<Run>) -> Self {
        let (peak, at_peak, end) =
            (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Uses::new())), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (peak, at_peak, end) = (peak.clone(), at_peak.clone(), end.clone());
            std::thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let uses = look(&run);
                    let total = total_memory(&uses);
                    if total > peak.load(Ordering::Relaxed) {
                        peak.store(total, Ordering::Relaxed);
                        if let Ok(mut kept) = at_peak.lock() {
                            *kept = uses;
                        }
                    }
                    std::thread::sleep(BETWEEN_SAMPLES);
                }
            })
        };
        Self { peak, at_peak, end, thread: Some(thread) }
    }

    /// The largest sum seen, in bytes.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Who used how much at that moment.
    pub fn at_peak(&self) -> Uses {
        self.at_peak.lock().map(|uses| uses.clone()).unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A table for people, largest first; `only` chooses which programs are listed one by one.
pub fn table(uses: &Uses, only: impl Fn(&str) -> bool) -> String {
    let mut rows: Vec<_> = uses.iter().filter(|((_, name), _)| only(name)).collect();
    rows.sort_by_key(|(_, one)| std::cmp::Reverse(one.memory));
    let mut text = format!("{:<12} {:<24} {:>10} {:>10}\n", "DATACENTER", "PROGRAM", "MEMORY", "CPU");
    for ((datacenter, name), one) in rows {
        let cpu = format!("{}.{:01} s", one.cpu_millis / 1000, one.cpu_millis % 1000 / 100);
        text.push_str(&format!("{datacenter:<12} {name:<24} {:>6} MiB {cpu:>10}\n", one.memory >> 20));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_a_name_memory_and_time() {
        let pid = std::process::id();
        assert!(program(pid).unwrap().starts_with("koinon_e2e"));
        assert!(memory(pid).unwrap() > 1 << 20);
        assert!(cpu_millis(pid).is_some());
    }

    #[test]
    fn the_table_lists_the_largest_first() {
        let entry = |memory| Use { memory, cpu_millis: 1250, processes: 1 };
        let uses = Uses::from([
            (("cork".into(), "etcd".into()), entry(40 << 20)),
            (("cork".into(), "koinon agent".into()), entry(90 << 20)),
        ]);
        let all = table(&uses, |_| true);
        let rows: Vec<&str> = all.lines().skip(1).collect();
        assert!(rows[0].contains("koinon agent") && rows[0].contains("90 MiB") && rows[0].contains("1.2 s"), "{all}");
        assert_eq!(table(&uses, |name| name.starts_with("koinon")).lines().count(), 2);
    }
}
