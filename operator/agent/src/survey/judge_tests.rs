use proptest::prelude::*;

use super::*;

const ONE: &str = "GPU-fa4e0000-0000-4000-8000-000000000001";

fn device(index: u32, uuid: &str) -> RawDevice {
    RawDevice {
        index,
        uuid: Raw::Value(uuid.to_owned()),
        product: Raw::Value("NVIDIA H100 80GB HBM3".to_owned()),
        memory_bytes: Raw::Value(85_520_809_984),
        mig: Raw::Value((0, 0)),
    }
}

fn survey(devices: Vec<RawDevice>) -> Survey {
    let count = u32::try_from(devices.len()).unwrap();
    judge(&printed(&Answer::Read(Readings {
        driver_version: Raw::Value("0.0-fake".to_owned()),
        nvml_version: Raw::Code(3),
        cuda_version: Raw::NoSymbol,
        count,
        devices,
    })))
}

fn printed(answer: &Answer) -> Vec<u8> {
    format!("\n{MARK}{}\n", serde_json::to_string(answer).unwrap()).into_bytes()
}

#[test]
fn a_value_that_is_not_supported_is_neither_zero_nor_a_fault() {
    let bare = RawDevice { product: Raw::Code(3), memory_bytes: Raw::Code(3), mig: Raw::NoSymbol, ..device(0, ONE) };
    let survey = survey(vec![bare]);
    assert_eq!(survey.devices[0].memory, Reading::Unsupported);
    assert_eq!(survey.devices[0].mig, Reading::Unsupported);
    assert_eq!(survey.devices[0].health, Health::Healthy);
}

#[test]
fn a_value_that_could_not_be_read_makes_the_device_unknown() {
    for failed in [1, 2, 4, 23, 25, 27, 999] {
        let survey = survey(vec![RawDevice { memory_bytes: Raw::Code(failed), ..device(0, ONE) }]);
        assert_eq!(survey.devices[0].memory.known(), None);
        assert_eq!(survey.devices[0].health, Health::Unknown(HealthReason::ReadFailed), "code {failed}");
    }
}

#[test]
fn a_device_that_is_lost_after_it_said_its_uuid_is_unhealthy() {
    for lost in [15, 28] {
        let survey = survey(vec![RawDevice { memory_bytes: Raw::Code(lost), ..device(0, ONE) }]);
        assert_eq!(survey.devices[0].health, Health::Unhealthy(HealthReason::GpuLost));
    }
}

#[test]
fn a_device_that_needs_a_reset_is_unhealthy() {
    let survey = survey(vec![RawDevice { mig: Raw::Code(16), ..device(0, ONE) }]);
    assert_eq!(survey.devices[0].health, Health::Unhealthy(HealthReason::ResetRequired));
}

#[test]
fn a_device_without_a_usable_uuid_is_counted_but_not_listed() {
    let lost = RawDevice { uuid: Raw::Code(15), ..device(0, ONE) };
    let odd = device(1, "GPU-fa4e0000-../../etc/passwd");
    let survey = survey(vec![lost, odd, device(2, ONE)]);
    assert_eq!((survey.devices.len(), survey.lost_unidentified, survey.other_unidentified), (1, 1, 1));
    assert_eq!(survey.devices[0].health, Health::Healthy);
}

#[test]
fn two_devices_with_one_uuid_are_both_unknown_and_a_third_is_not() {
    let other = "GPU-fa4e0000-0000-4000-8000-000000000002";
    let survey = survey(vec![device(0, ONE), device(1, other), device(2, ONE)]);
    let states: Vec<Health> = survey.devices.iter().map(|device| device.health).collect();
    let twice = Health::Unknown(HealthReason::DuplicateUuid);
    assert_eq!(states, [twice, Health::Healthy, twice]);
}

#[test]
fn a_name_cannot_break_a_line_or_a_label() {
    let hostile = RawDevice { product: Raw::Value("H100\n\u{202e}\"} 1\u{7}\0".to_owned()), ..device(0, ONE) };
    assert_eq!(survey(vec![hostile]).devices[0].product.known().unwrap().as_str(), "H100 ?\"} 1??");
    let long = RawDevice { product: Raw::Value("x".repeat(100_000)), ..device(0, ONE) };
    assert_eq!(survey(vec![long]).devices[0].product.known().unwrap().as_str().len(), 95);
    let blank = RawDevice { product: Raw::Value(" \n".to_owned()), ..device(0, ONE) };
    assert_eq!(survey(vec![blank]).devices[0].product, Reading::Unknown(Gap::Implausible));
}

#[test]
fn memory_that_no_device_has_is_not_believed() {
    for bytes in [0, u64::MAX, 17 << 40] {
        let survey = survey(vec![RawDevice { memory_bytes: Raw::Value(bytes), ..device(0, ONE) }]);
        assert_eq!(survey.devices[0].memory, Reading::Unknown(Gap::Implausible), "{bytes}");
    }
}

#[test]
fn what_the_library_prints_beside_the_answer_is_passed_over() {
    let mut output = b"NVRM: hello".to_vec();
    output.extend(printed(&Answer::Failed(Failed {
        failure: Failure::DriverNotLoaded,
        code: Some(9),
        message: "driver\nnot loaded".to_owned(),
    })));
    output.extend(b"goodbye\n");
    let nvml = judge(&output).nvml;
    let message = "driver not loaded".to_owned();
    assert_eq!(nvml, Nvml::Failed { failure: Failure::DriverNotLoaded, code: Some(9), message });
}

#[test]
fn no_answer_two_answers_and_half_an_answer_are_garbled() {
    let one = printed(&Answer::Failed(Failed { failure: Failure::Error, code: None, message: String::new() }));
    for output in
        [b"".to_vec(), b"hello\n".to_vec(), [one.clone(), one.clone()].concat(), one[..one.len() - 4].to_vec()]
    {
        assert_eq!(judge(&output).failure(), Some(Failure::Garbled), "{}", String::from_utf8_lossy(&output));
    }
}

#[test]
fn more_devices_than_the_cap_are_garbled() {
    let devices = (0..=MAX_DEVICES).map(|index| device(index, ONE)).collect();
    assert_eq!(survey(devices).failure(), Some(Failure::Garbled));
}

proptest! {
    #[test]
    fn any_output_is_judged_without_a_panic_and_yields_no_more_than_the_cap(
        noise in proptest::collection::vec(any::<u8>(), 0..400),
        marked in any::<bool>(),
    ) {
        let output = if marked { [MARK.as_bytes(), &noise].concat() } else { noise };
        prop_assert!(judge(&output).devices.len() <= MAX_DEVICES as usize);
    }

    #[test]
    fn a_name_is_always_short_printable_ascii(text in any::<String>()) {
        let clean = readable(&text, 95);
        prop_assert!(clean.len() <= 95 && clean.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
}
