use proptest::prelude::*;

use super::*;
use crate::challenge::{Size, Window};
use crate::ids::{Digest, ManifestDigest};

const NOW: UnixMicros = UnixMicros(1_800_000_000_000_000);
const CONSISTENT: EvidenceLevel = EvidenceLevel::SchedulerConsistent;

fn asked() -> ClassChallenge {
    let window = |least, most| Window { least, most };
    let size = Size::new(134_144, 32_768).unwrap();
    ClassChallenge { size, compute: window(20_000, 45_000), recall: window(200, 450) }
}

fn rules(challengers: u32) -> Challenges {
    Challenges {
        engine: "koinon-challenge".parse().unwrap(),
        model: ManifestDigest(Digest::of(b"nothing")),
        every_seconds: Seconds(60_000),
        challengers,
        fresh_seconds: Seconds(80_000),
        most_seconds: Seconds(60),
        classes: [("h100-80".parse().unwrap(), asked())].into(),
    }
}

fn timing(compute_millis: u32, recall_millis: u32) -> Timing {
    Timing { compute_millis, recall_millis }
}

fn fits() -> Finding {
    Finding::Fits(timing(30_000, 300))
}

/// A measurement of 8 devices by a member of its own owner that still counts for `left` seconds.
fn by(name: &str, finding: Finding, left: i64) -> Measured {
    let ended = NOW.0 + (left - rules(1).fresh_seconds.0) * 1_000_000;
    Measured {
        by: name.parse().unwrap(),
        group: name.parse().unwrap(),
        finding,
        devices: 8,
        began: UnixMicros(ended - 30_000_000),
        ended: UnixMicros(ended),
    }
}

fn judged(said: EvidenceLevel, challengers: u32, measured: &[Measured]) -> Belief {
    let (host, viewer) = ("porto".parse().unwrap(), "aarhus".parse().unwrap());
    let group = "porto".parse().unwrap();
    believe(Subject { host: &host, group: &group, said, viewer: &viewer, now: NOW }, &rules(challengers), measured)
}

#[test]
fn both_times_must_fit_the_class() {
    let named = |compute, recall| Finding::of(timing(compute, recall), &asked()).name();
    assert_eq!(named(30_000, 300), "Fits");
    assert_eq!([named(19_999, 300), named(30_000, 199), named(50_000, 199)], ["TooFast"; 3]);
    assert_eq!([named(45_001, 300), named(30_000, 451)], ["TooSlow"; 2]);
}

#[test]
fn a_host_s_own_word_is_never_more_than_consistent() {
    for said in [EvidenceLevel::Challenged, EvidenceLevel::Attested] {
        assert_eq!(judged(said, 1, &[]).level, CONSISTENT);
        assert_eq!(Belief::unmeasured(said).level, CONSISTENT);
    }
    let claimed = judged(EvidenceLevel::Claimed, 1, &[by("bilbao", fits(), 60)]);
    assert_eq!((claimed.level, claimed.devices), (EvidenceLevel::Claimed, 0));
}

#[test]
fn enough_owners_make_it_challenged_for_as_long_as_enough_of_them_count() {
    let three = [by("bilbao", fits(), 50), by("cork", fits(), 70), by("dublin", fits(), 90)];
    let belief = judged(CONSISTENT, 2, &three);
    assert_eq!((belief.level, belief.devices, belief.fitting.len()), (EvidenceLevel::Challenged, 8, 3));
    assert_eq!(belief.until, Some(UnixMicros(NOW.0 + 70_000_000)));
    assert_eq!(judged(CONSISTENT, 2, &three[..1]).level, CONSISTENT);
    assert_eq!(judged(CONSISTENT, 2, &[by("bilbao", fits(), 0), by("cork", fits(), 70)]).level, CONSISTENT);
    let early = [by("bilbao", fits(), rules(2).fresh_seconds.0 + 301), by("cork", fits(), 70)];
    assert_eq!(judged(CONSISTENT, 2, &early).level, CONSISTENT, "what has not happened yet does not count");
}

#[test]
fn a_job_of_more_gpus_than_enough_owners_saw_at_once_is_believed_less() {
    let mut two = [by("bilbao", fits(), 50), by("cork", fits(), 70)];
    two[1].devices = 3;
    let belief = judged(CONSISTENT, 2, &two);
    assert_eq!(belief.devices, 3);
    assert_eq!([3, 4].map(|count| belief.of_count(count)), [EvidenceLevel::Challenged, CONSISTENT]);
    assert_eq!(judged(CONSISTENT, 1, &two).devices, 8);
}

#[test]
fn the_host_s_owner_does_not_count_and_another_owner_counts_once() {
    let mut friends = [by("bilbao", fits(), 50), by("cork", fits(), 70)];
    friends[1].group = friends[0].group.clone();
    assert_eq!(judged(CONSISTENT, 2, &friends).level, CONSISTENT);
    let mut own = [by("porto-two", fits(), 50), by("cork", fits(), 70)];
    own[0].group = "porto".parse().unwrap();
    assert_eq!(judged(CONSISTENT, 2, &own).level, CONSISTENT);
    own[0] = Measured { by: "porto".parse().unwrap(), ..by("anybody", fits(), 50) };
    assert_eq!(judged(CONSISTENT, 2, &own).level, CONSISTENT, "whatever group it is said to be of");
}

#[test]
fn enough_owners_lower_it_and_fewer_do_not() {
    let (fast, slow) = (Finding::TooFast(timing(10, 1)), Finding::TooSlow(timing(90_000, 300)));
    let said = [by("bilbao", fast, 50), by("cork", slow, 70), by("dublin", fits(), 90), by("evora", fits(), 90)];
    let belief = judged(CONSISTENT, 2, &said);
    assert_eq!((belief.level, belief.failing.len(), belief.until), (EvidenceLevel::Claimed, 2, None));
    assert_eq!(judged(CONSISTENT, 2, &said[1..]).level, EvidenceLevel::Challenged);
    assert_eq!(
        judged(CONSISTENT, 2, &[by("bilbao", Finding::Nothing, 50), by("cork", Finding::Nothing, 50)]).level,
        CONSISTENT
    );
}

#[test]
fn whoever_saw_it_fail_does_not_call_it_challenged() {
    let seen = [by("aarhus", Finding::Refuted, 50), by("cork", fits(), 70), by("dublin", fits(), 90)];
    assert_eq!(judged(CONSISTENT, 2, &seen).level, CONSISTENT);
    assert_eq!(judged(CONSISTENT, 2, &seen[1..]).level, EvidenceLevel::Challenged);
}

fn any_finding() -> impl Strategy<Value = Finding> {
    prop_oneof![
        Just(fits()),
        Just(Finding::TooFast(timing(1, 1))),
        Just(Finding::TooSlow(timing(90_000, 1))),
        Just(Finding::Refuted),
        Just(Finding::Nothing),
    ]
}

/// Measurements by up to six members of up to so many owners, whose numbers begin at `from`.
fn any_measured(from: usize, owners: usize) -> impl Strategy<Value = Vec<Measured>> {
    prop::collection::vec((0..owners.max(1), any_finding(), 0..100_i64, 1..9_u8), 0..6).prop_map(move |all| {
        let one = |(at, (owner, finding, left, devices)): (usize, (usize, Finding, i64, u8))| Measured {
            group: format!("owner-{}", from + owner).parse().unwrap(),
            devices,
            ..by(&format!("member-{}", from + at), finding, left)
        };
        if owners == 0 { vec![] } else { all.into_iter().enumerate().map(one).collect() }
    })
}

proptest! {
    #[test]
    fn fewer_liars_than_challengers_neither_raise_nor_lower(
        (challengers, lies) in (1..=4_u32).prop_flat_map(|c| (Just(c), any_measured(100, c as usize - 1))),
        truths in any_measured(0, 4),
        honest_host in any::<bool>(),
    ) {
        // What the honest measured of an honest host fits or is nothing; of a lying one it fails or is nothing.
        let truths: Vec<Measured> = truths
            .into_iter()
            .filter(|one| one.finding == Finding::Nothing || one.finding.is_failure() != honest_host)
            .collect();
        let alone = judged(CONSISTENT, challengers, &truths).level;
        let all: Vec<Measured> = truths.iter().chain(&lies).cloned().collect();
        let level = judged(CONSISTENT, challengers, &all).level;
        if honest_host {
            prop_assert!(level >= CONSISTENT, "an honest host was lowered");
            prop_assert!(level >= alone);
        } else {
            prop_assert!(level <= CONSISTENT, "a lying host was raised");
            prop_assert!(level <= alone);
        }
    }

    #[test]
    fn the_order_of_measurements_and_those_that_prove_nothing_change_nothing(
        measured in any_measured(0, 5).prop_shuffle(), challengers in 1..=4_u32,
    ) {
        let mut sorted = measured.clone();
        sorted.sort_by(|a, b| a.by.cmp(&b.by));
        sorted.retain(|one| one.finding != Finding::Nothing);
        prop_assert_eq!(judged(CONSISTENT, challengers, &measured), judged(CONSISTENT, challengers, &sorted));
    }
}
