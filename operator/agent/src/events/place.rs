//! Which device sits where on the bus, as the last surveys found it.

use std::collections::BTreeMap;

use koinon_core::gpu::device::Device;
use koinon_core::ids::DeviceId;

/// Twice as many as a node may have: devices may be exchanged while it runs.
const MAX_PLACES: usize = 256;

/// A place on the bus. A GPU is the first function of its device, and old kernels' lines leave the function out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BusId {
    domain: u32,
    bus: u8,
    device: u8,
}

impl BusId {
    /// Reads `0000:3b:00`, `00000000:3B:00.0` and `3b:00.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let (place, function) = text.split_once('.').unwrap_or((text, "0"));
        hexadecimal(function, 1)?;
        let mut parts = place.rsplitn(3, ':');
        let (device, bus) = (parts.next()?, parts.next()?);
        let domain = parts.next().unwrap_or("0");
        Some(Self {
            domain: hexadecimal(domain, 8)?,
            bus: u8::try_from(hexadecimal(bus, 2)?).ok()?,
            device: u8::try_from(hexadecimal(device, 2)?).ok()?,
        })
    }
}

fn hexadecimal(text: &str, most: usize) -> Option<u32> {
    let fits = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// Devices by their place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusMap(BTreeMap<BusId, Option<DeviceId>>);

impl BusMap {
    /// Learns where the devices of a survey sit. What it no longer finds keeps its place: a device that fell off the bus is
    /// spoken of only after it fell.
    pub fn learn(&mut self, devices: &[Device]) {
        let places: Vec<(BusId, &DeviceId)> = devices
            .iter()
            .filter_map(|device| {
                let place = device.identity.pci_bus_id.known().and_then(|bus| BusId::parse(bus.as_str()))?;
                Some((place, &device.id))
            })
            .collect();
        for (place, device) in &places {
            if self.0.len() >= MAX_PLACES && !self.0.contains_key(place) {
                continue;
            }
            let alone = places.iter().filter(|(other, _)| other == place).count() == 1;
            self.0.insert(*place, alone.then(|| (*device).clone()));
        }
    }

    /// The device at a place. None if there is none that is known, or two say that they are there.
    pub fn device(&self, place: BusId) -> Option<&DeviceId> {
        self.0.get(&place).and_then(Option::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::survey::judge_for_tests;

    fn uuid(number: u32) -> String {
        format!("GPU-fa4e0000-0000-4000-8000-{number:012}")
    }

    fn devices(places: &[(u32, &str)]) -> Vec<Device> {
        let devices: Vec<_> = places
            .iter()
            .map(|(number, place)| {
                let said = json!({"uuidAgain": {"value": uuid(*number)}, "busId": {"value": place}});
                json!({"index": number, "uuid": {"value": uuid(*number)}, "said": said})
            })
            .collect();
        let survey = judge_for_tests(&json!({"read": {
            "driverVersion": "noSymbol", "nvmlVersion": "noSymbol", "cudaVersion": "noSymbol",
            "count": devices.len(), "devices": devices,
        }}));
        survey.devices
    }

    fn at<'a>(map: &'a BusMap, place: &str) -> Option<&'a str> {
        map.device(BusId::parse(place).unwrap()).map(DeviceId::as_str)
    }

    #[test]
    fn a_device_is_found_by_every_way_to_write_its_place() {
        let mut map = BusMap::default();
        map.learn(&devices(&[(1, "00000000:3B:00.0"), (2, "00000001:3B:00.0")]));
        for place in ["0000:3b:00", "00000000:3B:00.0", "3b:00.0", "0000:3b:00.0"] {
            assert_eq!(at(&map, place), Some(uuid(1).as_str()), "{place}");
        }
        assert_eq!(at(&map, "0001:3b:00"), Some(uuid(2).as_str()));
        assert_eq!(at(&map, "0000:3c:00"), None);
        for odd in ["", ":", "3b", "0000:3b:00:00", "+1:3b:00", "0000:3b:00.", "000000000:3b:00", "0000:3bb:00"] {
            assert_eq!(BusId::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_device_that_is_gone_is_still_the_one_that_sat_there_until_another_does() {
        let mut map = BusMap::default();
        map.learn(&devices(&[(1, "00000000:3B:00.0")]));
        map.learn(&[]);
        assert_eq!(at(&map, "3b:00.0"), Some(uuid(1).as_str()));
        map.learn(&devices(&[(2, "00000000:3B:00.0")]));
        assert_eq!(at(&map, "3b:00.0"), Some(uuid(2).as_str()));
    }

    #[test]
    fn of_two_at_one_place_neither_is_accused() {
        let mut map = BusMap::default();
        map.learn(&devices(&[(1, "00000000:3B:00.0"), (2, "00000000:3B:00.0")]));
        assert_eq!(at(&map, "3b:00.0"), None);
    }

    #[test]
    fn no_number_of_places_fills_the_memory() {
        let mut map = BusMap::default();
        for bus in 0..2000_u32 {
            map.learn(&devices(&[(bus, &format!("{:08X}:{:02X}:00.0", bus / 256, bus % 256))]));
        }
        assert_eq!(map.0.len(), MAX_PLACES);
    }
}
