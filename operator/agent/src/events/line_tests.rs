use proptest::prelude::*;

use super::*;

fn bus(place: &str) -> Named {
    Named::Bus(BusId::parse(place).unwrap())
}

fn said(line: &str) -> (Named, u32) {
    let said = parse(line).unwrap_or_else(|| panic!("{line}"));
    assert!(said.coded, "{line}");
    (said.named, said.xid.0)
}

/// As drivers of ten years wrote them.
#[test]
fn every_form_of_the_line_is_read() {
    for (line, place, code) in [
        ("NVRM: Xid (0000:01:00): 56, CMDre 00000000 00000080 00000000 00000005 00000034", "0000:01:00", 56),
        ("NVRM: Xid (PCI:0000:01:00): 32, Channel ID 00000000 intr 00004000", "0000:01:00", 32),
        ("NVRM: Xid (PCI:0000:01:00): 31, Ch 00000003, engmask 00000101, intr 10000000", "0000:01:00", 31),
        ("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.", "0000:01:00", 79),
        ("NVRM: Xid (PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus.", "0000:01:00", 79),
        (
            "NVRM: Xid (PCI:0002:00:00): 79, pid=1582259, name=nvc:[driver], GPU has fallen off the bus.",
            "0002:00:00",
            79,
        ),
        (
            "NVRM: Xid (PCI:0000:cb:00): 13, pid='<unknown>', name=<unknown>, Graphics Exception: ESR 0x57c730=0xc04000b",
            "0000:cb:00",
            13,
        ),
        (
            "NVRM: Xid (PCI:0000:cb:00): 109, pid=1797828, name=pt_main_thread, Ch 00000008, errorString CTX SWITCH TIMEOUT",
            "0000:cb:00",
            109,
        ),
        (
            "NVRM: Xid (PCI:0000:dc:00): 45, pid=1818990, name=python3, Ch 00000001 caused by previous Xid 149",
            "0000:dc:00",
            45,
        ),
        ("NVRM: Xid (PCI:0000:00:05): 43, pid=1045242, name=pt_main_thread, Ch 00000008", "0000:00:05", 43),
        (
            "NVRM: Xid (PCI:0000:00:08): 94, pid='<unknown>', name=<unknown>, Contained: SM (0x1). RST: No, D-RST: No",
            "0000:00:08",
            94,
        ),
        (
            "NVRM: Xid (PCI:0019:01:00): 149, NETIR Fatal XC0 i0 Link -1 (0x000fe406 0x00000000 0x00000000)",
            "0019:01:00",
            149,
        ),
        (
            "NVRM: Xid (PCI:0018:01:00): 145, RLW_RXPIPE Nonfatal XC0 i0 Link 13 (0x0409a0c2 0x00000008)",
            "0018:01:00",
            145,
        ),
        (
            "NVRM: Xid (PCI:0000:02:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
            "0000:02:00",
            154,
        ),
        (
            "NVRM: Xid (PCI:0000:07:00): 63, Row Remapper: New row (0x00000000abc) marked for remapping, reset gpu to activate.",
            "0000:07:00",
            63,
        ),
        ("NVRM: Xid (PCI:0000:b3:00.0): 79, pid=12345, GPU has fallen off the bus.", "0000:b3:00", 79),
        ("NVRM: NVRM: Xid (PCI:0001:00:00.0): 79, GPU has fallen off the bus", "0001:00:00", 79),
        ("NVRM: Xid (PCI:00000000:3B:00.0): 48", "0000:3b:00", 48),
        ("[24128.828315] NVRM: Xid (PCI:0000:01:00): 4000, a code of tomorrow", "0000:01:00", 4000),
    ] {
        assert_eq!(said(line), (bus(place), code), "{line}");
    }
}

#[test]
fn a_device_may_be_named_by_its_uuid() {
    let uuid = "GPU-fa4e0000-0000-4000-8000-000000000001";
    let line = format!("NVRM: Xid ({uuid}): 95, pid=1, name=x, Uncontained ECC error");
    assert_eq!(said(&line), (Named::Device(uuid.parse().unwrap()), 95));
}

#[test]
fn an_instance_is_named_with_and_without_its_compute_instance() {
    let place = |line: &str| parse(line).unwrap().place.map(|place| (place.gpu_instance, place.compute_instance));
    let contained =
        "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No";
    assert_eq!(place(contained), Some((5, u32::MAX)));
    assert_eq!(
        place("NVRM: Xid (PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 13, pid=9, name=a, Graphics Exception"),
        Some((1, 2))
    );
    assert_eq!(place("NVRM: Xid (PCI:0000:3b:00 GPU-I:99999): 13, pid=9"), None);
    assert_eq!(place("NVRM: Xid (PCI:0000:3b:00): 13, pid=9"), None);
}

#[test]
fn what_follows_the_number_is_kept_short_and_printable() {
    let detail = |line: &str| parse(line).unwrap().detail;
    let line = "NVRM: Xid (PCI:0000:cb:00): 149, NETIR\u{1b}[31m Fatal\nxx";
    assert_eq!(detail(line).as_deref(), Some("NETIR?[31m Fatal xx"));
    assert_eq!(detail("NVRM: Xid (PCI:0000:cb:00): 48"), None);
    let long = format!("NVRM: Xid (PCI:0000:cb:00): 48, {}", "x".repeat(100_000));
    assert_eq!(detail(&long).map(|text| text.len()), Some(128));
}

#[test]
fn a_device_that_fell_off_the_bus_is_heard_without_a_code() {
    for line in [
        "NVRM: GPU at 0000:b3:00.0 has fallen off the bus.",
        "NVRM: GPU 0000:b3:00.0: GPU has fallen off the bus.",
        "NVRM: GPU at PCI:0000:b3:00 has fallen off the bus.",
        "NVRM: The NVIDIA GPU 0000:b3:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has\\x0aNVRM: fallen off the bus and is not responding to commands.",
        "NVRM: The NVIDIA GPU 0000:b3:00.0\n               NVRM: (PCI ID: 10de:26b5) installed in this system has\n               NVRM: fallen off the bus and is not responding to commands.",
    ] {
        let said = parse(line).unwrap_or_else(|| panic!("{line}"));
        assert_eq!((said.named, said.xid, said.coded), (bus("0000:b3:00"), Xid(79), false), "{line}");
    }
}

#[test]
fn what_is_not_the_drivers_report_of_a_gpu_is_passed_over() {
    for line in [
        "",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.183.01",
        "NVRM: GPU at PCI:0000:00:05: GPU-efbdfde9-5798-a6e7-4c46-12518fa15375",
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        "NVRM: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30",
        "Xid (PCI:0000:01:00): 79, said by something else than the driver",
        "NVRM: Xid (PCI:0000:01:00): , no number",
        "NVRM: Xid (PCI:0000:01:00): 79x",
        "NVRM: Xid (PCI:0000:01:00): 99999999999999999999",
        "NVRM: Xid (PCI:0000:01:00): -1",
        "NVRM: Xid (PCI:zz:01:00): 79",
        "NVRM: Xid (PCI:0000:01): 79",
        "NVRM: Xid (): 79",
        "NVRM: Xid (PCI:0000:01:00",
        "NVRM: Xid (GPU-../../etc): 79",
        "eth0: the NIC of GPU node 3 has fallen off the bus",
        "NVRM: GPU nobody has fallen off the bus",
    ] {
        assert_eq!(parse(line), None, "{line}");
    }
}

#[test]
fn a_record_of_the_kernel_has_a_number_a_time_and_a_text() {
    let text = "NVRM: Xid (PCI:0000:01:00): 79; with a semicolon";
    assert_eq!(record(&format!("4,1399,2345678,-;{text}")), Some((1399, 2_345_678, text)));
    assert_eq!(record("4,1399,2345678,c,caller=T1;hello"), Some((1399, 2_345_678, "hello")));
    for bad in ["", "hello", ";", "4;x", "4,x,1,-;y", "4,1,-1,-;y"] {
        assert_eq!(record(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_line_makes_it_panic_and_what_it_keeps_is_bounded(
        before in ".{0,40}", subject in ".{0,60}", after in ".{0,300}",
    ) {
        for line in [
            format!("{before}{subject}{after}"),
            format!("NVRM: Xid ({subject}): {after}"),
            format!("NVRM: Xid (PCI:0000:01:00 {subject}): 79{after}"),
            format!("{before}NVRM: GPU {subject} has fallen off the bus{after}"),
        ] {
            let _ = record(&line);
            if let Some(said) = parse(&line) {
                let detail = said.detail.unwrap_or_default();
                prop_assert!(detail.len() <= MAX_DETAIL_CHARS && detail.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }
    }
}
