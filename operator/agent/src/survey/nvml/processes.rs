//! Who uses a device.

use super::super::wire::{Raw, RawProcess, RawProcesses};
use super::raw::{Handle, Library, List, Listed};

/// More than share a device in earnest; a list that is longer is not read, and what uses the device is unknown.
const MAX_PROCESSES: u32 = 1024;
/// Enough for most lists at the first call.
const FIRST_ROOM: u32 = 64;
/// Processes may come faster than the list is asked. So often one device's lists are asked again, all of them together.
const RETRIES: u32 = 3;
const LISTS: u32 = 3;

/// All lists, by no more than so many calls.
pub(super) fn processes(library: &Library, device: Handle, calls: u32) -> RawProcesses {
    let mut retries = calls.saturating_sub(LISTS).min(RETRIES);
    let mut list = |list| whole(library, device, list, &mut retries);
    RawProcesses { compute: list(List::Compute), graphics: list(List::Graphics), mps: list(List::Mps) }
}

fn whole(library: &Library, device: Handle, list: List, retries: &mut u32) -> Raw<Vec<RawProcess>> {
    let mut room = FIRST_ROOM;
    loop {
        let needed = match library.processes(list, device, room) {
            Listed::Whole(found) => {
                let process = |info: &nvml_wrapper_sys::bindings::nvmlProcessInfo_t| {
                    RawProcess(info.pid, info.usedGpuMemory, info.gpuInstanceId, info.computeInstanceId)
                };
                return Raw::Value(found.iter().map(process).collect());
            }
            Listed::Not(why) => return why.and_then(|()| Raw::NotAsked),
            Listed::More(needed) => needed,
        };
        if needed > MAX_PROCESSES {
            return Raw::TooMany;
        }
        if *retries == 0 {
            return Raw::Unstable;
        }
        *retries -= 1;
        // Half as many again: what came since comes on.
        room = needed.saturating_add(needed / 2).max(room.saturating_mul(2)).min(MAX_PROCESSES);
    }
}
