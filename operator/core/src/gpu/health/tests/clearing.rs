//! What ends a finding, and what does not.

use super::*;

/// A node whose first device a report condemned.
fn condemned() -> Node {
    let mut node = Node::of(2);
    node.report(0, 46);
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    node
}

fn clear(node: &mut Node, reason: &str) {
    let clear = OwnerClear { at: node.now, reason: reason.parse().unwrap() };
    node.clears.insert("GPU-0".parse().unwrap(), clear);
}

#[test]
fn time_and_clean_surveys_alone_never_clear_an_unhealthy_device() {
    let mut node = condemned();
    assert_eq!(node.over(7 * 86_400, 3_600).state("GPU-0"), Health::Unhealthy);
}

#[test]
fn a_reset_clears_after_three_clean_surveys_over_five_minutes() {
    let reset: fn(&mut Node) = |node| node.reset("GPU-0");
    for restart in [reset, Node::reboot] {
        let mut node = condemned();
        restart(&mut node);
        assert_eq!(node.judge().state("GPU-0"), Health::Unhealthy);
        assert_eq!(node.over(285, 15).state("GPU-0"), Health::Unhealthy, "many, and not yet five minutes");
        assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);

        let mut node = condemned();
        restart(&mut node);
        node.judge();
        assert_eq!(node.after(3_600).state("GPU-0"), Health::Unhealthy, "five minutes, and only the second");
        assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
    }
}

#[test]
fn a_reset_of_another_device_clears_nothing() {
    let mut node = condemned();
    node.reset("GPU-1");
    assert_eq!(node.over(3_600, 60).state("GPU-0"), Health::Unhealthy);
}

#[test]
fn a_survey_that_is_not_clean_begins_the_count_again() {
    let spoils: [fn(&mut Node); 3] = [
        |node| node.devices[0].mig = Reading::Unknown(Gap::Unstable),
        |node| drop(node.devices.remove(0)),
        |node| node.devices.push(device("GPU-0")),
    ];
    for spoil in spoils {
        let mut node = condemned();
        node.reset("GPU-0");
        node.judge();
        node.over(270, 15);
        let whole = node.devices.clone();
        spoil(&mut node);
        node.after(15);
        node.devices = whole;
        assert_eq!(node.over(300, 15).state("GPU-0"), Health::Unhealthy);
        assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
    }
}

#[test]
fn another_fault_after_the_reset_needs_another_reset() {
    let mut node = condemned();
    node.reset("GPU-0");
    node.judge();
    node.over(270, 15);
    node.report(0, 46);
    node.after(15);
    assert_eq!(node.over(3_600, 60).state("GPU-0"), Health::Unhealthy);
    node.reset("GPU-0");
    assert_eq!(node.over(600, 60).state("GPU-0"), Health::Healthy);
    // A reset that the driver still asks for afterwards was none.
    let mut node = condemned();
    node.devices[0].recovery = Known(RecoveryAction::GpuReset);
    node.reset("GPU-0");
    assert_eq!(node.over(3_600, 60).state("GPU-0"), Health::Unhealthy);
}

#[test]
fn a_reset_answers_only_what_was_reported_before_it() {
    for (order, state) in [([Some(46), None], Health::Healthy), ([None, Some(46)], Health::Unhealthy)] {
        let mut node = Node::of(1);
        // An agent that was away hears of both at once.
        for step in order {
            node.pass(60);
            match step {
                Some(code) => node.report(0, code),
                None => node.reset("GPU-0"),
            }
        }
        assert_eq!(node.after(60).state("GPU-0"), Health::Unhealthy);
        assert_eq!(node.over(600, 60).state("GPU-0"), state, "{order:?}");
    }
}

#[test]
fn surveys_before_another_reboot_do_not_count() {
    let mut node = condemned();
    node.reset("GPU-0");
    node.judge();
    node.over(285, 15);
    node.reboot();
    assert_eq!(node.judge().state("GPU-0"), Health::Unhealthy);
    assert_eq!(node.over(285, 15).state("GPU-0"), Health::Unhealthy);
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
}

#[test]
fn a_milder_report_for_the_same_reason_eases_nothing() {
    let mut node = Node::of(1);
    node.report(0, 155);
    node.after(15);
    node.devices[0].nvlink.active = Known(17);
    node.after(15);
    node.devices[0].nvlink.active = Known(18);
    assert_eq!(node.over(7_200, 60).state("GPU-0"), Health::Unhealthy);
}

#[test]
fn a_failed_survey_neither_counts_nor_begins_the_count_again() {
    let mut node = condemned();
    node.reset("GPU-0");
    node.judge();
    node.after(150);
    node.failed = Some((SurveyFailure::Deadline, 1));
    node.after(150);
    node.failed = None;
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
}

#[test]
fn the_owners_word_clears_with_a_reason_and_once() {
    let mut node = condemned();
    clear(&mut node, "");
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy, "no reason, no clear");
    clear(&mut node, "replaced the riser");
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
    // The annotation stays where it is and clears nothing that comes later.
    node.report(0, 46);
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    clear(&mut node, "again");
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
}

#[test]
fn the_owners_word_does_not_outweigh_what_is_still_read() {
    let mut node = Node::of(1);
    node.devices[0].remap.failed = Known(true);
    node.after(15);
    clear(&mut node, "it is fine");
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    // Memory and links are compared anew.
    let mut node = Node::of(1);
    node.devices[0].memory.total = Known(Bytes(79 * GIB));
    node.devices[0].nvlink.active = Known(12);
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    clear(&mut node, "other firmware, bridge removed");
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
}

#[test]
fn what_stays_half_bad_after_a_reset_stays_degraded() {
    // Condemned by heat, rebooted, and hot again before it is cleared.
    let mut node = Node::of(1);
    node.canary.insert("GPU-0".parse().unwrap(), PerMille(700));
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    node.canary.insert("GPU-0".parse().unwrap(), PerMille(850));
    node.reset("GPU-0");
    node.judge();
    assert_eq!(node.over(285, 15).state("GPU-0"), Health::Unhealthy);
    let judgement = node.over(600, 15);
    assert_eq!(judgement.state("GPU-0"), Health::Degraded);
    assert!(judgement.of("GPU-0").says(Why::Slow));
}

#[test]
fn a_report_that_degrades_ends_with_its_silence() {
    for (code, hold) in [(92, 3_600), (54, 86_400), (9_000, 86_400)] {
        let mut node = Node::of(1);
        node.report(0, code);
        assert_eq!(node.judge().state("GPU-0"), Health::Degraded, "{code}");
        assert_eq!(node.after(hold / 2).state("GPU-0"), Health::Degraded);
        node.report(0, code);
        node.judge();
        assert_eq!(node.after(hold - 1).state("GPU-0"), Health::Degraded, "{code}");
        assert_eq!(node.after(1).state("GPU-0"), Health::Healthy, "{code}");
    }
}

/// Lets a device be degraded and healthy again, `times` times, half a minute each.
fn flap(node: &mut Node, times: usize) {
    for _ in 0..times {
        node.devices[0].remap.pending = Known(true);
        node.after(30);
        node.devices[0].remap.pending = Known(false);
        node.after(30);
    }
}

#[test]
fn more_than_three_changes_an_hour_pin_a_device_for_six_hours() {
    let mut node = Node::of(1);
    flap(&mut node, 1);
    node.devices[0].remap.pending = Known(true);
    node.after(30);
    let judgement = node.after(30);
    assert!(!judgement.of("GPU-0").says(Why::Flapping), "three changes");
    node.devices[0].remap.pending = Known(false);
    let judgement = node.after(30);
    assert_eq!(judgement.state("GPU-0"), Health::Degraded, "the fourth");
    assert_eq!(judgement.of("GPU-0").reasons, [Reason::Known(Why::Flapping)]);
    assert_eq!(node.over(6 * 3_600 - 60, 60).state("GPU-0"), Health::Degraded);
    assert_eq!(node.after(59).state("GPU-0"), Health::Degraded);
    assert_eq!(node.after(1).state("GPU-0"), Health::Healthy);
}

#[test]
fn four_changes_over_an_hour_pin_nothing() {
    // The first change is 30 s after the beginning, the last 60 s after the pause.
    for (pause, state) in [(3_509, Health::Degraded), (3_510, Health::Healthy)] {
        let mut node = Node::of(1);
        flap(&mut node, 1);
        node.after(pause);
        flap(&mut node, 1);
        assert_eq!(node.after(1).state("GPU-0"), state, "{pause}");
    }
}

#[test]
fn changes_with_an_unknown_state_between_them_count() {
    let mut node = Node::of(1);
    for _ in 0..2 {
        for pending in [Known(true), Reading::Unknown(Gap::Unstable), Known(false), Reading::Unknown(Gap::Unstable)] {
            node.devices[0].remap.pending = pending;
            node.after(30);
        }
    }
    node.devices[0].remap.pending = Known(false);
    assert!(node.after(30).of("GPU-0").says(Why::Flapping));
}

#[test]
fn a_report_from_another_time_counts_from_now() {
    for ago in [i64::MIN, -86_400, 86_400, i64::MAX / 2] {
        let mut node = Node::of(1);
        let event = XidEvent { at: UnixSeconds(node.now.0.saturating_sub(ago)), ..node.event(0, 92) };
        node.events.push(event);
        assert_eq!(node.after(15).state("GPU-0"), Health::Degraded, "{ago}");
        assert_eq!(node.after(3_600 - 16).state("GPU-0"), Health::Degraded, "{ago}");
        assert_eq!(node.after(16).state("GPU-0"), Health::Healthy, "{ago}");
    }
}

#[test]
fn a_clock_that_jumps_shortens_nothing() {
    for jump in [i64::MIN / 4, -86_400, 86_400, i64::MAX / 4] {
        let mut node = condemned();
        node.reset("GPU-0");
        node.judge();
        node.now = UnixSeconds(node.now.0.saturating_add(jump));
        node.after(15);
        assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy, "{jump}");

        let mut node = Node::of(1);
        node.report(0, 92);
        node.judge();
        node.now = UnixSeconds(node.now.0.saturating_add(jump));
        assert_eq!(node.after(3_599).state("GPU-0"), Health::Degraded, "{jump}");
        assert_eq!(node.after(1).state("GPU-0"), Health::Healthy, "{jump}");
    }
}

#[test]
fn a_clock_that_jumps_over_a_reboot_shortens_nothing() {
    let mut node = Node::of(1);
    node.report(0, 92);
    node.judge();
    node.reboot();
    node.now = UnixSeconds(node.now.0 + 10 * 365 * 86_400);
    assert_eq!(node.judge().state("GPU-0"), Health::Degraded);
    assert_eq!(node.after(3_539).state("GPU-0"), Health::Degraded, "a minute of the new boot had passed");
    assert_eq!(node.after(1).state("GPU-0"), Health::Healthy);
}

#[test]
fn since_is_when_the_state_began() {
    let mut node = Node::of(1);
    let begun = node.now;
    assert_eq!(node.over(600, 60).of("GPU-0").since, begun);
    node.report(0, 92);
    let changed = UnixSeconds(node.now.0 + 60);
    assert_eq!(node.after(60).of("GPU-0").since, changed);
    assert_eq!(node.over(600, 60).of("GPU-0").since, changed);
}
