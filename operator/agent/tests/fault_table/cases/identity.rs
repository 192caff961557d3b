//! Names and UUIDs that are none: F22, F23.

use fake_nvml::{Device, Text};

use crate::cell::Case;
use crate::observed;
use crate::scene::TARGET;

pub fn cases() -> Vec<Case> {
    let unread = "Unknown(IncompleteReading) Keep NotHealthy";
    let twice = "Unknown(DuplicateUUID) Keep NotHealthy";
    vec![
        Case::of("F22", "a name of 96 bytes")
            .strikes(|scene| scene.target().name = Some("H".repeat(96).as_str().into()))
            .target(unread),
        Case::of("F22", "a name of a mebibyte")
            .strikes(|scene| scene.target().name = Some("H".repeat(1 << 20).as_str().into()))
            .target(unread),
        Case::of("F22", "a name that is no text")
            .strikes(|scene| scene.target().name = Some(Text::Hex { hex: "4831fffe3030".to_owned() }))
            .target(unread),
        Case::of("F22", "a name of no product")
            .strikes(|scene| scene.target().name = Some("nvidia.com/gpu=all; drop".into()))
            .also(|_, status, _| {
                let class = observed::row(status, TARGET).and_then(|row| row.class.clone()).unwrap_or_default();
                let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
                (!class.is_empty() && class.bytes().all(plain)).then_some(()).ok_or(format!("its class is {class:?}"))
            }),
        Case::of("F22", "a name with line breaks and control characters")
            .strikes(|scene| scene.target().name = Some("NVIDIA H100\"} 1\n# HELP x\u{1b}[31m\r".into()))
            .also(|_, status, _| {
                let product = observed::row(status, TARGET).and_then(|row| row.product.clone());
                let wanted = "NVIDIA H100\"} 1 # HELP x?[31m";
                (product.as_deref() == Some(wanted)).then_some(()).ok_or(format!("it is called {product:?}"))
            }),
        Case::of("F23", "two devices with one UUID")
            .strikes(|scene| {
                let twin = Device { uuid: Device::bare(TARGET).uuid, ..Device::h100(9) };
                let place = scene.seed.below(3, scene.scenario.devices.len() + 1);
                scene.scenario.devices.insert(place, twin);
            })
            .target(twice)
            .also(|_, status, _| {
                let rows = status.devices.iter().filter(|row| row.uuid == Device::bare(TARGET).uuid).count();
                (rows == 1).then_some(()).ok_or(format!("{rows} rows"))
            }),
    ]
}
