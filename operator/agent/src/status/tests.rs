use koinon_api::conditions::find;
use koinon_api::time::from_unix;

use super::*;
use crate::judging::Judge;
use crate::survey::judge_for_tests;
use koinon_api::gpu_node::{GuestWork, HealthAction, Mig, MigMode, NotShareableReason};
use koinon_core::gpu::device::Taken;
use koinon_core::ids::{UnixMicros, UnixSeconds};
use std::collections::BTreeMap;

const DAY: i64 = 24 * 3600;

fn observer() -> Observer {
    Observer {
        version: "0.1.0".into(),
        boot_id: "b".into(),
        library: "/lib/libnvidia-ml.so.1".into(),
        limits: BTreeMap::new(),
        xid_table: None,
    }
}

fn uuid(number: u32) -> String {
    format!("GPU-fa4e0000-0000-4000-8000-{number:012}")
}

/// A device whose driver knows little else of it.
fn h100(index: u32, number: u32) -> serde_json::Value {
    let none = || serde_json::json!({"code": 3});
    serde_json::json!({
        "index": index,
        "uuid": {"value": uuid(number)},
        "said": {
            "uuidAgain": {"value": uuid(number)},
            "product": {"value": "NVIDIA H100 80GB HBM3"},
            "memory": {"value": {"total": 85_520_809_984_u64, "reserved": 0, "used": 0}},
            "mig": {"value": [0, 0]},
            "brand": none(), "architecture": none(), "computeCapability": none(), "minor": none(), "busId": none(),
            "serial": none(), "vbios": none(), "instances": none(), "power": none(), "powerLimit": none(), "energy": none(),
            "utilisation": none(), "persistence": none(),
            "ecc": {"mode": none(), "volatileCorrected": none(), "volatileUncorrected": none(), "aggregateCorrected": none(),
                "aggregateUncorrected": none(), "sramThresholdExceeded": none()},
            "remap": {"correctable": none(), "uncorrectable": none(), "pending": none(), "failed": none(),
                "availability": none()},
            "recovery": {"action": none(), "reset": none(), "drainAndReset": none()},
            "nvlink": {"count": none(), "links": [], "total": {"replay": none(), "recovery": none(), "crc": none()}},
            "pcie": {"generation": none(), "maxGeneration": none(), "width": none(), "maxWidth": none(), "replays": none()},
            "thermal": {"gpu": none(), "memory": none(), "margin": none(), "gpuMax": none(), "memoryMax": none(),
                "gpuMaxMargin": none()},
            "clocks": {"sm": none(), "smMax": none(), "memory": none(), "throttle": none()},
            "processes": {"compute": none(), "graphics": none(), "mps": none()},
        },
    })
}

fn lost(index: u32) -> serde_json::Value {
    serde_json::json!({"index": index, "uuid": {"code": 15}})
}

fn survey_of(devices: &[serde_json::Value]) -> Survey {
    judge_for_tests(&serde_json::json!({"read": {
        "driverVersion": {"value": "0.0-fake"}, "nvmlVersion": {"value": "13.0"}, "cudaVersion": {"value": 13_000},
        "count": devices.len(), "devices": devices,
    }}))
}

const NEVER: Taken = Taken { at: UnixMicros(0), uptime_milliseconds: 0 };

fn hung() -> Survey {
    Survey::failed(NEVER, Failure::Hung, None, "NVML did not answer within 10000 ms")
}

fn at(seconds: i64) -> Time {
    from_unix(seconds).unwrap()
}

/// A node's agent over several surveys.
struct Agent {
    judge: Judge,
    status: GPUNodeStatus,
}

impl Agent {
    fn new() -> Self {
        Self { judge: Judge::new("b".parse().unwrap()), status: GPUNodeStatus::default() }
    }

    /// The status that it would write after a survey at this time.
    fn next(&mut self, seconds: i64, mut survey: Survey) -> Option<GPUNodeStatus> {
        survey.taken = Taken {
            at: UnixMicros(seconds * 1_000_000),
            uptime_milliseconds: u64::try_from(seconds + 100_000).unwrap() * 1_000,
        };
        let judgement = self.judge.judge(&survey, &BTreeMap::new(), &self.status);
        let found = Found {
            survey: &survey,
            judgement: &judgement,
            observed: None,
            kernel_log: None,
            log_judged: self.judge.log_judged(),
        };
        next(&self.status, &found, &observer(), Some(1), &at(seconds))
    }

    fn after(&mut self, seconds: i64, survey: Survey) -> &GPUNodeStatus {
        if let Some(status) = self.next(seconds, survey) {
            self.status = status;
        }
        &self.status
    }
}

/// The status after surveys at these times, each told what the one before wrote.
fn after(surveys: &[(i64, Survey)]) -> GPUNodeStatus {
    let mut agent = Agent::new();
    for (time, survey) in surveys {
        agent.after(*time, survey.clone());
    }
    agent.status
}

fn states(status: &GPUNodeStatus) -> Vec<(HealthState, String)> {
    status.devices.iter().map(|device| (device.health.state, device.health.reasons.join(","))).collect()
}

fn condition(status: &GPUNodeStatus, type_: ConditionType) -> (String, String) {
    let condition = find(&status.conditions, type_).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[track_caller]
fn says(status: &GPUNodeStatus, type_: ConditionType, value: &str, reason: &str) {
    assert_eq!(condition(status, type_), (value.to_owned(), reason.to_owned()));
}

#[test]
fn a_sound_node_is_ready_and_its_devices_have_a_class() {
    let status = after(&[(0, survey_of(&[h100(0, 1), h100(1, 2)]))]);
    assert_eq!((status.installed, status.healthy), (Some(2), Some(2)));
    let device = &status.devices[1];
    assert_eq!((device.index, device.uuid.as_str()), (1, uuid(2).as_str()));
    assert_eq!(device.class.as_deref(), Some("h100-80"));
    assert_eq!(device.memory.as_ref().map(|memory| memory.total_bytes), Some(85_520_809_984));
    assert_eq!(device.mig, Some(Mig { mode: MigMode::Disabled, ..Mig::default() }));
    assert_eq!(status.driver.as_ref().map(|driver| driver.version.as_str()), Some("0.0-fake"));
    says(&status, ConditionType::NVMLAvailable, "True", "NVMLAnswers");
    says(&status, ConditionType::DevicesHealthy, "True", "AllHealthy");
    says(&status, ConditionType::Ready, "True", "Ready");
}

#[test]
fn the_same_survey_again_is_not_written() {
    for survey in [survey_of(&[h100(0, 1)]), hung()] {
        let mut agent = Agent::new();
        agent.after(0, survey.clone());
        agent.after(10, survey.clone());
        for seconds in [20, 30, 100, 3_600, 86_400] {
            assert_eq!(agent.next(seconds, survey.clone()), None, "{seconds}");
        }
    }
}

#[test]
fn a_value_that_is_not_known_is_left_out() {
    let mut device = h100(0, 1);
    device["said"]["product"] = serde_json::json!("notText");
    device["said"]["memory"] = serde_json::json!({"code": 999});
    device["said"]["mig"] = serde_json::json!({"code": 4});
    let status = after(&[(0, survey_of(&[device]))]);
    let json = serde_json::to_value(&status.devices[0]).unwrap();
    for field in ["product", "class", "memory", "mig"] {
        assert!(json.get(field).is_none(), "{json}");
    }
    assert_eq!(states(&status), [(HealthState::Unknown, "IncompleteReading".to_owned())]);
    says(&status, ConditionType::DevicesHealthy, "Unknown", "DeviceUnhealthy");
}

#[test]
fn a_failed_survey_keeps_the_devices_and_knows_nothing_of_them() {
    let sound = (0, survey_of(&[h100(0, 1), h100(1, 2)]));
    let missed = after(&[sound.clone(), (10, hung())]);
    assert_eq!((missed.installed, missed.healthy), (None, None), "unknown is not zero");
    assert_eq!(states(&missed), vec![(HealthState::Healthy, String::new()); 2], "one that is late is not yet unknown");
    let reasons: Vec<_> = missed.devices.iter().map(|device| (device.shareable, device.not_shareable_reason)).collect();
    assert_eq!(reasons, [(false, Some(NotShareableReason::SurveyMissed)); 2], "and takes nothing new");
    let status = after(&[sound, (10, hung()), (20, hung())]);
    assert_eq!(states(&status), vec![(HealthState::Unknown, "SurveyFailed".to_owned()); 2]);
    assert_eq!(status.devices[0].class.as_deref(), Some("h100-80"));
    assert_eq!(status.devices[0].missing_since_time, None);
    assert_eq!(status.nvml.as_ref().map(|nvml| nvml.state), Some(NvmlState::Unresponsive));
    assert_eq!(status.driver, None);
    says(&status, ConditionType::NVMLAvailable, "False", "Unresponsive");
    says(&status, ConditionType::Ready, "False", "Unresponsive");
    let recovered = after(&[(0, hung()), (10, survey_of(&[h100(0, 1)]))]);
    assert_eq!(states(&recovered), [(HealthState::Healthy, String::new())]);
    says(&recovered, ConditionType::Ready, "True", "Ready");
}

#[test]
fn a_lost_device_that_was_known_is_unhealthy() {
    let status = after(&[(0, survey_of(&[h100(0, 1), h100(1, 2)])), (10, survey_of(&[lost(0), h100(1, 2)]))]);
    assert_eq!((status.installed, status.healthy), (Some(2), Some(1)));
    let row = status.devices.iter().find(|device| device.uuid == uuid(1)).unwrap();
    assert_eq!((row.health.state, row.health.reasons[0].as_str()), (HealthState::Unhealthy, "GPULost"));
    assert_eq!((row.health.action, row.health.guest_work), (Some(HealthAction::RebootNode), Some(GuestWork::Drain)));
    says(&status, ConditionType::DevicesHealthy, "False", "DeviceUnhealthy");
}

#[test]
fn a_device_that_is_no_longer_listed_is_missing_for_a_day() {
    let both = survey_of(&[h100(0, 1), h100(1, 2)]);
    let one = survey_of(&[h100(0, 2)]);
    let status = after(&[(0, both.clone()), (10, one.clone()), (DAY - 1, one.clone())]);
    assert_eq!(status.installed, Some(1));
    assert_eq!(
        states(&status),
        [(HealthState::Healthy, String::new()), (HealthState::Unknown, "DeviceMissing".to_owned())]
    );
    assert_eq!(status.devices[1].missing_since_time, Some(at(10)));
    says(&status, ConditionType::DevicesHealthy, "Unknown", "DeviceUnhealthy");

    let later = after(&[(0, both.clone()), (10, one.clone()), (DAY + 1, one.clone())]);
    assert_eq!(states(&later), [(HealthState::Healthy, String::new())]);
    let back = after(&[(0, both.clone()), (10, one), (20, both)]);
    assert!(back.devices.iter().all(|device| device.missing_since_time.is_none()));
}

#[test]
fn two_devices_with_one_uuid_are_one_unknown_row_and_two_installed() {
    let status = after(&[(0, survey_of(&[h100(0, 1), h100(1, 1), h100(2, 3)]))]);
    assert_eq!((status.installed, status.healthy, status.devices.len()), (Some(3), Some(1), 2));
    assert_eq!(states(&status)[0], (HealthState::Unknown, "DuplicateUUID".to_owned()));
}

#[test]
fn a_node_without_devices_is_ready() {
    let status = after(&[(0, survey_of(&[]))]);
    assert_eq!((status.installed, status.healthy), (Some(0), Some(0)));
    says(&status, ConditionType::DevicesHealthy, "True", "NoDevices");
}

#[test]
fn every_failure_is_a_condition_that_says_what_to_do() {
    for failure in Failure::ALL {
        let status = after(&[(0, Survey::failed(NEVER, failure, Some(999), "it said so"))]);
        let available = find(&status.conditions, ConditionType::NVMLAvailable).unwrap();
        assert_eq!(available.status, "False");
        for part in ["/lib/libnvidia-ml.so.1", "it said so", "return code 999", ";"] {
            assert!(available.message.contains(part), "{failure:?}: {}", available.message);
        }
    }
}

#[test]
fn there_are_never_more_rows_than_the_resource_may_hold() {
    let (old, new) =
        ((0..128).map(|n| h100(n, n)).collect::<Vec<_>>(), (0..128).map(|n| h100(n, 500 + n)).collect::<Vec<_>>());
    let status = after(&[(0, survey_of(&old)), (10, survey_of(&new))]);
    assert_eq!((status.devices.len(), status.healthy), (128, Some(128)));
}

#[test]
fn what_it_writes_is_what_the_resource_takes() {
    let status = after(&[(0, survey_of(&[h100(0, 1), lost(1), h100(2, 1)])), (5, hung())]);
    let written = serde_json::to_value(&status).unwrap();
    let read: GPUNodeStatus = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(read, status);
    assert!(!has_null(&written), "{written}");
}

fn has_null(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => true,
        serde_json::Value::Array(items) => items.iter().any(has_null),
        serde_json::Value::Object(map) => map.values().any(has_null),
        _ => false,
    }
}

/// What a restarted agent reads is what it wrote: a device that was found sick stays so.
#[test]
fn a_device_that_needs_a_reset_is_not_forgotten_by_an_agent_that_starts_anew() {
    let mut agent = Agent::new();
    agent.after(0, survey_of(&[h100(0, 1)]));
    agent.after(10, survey_of(&[lost(0)]));
    let mut anew = Agent { judge: Judge::new("b".parse().unwrap()), status: agent.status };
    let status = anew.after(20, survey_of(&[h100(0, 1)])).clone();
    assert_eq!(status.devices[0].health.state, HealthState::Unhealthy, "{:?}", status.devices[0].health);
    assert_eq!(status.devices[0].not_shareable_reason, Some(NotShareableReason::NotHealthy));
}

/// The kernel gives its whole log to every agent that starts.
#[test]
fn an_agent_that_starts_anew_knows_how_far_the_one_before_it_had_judged_the_log() {
    let xids =
        |status: &GPUNodeStatus| status.devices[0].xids.iter().map(|xid| (xid.code, xid.count)).collect::<Vec<_>>();
    let report = || crate::events::Report {
        device: Some(uuid(1).parse().unwrap()),
        xid: koinon_core::gpu::xid::Xid(94),
        place: None,
        detail: None,
        first: UnixSeconds(20),
        last: UnixSeconds(20),
        count: 1,
        sources: [koinon_core::gpu::xid::XidSource::KernelLog].into(),
        fresh: true,
    };
    let mut agent = Agent::new();
    agent.after(0, survey_of(&[h100(0, 1)]));
    agent.judge.hear(&report());
    agent.judge.heard_log(7);
    agent.after(100, survey_of(&[h100(0, 1)]));
    assert_eq!(xids(&agent.status), [(94, 1)]);
    // What was heard after the judgement is none of what was judged.
    agent.judge.heard_log(9);
    agent.after(110, survey_of(&[lost(0)]));
    agent.judge.heard_log(12);
    let resumed = |boot: &str| {
        let mut judge = Judge::new(boot.parse().unwrap());
        judge.resume(&agent.status);
        judge.log_judged()
    };
    assert_eq!((resumed("b"), resumed("c"), resumed("unknown")), (9, 0, 0));
    let mut anew = Agent { judge: Judge::new("b".parse().unwrap()), status: agent.status.clone() };
    anew.judge.resume(&anew.status);
    anew.after(200, survey_of(&[h100(0, 1)]));
    assert_eq!((xids(&anew.status), anew.judge.log_judged()), (vec![(94, 1)], 9), "an older position is not forgotten");
    // A kernel that does not say its boot's id might have started again.
    let mut unknown = Agent { judge: Judge::new("unknown".parse().unwrap()), status: GPUNodeStatus::default() };
    unknown.judge.heard_log(7);
    unknown.after(0, survey_of(&[h100(0, 1)]));
    let mut judge = Judge::new("unknown".parse().unwrap());
    judge.resume(&unknown.status);
    assert_eq!(judge.log_judged(), 0);
}

/// Its work has to end, and nobody can say anything newer of who it is.
#[test]
fn a_device_that_is_no_longer_found_keeps_the_names_of_those_who_held_it_and_is_nobodys_by_that() {
    let mut agent = Agent::new();
    agent.after(0, survey_of(&[h100(0, 1)]));
    let holder = koinon_api::gpu_node::Holder { namespace: "guest".into(), name: "copy-1".into() };
    let held = koinon_api::gpu_node::AllocationState::Held;
    agent.status.devices[0].allocation =
        Some(koinon_api::gpu_node::Allocation { state: held, holders: vec![holder.clone()], registered: Some(true) });
    for survey in [survey_of(&[lost(0)]), hung()] {
        let mut agent = Agent { judge: Judge::new("b".parse().unwrap()), status: agent.status.clone() };
        let allocation = agent.after(10, survey).devices[0].allocation.clone().unwrap();
        assert_eq!(allocation.state, koinon_api::gpu_node::AllocationState::Unknown);
        assert_eq!((allocation.holders, allocation.registered), (vec![holder.clone()], None));
    }
}

#[test]
fn why_something_cannot_be_asked_is_written_at_once_and_in_other_words_once_a_minute() {
    let of = |reason: Reason, message: &str, seconds| {
        let mut status = GPUNodeStatus { survey_time: Some(at(seconds)), ..GPUNodeStatus::default() };
        let verdict = Verdict::no(reason, message);
        let _ = conditions::set(&mut status.conditions, ConditionType::ProcessesKnown, verdict, None, &at(0));
        status
    };
    let before = of(Reason::PodsUnknown, "refused", 0);
    let other_words = |seconds| pace::is_due(&before, &of(Reason::PodsUnknown, "gone", seconds), &at(seconds));
    assert_eq!((other_words(59), other_words(60)), (false, true));
    assert!(pace::is_due(&before, &of(Reason::ProcessesHidden, "refused", 1), &at(1)));
}

#[test]
fn a_counter_that_moves_is_written_once_a_minute_and_a_verdict_at_once() {
    let corrected = |count: u32| {
        let mut device = h100(0, 1);
        device["said"]["ecc"]["mode"] = serde_json::json!({"value": [1, 1]});
        device["said"]["ecc"]["aggregateUncorrected"] = serde_json::json!({"value": count});
        survey_of(&[device])
    };
    let mut agent = Agent::new();
    agent.after(0, corrected(0));
    for seconds in 1..60 {
        assert!(agent.next(seconds, corrected(u32::try_from(seconds).unwrap())).is_none(), "{seconds}");
    }
    assert!(agent.next(60, corrected(60)).is_some());
    assert!(agent.next(61, survey_of(&[lost(0)])).is_some());
}
