use super::*;

const HOUR: i64 = 3_600_000_000;
const NOW: UnixMicros = UnixMicros(100 * 24 * HOUR);

fn passed(challenger: &str, devices: u8, hours_ago: i64) -> Passed {
    let ended = UnixMicros(NOW.0 - hours_ago * HOUR);
    let began = UnixMicros(ended.0 - 30_000_000);
    Passed { challenger: challenger.parse().unwrap(), group: None, devices, began, ended }
}

fn rule(devices: u32, challengers: u32) -> Rule {
    Rule { host: "bilbao".parse().unwrap(), group: None, devices, challengers, now: NOW }
}

fn reached(passed: &[Passed], rule: &Rule) -> EvidenceLevel {
    level(EvidenceLevel::SchedulerConsistent, passed, rule).level
}

use EvidenceLevel::{Attested, Challenged, Claimed, SchedulerConsistent};

#[test]
fn as_many_distinct_challengers_as_are_needed_make_it_challenged() {
    let twice = [passed("athens", 8, 1), passed("athens", 8, 2)];
    assert_eq!(reached(&twice, &rule(8, 1)), Challenged);
    assert_eq!(reached(&twice, &rule(8, 2)), SchedulerConsistent, "the same challenger twice is one");
    let two = [passed("athens", 8, 1), passed("corinth", 8, 2)];
    assert_eq!(reached(&two, &rule(8, 2)), Challenged);
    assert_eq!(reached(&[], &rule(0, 0)), SchedulerConsistent, "nobody asked");
}

#[test]
fn challenges_raise_consistent_figures_alone() {
    let shown = [passed("athens", 8, 1)];
    let of = |figures| level(figures, &shown, &rule(8, 1)).level;
    assert_eq!([Claimed, SchedulerConsistent].map(of), [Claimed, Challenged]);
    // What a host says of itself beyond that counts as what its figures can be at best.
    assert_eq!([Challenged, Attested].map(of), [SchedulerConsistent, SchedulerConsistent]);
    assert_eq!(level(Claimed, &shown, &rule(8, 1)).until, None);
}

#[test]
fn it_ends_a_day_after_the_last_that_is_needed() {
    let judged = level(SchedulerConsistent, &[passed("athens", 8, 1), passed("corinth", 8, 5)], &rule(8, 2));
    let until = judged.until.unwrap();
    assert_eq!(until, UnixMicros(NOW.0 + 19 * HOUR));
    let at = |now| reached(&[passed("athens", 8, 1), passed("corinth", 8, 5)], &Rule { now, ..rule(8, 2) });
    assert_eq!(at(UnixMicros(until.0 - 1)), Challenged);
    assert_eq!(at(until), SchedulerConsistent);
    let old = level(SchedulerConsistent, &[passed("athens", 8, 24)], &rule(8, 1));
    assert_eq!((old.level, old.not_counted.values().next()), (SchedulerConsistent, Some(&NotCounted::Expired)));
}

#[test]
fn neither_the_host_nor_its_owner_counts() {
    assert_eq!(reached(&[passed("bilbao", 8, 1)], &rule(8, 1)), SchedulerConsistent);
    let group: ControlGroup = "acme".parse().unwrap();
    let related = Passed { group: Some(group.clone()), ..passed("athens", 8, 1) };
    let owned = Rule { group: Some(group), ..rule(8, 1) };
    assert_eq!(reached(std::slice::from_ref(&related), &owned), SchedulerConsistent);
    assert_eq!(reached(&[related], &rule(8, 1)), Challenged);
    // Two whose owners are not known are not therefore one.
    assert_eq!(reached(&[passed("athens", 8, 1)], &owned), Challenged);
}

#[test]
fn devices_add_up_where_challenges_overlap_and_nowhere_else() {
    let (first, second) = (passed("athens", 8, 1), passed("athens", 8, 1));
    assert_eq!(reached(&[first.clone(), second.clone()], &rule(16, 1)), Challenged);
    let later = Passed { began: first.ended, ended: UnixMicros(first.ended.0 + 1), ..second };
    let judged = level(SchedulerConsistent, &[first, later], &rule(16, 1));
    assert_eq!(judged.level, SchedulerConsistent);
    assert_eq!(judged.not_counted.values().next(), Some(&NotCounted::TooFewDevices { seen: 8, of: 16 }));
    let of_two = [passed("athens", 8, 1), passed("corinth", 8, 1)];
    assert_eq!(reached(&of_two, &rule(16, 1)), SchedulerConsistent, "two challengers have two clocks");
}

#[test]
fn times_that_cannot_be_count_for_nothing() {
    let right = passed("athens", 8, 1);
    let backwards = Passed { began: right.ended, ended: right.began, ..right.clone() };
    let ahead = |seconds: i64| Passed { ended: UnixMicros(NOW.0 + seconds * 1_000_000), ..right.clone() };
    assert_eq!(reached(&[ahead(300)], &rule(8, 1)), Challenged);
    let forever = Passed { began: UnixMicros(i64::MIN), ended: UnixMicros(i64::MAX), ..right.clone() };
    for wrong in [backwards, ahead(301), forever] {
        let judged = level(SchedulerConsistent, &[wrong], &rule(8, 1));
        assert_eq!(judged.level, SchedulerConsistent);
        assert_eq!(judged.not_counted.values().next(), Some(&NotCounted::WrongTimes));
    }
}
