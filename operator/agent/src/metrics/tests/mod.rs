//! From values to what a scrape reads.

mod surveys;

use std::collections::{BTreeMap, BTreeSet};

use koinon_core::capacity::Health;
use koinon_core::gpu::device::{
    Clocks, Confidential, ConfidentialMode, Device, Ecc, Identity, Instance, InstancePlace, Memory, NvLink, Pcie,
    Power, ProcessKind, RecoveryAction, Remap, RemapAvailability, Setting, Thermal, Throttle, Utilisation,
};
use koinon_core::gpu::health::{History, Judgement, NodeVerdict, Verdict};
use koinon_core::gpu::reading::{Gap, Reading};
use koinon_core::gpu::usage::{Attribution, Clean, DeviceUse, NodeUse, Standing, Use, Why};
use koinon_core::gpu::words::{Action, Offer, Work};
use koinon_core::gpu::xid::{Xid, XidClass, XidSource};
use koinon_core::ids::{Bytes, DeviceId, UnixSeconds};
use koinon_telemetry::Registrar;
use prometheus::{Registry, TextEncoder};

use super::{ALERTED, DcgmNames, DeviceMetrics};
use crate::events::Report;
use Reading::{Known, Unknown, Unsupported};

fn id(number: u32) -> DeviceId {
    format!("GPU-fa4e0000-0000-0000-0000-{number:012}").parse().unwrap()
}

/// Everything is known of it.
fn h100(number: u32) -> Device {
    let on = Known(Setting { current: true, pending: true });
    Device {
        id: id(number),
        index: number,
        identity: Identity {
            product: Known("NVIDIA H100 80GB HBM3".parse().unwrap()),
            brand: Known("Tesla".parse().unwrap()),
            architecture: Known("Hopper".parse().unwrap()),
            compute_capability: Known((9, 0)),
            minor: Known(number),
            pci_bus_id: Known("00000000:3B:00.0".parse().unwrap()),
            serial: Known("1324321000000".parse().unwrap()),
            vbios: Known("96.00.30.00.01".parse().unwrap()),
        },
        memory: Memory {
            total: Known(Bytes(85_520_809_984)),
            reserved: Known(Bytes(524_288_000)),
            used: Known(Bytes(1_073_741_824)),
        },
        mig: Known(Setting { current: false, pending: false }),
        instances: Vec::new(),
        ecc: Ecc {
            mode: on,
            volatile_uncorrected: Known(0),
            volatile_corrected: Known(3),
            aggregate_uncorrected: Known(1),
            aggregate_corrected: Known(30),
            sram_threshold_exceeded: Known(false),
        },
        remap: Remap {
            correctable: Known(2),
            uncorrectable: Known(1),
            pending: Known(true),
            failed: Known(false),
            availability: Known(RemapAvailability { max: 640, high: 0, partial: 0, low: 0, none: 0 }),
        },
        recovery: Known(RecoveryAction::None),
        nvlink: NvLink {
            links: Known(18),
            active: Known(18),
            replay_errors: Known(4),
            recovery_errors: Known(0),
            crc_errors: Known(5),
        },
        pcie: Pcie {
            generation: Known(5),
            max_generation: Known(5),
            width: Known(16),
            max_width: Known(16),
            replays: Known(6),
        },
        thermal: Thermal {
            gpu: Known(41),
            memory: Known(45),
            margin: Known(46),
            gpu_max_operating: Known(87),
            memory_max_operating: Known(95),
        },
        power: Power { milliwatts: Known(71_500), limit_milliwatts: Known(700_000), millijoules: Known(5_000) },
        clocks: Clocks {
            sm_megahertz: Known(1_980),
            sm_max_megahertz: Known(1_980),
            memory_megahertz: Known(2_619),
            throttle: Known(Throttle(Throttle::HW_THERMAL)),
        },
        utilisation: Utilisation { gpu_percent: Known(25), memory_percent: Known(10) },
        persistence: Known(true),
        confidential: Confidential { capable: Known(true), mode: Known(ConfidentialMode::Off), ready: Known(true) },
        processes: Known(Vec::new()),
    }
}

struct Node {
    registry: Registry,
    metrics: DeviceMetrics,
}

impl Node {
    fn new(dcgm: DcgmNames) -> Self {
        let registry = Registry::new();
        let metrics = DeviceMetrics::register(&Registrar::new(&registry), dcgm).unwrap();
        Self { registry, metrics }
    }

    fn seen(&self, devices: &[Device]) -> String {
        self.all(devices, &[], None)
    }

    fn all(&self, devices: &[Device], held: &[(DeviceId, Verdict)], usage: Option<&NodeUse>) -> String {
        self.metrics.read(devices, Some("580.95.05"), usage);
        self.metrics.judged(&judgement(held));
        self.scrape()
    }

    fn xid(&self, device: Option<&DeviceId>, xid: u32, class: XidClass, source: XidSource) {
        let report = Report {
            device: device.cloned(),
            xid: Xid(xid),
            place: None,
            detail: None,
            first: UnixSeconds(0),
            last: UnixSeconds(0),
            count: 1,
            sources: BTreeSet::from([source]),
            fresh: true,
        };
        self.metrics.reported(&report, class);
    }

    fn scrape(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }
}

fn plain() -> Node {
    Node::new(DcgmNames::Off)
}

/// The value of the one series of the metric that has all these labels.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut found = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    let line = found.next()?;
    assert!(found.next().is_none(), "{name}{labels:?} is not one series");
    Some(line.rsplit(' ').next()?.parse().unwrap())
}

fn series(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

fn judgement(held: &[(DeviceId, Verdict)]) -> Judgement {
    let (instances, devices): (Vec<_>, Vec<_>) =
        held.iter().cloned().partition(|(id, _)| id.as_str().starts_with("MIG-"));
    Judgement {
        devices: devices.into_iter().collect(),
        instances: instances.into_iter().collect(),
        node: NodeVerdict::default(),
        notices: BTreeSet::new(),
        evidence_dropped: BTreeSet::new(),
        history: History::default(),
    }
}

fn degraded(device: &DeviceId) -> (DeviceId, Verdict) {
    let verdict = Verdict {
        state: Health::Degraded,
        reasons: (0..20).map(|number| format!("Reason{number}").parse().unwrap()).collect(),
        action: Action::ResetGpu,
        work: Work::Keep,
        offer: Offer::Nothing,
        since: UnixSeconds(0),
    };
    (device.clone(), verdict)
}

fn used(devices: &[DeviceId], state: &Use, known: bool) -> NodeUse {
    let of_one = DeviceUse {
        state: state.clone(),
        since_milliseconds: 0,
        holders: None,
        shared: false,
        replicas: None,
        processes: known.then(|| BTreeMap::from([((ProcessKind::Compute, Attribution::PodMismatch), 2)])),
        oldest_unattributed_seconds: None,
        unattributed: known.then_some(Bytes(7)),
        clean: Clean::Unknown,
        quiet: None,
        idle_seconds: None,
    };
    NodeUse {
        devices: devices.iter().map(|id| (id.clone(), of_one.clone())).collect(),
        unnamed: BTreeSet::new(),
        allocatable: None,
        standing: Standing::default(),
    }
}

#[test]
fn values_are_in_base_units() {
    let text = plain().seen(&[h100(1)]);
    for (name, label, wanted) in [
        ("koinon_gpu_memory_total_bytes", "uuid", 85_520_809_984.0),
        ("koinon_gpu_utilization_ratio", "uuid", 0.25),
        ("koinon_gpu_power_watts", "uuid", 71.5),
        ("koinon_gpu_power_limit_watts", "uuid", 700.0),
        ("koinon_gpu_energy_joules_total", "uuid", 5.0),
        ("koinon_gpu_clock_hertz", "sm", 1.98e9),
        ("koinon_gpu_temperature_celsius", "memory", 45.0),
        ("koinon_gpu_throttle_active", "hw_thermal", 1.0),
        ("koinon_gpu_throttle_active", "hw_slowdown", 0.0),
        ("koinon_gpu_remapped_rows", "uncorrectable", 1.0),
        ("koinon_gpu_recovery_action", "None", 1.0),
        ("koinon_gpu_nvlink_errors_total", "crc", 5.0),
    ] {
        assert_eq!(value(&text, name, &[label]), Some(wanted), "{name} of {label}\n{text}");
    }
    let info = [
        r#"product="NVIDIA H100 80GB HBM3""#,
        r#"driver_version="580.95.05""#,
        r#"architecture="Hopper""#,
        r#"vbios_version="96.00.30.00.01""#,
        r#"pci_bus_id="00000000:3B:00.0""#,
    ];
    assert_eq!(value(&text, "koinon_gpu_info", &info), Some(1.0));
    assert!(!text.contains("1324321000000"), "the serial number stays with the owner");
}

#[test]
fn what_is_unsupported_or_unknown_has_no_series() {
    let mut device = h100(1);
    device.ecc.volatile_uncorrected = Unsupported;
    device.utilisation.gpu_percent = Unknown(Gap::Lost);
    device.thermal.margin = Unknown(Gap::Implausible);
    device.nvlink.active = Unsupported;
    device.remap.failed = Unsupported;
    device.recovery = Unsupported;
    device.clocks.throttle = Unknown(Gap::NotReady);
    device.power.millijoules = Unsupported;
    let usage = used(&[device.id.clone()], &Use::Unknown(Why::Memory), false);
    let text = plain().all(&[device], &[], Some(&usage));
    for name in [
        "koinon_gpu_utilization_ratio",
        "koinon_gpu_temperature_margin_celsius",
        "koinon_gpu_nvlink_links",
        "koinon_gpu_remap_failed",
        "koinon_gpu_recovery_action",
        "koinon_gpu_throttle_active",
        "koinon_gpu_energy_joules_total",
        "koinon_gpu_processes",
        "koinon_gpu_orphaned_processes",
        "koinon_gpu_memory_unattributed_bytes",
        "koinon_gpu_health_state",
    ] {
        assert!(!text.contains(name), "{name} is not known\n{text}");
    }
    assert_eq!(value(&text, "koinon_gpu_ecc_errors_total", &["uncorrected", "volatile"]), None);
    assert_eq!(value(&text, "koinon_gpu_ecc_errors_total", &["uncorrected", "aggregate"]), Some(1.0));
}

#[test]
fn a_verdict_is_one_state_with_its_reasons_and_outlives_the_reading() {
    let node = plain();
    let device = h100(1);
    let orphaned = Use::Orphaned { since_milliseconds: 0, processes: 3 };
    let (held, usage) = (degraded(&device.id), used(&[device.id.clone()], &orphaned, true));
    let text = node.all(&[device], std::slice::from_ref(&held), Some(&usage));
    let state = |text: &str, word: &str| value(text, "koinon_gpu_health_state", &[&format!("state=\"{word}\"")]);
    assert_eq!((state(&text, "degraded"), state(&text, "healthy")), (Some(1.0), Some(0.0)));
    assert_eq!(value(&text, "koinon_gpu_health_action", &["ResetGPU"]), Some(1.0));
    assert_eq!(text.matches("koinon_gpu_health_reason{").count(), 8, "more than a status shows");
    assert_eq!(value(&text, "koinon_gpu_processes", &["compute", "pod_mismatch"]), Some(2.0));
    assert_eq!(value(&text, "koinon_gpu_processes", &["graphics", "\"host\""]), Some(0.0));
    assert_eq!(value(&text, "koinon_gpu_orphaned_processes", &[]), Some(3.0));

    node.xid(Some(&id(1)), 79, XidClass::Reboot, XidSource::Nvml);
    let text = node.all(&[], &[held], None);
    assert_eq!(state(&text, "degraded"), Some(1.0), "it is missing, and known");
    assert!(!text.contains("koinon_gpu_power_watts"), "nobody read it");
    let fallen = ["xid=\"79\"", "source=\"nvml\"", id(1).as_str()].map(str::to_owned);
    let fallen: Vec<&str> = fallen.iter().map(String::as_str).collect();
    assert_eq!(value(&text, "koinon_gpu_xid_events_total", &fallen), Some(1.0), "the alert needs it now");

    let text = node.seen(&[h100(2)]);
    assert!(!text.contains(id(1).as_str()), "it is gone\n{text}");
}

#[test]
fn every_xid_that_alerts_name_is_there_at_zero_from_the_first_survey() {
    let node = plain();
    let text = node.seen(&[h100(1)]);
    for uuid in [id(1).to_string(), super::UNATTRIBUTED.to_owned()] {
        for code in ALERTED {
            for source in ["nvml", "kmsg"] {
                let labels = [format!("uuid=\"{uuid}\""), format!("xid=\"{code}\""), format!("source=\"{source}\"")];
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                assert_eq!(value(&text, "koinon_gpu_xid_events_total", &labels), Some(0.0), "{labels:?}");
            }
        }
        let unknown = [&format!("uuid=\"{uuid}\""), "class=\"unknown\"", "kmsg"];
        assert_eq!(value(&text, "koinon_gpu_xid_events_total", &unknown), Some(0.0));
    }
    // Whatever a voted table makes of them, and whether the catalogue knows them, they rise where alerts look.
    node.xid(Some(&id(1)), 48, XidClass::Reboot, XidSource::Nvml);
    node.xid(Some(&id(1)), 4_711, XidClass::Unknown, XidSource::KernelLog);
    node.xid(None, 48, XidClass::Workflow, XidSource::KernelLog);
    let uuid = format!("uuid=\"{}\"", id(1));
    let text = node.scrape();
    let count = |labels: &[&str]| value(&text, "koinon_gpu_xid_events_total", labels);
    assert_eq!(count(&[&uuid, "xid=\"48\"", "class=\"workflow\"", "nvml"]), Some(1.0));
    assert_eq!(count(&[&uuid, "xid=\"other\"", "class=\"unknown\"", "kmsg"]), Some(1.0));
    assert_eq!(count(&["uuid=\"unattributed\"", "xid=\"48\"", "kmsg"]), Some(1.0));
}

#[test]
fn the_alert_on_fatal_xids_names_the_codes_that_are_there_from_the_start() {
    let rules = include_str!("../../../../../charts/koinon/rules/gpus.yaml");
    let selectors = rules.split("koinon_gpu_xid_events_total{").skip(1).filter_map(|rest| rest.split('}').next());
    let codes: BTreeSet<u32> = selectors
        .filter_map(|labels| labels.split("xid=~\"").nth(1)?.split('"').next())
        .flat_map(|codes| codes.split('|').map(|code| code.parse::<u32>().unwrap()))
        .collect();
    assert_eq!(codes, BTreeSet::from(ALERTED));
}

#[test]
fn a_counter_of_the_driver_that_falls_never_makes_ours_fall() {
    let node = plain();
    let with = |energy, errors| {
        let mut device = h100(1);
        device.power.millijoules = Known(energy);
        device.ecc.volatile_uncorrected = Known(errors);
        let text = node.seen(&[device]);
        let of = |name, labels: &[&str]| value(&text, name, labels).unwrap();
        (of("koinon_gpu_energy_joules_total", &[]), of("koinon_gpu_ecc_errors_total", &["\"uncorrected\"", "volatile"]))
    };
    assert_eq!(with(9_000, 3), (9.0, 3.0));
    assert_eq!(with(8_000, 3), (9.0, 3.0), "a clock jumped");
    assert_eq!(with(8_500, 2), (9.5, 5.0), "the driver began anew and counted two");
    assert_eq!(with(u64::MAX, u64::MAX).1, 18_446_744_073_709_551_615.0);
    assert!(with(0, 7).1 >= 18_446_744_073_709_551_615.0);
}

#[test]
fn links_are_missed_by_what_the_device_had_and_by_what_its_like_have() {
    let node = plain();
    let with = |active: u32| {
        let mut device = h100(1);
        device.nvlink.active = Known(active);
        device
    };
    let expected = |text: &str| value(text, "koinon_gpu_nvlink_links", &[id(1).as_str(), "expected"]);
    assert_eq!(expected(&node.seen(&[with(0)])), Some(0.0), "a card whose links lead nowhere misses none");
    assert_eq!(expected(&node.seen(&[with(17), h100(2), h100(3)])), Some(18.0));
    let alone = plain();
    alone.seen(&[with(18)]);
    let text = alone.seen(&[with(17)]);
    assert_eq!(expected(&text), Some(18.0));
    assert_eq!(value(&text, "koinon_gpu_nvlink_links", &["active"]), Some(17.0));
}

#[test]
fn of_two_devices_with_one_id_nobodys_values_are_shown() {
    let text = plain().seen(&[h100(1), h100(1), h100(2)]);
    assert_eq!(value(&text, "koinon_gpu_power_watts", &[]), Some(71.5), "only that of the third");
    let mut lines: Vec<&str> =
        series(&text).iter().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect();
    lines.sort_unstable();
    let before = lines.len();
    lines.dedup();
    assert_eq!(lines.len(), before, "a scrape with one series twice is refused as a whole");
}

/// What one device and one instance can add to a scrape at most.
const MOST_SERIES: usize = 168;
const USUAL_SERIES: usize = 115;
const MOST_SERIES_OF_AN_INSTANCE: usize = 31;

fn instance(number: u32) -> Instance {
    Instance {
        id: format!("MIG-fa4e0000-0000-0000-0000-{number:012}").parse().unwrap(),
        place: Known(InstancePlace { gpu_instance: number, compute_instance: 0 }),
        slices: Known(1),
        memory: Memory { total: Known(Bytes(9_728 << 20)), reserved: Known(Bytes(0)), used: Known(Bytes(100 << 20)) },
    }
}

#[test]
fn whatever_happens_a_device_has_a_bounded_number_of_series() {
    let node = plain();
    let baseline = series(&node.seen(&[])).len();
    let device = h100(1);
    let one = [degraded(&device.id)];
    let usage = used(&[device.id.clone()], &Use::Free, true);
    for code in 0..2_000 {
        for source in XidSource::ALL {
            for class in XidClass::ALL {
                node.xid(Some(&device.id), code, *class, *source);
            }
        }
    }
    let whole = series(&node.all(std::slice::from_ref(&device), &one, Some(&usage))).len() - baseline;
    println!("one device has at most {whole} series");
    assert!(whole <= MOST_SERIES, "{whole}");

    let node = plain();
    let usual = series(&node.all(std::slice::from_ref(&device), &one, Some(&usage))).len() - baseline;
    println!("one device has {usual} series");
    assert!(usual <= USUAL_SERIES, "{usual}");

    let mut divided = device.clone();
    divided.instances = (0..50).map(instance).collect();
    let ids: Vec<DeviceId> = divided.instances.iter().map(|one| one.id.clone()).chain([device.id]).collect();
    let held: Vec<(DeviceId, Verdict)> = ids.iter().take(9).map(degraded).chain(one).collect();
    let text = plain().all(&[divided], &held, Some(&used(&ids, &Use::Free, true)));
    let more = series(&text).len() - baseline - usual;
    println!("an instance has {} series", more / 9);
    assert!(more <= 9 * MOST_SERIES_OF_AN_INSTANCE, "{more}");
    assert_eq!(text.matches("koinon_gpu_instance_info{").count(), 9, "a GPU divides into seven");

    let many: Vec<Device> = (0..1_000).map(h100).collect();
    let text = plain().seen(&many);
    assert_eq!(text.matches("koinon_gpu_power_watts{").count(), 128);
}

#[test]
fn a_hostile_name_stays_one_label_of_one_line() {
    let mut device = h100(1);
    device.identity.product = Known("a\"} 1\nkoinon_leader 1\n\u{202e}é\\".parse().unwrap());
    let text = plain().seen(&[device]);
    assert!(text.contains(r#"product="a\"} 1?koinon_leader 1???\\""#), "{text}");
    assert!(!text.contains("\nkoinon_leader") && text.is_ascii());
    assert!(text.lines().all(|line| line.len() < 500));
}

#[test]
fn dcgm_names_are_shown_on_request_with_its_units_and_labels() {
    assert!(!plain().seen(&[h100(1)]).contains("DCGM_"));
    let node = Node::new(DcgmNames::Of("bilbao-1".parse().unwrap()));
    node.xid(Some(&id(1)), 13, XidClass::App, XidSource::Nvml);
    let mut device = h100(1);
    device.instances = vec![instance(3)];
    device.thermal.memory = Unsupported;
    let text = node.seen(&[device]);
    let whole = format!(
        r#"DCGM_FI_DEV_POWER_USAGE{{gpu="1",UUID="{}",pci_bus_id="00000000:3B:00.0",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",hostname="bilbao-1",DCGM_FI_DRIVER_VERSION="580.95.05"}} 71.5"#,
        id(1)
    );
    assert!(text.contains(&whole), "{text}");
    for (name, labels, wanted) in [
        ("DCGM_FI_DEV_SM_CLOCK", vec![], 1_980.0),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", vec![], 5_000.0),
        ("DCGM_FI_DEV_GPU_UTIL", vec![], 25.0),
        ("DCGM_FI_DEV_XID_ERRORS", vec![], 13.0),
        ("DCGM_FI_DEV_FB_USED", vec!["device=\"nvidia1\"", "GPU_I_PROFILE=\"1g.10gb\"", "GPU_I_ID=\"3\""], 100.0),
        ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", vec![], 3.0),
        ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", vec![], 6.0),
    ] {
        assert_eq!(value(&text, name, &labels), Some(wanted), "{name}\n{text}");
    }
    assert!(text.contains("# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter"));
    assert_eq!(text.matches("DCGM_FI_DEV_FB_FREE{").count(), 2, "of the device and of its instance");
    assert!(!text.contains("DCGM_FI_DEV_MEMORY_TEMP"), "unsupported is not zero");
}
