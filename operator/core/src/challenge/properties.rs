//! Whole challenges: an honest prover always passes, and whatever is not what it had is refuted.

use proptest::prelude::*;

use super::prover::Prover;
use super::*;
use crate::ids::{CoopId, Digest, StatementId};

fn occasion(nonce: u8) -> Occasion {
    Occasion {
        coop: CoopId(Digest::of(b"coop")),
        challenger: "athens".parse().unwrap(),
        host: "bilbao".parse().unwrap(),
        class: "h100-80".parse().unwrap(),
        after: StatementId(Digest::of(b"entry")),
        nonce: Nonce([nonce; 32]),
    }
}

fn asking(devices: u8, nonce: u8) -> Asking {
    Asking { occasion: occasion(nonce), size: Size::new(128, 64).unwrap(), devices, secret: Secret([nonce ^ 9; 32]) }
}

/// Runs a challenge against `prover`, which `spoil` may change between computing and recalling.
fn run(asking: Asking, prover: &mut Prover, spoil: impl FnOnce(&mut Prover)) -> Transcript {
    let (computing, ask) = asking.begin().unwrap();
    let reply = prover.answer(&ask).unwrap();
    spoil(prover);
    let (recalling, ask) = computing.computed(&reply.text(), 1000).unwrap();
    let (opening, ask) = recalling.recalled(&prover.answer(&ask).unwrap().text(), 10).unwrap();
    opening.opened(&prover.answer(&ask).unwrap().text()).unwrap()
}

fn honest(devices: u8) -> Transcript {
    run(asking(devices, 1), &mut Prover::default(), |_| {})
}

fn refuted(transcript: &Transcript) -> Refuted {
    Check::all(transcript).and_then(Check::finish).unwrap_err()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_honest_prover_always_passes(devices in 1u8..=4, nonce: u8, secret: [u8; 32], choice: [u8; 8]) {
        let asking = Asking { secret: Secret(secret), ..asking(devices, nonce) };
        let transcript = run(asking, &mut Prover::default(), |_| {});
        let read = Transcript::read(transcript.text().as_bytes()).unwrap();
        prop_assert_eq!(&read, &transcript);
        let rows = u32::from(devices) * 8;
        prop_assert_eq!(Check::all(&read).unwrap().finish(), Ok(Checked { devices, rows }));
        let sampled = Check::sample(&read, 2, &choice).unwrap().finish();
        prop_assert_eq!(sampled, Ok(Checked { devices, rows: u32::from(devices) * 2 }));
    }

    #[test]
    fn one_sum_changed_in_a_row_that_is_looked_at_is_found(device in 0u8..2, column in 0usize..128, bit in 0u32..32) {
        let transcript = run(asking(2, 1), &mut Prover::default(), |prover| {
            // Whichever row is looked at has the change.
            for row in &mut prover.matrices[usize::from(device)] {
                row[column] ^= 1 << bit;
            }
        });
        let found = refuted(&transcript);
        prop_assert!(matches!(found, Refuted::Row { device: seen, .. } if seen == device), "{}", found);
    }
}

#[test]
fn a_prover_without_part_of_the_rows_passes_as_often_as_computed() {
    let mut whole = Prover::default();
    let (_, ask) = asking(1, 1).begin().unwrap();
    whole.answer(&ask).unwrap();
    let passes = |missing: usize| {
        let spoilt = |n: u32| {
            let mut secret = [0; 32];
            secret[..4].copy_from_slice(&n.to_be_bytes());
            let mut prover = whole.clone();
            prover.matrices[0].iter_mut().take(missing).for_each(|row| row[0] ^= 1);
            let recall = Ask::Recall { salt: Secret(secret).salt() };
            let Some(Reply::Recalled { roots, .. }) = prover.answer(&recall) else { panic!("no roots") };
            let seed = occasion(1).seed();
            let asked = asked_rows(&seed, &Secret(secret), Size::new(128, 64).unwrap(), &roots);
            asked[0].iter().all(|row| usize::try_from(*row).unwrap() >= missing)
        };
        (0..600).filter(|n| spoilt(*n)).count()
    };
    // 8 of 128 rows without repetition: 0.42 where a tenth is missing, 0.0033 where half is.
    let (tenth, half) = (passes(13), passes(64));
    assert!((200..=310).contains(&tenth), "{tenth} of 600, 253 expected");
    assert!(half <= 10, "{half} of 600, 2 expected");
    // And whether it passes is whether those rows are right: the check finds what was left out.
    let spoilt = run(asking(1, 1), &mut Prover::default(), |prover| {
        prover.matrices[0].iter_mut().take(64).for_each(|row| row.fill(0));
    });
    assert!(matches!(refuted(&spoilt), Refuted::Row { device: 0, row } if row < 64));
}

#[test]
fn devices_cannot_answer_for_each_other() {
    let mut swapped = honest(2);
    swapped.devices.swap(0, 1);
    refuted(&swapped);
    let doubled = run(asking(2, 1), &mut Prover::default(), |prover| prover.matrices[1] = prover.matrices[0].clone());
    assert!(matches!(refuted(&doubled), Refuted::Row { device: 1, .. }));
}

#[test]
fn a_transcript_holds_for_its_occasion_secret_and_size_alone() {
    let right = honest(1);
    Check::all(&right).unwrap().finish().unwrap();
    let with = |change: &dyn Fn(&mut Occasion)| {
        let mut other = right.clone();
        change(&mut other.occasion);
        other
    };
    let others = [
        with(&|o| o.coop = CoopId(Digest::of(b"other"))),
        with(&|o| o.challenger = "corinth".parse().unwrap()),
        with(&|o| o.host = "corinth".parse().unwrap()),
        with(&|o| o.class = "h100-81".parse().unwrap()),
        with(&|o| o.after = StatementId(Digest::of(b"other"))),
        with(&|o| o.nonce = Nonce([2; 32])),
        Transcript { secret: Secret([2; 32]), ..right.clone() },
        Transcript { size: Size::new(128, 128).unwrap(), ..right.clone() },
    ];
    for other in others {
        refuted(&other);
    }
    // Names that would read alike one after the other.
    let cut = |challenger: &str, host: &str| {
        let (challenger, host) = (challenger.parse().unwrap(), host.parse().unwrap());
        Occasion { challenger, host, ..occasion(1) }.seed()
    };
    assert_ne!(cut("ab", "c"), cut("a", "bc"));
}

#[test]
fn other_rows_than_were_chosen_are_not_accepted() {
    refuted(&run(asking(1, 1), &mut Prover::default(), |prover| prover.shown_too_far = 1));
    let mut reordered = honest(1);
    reordered.devices[0].paths.swap(0, 1);
    refuted(&reordered);
}

#[test]
fn a_check_that_is_cut_short_has_checked_nothing() {
    let transcript = honest(2);
    let mut check = Check::all(&transcript).unwrap();
    assert_eq!(check.work(), 16 * 128 * 64);
    assert_eq!(check.step(), Ok(None), "one device is not two");
    assert_eq!(check.work(), 8 * 128 * 64);
    assert_eq!(check.step(), Ok(Some(Checked { devices: 2, rows: 16 })));
    assert_eq!(check.step(), Ok(Some(Checked { devices: 2, rows: 16 })));
    // However few are asked for, one row of each is checked.
    assert_eq!(Check::sample(&transcript, 0, b"").unwrap().finish(), Ok(Checked { devices: 2, rows: 2 }));
}

#[test]
fn members_that_draw_differently_check_different_rows() {
    // Wrong in one of the rows that are looked at: who looks at all finds it, of those who look at one some do.
    let mut transcript = honest(1);
    let other = transcript.devices[0].paths[1].clone();
    transcript.devices[0].paths[0] = other;
    if transcript.validate().is_err() {
        return;
    }
    refuted(&transcript);
    let finds = |choice: u8| Check::sample(&transcript, 1, &[choice]).and_then(Check::finish).is_err();
    let found = (0..100).filter(|choice| finds(*choice)).count();
    assert!((3..=30).contains(&found), "{found} of 100, 12 expected");
}

#[test]
fn hostile_transcripts_are_refused_without_computing() {
    let right = honest(2);
    let text = right.text();
    for (what, wrong) in [
        ("\"rows\":128", "\"rows\":4294967168"),
        ("\"rows\":128", "\"rows\":256"),
        ("\"depth\":64", "\"depth\":0"),
        ("\"computeMillis\":1000", "\"computeMillis\":-1"),
        ("\"computeMillis\":1000", "\"computeMillis\":1e3"),
        ("\"computeMillis\":1000", "\"computeMillis\":99999999999"),
        ("\"computeMillis\":1000", "\"computeMillis\":null"),
        ("\"recallMillis\":10", "\"recallMillis\":10,\"recallMillis\":11"),
        ("\"recallMillis\":10", "\"recallMillis\":10,\"note\":\"x\""),
        ("\"timing\":{\"computeMillis\":1000,\"recallMillis\":10}", "\"timing\":[1000,10]"),
    ] {
        assert!(text.contains(what), "{what} in {text}");
        assert!(Transcript::read(text.replacen(what, wrong, 1).as_bytes()).is_err(), "{wrong}");
    }
    let too_many = Transcript { devices: vec![right.devices[0].clone(); 17], ..right.clone() };
    assert_eq!(too_many.validate(), Err(TranscriptError::Devices(17)));
    assert!(matches!(Transcript::read(too_many.text().as_bytes()), Err(TranscriptError::Devices(17))));
    assert_eq!(Transcript { devices: vec![], ..right.clone() }.validate(), Err(TranscriptError::Devices(0)));
    let mut fewer = right.clone();
    fewer.devices[1].paths.pop();
    let expected = TranscriptError::Rows { device: 1, seen: 7, expected: 8 };
    assert_eq!(fewer.validate(), Err(expected.clone()));
    assert_eq!(Check::all(&fewer).unwrap_err(), Refuted::Transcript(expected));
    let mut short = right;
    short.devices[0].paths[3] = "".parse().unwrap();
    assert!(matches!(short.validate(), Err(TranscriptError::Path { device: 0, .. })));
    assert!(matches!(Transcript::read(&vec![b' '; MAX_TRANSCRIPT + 1]), Err(TranscriptError::Json(_))));
}

#[test]
fn the_largest_transcript_fits() {
    let size = Size::new(Size::MAX_ROWS, Size::MAX_DEPTH).unwrap();
    let path: tree::Path = "A".repeat(18 * 16 * 4 / 3).parse().unwrap();
    let name = "a".repeat(30);
    let occasion = Occasion { challenger: name.parse().unwrap(), host: name.parse().unwrap(), ..occasion(1) };
    for devices in [8u8, 16] {
        let answer = Answer { root: tree::Node([255; 16]), paths: vec![path.clone(); rows_each(devices)] };
        let timing = Timing { compute_millis: u32::MAX, recall_millis: u32::MAX };
        let (secret, devices) = (Secret([255; 32]), vec![answer; usize::from(devices)]);
        let transcript = Transcript { occasion: occasion.clone(), size, secret, timing, devices };
        let text = transcript.text();
        assert!(text.len() <= 29 * 1024, "{} bytes", text.len());
        Transcript::read(text.as_bytes()).unwrap();
        let reply = Reply::Opened { paths: transcript.devices.into_iter().map(|answer| answer.paths).collect() };
        assert!(reply.text().len() <= message::MAX_REPLY);
    }
}

#[test]
fn answers_to_other_questions_end_a_challenge() {
    let mut prover = Prover::default();
    let (computing, ask) = asking(2, 1).begin().unwrap();
    let computed = prover.answer(&ask).unwrap().text();
    let one = Reply::Computed { millis: vec![1] }.text();
    assert_eq!(computing.clone().computed(&one, 1).unwrap_err(), AskingError::Devices { asked: 2, seen: 1 });
    let (recalling, ask) = computing.clone().computed(&computed, 1).unwrap();
    let recalled = prover.answer(&ask).unwrap().text();
    assert_eq!(computing.computed(&recalled, 1).unwrap_err(), AskingError::OtherStep { asked: "begin" });
    assert_eq!(recalling.clone().recalled(&computed, 1).unwrap_err(), AskingError::OtherStep { asked: "recall" });
    let (opening, _) = recalling.recalled(&recalled, 1).unwrap();
    assert_eq!(opening.clone().opened(&recalled).unwrap_err(), AskingError::OtherStep { asked: "open" });
    let none = Reply::Opened { paths: vec![vec![], vec![]] }.text();
    let missing = TranscriptError::Rows { device: 0, seen: 0, expected: 8 };
    assert_eq!(opening.opened(&none).unwrap_err(), AskingError::Transcript(missing));
    for devices in [0, 17] {
        assert_eq!(asking(devices, 1).begin().unwrap_err(), MessageError::Devices(devices));
    }
}

#[test]
fn sizes_fill_nine_tenths_of_a_device_and_are_bounded() {
    const GIB: u64 = 1 << 30;
    for (gib, rows) in [(16, 62_080), (80, 139_008), (180, 208_512)] {
        let size = Size::filling(crate::ids::Bytes(gib * GIB), DEPTH).unwrap();
        assert_eq!(size.rows(), rows, "{gib} GiB");
        let part = size.memory().0 * 1000 / (gib * GIB);
        assert!((895..=900).contains(&part), "{part} thousandths of {gib} GiB");
    }
    assert_eq!(Size::filling(crate::ids::Bytes(u64::MAX), DEPTH).unwrap().rows(), Size::MAX_ROWS);
    assert_eq!(Size::filling(crate::ids::Bytes(0), DEPTH), Err(SizeError::Rows(0)));
    for rows in [0, 1, 127, 129, Size::MAX_ROWS + 128, u32::MAX] {
        assert_eq!(Size::new(rows, 64), Err(SizeError::Rows(rows)));
    }
    for depth in [0, 1, 63, 65, Size::MAX_DEPTH + 64, u32::MAX] {
        assert_eq!(Size::new(128, depth), Err(SizeError::Depth(depth)));
    }
}
