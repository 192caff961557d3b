use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::catalogue::{self, Special};
use super::links::{self, LinkVerdict};
use super::policy::{MAX_ROWS, XidExtension, XidPolicy, XidPolicyError, XidRow};
use super::*;
use crate::capacity::Health;
use crate::gpu::device::RecoveryAction;
use crate::gpu::words::{Action, Cause, Offer, Reason, Work};
use crate::ids::Seconds;

fn event(code: u32, detail: Option<&str>) -> XidEvent {
    XidEvent {
        at: UnixSeconds(0),
        device: None,
        xid: Xid(code),
        source: XidSource::KernelLog,
        place: None,
        detail: detail.map(str::to_owned),
        workload: None,
    }
}

fn codes(text: &str) -> BTreeSet<u32> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        from.parse::<u32>().unwrap()..=to.parse().unwrap()
    };
    text.split(", ").flat_map(range).collect()
}

/// NVIDIA's immediate action and what the health rules make of it, written down a second time by hand.
const TABLE: &[(&str, &str, XidClass, Health, Action, Work)] = &[
    (
        "46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158",
        "RESET_GPU",
        XidClass::Reset,
        Health::Unhealthy,
        Action::ResetGpu,
        Work::Drain,
    ),
    ("79", "RESTART_BM", XidClass::Reboot, Health::Unhealthy, Action::RebootNode, Work::DrainNode),
    ("48", "WORKFLOW_XID_48", XidClass::Workflow, Health::Unhealthy, Action::ResetGpu, Work::Drain),
    ("45", "WORKFLOW_XID_45", XidClass::Workflow, Health::Degraded, Action::Investigate, Work::Keep),
    ("74", "WORKFLOW_NVLINK_ERR", XidClass::Workflow, Health::Degraded, Action::Investigate, Work::Keep),
    ("144-150", "WORKFLOW_NVLINK5_ERR", XidClass::Workflow, Health::Degraded, Action::Investigate, Work::Keep),
    ("151", "RESTART_VM", XidClass::Reset, Health::Unhealthy, Action::RestartVm, Work::Drain),
    ("154", "XID_154", XidClass::Workflow, Health::Healthy, Action::None, Work::Keep),
    (
        "8, 11, 13, 25, 31, 32, 39-41, 60, 68-72, 75-77, 80, 82-86, 88, 89, 94, 96-105, 126-135, 139",
        "RESTART_APP",
        XidClass::App,
        Health::Healthy,
        Action::RestartWorkload,
        Work::RestartWorkload,
    ),
    (
        "14, 37, 38, 43, 44, 63, 66, 67, 93, 106-108, 121, 137, 141, 152, 153, 160",
        "IGNORE",
        XidClass::Info,
        Health::Healthy,
        Action::None,
        Work::Keep,
    ),
    ("92", "IGNORE", XidClass::Info, Health::Degraded, Action::Watch, Work::Keep),
    ("157, 161", "IGNORE", XidClass::Info, Health::Degraded, Action::Investigate, Work::Keep),
    ("54", "CHECK_MECHANICALS", XidClass::Workflow, Health::Degraded, Action::Investigate, Work::Keep),
    ("78", "UPDATE_SWFW", XidClass::Workflow, Health::Degraded, Action::Investigate, Work::Keep),
    ("159", "CHECK_UVM", XidClass::Workflow, Health::Degraded, Action::Investigate, Work::Keep),
    ("142", "CONTACT_SUPPORT", XidClass::Workflow, Health::Degraded, Action::Investigate, Work::Keep),
    ("162-166, 170", "-", XidClass::Info, Health::Healthy, Action::None, Work::Keep),
    ("167, 169, 171, 172", "-", XidClass::Reset, Health::Unhealthy, Action::ResetGpu, Work::Drain),
    ("168", "-", XidClass::Workflow, Health::Degraded, Action::Investigate, Work::Keep),
];

#[test]
fn every_row_of_the_table_says_what_the_rules_say() {
    assert_eq!(catalogue::faults(), []);
    let rows = catalogue::builtin();
    let mut seen = BTreeSet::new();
    for (listed, nvidia, class, state, action, work) in TABLE {
        for code in codes(listed) {
            let row = rows.get(&Xid(code)).unwrap_or_else(|| panic!("XID {code} has no row"));
            let meaning = &row.meaning;
            assert!(seen.insert(code), "XID {code} stands twice");
            assert_eq!(row.nvidia.as_deref().unwrap_or("-"), *nvidia, "XID {code}");
            assert_eq!((meaning.class, meaning.state), (*class, *state), "XID {code}");
            assert_eq!((meaning.action, meaning.work), (*action, *work), "XID {code}");
            assert_eq!(meaning.offer == Offer::Any, *state == Health::Healthy, "XID {code}");
            assert!(
                matches!(meaning.reason, Reason::Known(_)),
                "XID {code}: a reason of this release is one of its list"
            );
        }
    }
    assert_eq!(seen, rows.keys().map(|xid| xid.0).collect(), "codes of the file that the rules do not name");
    assert_eq!(seen.len(), 111);
}

#[test]
fn codes_with_a_special_handling_are_these() {
    let mut special: BTreeMap<Special, BTreeSet<u32>> = BTreeMap::new();
    for (xid, row) in catalogue::builtin().iter().filter(|(_, row)| row.special != Special::CountPerWorkload) {
        special.entry(row.special).or_default().insert(xid.0);
    }
    special.remove(&Special::None);
    let expected = [
        (Special::FollowsAnother, codes("45")),
        (Special::DoubleBit, codes("48")),
        (Special::LinkRegisters, codes("74")),
        (Special::LinkSubcode, codes("144-150")),
        (Special::RecoveryAction, codes("154")),
        (Special::DropsEvidence, codes("151, 166, 170")),
    ];
    assert_eq!(special, expected.into());
}

#[test]
fn a_code_that_nobody_knows_takes_new_work_away() {
    // 1 is a code that NVIDIA calls unused.
    for code in [0, 1, 91, 173, 22_013, u32::MAX] {
        let meaning = XidPolicy::builtin().meaning(&event(code, None), None);
        assert_eq!((meaning.class, meaning.state), (XidClass::Unknown, Health::Degraded), "{code}");
        assert_eq!((meaning.reason, meaning.offer), (Cause::UnknownXid.into(), Offer::Nothing), "{code}");
    }
}

#[test]
fn a_line_that_cannot_be_used_is_named_and_leaves_the_others() {
    let line = |code: &str, state: &str| format!("{code}\tN\t-\tinfo\t{state}\tNotice\tNone\tAny\tKeep\t0\tNone\n");
    let text = format!(
        "head\n{}{}{}{}short\n",
        line("7", "Healthy"),
        line("7", "Healthy"),
        line("x", "Healthy"),
        line("9", "Fine")
    );
    let (rows, faults) = catalogue::parse(&text);
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), [Xid(7)]);
    assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [3, 4, 5, 6]);
    let why: Vec<&str> = faults.iter().map(|fault| fault.why.as_str()).collect();
    assert!(why[0].contains("twice") && why[1].contains("no code") && why[2].contains("no state"), "{why:?}");
}

#[test]
fn every_line_of_the_decode_of_links_can_be_used() {
    assert_eq!(links::faults(), Vec::<&str>::new());
}

fn state_of(code: u32, detail: Option<&str>) -> (Health, Offer) {
    let meaning = XidPolicy::builtin().meaning(&event(code, detail), None);
    (meaning.state, meaning.offer)
}

#[test]
fn the_registers_of_xid_74_decide_and_what_cannot_be_read_is_the_worse() {
    let line = |registers: [u32; 7]| {
        let words: Vec<String> = registers.iter().map(|word| format!("{word:#x}")).collect();
        format!("NVLink: fatal error detected on link 14({})", words.join(", "))
    };
    let with = |at: usize, bit: u32| {
        let mut registers = [0; 7];
        registers[at] = 1 << bit;
        line(registers)
    };
    let read = |detail: &str| state_of(74, Some(detail));
    for (at, bit) in [(0, 0), (0, 23), (0, 30), (4, 20), (4, 29)] {
        assert_eq!(read(&with(at, bit)), (Health::Healthy, Offer::Any), "{at} {bit}");
    }
    for (at, bit) in [(0, 4), (0, 21), (0, 1), (2, 0), (2, 16), (3, 16), (4, 18)] {
        assert_eq!(read(&with(at, bit)), (Health::Degraded, Offer::SingleOnly), "{at} {bit}");
    }
    let bad = (Health::Unhealthy, Offer::Nothing);
    for (at, bit) in [(3, 18), (0, 2), (1, 0), (5, 7), (6, 31)] {
        assert_eq!(read(&with(at, bit)), bad, "{at} {bit}");
    }
    // A benign bit beside a bad one hides nothing.
    assert_eq!(read(&line([1, 0, 0, 1 << 18, 0, 0, 0])), bad);
    for unreadable in
        ["", "no registers", "(0x1)", "(0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)", "(0x1, 2, 0x0, 0x0, 0x0, 0x0, 0x0)"]
    {
        assert_eq!(read(unreadable), bad, "{unreadable:?}");
    }
    assert_eq!(state_of(74, None), bad);
}

#[test]
fn unit_and_status_of_the_newer_links_decide_and_what_cannot_be_read_is_the_worse() {
    use LinkVerdict::{Ignore, Reset, RestartWorkload};
    let cases = [
        // A link that went down, before R575 (reason bits 25 to 20 are 000100), and from it on.
        (149, "NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000 0x0 0x0 0x0 0x0)", Reset),
        (149, "NETIR_LINK_DOWN Fatal XC0 i0 Link 08 (0x00400011 0x00000000 0x0 0x0 0x0 0x0)", Reset),
        // Two of its reasons need nothing here.
        (149, "NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x026001c6 0x00000000 0x0 0x0 0x0 0x0)", Ignore),
        (149, "NETIR_LINK_DOWN Fatal XC0 i0 Link 08 (0x02800011 0x00000000 0x0 0x0 0x0 0x0)", Ignore),
        (149, "NETIR_BER_EVENT Nonfatal XC0 i0 Link 01 (0x00000226 0x00000002 0x0 0x0 0x0 0x0)", Ignore),
        (144, "SAW_MVB Fatal XC0 i0 Link 00 (0x00000021 0x00000002 0x0 0x0 0x0 0x0)", Reset),
        (144, "SAW_MVB Nonfatal XC0 i0 Link 00 (0x00000021 0x00000004 0x0 0x0 0x0 0x0)", Ignore),
        (145, "RLW_REMAP Nonfatal XC1 i0 Link 00 (0x00000004 0x00000001 0x0 0x0 0x0 0x0)", RestartWorkload),
        // Promoted by the bit above: the eleventh before R575, the eighth from it on.
        (145, "RLW_RXPIPE Nonfatal XC0 i0 Link 00 (0x000000c2 0x00000001 0x0 0x0 0x0 0x0)", Ignore),
        (145, "RLW_RXPIPE Nonfatal XC0 i0 Link 00 (0x000004c2 0x00000001 0x0 0x0 0x0 0x0)", Reset),
        (145, "RLW_RXPIPE Nonfatal XC0 i0 Link 00 (0x00000006 0x00000001 0x0 0x0 0x0 0x0)", Ignore),
        (145, "RLW_RXPIPE Nonfatal XC0 i0 Link 00 (0x00000086 0x00000001 0x0 0x0 0x0 0x0)", Reset),
        (150, "MSE_WATCHDOG Fatal XC0 i0 Link -1 (0x00000000 0x00000000 0x0 0x0 0x0 0x0)", Reset),
        // Not in the decode: another status, another unit, another reason, another number of words, other text.
        (144, "SAW_MVB Nonfatal XC0 i0 Link 00 (0x00000021 0x00000040 0x0 0x0 0x0 0x0)", Reset),
        (144, "RLW_REMAP Nonfatal XC0 i0 Link 00 (0x00000021 0x00000004 0x0 0x0 0x0 0x0)", Reset),
        (149, "NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x03f001c6 0x00000000 0x0 0x0 0x0 0x0)", Reset),
        (144, "SAW_MVB Nonfatal XC0 i0 Link 00 (0x00000021)", Reset),
        (144, "SAW_MVB Nonfatal XC0 i0 Link 00 [0x00000021]", Reset),
        (144, "", Reset),
    ];
    for (code, detail, expected) in cases {
        assert_eq!(links::subcode(Xid(code), Some(detail)), expected, "{code} {detail}");
    }
    for code in 144..=150 {
        assert_eq!(state_of(code, None), (Health::Unhealthy, Offer::Nothing), "{code}");
    }
}

#[test]
fn xid_154_means_what_the_driver_recommends_now() {
    let policy = XidPolicy::builtin();
    let line = |to: &str| format!("GPU recovery action changed from 0x0 (None) to {to}");
    let says = |detail: Option<&str>, read| {
        let meaning = policy.meaning(&event(154, detail), read);
        (meaning.state, meaning.action)
    };
    let reboot = line("0x2 (Node Reboot Required)");
    assert_eq!(says(Some(&reboot), None), (Health::Unhealthy, Action::RebootNode));
    assert_eq!(says(Some(&line("0x1 (GPU Reset Required)")), None), (Health::Unhealthy, Action::ResetGpu));
    assert_eq!(says(Some(&line("0x3 (Drain P2P)")), None), (Health::Degraded, Action::DrainP2p));
    assert_eq!(says(Some(&line("0x4 (Drain and Reset)")), None), (Health::Unhealthy, Action::ResetGpu));
    assert_eq!(says(Some(&line("0x0 (None)")), None), (Health::Healthy, Action::None));
    // What is read now outweighs the words.
    assert_eq!(says(Some(&reboot), Some(RecoveryAction::None)), (Health::Healthy, Action::None));
    for unreadable in [None, Some(""), Some(" to 2"), Some("to 0x to 0x"), Some(&*line("0x9 (?)"))] {
        assert_eq!(says(unreadable, None), (Health::Unhealthy, Action::ResetGpu), "{unreadable:?}");
    }
}

fn row(code: u32, state: Health) -> XidRow {
    let unhealthy = state == Health::Unhealthy;
    XidRow {
        code,
        class: if unhealthy { XidClass::Reboot } else { XidClass::Workflow },
        state,
        reason: "VotedReason".parse().unwrap(),
        action: Action::RebootNode,
        offer: if state == Health::Healthy { Offer::Any } else { Offer::Nothing },
        work: if unhealthy { Work::DrainNode } else { Work::Keep },
        hold_seconds: 86_400,
    }
}

fn with(rows: Vec<XidRow>) -> Result<XidPolicy, XidPolicyError> {
    XidPolicy::with(&XidExtension { rows })
}

/// Whether a table is refused for being milder with this code, by an error that says what is known of it.
fn is_milder(rows: Vec<XidRow>, code: u32) -> bool {
    let error = with(rows).err();
    let says = XidPolicy::builtin().plain(Xid(code)).to_string();
    error == Some(XidPolicyError::Milder { code, says })
}

#[test]
fn a_vote_makes_a_known_code_stricter_and_never_milder() {
    let stricter = with(vec![row(14, Health::Unhealthy)]).unwrap();
    let meaning = stricter.meaning(&event(14, None), None);
    assert_eq!((meaning.state, meaning.work), (Health::Unhealthy, Work::DrainNode));
    assert_eq!(meaning.reason.as_str(), "VotedReason");

    for code in [46, 79, 48] {
        assert!(is_milder(vec![row(code, Health::Degraded)], code), "{code}");
        assert!(is_milder(vec![row(code, Health::Healthy)], code), "{code}");
    }
    // Every part alone.
    let equal = XidRow { class: XidClass::Reboot, ..row(79, Health::Unhealthy) };
    assert!(with(vec![equal.clone()]).is_ok());
    for milder in [
        XidRow { class: XidClass::Reset, ..equal.clone() },
        XidRow { action: Action::ResetGpu, ..equal.clone() },
        XidRow { work: Work::Drain, ..equal.clone() },
    ] {
        assert!(is_milder(vec![milder], 79));
    }
    let degraded = XidRow { action: Action::Investigate, ..row(54, Health::Degraded) };
    assert!(with(vec![degraded.clone()]).is_ok());
    let shorter = XidRow { hold_seconds: 86_399, ..degraded.clone() };
    assert!(is_milder(vec![shorter], 54));
    let wider = XidRow { offer: Offer::SingleOnly, ..degraded };
    assert!(is_milder(vec![wider], 54));
}

#[test]
fn a_stricter_row_does_not_hide_what_the_line_says() {
    let row = XidRow { class: XidClass::Workflow, hold_seconds: 7_200, ..row(74, Health::Degraded) };
    let policy = with(vec![row]).unwrap();
    let benign = event(74, Some("(0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)"));
    assert_eq!(policy.meaning(&benign, None).state, Health::Degraded, "the vote counts although the line is benign");
    assert_eq!(
        policy.meaning(&event(74, None), None).state,
        Health::Unhealthy,
        "the line counts although the vote is milder"
    );
}

#[test]
fn a_vote_says_what_it_likes_of_an_unknown_code() {
    let mild = XidRow { class: XidClass::Info, action: Action::None, ..row(173, Health::Healthy) };
    let policy = with(vec![mild, row(174, Health::Unhealthy)]).unwrap();
    assert_eq!(policy.meaning(&event(173, None), None).state, Health::Healthy);
    assert_eq!(policy.meaning(&event(174, None), None).state, Health::Unhealthy);
    assert!(policy.knows(Xid(173)) && !policy.knows(Xid(175)));
}

#[test]
fn a_voted_table_has_bounds_and_no_contradictions() {
    let rows = |count: u32| (0..count).map(|at| row(1_000 + at, Health::Degraded)).collect::<Vec<_>>();
    assert!(with(rows(64)).is_ok());
    assert_eq!(with(rows(65)), Err(XidPolicyError::TooManyRows { seen: MAX_ROWS + 1 }));
    assert_eq!(
        with(vec![row(200, Health::Degraded), row(200, Health::Degraded)]),
        Err(XidPolicyError::Twice { code: 200 })
    );
    assert_eq!(
        with(vec![row(201, Health::Degraded), row(200, Health::Degraded)]),
        Err(XidPolicyError::Order { code: 200 })
    );
    let contradictions = [
        row(0, Health::Degraded),
        row(10_000, Health::Degraded),
        row(200, Health::Unknown),
        XidRow { offer: Offer::Any, ..row(200, Health::Degraded) },
        XidRow { offer: Offer::Nothing, ..row(200, Health::Healthy) },
        XidRow { work: Work::Keep, ..row(200, Health::Unhealthy) },
        XidRow { hold_seconds: 59, ..row(200, Health::Degraded) },
        XidRow { hold_seconds: u32::MAX, ..row(200, Health::Degraded) },
    ];
    for wrong in contradictions {
        let code = wrong.code;
        let error = with(vec![wrong]).unwrap_err();
        assert!(matches!(&error, XidPolicyError::Row { code: named, .. } if *named == code), "{error}");
    }
}

#[test]
fn where_another_release_was_asked_the_stricter_meaning_holds() {
    let table = XidExtension { rows: vec![row(14, Health::Unhealthy), row(79, Health::Degraded)] };
    let policy = XidPolicy::merged(&table).unwrap();
    assert_eq!(policy.plain(Xid(14)).state, Health::Unhealthy);
    let builtin = XidPolicy::builtin().plain(Xid(79));
    assert!(policy.plain(Xid(79)).at_least(&builtin), "{}", policy.plain(Xid(79)));
    assert!(XidPolicy::merged(&XidExtension { rows: vec![row(0, Health::Degraded)] }).is_err());
}

#[test]
fn the_digest_of_a_table_changes_with_every_part_of_it() {
    let table = |row: XidRow| XidExtension { rows: vec![row] }.digest();
    let first = row(200, Health::Degraded);
    let others = [
        XidRow { code: 201, ..first.clone() },
        XidRow { class: XidClass::Reset, ..first.clone() },
        XidRow { state: Health::Unhealthy, ..first.clone() },
        XidRow { reason: "Other".parse().unwrap(), ..first.clone() },
        XidRow { action: Action::ResetGpu, ..first.clone() },
        XidRow { offer: Offer::SingleOnly, ..first.clone() },
        XidRow { work: Work::Drain, ..first.clone() },
        XidRow { hold_seconds: 1, ..first.clone() },
    ];
    let digests: std::collections::BTreeSet<_> = others.into_iter().chain([first]).map(table).collect();
    assert_eq!(digests.len(), 9);
    assert_ne!(XidExtension::default().digest(), table(row(200, Health::Degraded)));
}

#[test]
fn a_voted_table_is_read_back_as_it_was_written_and_takes_nothing_else() {
    let table = XidExtension { rows: vec![row(200, Health::Degraded)] };
    let text = serde_json::to_string(&table).unwrap();
    assert_eq!(serde_json::from_str::<XidExtension>(&text).unwrap(), table);
    for (from, to) in
        [("\"VotedReason\"", "\"two words\""), ("\"code\"", "\"extra\":1,\"code\""), ("\"workflow\"", "\"other\"")]
    {
        let wrong = text.replace(from, to);
        assert!(wrong != text && serde_json::from_str::<XidExtension>(&wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_text_of_a_line_panics_or_makes_a_link_better_than_its_decode(code in 0..200u32, detail in "\\PC{0,128}") {
        let meaning = XidPolicy::builtin().meaning(&event(code, Some(&detail)), None);
        if (144..=150).contains(&code) || code == 74 {
            prop_assert_eq!(meaning.state, Health::Unhealthy);
        }
        prop_assert!(meaning.hold >= Seconds(0));
    }

    #[test]
    fn a_voted_row_never_makes_a_report_milder(code in 1..180u32, unhealthy: bool, hold in 60..2_592_000u32) {
        let state = if unhealthy { Health::Unhealthy } else { Health::Degraded };
        let builtin = XidPolicy::builtin().meaning(&event(code, None), None);
        if let Ok(policy) = with(vec![XidRow { hold_seconds: hold, ..row(code, state) }]) {
            let voted = policy.meaning(&event(code, None), None);
            prop_assert!(voted.at_least(&builtin) || !XidPolicy::builtin().knows(Xid(code)), "{voted:?} {builtin:?}");
        }
    }
}
