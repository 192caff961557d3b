//! The instances of a divided device.

use super::super::wire::{Raw, RawInstance, code};
use super::device::memory;
use super::raw::{Handle, Library};

/// No GPU has more slots than 7 today. A library that claims more is asked for no more than these.
const MAX_SLOTS: u32 = 16;
/// Somebody may divide the device anew while it is read. So often it is read again.
const RETRIES: u32 = 2;

/// All of them, as they stood together at one time.
pub(super) fn instances(library: &Library, device: Handle, mode: &Raw<(u32, u32)>) -> Raw<Vec<RawInstance>> {
    match mode {
        Raw::Value((0, _)) => return Raw::Value(Vec::new()),
        Raw::Value(_) => {}
        whole if whole.is_unsupported() => return Raw::Value(Vec::new()),
        _ => return Raw::NotAsked,
    }
    // The most that there can be, not how many there are: the others' slots are not found.
    let slots = match library.max_instances(device) {
        Raw::Value(slots) => slots.min(MAX_SLOTS),
        not => return not.and_then(|_| Raw::NotAsked),
    };
    for _ in 0..=RETRIES {
        match read(library, device, slots) {
            Ok(instances) => return Raw::Value(instances),
            Err(Interrupted::Changed) => {}
            Err(Interrupted::Failed(why)) => return why,
        }
    }
    Raw::Unstable
}

enum Interrupted {
    Changed,
    Failed(Raw<Vec<RawInstance>>),
}

fn read(library: &Library, device: Handle, slots: u32) -> Result<Vec<RawInstance>, Interrupted> {
    let mut found = Vec::new();
    for slot in 0..slots {
        let handle = match library.instance(device, slot) {
            Raw::Value(handle) => handle,
            Raw::Code(code::NOT_FOUND) => continue,
            not => return Err(Interrupted::Failed(not.and_then(|_| Raw::NotAsked))),
        };
        let instance = RawInstance {
            uuid: library.uuid(handle),
            gpu_instance: library.gpu_instance(handle),
            compute_instance: library.compute_instance(handle),
            slices: library.attributes(handle).map(|attributes| attributes.computeInstanceSliceCount),
            memory: memory(library, handle),
        };
        if gone(&instance) {
            return Err(Interrupted::Changed);
        }
        found.push(instance);
    }
    Ok(found)
}

/// It was there when its handle was given, and no longer when it was asked: the device is being divided anew.
fn gone(instance: &RawInstance) -> bool {
    const GONE: u32 = code::NOT_FOUND;
    instance.uuid == Raw::Code(GONE)
        || instance.gpu_instance == Raw::Code(GONE)
        || instance.compute_instance == Raw::Code(GONE)
        || instance.slices == Raw::Code(GONE)
        || instance.memory == Raw::Code(GONE)
}
