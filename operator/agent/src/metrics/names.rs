//! The metrics of a device. `uuid` names a device or an instance; pods and people are never labels.

use koinon_telemetry::Kind::{self, Counter, Gauge};

use super::counters::XID_EVENTS;
use super::family::Family;

const fn family(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind, labels, help }
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal $labels:expr, $help:literal;)+) => {
        $(pub(super) static $constant: Family = family($name, $kind, &$labels, $help);)+
        /// All of them.
        pub(super) static ALL: &[&Family] = &[$(&$constant,)+ &XID_EVENTS];
    };
}

families! {
    INFO = Gauge "koinon_gpu_info" ["uuid", "product", "architecture", "driver_version", "vbios_version", "pci_bus_id"],
        "Always 1; the labels say what the device is.";
    INSTANCE_INFO = Gauge "koinon_gpu_instance_info" ["uuid", "parent", "gpu_instance", "compute_instance"],
        "Always 1; the labels say of which device the instance is a part.";
    HEALTH_STATE = Gauge "koinon_gpu_health_state" ["uuid", "state"],
        "1 for the state that holds (healthy, degraded, unhealthy or unknown), 0 for the others.";
    HEALTH_REASON = Gauge "koinon_gpu_health_reason" ["uuid", "reason"], "1 for each reason why the device is not simply healthy.";
    HEALTH_ACTION = Gauge "koinon_gpu_health_action" ["uuid", "action"], "1 for what the device's owner should do.";
    RECOVERY_ACTION = Gauge "koinon_gpu_recovery_action" ["uuid", "action"], "1 for what the driver itself recommends.";
    MEMORY_TOTAL = Gauge "koinon_gpu_memory_total_bytes" ["uuid"], "All memory of the device.";
    MEMORY_USED = Gauge "koinon_gpu_memory_used_bytes" ["uuid"], "Memory in use, the driver's part left out.";
    MEMORY_RESERVED = Gauge "koinon_gpu_memory_reserved_bytes" ["uuid"], "Memory that the driver keeps for itself.";
    MEMORY_UNATTRIBUTED = Gauge "koinon_gpu_memory_unattributed_bytes" ["uuid"], "Memory in use without a process.";
    UTILIZATION = Gauge "koinon_gpu_utilization_ratio" ["uuid"],
        "Share of the driver's last sample period in which something was computed.";
    MEMORY_UTILIZATION = Gauge "koinon_gpu_memory_utilization_ratio" ["uuid"],
        "Share of the driver's last sample period in which memory was read or written.";
    TEMPERATURE = Gauge "koinon_gpu_temperature_celsius" ["uuid", "sensor"], "Temperature of the chip and of its memory.";
    TEMPERATURE_MARGIN = Gauge "koinon_gpu_temperature_margin_celsius" ["uuid"],
        "How far the chip is from slowing down by itself.";
    POWER = Gauge "koinon_gpu_power_watts" ["uuid"], "What the device draws.";
    POWER_LIMIT = Gauge "koinon_gpu_power_limit_watts" ["uuid"], "The limit in force.";
    ENERGY = Counter "koinon_gpu_energy_joules_total" ["uuid"], "What the device drew, by the driver's count.";
    CLOCK = Gauge "koinon_gpu_clock_hertz" ["uuid", "clock"], "Clocks of the multiprocessors and of the memory.";
    THROTTLE_ACTIVE = Gauge "koinon_gpu_throttle_active" ["uuid", "reason"],
        "1 for each reason for which clocks are lower than they could be.";
    ECC_ERRORS = Counter "koinon_gpu_ecc_errors_total" ["uuid", "type", "scope"],
        "Memory errors since the driver was loaded (volatile) or in the device's life (aggregate).";
    REMAPPED_ROWS = Gauge "koinon_gpu_remapped_rows" ["uuid", "cause"], "Rows of memory replaced by spare ones.";
    REMAP_PENDING = Gauge "koinon_gpu_remap_pending" ["uuid"], "1 while a replaced row waits for the next reset.";
    REMAP_FAILED = Gauge "koinon_gpu_remap_failed" ["uuid"], "1 if a row could not be replaced.";
    NVLINK_LINKS = Gauge "koinon_gpu_nvlink_links" ["uuid", "state"],
        "Links to other devices that are up (active), and that should be (expected).";
    NVLINK_ERRORS = Counter "koinon_gpu_nvlink_errors_total" ["uuid", "kind"], "Errors of all links together.";
    PCIE_REPLAYS = Counter "koinon_gpu_pcie_replays_total" ["uuid"], "Packets to the host that were sent again.";
    PROCESSES = Gauge "koinon_gpu_processes" ["uuid", "kind", "attribution"],
        "Processes on the device: of a pod that holds it, of one that does not (pod_mismatch), of none (host), or unknown.";
    ORPHANED_PROCESSES = Gauge "koinon_gpu_orphaned_processes" ["uuid"],
        "Processes of no living pod that have been there for longer than the grace.";
}
