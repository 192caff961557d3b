//! XIDs: what follows from what else was reported, when, and about whom.

use super::*;
use crate::gpu::xid::catalogue;

#[test]
fn every_row_of_the_table_does_to_a_device_what_it_says() {
    for (xid, row) in catalogue::builtin() {
        let mut node = Node::of(2);
        node.report(0, xid.0);
        let event = node.events[0].clone();
        let expected = node.policy.meaning(&event, Some(RecoveryAction::None));
        let judgement = node.after(15);
        let verdict = judgement.of("GPU-0");
        assert_eq!((verdict.state, verdict.offer), (expected.state, expected.offer), "{xid:?} {}", row.name);
        assert_eq!(judgement.state("GPU-1"), Health::Healthy, "{xid:?}");
        if expected.state == Health::Healthy {
            assert_eq!(verdict.reasons, [], "{xid:?}");
        } else {
            assert_eq!(verdict.reasons, [expected.reason], "{xid:?}");
            assert_eq!((verdict.action, verdict.work), (expected.action, expected.work), "{xid:?}");
        }
        let record = &judgement.history.devices[&"GPU-0".parse().unwrap()].xids[0];
        assert_eq!((record.code, record.count), (*xid, 1));
    }
}

#[test]
fn an_unknown_code_is_never_ignored() {
    let mut node = Node::of(1);
    node.report(0, 4_711);
    let verdict = node.after(15).of("GPU-0").clone();
    assert_eq!((verdict.state, verdict.offer, verdict.work), (Health::Degraded, Offer::Nothing, Work::Keep));
    assert_eq!(verdict.reasons, [Reason::Known(Why::UnknownXid)]);
}

#[test]
fn xid_45_alone_degrades_for_ten_minutes_and_beside_another_not_at_all() {
    let mut node = Node::of(1);
    node.report(0, 45);
    assert_eq!(node.judge().state("GPU-0"), Health::Degraded);
    assert_eq!(node.after(599).state("GPU-0"), Health::Degraded);
    assert_eq!(node.after(1).state("GPU-0"), Health::Healthy);
    for (apart, state) in [(60, Health::Healthy), (61, Health::Degraded)] {
        // The cause first, in an earlier judgement.
        let mut node = Node::of(1);
        node.report(0, 13);
        node.judge();
        node.pass(apart);
        node.report(0, 45);
        assert_eq!(node.judge().state("GPU-0"), state, "{apart}");
        // The cause afterwards: what was concluded without it is taken back.
        let mut node = Node::of(1);
        node.report(0, 45);
        node.judge();
        node.pass(apart);
        node.report(0, 13);
        assert_eq!(node.judge().state("GPU-0"), state, "{apart}");
        // Both in one judgement.
        let mut node = Node::of(1);
        node.report(0, 45);
        node.pass(apart);
        node.report(0, 13);
        assert_eq!(node.judge().state("GPU-0"), state, "{apart}");
    }
    // Another device's report explains nothing.
    let mut node = Node::of(2);
    node.report(0, 45);
    node.report(1, 13);
    assert_eq!(node.judge().state("GPU-0"), Health::Degraded);
}

#[test]
fn xid_45_beside_a_worse_one_leaves_the_worse_one() {
    let mut node = Node::of(1);
    node.report(0, 45);
    node.report(0, 48);
    let verdict = node.after(15).of("GPU-0").clone();
    assert_eq!(verdict.reasons, [Reason::Known(Why::DoubleBitError)]);
    assert_eq!((verdict.state, verdict.action, verdict.work), (Health::Unhealthy, Action::ResetGpu, Work::Drain));
}

#[test]
fn xid_48_needs_a_reset_with_63_and_another_device_with_64_or_a_failed_remap() {
    let action = |codes: &[u32], spoil: fn(&mut Device)| {
        let mut node = Node::of(1);
        spoil(&mut node.devices[0]);
        codes.iter().for_each(|code| node.report(0, *code));
        let judgement = node.after(15);
        assert_eq!(judgement.of("GPU-0").work, Work::Drain);
        judgement.of("GPU-0").action
    };
    assert_eq!(action(&[48], |_| ()), Action::ResetGpu);
    assert_eq!(action(&[48, 63], |device| device.remap.pending = Known(true)), Action::ResetGpu);
    assert_eq!(action(&[48, 64], |_| ()), Action::Replace);
    assert_eq!(action(&[64], |_| ()), Action::ResetGpu);
    assert_eq!(action(&[48], |device| device.remap.failed = Known(true)), Action::Replace);
    // In two judgements, in both orders.
    for (first, second) in [(48, 64), (64, 48)] {
        let mut node = Node::of(1);
        node.report(0, first);
        node.after(15);
        node.report(0, second);
        assert_eq!(node.after(15).of("GPU-0").action, Action::Replace);
    }
}

#[test]
fn xid_154_is_what_the_survey_reads() {
    let mut node = Node::of(1);
    let detail = Some("GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)".to_owned());
    let event = XidEvent { detail, ..node.event(0, 154) };
    node.events.push(event.clone());
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy, "the driver recommends nothing any more");
    node.devices[0].recovery = Reading::Unsupported;
    node.events.push(event);
    assert_eq!(node.after(15).of("GPU-0").action, Action::RebootNode);
}

#[test]
fn a_device_off_the_bus_drains_and_closes_a_node_with_others() {
    let mut node = Node::of(2);
    node.report(0, 79);
    let judgement = node.after(15);
    let verdict = judgement.of("GPU-0");
    assert_eq!((verdict.state, verdict.action, verdict.work), (Health::Unhealthy, Action::RebootNode, Work::DrainNode));
    assert!(judgement.node.cordon && judgement.node.reboot);
    let mut node = Node::of(1);
    node.report(0, 79);
    let judgement = node.after(15);
    assert!(!judgement.node.cordon && judgement.node.reboot);
    // It stays closed until the reboot has cleared the device.
    let mut node = Node::of(2);
    node.report(0, 79);
    node.after(15);
    assert!(node.over(3_600, 60).node.cordon);
    node.reboot();
    assert!(!node.over(600, 60).node.cordon);
}

#[test]
fn two_devices_off_the_bus_within_three_minutes_are_one_incident() {
    for (apart, devices) in [(180, 2), (181, 1)] {
        let mut node = Node::of(2);
        node.report(0, 79);
        let begun = node.judge().node.incident.map(|incident| incident.since);
        node.pass(apart);
        node.report(1, 79);
        let incident = node.judge().node.incident.unwrap();
        assert_eq!((incident.devices.len(), Some(incident.since) == begun), (devices, devices == 2), "{apart}");
        assert_eq!(node.after(180).node.incident, Some(incident), "{apart}");
        assert_eq!(node.after(1).node.incident, None);
    }
}

#[test]
fn five_faults_an_hour_of_two_workloads_speak_against_the_device() {
    let faults = |workloads: &[Option<&str>], apart: i64| {
        let mut node = Node::of(1);
        let mut told = BTreeSet::new();
        for workload in workloads {
            node.pass(apart);
            node.fault(*workload);
            told.extend(node.judge().notices.into_iter().filter(|notice| notice.kind == NoticeKind::TenantFault));
        }
        (node.judge().state("GPU-0"), told.len())
    };
    let (a, b) = (Some("a"), Some("b"));
    assert_eq!(faults(&[a, b, a, b], 60), (Health::Healthy, 0), "four");
    assert_eq!(faults(&[a, b, a, b, a], 60), (Health::Degraded, 0));
    assert_eq!(faults(&[a, a, a, a, a], 60), (Health::Healthy, 1), "its own fault");
    assert_eq!(faults(&[None, a, a, a, a], 60), (Health::Degraded, 0), "nobody can tell whose the first was");
    assert_eq!(faults(&[None; 5], 60), (Health::Degraded, 0));
    assert_eq!(faults(&[a, b, a, b, a], 900), (Health::Healthy, 0), "the first is an hour old when the fifth comes");
    assert_eq!(faults(&[a, b, a, b, a], 899), (Health::Degraded, 0));
    // One process that dies writes many lines.
    assert_eq!(faults(&[a, b, a, b, a, b, a, b], 1), (Health::Healthy, 0));
}

#[test]
fn two_reporters_of_the_same_faults_are_not_added_up() {
    let mut node = Node::of(1);
    for _ in 0..4 {
        node.pass(60);
        node.fault(None);
        let event = XidEvent { source: XidSource::Nvml, ..node.event(0, 13) };
        node.events.push(event);
        assert_eq!(node.judge().state("GPU-0"), Health::Healthy);
    }
}

#[test]
fn reports_are_remembered_by_code_reporter_and_instance() {
    let mut node = Node::of(1);
    let place = |gpu_instance| Some(InstancePlace { gpu_instance, compute_instance: 0 });
    for _ in 0..3 {
        node.pass(5);
        let events = [
            node.event(0, 43),
            XidEvent { source: XidSource::Nvml, ..node.event(0, 43) },
            XidEvent { place: place(1), ..node.event(0, 43) },
            XidEvent { place: place(2), ..node.event(0, 43) },
            // Twice the same line is two reports.
            node.event(0, 44),
            node.event(0, 44),
        ];
        node.events.extend(events);
        node.judge();
    }
    let now = node.now;
    let records = &node.history.devices[&"GPU-0".parse().unwrap()].xids;
    let counts: Vec<(u32, u64)> = records.iter().map(|record| (record.code.0, record.count)).collect();
    assert_eq!(counts, [(43, 3), (43, 3), (43, 3), (43, 3), (44, 6)]);
    assert!(records.iter().all(|record| now.since(record.first).0 == 10 && record.last == now));
}

#[test]
fn an_applications_fault_restarts_its_workload_and_nothing_else() {
    let mut node = Node::of(1);
    node.fault(Some("a"));
    let judgement = node.judge();
    let notice = judgement.notices.first().unwrap();
    assert_eq!((notice.kind, notice.xid), (NoticeKind::Restart, Xid(13)));
    assert_eq!(notice.workload.as_ref().map(ObjectUid::as_str), Some("a"));
    let verdict = judgement.of("GPU-0");
    assert_eq!((verdict.state, verdict.offer, verdict.work), (Health::Healthy, Offer::Any, Work::Keep));
}

#[test]
fn a_report_that_names_no_device_takes_new_work_from_all_and_ends_none() {
    for device in [None, Some("GPU-unheard-of".parse().unwrap())] {
        let mut node = Node::of(2);
        let event = XidEvent { device, ..node.event(0, 79) };
        node.events.push(event);
        let judgement = node.judge();
        for verdict in judgement.devices.values() {
            assert_eq!((verdict.state, verdict.work), (Health::Degraded, Work::Keep));
            assert_eq!(verdict.reasons, [Reason::Known(Why::UnattributedXid)]);
        }
        assert_eq!(judgement.devices.len(), 2, "a name that nobody has makes no device");
        assert_eq!(node.after(3_599).state("GPU-0"), Health::Degraded);
        assert_eq!(node.after(1).state("GPU-0"), Health::Healthy);
        let event = XidEvent { device: None, ..node.event(0, 43) };
        node.events.push(event);
        assert_eq!(node.judge().state("GPU-0"), Health::Healthy, "a notice is about nobody");
    }
}

#[test]
fn evidence_of_confidential_computing_is_dropped() {
    for code in [151, 166, 170] {
        let mut node = Node::of(2);
        node.report(0, code);
        assert_eq!(node.after(15).evidence_dropped, ["GPU-0".parse().unwrap()].into(), "{code}");
    }
    let mut node = Node::of(1);
    node.report(0, 43);
    assert!(node.after(15).evidence_dropped.is_empty());
}

#[test]
fn a_storm_of_forty_codes_keeps_the_worst() {
    let mut node = Node::of(1);
    for second in 0..3 {
        node.pass(1);
        for at in 0..1_000 {
            let code = 60 + (at + second) % 40;
            let event = XidEvent { source: XidSource::Nvml, ..node.event(0, code) };
            node.events.push(event);
        }
        node.judge();
    }
    let judgement = node.judge();
    let records = &judgement.history.devices[&"GPU-0".parse().unwrap()].xids;
    assert_eq!(records.len(), 16);
    // Of 60 to 99: 79, then 62, 64, 95 and the workflows; all the others are milder.
    let kept: BTreeSet<u32> = records.iter().map(|record| record.code.0).collect();
    assert!([79, 62, 64, 95, 74, 78].iter().all(|code| kept.contains(code)), "{kept:?}");
    assert_eq!(records.first().map(|record| (record.code, record.count)), Some((Xid(79), 75)));
    let verdict = judgement.of("GPU-0");
    assert_eq!((verdict.state, verdict.action), (Health::Unhealthy, Action::RebootNode));
    assert_eq!(verdict.reasons.first(), Some(&Reason::Known(Why::FallenOffBus)));
    assert!(judgement.notices.len() <= MAX_NOTICES);
}

#[test]
fn a_mild_code_in_a_storm_does_not_push_a_bad_one_out() {
    let mut node = Node::of(1);
    node.report(0, 79);
    node.judge();
    for at in 0..100 {
        node.pass(1);
        node.report(0, [8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82][at % 20]);
        node.judge();
    }
    let records = &node.history.devices[&"GPU-0".parse().unwrap()].xids;
    assert_eq!((records.len(), records[0].code), (16, Xid(79)));
}

#[test]
fn reasons_stand_worst_first_and_are_at_most_eight() {
    let mut node = Node::of(1);
    for code in [54, 46, 78, 79, 92, 142, 157, 159, 168, 9_000, 74] {
        node.report(0, code);
    }
    node.devices[0].remap.failed = Known(true);
    let verdict = node.after(15).of("GPU-0").clone();
    let words: Vec<&str> = verdict.reasons.iter().map(Reason::as_str).collect();
    assert_eq!(words[..4], ["RemapFailed", "FallenOffBus", "GPUTimeout", "NVLink"]);
    assert_eq!(words.len(), 8);
    assert_eq!((verdict.action, verdict.work), (Action::Replace, Work::DrainNode));
}

#[test]
fn of_more_findings_than_are_remembered_the_worst_stay() {
    let row = |at: u32| {
        let bad = at.is_multiple_of(10);
        let (state, work) = if bad { ("Unhealthy", "Drain") } else { ("Degraded", "Keep") };
        format!(
            r#"{{"code":{},"class":"reset","state":"{state}","reason":"Fault{at}","action":"Investigate","offer":"Nothing",
            "work":"{work}","holdSeconds":3600}}"#,
            1_000 + at
        )
    };
    let rows: Vec<String> = (0..40).map(row).collect();
    let mut node = Node::of(1);
    node.policy =
        XidPolicy::with(&serde_json::from_str(&format!(r#"{{"rows":[{}]}}"#, rows.join(","))).unwrap()).unwrap();
    (0..40).for_each(|at| node.report(0, 1_000 + at));
    node.after(15);
    let findings = &node.history.devices[&"GPU-0".parse().unwrap()].findings;
    let bad = findings.iter().filter(|one| one.state == Health::Unhealthy).count();
    assert_eq!((findings.len(), bad), (16, 4));
}

#[test]
fn a_voted_row_decides_about_a_device() {
    let text = r#"{"rows":[{"code":173,"class":"reset","state":"Unhealthy","reason":"NewFault","action":"ResetGPU",
        "offer":"Nothing","work":"Drain"}]}"#;
    let mut node = Node::of(1);
    node.policy = XidPolicy::with(&serde_json::from_str(text).unwrap()).unwrap();
    node.report(0, 173);
    let verdict = node.after(15).of("GPU-0").clone();
    assert_eq!((verdict.state, verdict.work), (Health::Unhealthy, Work::Drain));
    assert_eq!(verdict.reasons[0].as_str(), "NewFault");
}
