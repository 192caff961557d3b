//! How much memory there is.

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlMemory_v2_t, nvmlReturn_t};

use super::exports;
use crate::reply::put_versioned;
use crate::scenario::MemoryUse;

exports! {
    /// What is neither reserved nor used is free.
    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) -> nvmlReturn_t {
        SYMBOL.on_part(device, |found, instance| {
            let (total, part) = instance.map_or((found.memory_bytes, found.memory), |part| (part.memory_bytes, part.memory));
            unsafe { put_versioned(memory, total.map(|total| memory_of(total, part))) }
        })
    }
}

fn memory_of(total: u64, part: MemoryUse) -> nvmlMemory_v2_t {
    let MemoryUse { reserved_bytes: reserved, used_bytes: used } = part;
    nvmlMemory_v2_t { version: 0, total, reserved, free: total.saturating_sub(reserved).saturating_sub(used), used }
}
