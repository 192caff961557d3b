//! Values by number: each with a type, a time and a code of its own.

#![allow(unsafe_code)] // for the symbols that the wrapper does not wrap.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

mod common;

use common::{Loaded, distinct, sampled, zeroed};
use fake_nvml::{Device, Field, FieldValue, Scenario};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper_sys::bindings::*;

#[test]
fn fields_follow_from_the_other_values() {
    let node = Loaded::with(&Scenario::of(vec![distinct().but(|d| d.errors.recovery_action = Some(4))]));
    let nvml = node.nvml();
    let device = nvml.device_by_index(0).unwrap();
    let ids = [1, 2, 3, 4, 5, 6, 82, 83, 91, 94, 142, 143, 144, 145, 230, 226];
    let samples = device.field_values_for(&ids.map(FieldId)).unwrap();
    let small = |value| Ok(SampleValue::U32(value));
    let large = |value| Ok(SampleValue::U64(value));
    let expected = [
        small(1),
        small(0),
        large(11),
        large(13),
        large(12),
        large(u64::MAX),
        small(40),
        large(1_234_567_890),
        small(18),
        small(7),
        small(41),
        small(42),
        small(1),
        small(0),
        small(4),
        Err(3),
    ];
    for (position, expected) in expected.into_iter().enumerate() {
        assert_eq!(sampled(&samples, position), expected, "field {}", ids[position]);
    }
    let mut limits: [nvmlFieldValue_t; 4] = zeroed();
    for (id, limit) in (193..).zip(&mut limits) {
        limit.fieldId = id;
    }
    // SAFETY: four fields.
    assert_eq!(unsafe { node.raw.nvmlDeviceGetFieldValues(device.handle(), 4, limits.as_mut_ptr()) }, 0);
    // SAFETY: the type says which member was written.
    let read = limits.map(|limit| (limit.nvmlReturn, limit.valueType, unsafe { limit.value.siVal }));
    assert_eq!(read, [(0, 5, -8), (0, 5, -2), (0, 5, 0), (0, 5, 0)]);
    assert!(limits[0].timestamp > 1_700_000_000_000_000, "microseconds since 1970: {}", limits[0].timestamp);
}

#[test]
fn a_field_may_answer_whatever_the_scenario_says() {
    let values = [
        FieldValue::Double(0.5),
        FieldValue::UnsignedLong(7),
        FieldValue::SignedLongLong(-7),
        FieldValue::UnsignedInt(1),
    ];
    let mut fields: Vec<Field> = (10..).zip(values).map(|(id, value)| Field::of(id, value)).collect();
    fields.push(Field { code: Some(21), ..Field::of(230, FieldValue::UnsignedInt(0)) });
    fields.push(Field { labelled: Some(270), ..Field::of(252, FieldValue::UnsignedLongLong(99)) });
    fields.push(Field { timestamp_microseconds: Some(-5), ..Field::of(83, FieldValue::UnsignedLongLong(0)) });
    let node = Loaded::with(&Scenario::of(vec![Device { fields, ..Device::h100(1) }]));
    let nvml = node.nvml();
    let device = nvml.device_by_index(0).unwrap();
    let samples = device.field_values_for(&[252, 10, 11, 12, 13, 230, 83, 9999].map(FieldId)).unwrap();
    assert_eq!(samples[0].as_ref().unwrap().field, FieldId(270), "only the position tells which field this is");
    assert_eq!(sampled(&samples, 0), Ok(SampleValue::U64(99)));
    assert_eq!(sampled(&samples, 1), Ok(SampleValue::F64(0.5)));
    assert_eq!(sampled(&samples, 2), Ok(SampleValue::U32(7)));
    assert_eq!(sampled(&samples, 3), Ok(SampleValue::I64(-7)));
    assert_eq!(sampled(&samples, 4), Ok(SampleValue::U32(1)));
    assert_eq!(sampled(&samples, 5), Err(21));
    assert_eq!((sampled(&samples, 6), samples[6].as_ref().unwrap().timestamp), (Ok(SampleValue::U64(0)), -5));
    assert_eq!(sampled(&samples, 7), Err(3));
}
