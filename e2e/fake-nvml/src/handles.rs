//! Handles, and which device or instance each means.

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_MEMORY, nvmlReturn_enum_NVML_ERROR_NOT_FOUND, nvmlReturn_t,
};

use crate::scenario::{Device, MigInstance, Scenario, Text};

/// Some clients read through a handle, so each is real memory.
type Slot = [u64; 8];
/// One for every device and instance that was ever asked for, by identity: what moves to another index keeps its handle.
static SLOTS: [Slot; 4096] = [[0xfa4e_0000; 8]; 4096];

/// A device of the scenario, or an instance on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// The NVML index.
    pub(crate) device: usize,
    /// Where the instance stands in the device's list, which is not its NVML index.
    pub(crate) instance: Option<usize>,
}

/// Which device a call is about, as the client says it.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// None: the node.
    Library,
    Index(u32),
    Handle(nvmlDevice_t),
    /// None where the pointer is null.
    Uuid(Option<&'a [u8]>),
    /// Domain, bus and device; none where the client gave no such thing.
    Pci(Option<(u32, u32, u32)>),
}

/// Two devices with one UUID are told apart by their order.
#[derive(Clone, PartialEq, Eq)]
struct Identity {
    uuid: String,
    nth: usize,
    instance: Option<String>,
}

/// The handles that were given, in the order of [`SLOTS`].
pub(crate) struct Handles(Vec<Identity>);

impl Handles {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Finds what a call is about.
    pub(crate) fn resolve(&self, scenario: &Scenario, subject: Subject<'_>) -> Result<Option<Target>, nvmlReturn_t> {
        let invalid = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
        match subject {
            Subject::Library => Ok(None),
            Subject::Index(index) => usize::try_from(index)
                .ok()
                .filter(|index| *index < scenario.devices.len())
                .map(|device| Some(Target { device, instance: None }))
                .ok_or(invalid),
            Subject::Handle(handle) => {
                let slot = SLOTS.iter().position(|slot| std::ptr::addr_eq(slot, handle));
                let identity = slot.and_then(|slot| self.0.get(slot)).ok_or(invalid)?;
                scenario.target(identity).map(Some)
            }
            Subject::Uuid(uuid) => {
                let uuid = uuid.ok_or(invalid)?;
                scenario.named(uuid).map(Some).ok_or(nvmlReturn_enum_NVML_ERROR_NOT_FOUND)
            }
            Subject::Pci(address) => {
                let address = address.ok_or(invalid)?;
                let sits = |device: &Device| {
                    device.board.pci.as_ref().is_some_and(|pci| (pci.domain, pci.bus, pci.device) == address)
                };
                let device = scenario.devices.iter().position(sits).ok_or(nvmlReturn_enum_NVML_ERROR_NOT_FOUND)?;
                Ok(Some(Target { device, instance: None }))
            }
        }
    }

    /// The handle of a device or instance, the same each time.
    pub(crate) fn handle(&mut self, scenario: &Scenario, target: Target) -> Result<nvmlDevice_t, nvmlReturn_t> {
        let identity = scenario.identity(target).ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
        let slot = self.0.iter().position(|known| *known == identity).unwrap_or_else(|| {
            self.0.push(identity);
            self.0.len() - 1
        });
        let slot = SLOTS.get(slot).ok_or(nvmlReturn_enum_NVML_ERROR_MEMORY)?;
        Ok(std::ptr::from_ref(slot).cast_mut().cast())
    }
}

impl Scenario {
    pub(crate) fn device(&self, target: Target) -> Result<&Device, nvmlReturn_t> {
        self.devices.get(target.device).ok_or(nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST)
    }

    pub(crate) fn instance(&self, target: Target) -> Option<&MigInstance> {
        self.devices.get(target.device)?.mig_instances.get(target.instance?)
    }

    fn identity(&self, target: Target) -> Option<Identity> {
        let uuid = &self.devices.get(target.device)?.uuid;
        let nth = self.devices.iter().take(target.device).filter(|device| device.uuid == *uuid).count();
        Some(Identity { uuid: uuid.clone(), nth, instance: self.instance(target).map(|found| found.uuid.clone()) })
    }

    fn target(&self, identity: &Identity) -> Result<Target, nvmlReturn_t> {
        let same = self.devices.iter().enumerate().filter(|(_, device)| device.uuid == identity.uuid);
        // What was taken out of the machine is lost to whoever still holds its handle.
        let (index, device) = same.into_iter().nth(identity.nth).ok_or(nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST)?;
        let Some(uuid) = &identity.instance else { return Ok(Target { device: index, instance: None }) };
        // So does an instance that somebody has since destroyed.
        let instance = device.mig_enabled().then(|| device.instance_named(uuid.as_bytes())).flatten();
        let instance = instance.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_FOUND)?;
        Ok(Target { device: index, instance: Some(instance) })
    }

    fn named(&self, uuid: &[u8]) -> Option<Target> {
        self.devices.iter().enumerate().find_map(|(device, found)| {
            if found.uuid.as_bytes() == uuid {
                return Some(Target { device, instance: None });
            }
            let instance = found.mig_enabled().then(|| found.instance_named(uuid)).flatten()?;
            Some(Target { device, instance: Some(instance) })
        })
    }
}

impl Device {
    fn instance_named(&self, uuid: &[u8]) -> Option<usize> {
        self.mig_instances.iter().position(|instance| instance.uuid.as_bytes() == uuid)
    }
}

/// Reads `domain:bus:device.function` in hexadecimal, with or without domain and function.
pub(crate) fn bus_address(text: &[u8]) -> Option<(u32, u32, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.split_once('.').map_or(text, |(address, _)| address);
    let hex = |part: &str| u32::from_str_radix(part, 16).ok();
    let mut parts = text.split(':').rev().map(hex);
    let (device, bus) = (parts.next()??, parts.next()??);
    let domain = parts.next().unwrap_or(Some(0))?;
    parts.next().is_none().then_some((domain, bus, device))
}

/// The bytes of a text, none where it is absent or not such.
pub(crate) fn bytes(text: Option<&Text>) -> Option<Vec<u8>> {
    text.and_then(Text::bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_each_of_its_forms() {
        assert_eq!(bus_address(b"00000000:1B:00.0"), Some((0, 0x1b, 0)));
        assert_eq!(bus_address(b"0001:1b:1f.7"), Some((1, 0x1b, 0x1f)));
        assert_eq!(bus_address(b"1b:00.0"), Some((0, 0x1b, 0)));
        for wrong in ["", "1b", "0:0:0:0.0", "x:1b:00.0", "\u{fc}:00"] {
            assert_eq!(bus_address(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
