use proptest::prelude::*;

use super::*;

fn gpu(number: u32) -> DeviceId {
    format!("GPU-fa4e0000-0000-4000-8000-{number:012}").parse().unwrap()
}

fn heard(number: u32, xid: u32, voice: Voice) -> Heard {
    Heard { at: UnixSeconds(100), device: Some(gpu(number)), xid: Xid(xid), voice, place: None, detail: None }
}

fn told(reports: &[Report]) -> Vec<(u32, u64, usize, bool)> {
    reports.iter().map(|report| (report.xid.0, report.count, report.sources.len(), report.fresh)).collect()
}

#[test]
fn many_of_one_error_are_one_report_with_a_number() {
    let mut coalescer = Coalescer::default();
    coalescer.hear(heard(1, 13, Voice::KernelCode), 1, 0);
    assert_eq!(told(&coalescer.take(0)), [(13, 1, 1, true)]);
    for _ in 0..1000 {
        coalescer.hear(heard(1, 13, Voice::KernelCode), 1, 500);
    }
    assert_eq!(told(&coalescer.take(1000)), [(13, 1000, 1, false)]);
    assert_eq!(coalescer.take(1200), []);
}

#[test]
fn what_two_sources_say_within_five_seconds_is_counted_once_and_both_are_noted() {
    let mut coalescer = Coalescer::default();
    coalescer.hear(heard(1, 79, Voice::Nvml), 1, 0);
    assert_eq!(told(&coalescer.take(0)), [(79, 1, 1, true)]);
    coalescer.hear(heard(1, 79, Voice::KernelCode), 1, 4_999);
    let confirmed = coalescer.take(4_999);
    assert_eq!(told(&confirmed), [(79, 0, 2, false)]);
    assert_eq!(confirmed[0].event().source, XidSource::KernelLog);
    // Later it is another.
    coalescer.hear(heard(1, 79, Voice::KernelCode), 1, 10_001);
    assert_eq!(told(&coalescer.take(10_001)), [(79, 1, 1, true)]);
}

#[test]
fn the_drivers_two_lines_of_one_error_are_one_error() {
    let mut coalescer = Coalescer::default();
    coalescer.hear(heard(1, 79, Voice::KernelCode), 1, 0);
    coalescer.hear(heard(1, 79, Voice::KernelSentence), 1, 0);
    assert_eq!(told(&coalescer.take(0)), [(79, 1, 1, true)]);
}

#[test]
fn a_source_that_missed_some_does_not_lower_the_number() {
    let mut coalescer = Coalescer::default();
    coalescer.hear(heard(1, 31, Voice::Nvml), 3, 0);
    coalescer.hear(heard(1, 31, Voice::KernelCode), 5, 0);
    assert_eq!(told(&coalescer.take(0)), [(31, 5, 2, true)]);
    coalescer.hear(heard(1, 31, Voice::Nvml), 2, 100);
    assert_eq!(coalescer.take(100), [], "they are among those that the log told");
}

#[test]
fn devices_and_codes_are_told_apart_and_a_changed_recovery_action_is_told_by_itself() {
    let mut coalescer = Coalescer::default();
    for heard in [
        heard(1, 154, Voice::KernelCode),
        heard(1, 154, Voice::Recovery),
        heard(2, 154, Voice::KernelCode),
        heard(1, 48, Voice::KernelCode),
        Heard { device: None, ..heard(1, 154, Voice::KernelCode) },
    ] {
        coalescer.hear(heard, 1, 0);
    }
    let reports = coalescer.take(0);
    assert_eq!(reports.len(), 5);
    assert!(reports.iter().all(|report| report.count == 1 && report.sources.len() == 1));
}

#[test]
fn an_error_that_is_heard_again_after_a_while_loses_nothing_of_what_was_not_yet_told() {
    let mut coalescer = Coalescer::default();
    coalescer.hear(heard(1, 43, Voice::KernelCode), 7, 0);
    coalescer.hear(heard(1, 43, Voice::KernelCode), 2, 6_000);
    assert_eq!(told(&coalescer.take(6_000)), [(43, 7, 1, true), (43, 2, 1, true)]);
}

#[test]
fn a_storm_of_codes_that_nobody_knows_cannot_crowd_out_one_of_the_catalogue() {
    let mut coalescer = Coalescer::default();
    for code in 0..100_000 {
        coalescer.hear(heard(1, 1000 + code, Voice::KernelCode), 1, 0);
    }
    for code in 0..256 {
        coalescer.hear(heard(1, code, Voice::KernelCode), 1, 0);
    }
    let reports = coalescer.take(0);
    assert_eq!(reports.len(), 256 + MAX_OTHERS);
    assert!(reports.iter().any(|report| report.xid == Xid(79)));
    assert_eq!(coalescer.take_dropped(), 100_000 - MAX_OTHERS as u64);
    assert_eq!(coalescer.take(5_001), []);
    assert!(coalescer.episodes.is_empty(), "what is over makes place");
}

proptest! {
    /// However often it is asked in between, no error is lost and none is told twice.
    #[test]
    fn the_numbers_told_are_the_number_heard(
        steps in proptest::collection::vec((0_u64..3_000, 0_u32..3, 1_u64..5, any::<bool>()), 1..60),
    ) {
        let mut coalescer = Coalescer::default();
        let (mut now, mut heard_of, mut told_of) = (0, [0_u64; 3], [0_u64; 3]);
        let count = |reports: Vec<Report>, told_of: &mut [u64; 3]| {
            for report in reports {
                told_of[report.xid.0 as usize] += report.count;
            }
        };
        for (after, xid, times, ask) in steps {
            now += after;
            coalescer.hear(heard(1, xid, Voice::KernelCode), times, now);
            heard_of[xid as usize] += times;
            if ask {
                count(coalescer.take(now), &mut told_of);
            }
        }
        count(coalescer.take(now), &mut told_of);
        prop_assert_eq!(heard_of, told_of);
    }
}
