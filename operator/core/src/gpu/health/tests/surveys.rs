//! Surveys that fail, and devices that are missing, lost, doubled or divided.

use super::*;

#[test]
fn r7_one_missed_deadline_takes_no_new_work_and_two_make_devices_unknown() {
    for failure in [SurveyFailure::Deadline, SurveyFailure::Crashed] {
        let mut node = Node::of(1);
        node.failed = Some((failure, 1));
        let verdict = node.after(10).of("GPU-0").clone();
        assert_eq!((verdict.state, verdict.offer), (Health::Healthy, Offer::Nothing), "{failure:?}");
        node.failed = Some((failure, 2));
        let verdict = node.after(10).of("GPU-0").clone();
        assert_eq!((verdict.state, verdict.offer, verdict.work), (Health::Unknown, Offer::Nothing, Work::Keep));
        assert_eq!(verdict.reasons, [Reason::Known(Why::SurveyFailed)]);
        node.failed = None;
        assert_eq!(node.after(10).state("GPU-0"), Health::Healthy);
    }
}

#[test]
fn r7_a_hanging_worker_or_a_missing_library_says_so_at_once() {
    for failure in [SurveyFailure::Stuck, SurveyFailure::Unavailable] {
        let mut node = Node::of(1);
        node.failed = Some((failure, 1));
        assert_eq!(node.after(10).state("GPU-0"), Health::Unknown, "{failure:?}");
    }
}

#[test]
fn r7_unhealthy_devices_stay_unhealthy_while_nobody_answers() {
    let mut node = Node::of(2);
    node.report(0, 46);
    node.devices[1].remap.pending = Known(true);
    node.after(10);
    node.failed = Some((SurveyFailure::Deadline, 1));
    let judgement = node.after(10);
    assert_eq!((judgement.state("GPU-0"), judgement.state("GPU-1")), (Health::Unhealthy, Health::Degraded));
    node.failed = Some((SurveyFailure::Deadline, 2));
    let judgement = node.after(10);
    assert_eq!((judgement.state("GPU-0"), judgement.state("GPU-1")), (Health::Unhealthy, Health::Unknown));
    assert!(judgement.of("GPU-1").says(Why::RemapPending), "what was found is still said");
    // For days: who cannot be asked is not missing.
    let judgement = node.after(3 * 86_400);
    assert_eq!((judgement.state("GPU-0"), judgement.state("GPU-1")), (Health::Unhealthy, Health::Unknown));
}

#[test]
fn one_missed_survey_leaves_unknown_what_was_unknown() {
    let mut node = Node::of(1);
    node.devices[0].mig = Reading::Unknown(Gap::Unstable);
    assert_eq!(node.after(10).state("GPU-0"), Health::Unknown);
    node.failed = Some((SurveyFailure::Deadline, 1));
    assert_eq!(node.after(10).state("GPU-0"), Health::Unknown);
}

#[test]
fn a_report_counts_while_surveys_fail() {
    let mut node = Node::of(1);
    node.failed = Some((SurveyFailure::Stuck, 1));
    node.report(0, 119);
    assert_eq!(node.after(10).state("GPU-0"), Health::Unhealthy);
}

#[test]
fn a_missing_device_is_unknown_for_a_day_and_then_forgotten() {
    let mut node = Node::of(2);
    let gone = node.devices.pop();
    let judgement = node.after(60);
    assert_eq!((judgement.state("GPU-0"), judgement.state("GPU-1")), (Health::Healthy, Health::Unknown));
    assert_eq!(judgement.of("GPU-1").reasons, [Reason::Known(Why::DeviceMissing)]);
    assert_eq!(node.after(86_400 - 61).state("GPU-1"), Health::Unknown);
    let judgement = node.after(1);
    assert_eq!(judgement.devices.len(), 1);
    assert_eq!(judgement.history.devices.len(), 1);
    node.devices.extend(gone);
    assert_eq!(node.after(60).state("GPU-1"), Health::Healthy);
}

#[test]
fn a_missing_device_that_was_condemned_is_remembered_until_its_node_was_rebooted() {
    let mut node = Node::of(2);
    node.report(1, 46);
    node.after(60);
    let gone = node.devices.pop();
    assert_eq!(node.after(7 * 86_400).state("GPU-1"), Health::Unhealthy);
    let mut back = node.clone();
    back.devices.extend(gone);
    assert_eq!(back.over(3_600, 60).state("GPU-1"), Health::Unhealthy);
    // Replaced: the node was off for it.
    node.reboot();
    assert_eq!(node.judge().devices.len(), 1);
}

#[test]
fn two_devices_of_one_id_are_both_unknown() {
    let mut node = Node::of(2);
    node.devices[1].id = "GPU-0".parse().unwrap();
    let judgement = node.after(15);
    assert_eq!(judgement.of("GPU-0").reasons, [Reason::Known(Why::DuplicateUuid)]);
    assert_eq!(judgement.state("GPU-0"), Health::Unknown);
    assert_eq!(judgement.state("GPU-1"), Health::Unknown, "it gave another id before");
    // The id of a device on an instance spoils both.
    let mut node = Node::of(2);
    node.devices[1].instances = vec![instance("GPU-0", 1), instance("MIG-1", 2)];
    let judgement = node.after(15);
    assert_eq!((judgement.state("GPU-0"), judgement.state("MIG-1")), (Health::Unknown, Health::Healthy));
}

#[test]
fn a_condemned_device_whose_id_is_doubled_stays_condemned() {
    let mut node = Node::of(1);
    node.report(0, 46);
    node.after(15);
    node.devices.push(device("GPU-0"));
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    assert_eq!(node.over(3_600, 60).state("GPU-0"), Health::Unhealthy);
}

#[test]
fn a_device_that_gave_no_id_is_any_of_the_missing() {
    let lost = LostDevice { index: 1, gap: Gap::Lost };
    let mut node = Node::of(3);
    node.devices.truncate(2);
    node.lost = vec![lost];
    let judgement = node.after(15);
    let verdict = judgement.of("GPU-2");
    assert_eq!((verdict.state, verdict.action), (Health::Unhealthy, Action::RebootNode));
    assert!(verdict.says(Why::GpuLost) && verdict.says(Why::DeviceMissing), "{verdict:?}");
    assert_eq!((judgement.node.unidentified, judgement.node.reboot), (0, true));
    // Nobody is missing: it is one that never said who it is.
    let mut node = Node::of(2);
    node.lost = vec![lost];
    let judgement = node.after(15);
    assert_eq!(judgement.node.unidentified, 1);
    assert!(judgement.devices.values().all(|verdict| verdict.state == Health::Healthy));
}

#[test]
fn a_device_that_gave_no_id_and_is_not_lost_condemns_none() {
    for gap in [Gap::NotReady, Gap::NoPermission, Gap::NotAsked, Gap::Implausible, Gap::Code(3)] {
        let mut node = Node::of(2);
        node.devices.truncate(1);
        node.lost = vec![LostDevice { index: 1, gap }];
        let judgement = node.after(15);
        assert_eq!(judgement.of("GPU-1").reasons, [Reason::Known(Why::DeviceMissing)], "{gap:?}");
        assert_eq!((judgement.state("GPU-1"), judgement.node.unidentified), (Health::Unknown, 0), "{gap:?}");
    }
}

#[test]
fn a_device_that_is_missing_beside_one_that_is_known_to_be_lost_is_not_lost() {
    let mut node = Node::of(3);
    node.devices.truncate(2);
    node.lost = vec![LostDevice { index: 2, gap: Gap::Lost }];
    assert_eq!(node.after(15).state("GPU-2"), Health::Unhealthy);
    node.devices.truncate(1);
    let judgement = node.after(15);
    assert_eq!((judgement.state("GPU-1"), judgement.state("GPU-2")), (Health::Unknown, Health::Unhealthy));
    // Two are lost, and two are missing.
    node.lost.push(LostDevice { index: 1, gap: Gap::Lost });
    assert_eq!(node.after(15).state("GPU-1"), Health::Unhealthy);
}

#[test]
fn no_device_is_not_all_devices() {
    let mut node = Node::of(2);
    node.devices.clear();
    let judgement = node.after(15);
    assert!(judgement.devices.values().all(|verdict| verdict.state == Health::Unknown));
    assert_eq!(judgement.devices.len(), 2);
}

fn divided() -> Node {
    let mut node = Node::of(1);
    node.devices[0].mig = Known(ON);
    node.devices[0].instances = vec![instance("MIG-1", 1), instance("MIG-2", 2)];
    node.after(15);
    node
}

#[test]
fn what_condemns_a_device_condemns_its_instances() {
    let mut node = divided();
    node.report(0, 46);
    let judgement = node.after(15);
    for name in ["GPU-0", "MIG-1", "MIG-2"] {
        assert_eq!(judgement.state(name), Health::Unhealthy, "{name}");
    }
}

#[test]
fn faults_of_applications_in_an_instance_are_that_instances_alone() {
    let mut node = divided();
    let place = Some(InstancePlace { gpu_instance: 1, compute_instance: 0 });
    for _ in 0..5 {
        let event = XidEvent { place, ..node.event(0, 13) };
        node.events.push(event);
        node.after(60);
    }
    let judgement = node.judge();
    assert_eq!(judgement.state("MIG-1"), Health::Degraded);
    assert_eq!((judgement.state("MIG-2"), judgement.state("GPU-0")), (Health::Healthy, Health::Healthy));
    // An instance that is gone leaves its faults to the device.
    node.devices[0].instances.remove(0);
    let judgement = node.after(15);
    assert_eq!((judgement.state("MIG-2"), judgement.state("GPU-0")), (Health::Degraded, Health::Degraded));
}

#[test]
fn a_report_of_an_instance_that_needs_a_reset_is_about_its_device() {
    let mut node = divided();
    let event = XidEvent { device: Some("MIG-1".parse().unwrap()), ..node.event(0, 95) };
    node.events.push(event);
    let judgement = node.after(15);
    assert_eq!((judgement.state("GPU-0"), judgement.state("MIG-2")), (Health::Unhealthy, Health::Unhealthy));
}

#[test]
fn an_instance_that_was_not_read_is_unknown() {
    let mut node = divided();
    node.devices[0].instances[0].memory.total = Reading::Unknown(Gap::NotReady);
    node.devices[0].instances.push(instance("MIG-2", 3));
    let judgement = node.after(15);
    assert_eq!((judgement.state("MIG-1"), judgement.state("MIG-2")), (Health::Unknown, Health::Unknown));
    assert_eq!(judgement.state("GPU-0"), Health::Healthy);
}
