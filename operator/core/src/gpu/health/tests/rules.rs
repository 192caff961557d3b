//! The rules R1 to R15, each just below its limit and at it.

use super::*;

/// What `spoil` makes of a node's first device after one survey; the others stay as they are.
fn after(spoil: impl Fn(&mut Device)) -> Verdict {
    let mut node = Node::of(3);
    spoil(&mut node.devices[0]);
    let judgement = node.after(15);
    assert_eq!(judgement.state("GPU-1"), Health::Healthy, "one device says nothing about another");
    judgement.of("GPU-0").clone()
}

fn expect(verdict: &Verdict, state: Health, reason: Why, action: Action, work: Work) {
    assert_eq!(verdict.state, state, "{verdict:?}");
    assert!(verdict.says(reason), "{verdict:?}");
    assert_eq!((verdict.action, verdict.work), (action, work), "{verdict:?}");
    assert_ne!(verdict.offer, Offer::Any, "{verdict:?}");
}

#[test]
fn a_device_of_which_everything_speaks_well_is_healthy() {
    let verdict = after(|_| ());
    assert_eq!((verdict.state, verdict.offer), (Health::Healthy, Offer::Any));
    assert_eq!((verdict.action, verdict.work), (Action::None, Work::Keep));
    assert_eq!(verdict.reasons, []);
}

#[test]
fn r1_the_drivers_recommendation_is_followed() {
    let says = |action| after(move |device| device.recovery = Known(action));
    let cases = [
        (RecoveryAction::GpuReset, Health::Unhealthy, Why::ResetRequired, Action::ResetGpu, Work::Drain),
        (RecoveryAction::DrainAndReset, Health::Unhealthy, Why::ResetRequired, Action::ResetGpu, Work::Drain),
        (RecoveryAction::NodeReboot, Health::Unhealthy, Why::RebootRequired, Action::RebootNode, Work::Drain),
        (RecoveryAction::DrainP2p, Health::Degraded, Why::DrainP2p, Action::DrainP2p, Work::Keep),
        (RecoveryAction::Other(9), Health::Degraded, Why::RecoveryUnknown, Action::Investigate, Work::Keep),
    ];
    for (said, state, reason, action, work) in cases {
        expect(&says(said), state, reason, action, work);
    }
    assert_eq!(says(RecoveryAction::None).state, Health::Healthy);
}

#[test]
fn r1_outweighs_a_milder_report_and_not_a_worse_one() {
    let mut node = Node::of(1);
    node.devices[0].recovery = Known(RecoveryAction::NodeReboot);
    node.report(0, 46);
    assert_eq!(node.after(15).of("GPU-0").action, Action::RebootNode);
    let mut node = Node::of(1);
    node.devices[0].recovery = Known(RecoveryAction::DrainP2p);
    node.report(0, 79);
    assert_eq!(node.after(15).of("GPU-0").action, Action::RebootNode);
}

#[test]
fn r2_one_more_uncorrected_error_condemns_a_device() {
    let mut node = Node::of(1);
    node.devices[0].ecc.volatile_uncorrected = Known(1);
    expect(node.after(15).of("GPU-0"), Health::Unhealthy, Why::UncorrectedErrors, Action::ResetGpu, Work::Drain);
    // The same count again is no new error, and clears nothing.
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    let id: DeviceId = "GPU-0".parse().unwrap();
    let clear = OwnerClear { at: node.now, reason: "tested for a night".parse().unwrap() };
    node.clears.insert(id, clear);
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
    node.devices[0].ecc.volatile_uncorrected = Known(2);
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
}

#[test]
fn r2_errors_from_before_the_first_survey_count_and_a_counter_that_restarts_does_not() {
    let mut node = Node::of(0);
    let mut found = device("GPU-0");
    found.ecc.volatile_uncorrected = Known(3);
    node.devices.push(found);
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    let mut node = Node::of(1);
    node.clears.insert("GPU-0".parse().unwrap(), OwnerClear { at: node.now, reason: "new".parse().unwrap() });
    node.devices[0].ecc.volatile_uncorrected = Known(0);
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
}

#[test]
fn r3_a_pending_remap_lets_work_end_and_takes_no_new() {
    let verdict = after(|device| device.remap.pending = Known(true));
    expect(&verdict, Health::Degraded, Why::RemapPending, Action::ResetWhenIdle, Work::Keep);
}

#[test]
fn r4_a_failed_remap_or_too_many_sram_errors_mean_another_device() {
    let remap = after(|device| device.remap.failed = Known(true));
    expect(&remap, Health::Unhealthy, Why::RemapFailed, Action::Replace, Work::Drain);
    let sram = after(|device| device.ecc.sram_threshold_exceeded = Known(true));
    expect(&sram, Health::Unhealthy, Why::SramThreshold, Action::Replace, Work::Drain);
}

#[test]
fn r5_eight_remapped_rows_are_watched_seven_are_not() {
    assert_eq!(after(|device| device.remap.uncorrectable = Known(7)).state, Health::Healthy);
    let verdict = after(|device| device.remap.uncorrectable = Known(8));
    expect(&verdict, Health::Degraded, Why::ManyRemaps, Action::Watch, Work::Keep);
}

#[test]
fn r6_a_call_that_finds_no_device_condemns_it_whichever_call_it_was() {
    for gap in [Gap::Lost, Gap::Code(15), Gap::Code(28)] {
        let verdict = after(move |device| device.utilisation.gpu_percent = Reading::Unknown(gap));
        expect(&verdict, Health::Unhealthy, Why::GpuLost, Action::RebootNode, Work::Drain);
    }
    for gap in [Gap::ResetRequired, Gap::Code(16)] {
        let verdict = after(move |device| device.processes = Reading::Unknown(gap));
        expect(&verdict, Health::Unhealthy, Why::ResetRequired, Action::ResetGpu, Work::Drain);
    }
    for gap in [Gap::NotReady, Gap::NoPermission, Gap::Code(25), Gap::Code(999)] {
        let verdict = after(move |device| device.utilisation.gpu_percent = Reading::Unknown(gap));
        assert_eq!(verdict.state, Health::Healthy, "{gap:?} of a value that decides nothing");
    }
}

fn throttled(node: &mut Node, at: usize, bits: u64) {
    node.devices[at].clocks.throttle = Known(Throttle(bits));
}

#[test]
fn r8_heat_that_slows_down_in_six_of_ten_minutes_degrades() {
    for (minutes, state) in [(5, Health::Healthy), (6, Health::Degraded)] {
        let mut node = Node::of(1);
        for _ in 0..minutes {
            throttled(&mut node, 0, Throttle::HW_THERMAL);
            node.after(60);
        }
        throttled(&mut node, 0, 0);
        assert_eq!(node.judge().state("GPU-0"), state, "{minutes}");
    }
    // Every survey of five minutes is still five minutes.
    let mut node = Node::of(1);
    node.after(60);
    throttled(&mut node, 0, Throttle::HW_SLOWDOWN);
    assert_eq!(node.over(240, 10).state("GPU-0"), Health::Healthy);
    assert_eq!(node.over(60, 10).state("GPU-0"), Health::Degraded);
    // The power brake is not heat.
    let mut node = Node::of(1);
    throttled(&mut node, 0, Throttle::HW_SLOWDOWN | Throttle::HW_POWER_BRAKE);
    assert_eq!(node.over(1_200, 60).state("GPU-0"), Health::Healthy);
}

#[test]
fn r8_five_minutes_at_the_highest_temperature_degrade_and_thirty_more_condemn() {
    let spoils: [fn(&mut Device); 2] =
        [|device| device.thermal.gpu = Known(87), |device| device.thermal.memory = Known(95)];
    for spoil in spoils {
        let mut node = Node::of(1);
        spoil(&mut node.devices[0]);
        node.judge();
        assert_eq!(node.over(290, 10).state("GPU-0"), Health::Healthy);
        let verdict = node.after(10);
        expect(verdict.of("GPU-0"), Health::Degraded, Why::Thermal, Action::CheckCooling, Work::Keep);
        assert_eq!(node.over(1_790, 10).state("GPU-0"), Health::Degraded);
        let verdict = node.after(10);
        expect(verdict.of("GPU-0"), Health::Unhealthy, Why::Thermal, Action::CheckCooling, Work::Drain);
    }
    let mut node = Node::of(1);
    node.devices[0].thermal.gpu = Known(86);
    assert_eq!(node.over(3_600, 60).state("GPU-0"), Health::Healthy);
}

#[test]
fn r8_a_device_that_cooled_down_is_healthy_and_one_that_was_not_looked_at_did_not_stay_hot() {
    let mut node = Node::of(1);
    node.devices[0].thermal.gpu = Known(90);
    node.judge();
    assert_eq!(node.over(600, 60).state("GPU-0"), Health::Degraded);
    node.devices[0].thermal.gpu = Known(60);
    assert_eq!(node.after(10).state("GPU-0"), Health::Healthy);
    // Hot, an hour without a survey, and hot.
    node.devices[0].thermal.gpu = Known(90);
    node.after(10);
    assert_eq!(node.after(3_600).state("GPU-0"), Health::Healthy);
}

#[test]
fn a_reading_that_fails_neither_ends_a_condition_nor_takes_a_reason_back() {
    let mut node = Node::of(1);
    node.devices[0].thermal.gpu = Known(90);
    node.judge();
    node.over(240, 60);
    node.devices[0].thermal.gpu = Reading::Unknown(Gap::Implausible);
    assert_eq!(node.after(30).state("GPU-0"), Health::Unknown);
    node.devices[0].thermal.gpu = Known(90);
    assert_eq!(node.after(30).state("GPU-0"), Health::Degraded);

    let mut node = Node::of(1);
    node.devices[0].remap.pending = Known(true);
    node.after(15);
    node.devices[0].remap.pending = Reading::Unknown(Gap::Unstable);
    let verdict = node.after(15).of("GPU-0").clone();
    assert!(verdict.state == Health::Unknown && verdict.says(Why::RemapPending), "{verdict:?}");
    node.devices[0].remap.pending = Reading::Unsupported;
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
}

#[test]
fn r9_the_power_brake_counts_on_two_devices_for_five_minutes() {
    for (braked, last, power) in [(2, 300, true), (2, 290, false), (1, 900, false)] {
        let mut node = Node::of(3);
        for at in 0..braked {
            throttled(&mut node, at, Throttle::HW_POWER_BRAKE);
        }
        node.judge();
        let judgement = node.over(last, 10);
        assert_eq!(
            (judgement.of("GPU-0").says(Why::NodePower), judgement.node.power),
            (power, power),
            "{braked} {last}"
        );
        assert_eq!(judgement.state("GPU-2"), Health::Healthy);
    }
}

#[test]
fn r9_ends_with_the_brake_of_the_last_but_one() {
    let mut node = Node::of(2);
    throttled(&mut node, 0, Throttle::HW_POWER_BRAKE);
    throttled(&mut node, 1, Throttle::HW_POWER_BRAKE);
    node.judge();
    assert_eq!(node.over(300, 60).state("GPU-0"), Health::Degraded);
    throttled(&mut node, 1, 0);
    let judgement = node.after(10);
    assert_eq!((judgement.state("GPU-0"), judgement.state("GPU-1")), (Health::Healthy, Health::Healthy));
}

#[test]
fn r9_is_not_taken_back_because_the_others_could_not_be_read() {
    let braked = || {
        let mut node = Node::of(3);
        throttled(&mut node, 0, Throttle::HW_POWER_BRAKE);
        throttled(&mut node, 1, Throttle::HW_POWER_BRAKE);
        node.judge();
        assert_eq!(node.over(300, 60).state("GPU-0"), Health::Degraded);
        node
    };
    let degraded = |node: &mut Node| {
        let judgement = node.after(10);
        (judgement.of("GPU-0").says(Why::NodePower), judgement.state("GPU-2"))
    };
    // The value, the device, or which of two devices it is.
    let mut unread = braked();
    unread.devices[1].clocks.throttle = Reading::Unknown(Gap::Unstable);
    assert_eq!(degraded(&mut unread), (true, Health::Healthy));
    let mut gone = braked();
    gone.devices.remove(1);
    assert_eq!(degraded(&mut gone), (true, Health::Healthy));
    let mut twice = braked();
    let twin = twice.devices[1].clone();
    twice.devices.push(twin);
    assert_eq!(degraded(&mut twice), (true, Health::Healthy));
    // One that was never braked says nothing by not being read.
    let mut other = braked();
    throttled(&mut other, 1, 0);
    other.devices[2].clocks.throttle = Reading::Unknown(Gap::Unstable);
    assert_eq!(degraded(&mut other), (false, Health::Unknown));
}

#[test]
fn r9_begins_anew_after_a_silence_without_giving_the_devices_back_in_between() {
    let mut node = Node::of(2);
    for at in 0..2 {
        throttled(&mut node, at, Throttle::HW_POWER_BRAKE);
    }
    node.judge();
    node.over(300, 60);
    node.devices[1].clocks.throttle = Reading::Unknown(Gap::Unstable);
    node.over(240, 60);
    throttled(&mut node, 1, Throttle::HW_POWER_BRAKE);
    let judgement = node.after(10);
    assert_eq!((judgement.state("GPU-0"), judgement.state("GPU-1")), (Health::Degraded, Health::Degraded));
    throttled(&mut node, 1, 0);
    let judgement = node.after(10);
    assert_eq!((judgement.state("GPU-0"), judgement.state("GPU-1")), (Health::Healthy, Health::Healthy));
}

#[test]
fn r10_a_slow_host_link_counts_under_load_for_ten_minutes() {
    let mut node = Node::of(1);
    node.devices[0].pcie.width = Known(8);
    node.judge();
    assert_eq!(node.over(590, 10).state("GPU-0"), Health::Healthy);
    expect(node.after(10).of("GPU-0"), Health::Degraded, Why::Pcie, Action::Investigate, Work::Keep);
    // Idleness does not prove that it is fast again.
    node.devices[0].clocks.sm_megahertz = Known(300);
    assert_eq!(node.after(10).state("GPU-0"), Health::Degraded);
    node.devices[0].pcie.width = Known(16);
    assert_eq!(node.after(10).state("GPU-0"), Health::Healthy);
    // At half of the clock it does not work yet.
    let mut node = Node::of(1);
    node.devices[0].pcie.generation = Known(1);
    node.devices[0].clocks.sm_megahertz = Known(990);
    node.judge();
    assert_eq!(node.over(1_200, 60).state("GPU-0"), Health::Healthy);
    node.devices[0].clocks.sm_megahertz = Known(991);
    assert_eq!(node.over(660, 60).state("GPU-0"), Health::Degraded);
}

#[test]
fn r11_fewer_links_than_its_like_leave_work_of_one_device() {
    let verdict = after(|device| device.nvlink.active = Known(17));
    expect(&verdict, Health::Degraded, Why::NvLink, Action::Investigate, Work::Keep);
    assert_eq!(verdict.offer, Offer::SingleOnly);
    // Cards without bridges have links that are never up.
    let mut node = Node::of(0);
    node.devices = vec![device("GPU-0"), device("GPU-1")];
    node.devices.iter_mut().for_each(|device| device.nvlink.active = Known(0));
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
}

#[test]
fn r11_links_that_all_devices_lost_at_once_are_still_missed() {
    let mut node = Node::of(2);
    node.devices.iter_mut().for_each(|device| device.nvlink.active = Known(0));
    assert_eq!(node.after(15).state("GPU-0"), Health::Degraded);
    node.devices.iter_mut().for_each(|device| device.nvlink.active = Known(18));
    assert_eq!(node.after(15).state("GPU-0"), Health::Healthy);
}

#[test]
fn r12_memory_that_changed_within_a_boot_is_not_believed() {
    let verdict = after(|device| device.memory.total = Known(Bytes(80 * GIB - 1)));
    expect(&verdict, Health::Unhealthy, Why::CapacityMismatch, Action::Investigate, Work::Drain);
}

#[test]
fn r12_memory_below_98_percent_of_what_was_sold_is_not_believed() {
    for (total, state) in [
        (98 * GIB, Health::Healthy),
        (98 * GIB - 1, Health::Unhealthy),
        (102 * GIB, Health::Healthy),
        (102 * GIB + 1, Health::Unhealthy),
        (900 * GIB, Health::Unhealthy),
    ] {
        let mut node = Node::of(0);
        node.nominal.insert("NVIDIA H100 80GB HBM3".parse().unwrap(), Bytes(100 * GIB));
        node.devices.push(device("GPU-0"));
        node.devices[0].memory.total = Known(Bytes(total));
        assert_eq!(node.after(15).state("GPU-0"), state, "{total}");
    }
}

#[test]
fn r12_one_that_differs_from_most_of_its_like_is_not_believed_and_half_prove_nothing() {
    for (liars, state) in [(1, Health::Unhealthy), (2, Health::Healthy)] {
        let mut node = Node::of(0);
        node.devices = (0..4).map(|at| device(&format!("GPU-{at}"))).collect();
        node.devices.iter_mut().take(liars).for_each(|device| device.memory.total = Known(Bytes(900 * GIB)));
        let judgement = node.after(15);
        assert_eq!((judgement.state("GPU-0"), judgement.state("GPU-3")), (state, Health::Healthy));
    }
}

#[test]
fn r13_a_setting_that_waits_takes_no_new_work() {
    let waits = Setting { current: true, pending: false };
    let spoils: [fn(&mut Device, Setting); 3] = [
        |device, waits| device.ecc.mode = Known(waits),
        |device, waits| device.mig = Known(waits),
        |device, _| device.persistence = Known(false),
    ];
    for spoil in spoils {
        let verdict = after(|device| spoil(device, waits));
        expect(&verdict, Health::Degraded, Why::PendingConfig, Action::ApplyConfig, Work::Keep);
    }
}

#[test]
fn r14_the_canary_decides_at_90_and_75_percent() {
    for (share, state) in
        [(900, Health::Healthy), (899, Health::Degraded), (750, Health::Degraded), (749, Health::Unhealthy)]
    {
        let mut node = Node::of(1);
        node.canary.insert("GPU-0".parse().unwrap(), PerMille(share));
        let judgement = node.after(15);
        assert_eq!(judgement.state("GPU-0"), state, "{share}");
        // A canary that no longer runs takes nothing back.
        node.canary.clear();
        assert_eq!(node.after(15).state("GPU-0"), state, "{share}");
    }
}

#[test]
fn r15_in_the_first_ten_minutes_only_what_is_certain_condemns() {
    let young = |age: i64, spoil: fn(&mut Device)| {
        let mut node = Node::of(1);
        node.pass(15);
        node.context.ready_since = Some(UnixSeconds(node.now.0 - age));
        spoil(&mut node.devices[0]);
        node.judge().of("GPU-0").clone()
    };
    let doubtful: fn(&mut Device) = |device| device.ecc.volatile_uncorrected = Known(1);
    let verdict = young(599, doubtful);
    expect(&verdict, Health::Degraded, Why::UncorrectedErrors, Action::ResetGpu, Work::Keep);
    assert_eq!(young(600, doubtful).state, Health::Unhealthy);
    assert_eq!(young(-1, doubtful).state, Health::Unhealthy, "a moment that lies ahead excuses nothing");
    let certain: [fn(&mut Device); 3] = [
        |device| device.remap.failed = Known(true),
        |device| device.ecc.sram_threshold_exceeded = Known(true),
        |device| device.power.milliwatts = Reading::Unknown(Gap::Lost),
    ];
    for spoil in certain {
        assert_eq!(young(0, spoil).state, Health::Unhealthy);
    }
}

#[test]
fn r15_what_stands_after_the_grace_condemns_then() {
    let mut node = Node::of(1);
    node.context.ready_since = Some(node.now);
    node.report(0, 119);
    assert_eq!(node.after(15).state("GPU-0"), Health::Degraded);
    assert_eq!(node.over(570, 15).state("GPU-0"), Health::Degraded);
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
    // A node that is called ready again and again excuses nothing for longer.
    let mut node = Node::of(1);
    node.context.ready_since = Some(node.now);
    node.report(0, 119);
    for _ in 0..2 {
        node.after(300);
        node.context.ready_since = Some(node.now);
    }
    assert_eq!(node.after(15).state("GPU-0"), Health::Unhealthy);
}

#[test]
fn r15_another_driver_begins_a_grace_that_frees_nobody() {
    let mut node = Node::of(2);
    node.report(1, 119);
    node.after(15);
    node.context.driver = Some("590.10".parse().unwrap());
    node.report(0, 119);
    let judgement = node.after(15);
    assert_eq!((judgement.state("GPU-0"), judgement.state("GPU-1")), (Health::Degraded, Health::Unhealthy));
    assert_eq!(node.over(600, 60).state("GPU-0"), Health::Unhealthy);
    // Fallen off the bus is as certain as lost.
    node.context.driver = Some("590.11".parse().unwrap());
    node.devices.push(device("GPU-2"));
    node.after(15);
    node.report(2, 79);
    assert_eq!(node.after(15).state("GPU-2"), Health::Unhealthy);
}

#[test]
fn what_a_device_does_not_have_is_no_fault_of_it() {
    let verdict = after(|device| {
        device.recovery = Reading::Unsupported;
        device.mig = Reading::Unsupported;
        device.persistence = Reading::Unsupported;
        device.processes = Reading::Unsupported;
        device.nvlink.links = Reading::Unsupported;
        device.nvlink.active = Reading::Unsupported;
        device.clocks.throttle = Reading::Unsupported;
        device.ecc.mode = Reading::Unsupported;
        device.ecc.volatile_uncorrected = Reading::Unsupported;
        device.ecc.sram_threshold_exceeded = Reading::Unsupported;
        device.remap.pending = Reading::Unsupported;
        device.remap.failed = Reading::Unsupported;
        device.remap.uncorrectable = Reading::Unsupported;
        device.thermal.gpu = Reading::Unsupported;
        device.thermal.memory = Reading::Unsupported;
        device.thermal.gpu_max_operating = Reading::Unsupported;
        device.pcie.generation = Reading::Unsupported;
        device.pcie.width = Reading::Unsupported;
    });
    assert_eq!((verdict.state, verdict.offer), (Health::Healthy, Offer::Any), "{verdict:?}");
}

#[test]
fn what_a_device_is_and_its_memory_must_be_known() {
    let spoils: [fn(&mut Device); 5] = [
        |device| device.identity.product = Reading::Unsupported,
        |device| device.identity.product = Reading::Unknown(Gap::Implausible),
        |device| device.memory.total = Reading::Unsupported,
        |device| device.memory.total = Reading::Unknown(Gap::NotReady),
        |device| device.thermal.gpu = Reading::Unknown(Gap::Implausible),
    ];
    for spoil in spoils {
        let verdict = after(spoil);
        assert_eq!((verdict.state, verdict.offer), (Health::Unknown, Offer::Nothing), "{verdict:?}");
        assert!(verdict.says(Why::IncompleteReading));
    }
    let mut node = Node::of(0);
    node.devices.push(device("GPU-0"));
    node.devices[0].memory.total = Known(Bytes(0));
    assert_eq!(node.after(15).state("GPU-0"), Health::Unknown, "no device has no memory");
}
