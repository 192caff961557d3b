//! Who uses a device, and the instances into which it is divided.

#![allow(unsafe_code)] // for the symbols that the wrapper does not wrap.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

mod common;

use common::{Loaded, same, sampled, zeroed};
use fake_nvml::{Device, Process, ProcessList, Scenario};
use nvml_wrapper::enum_wrappers::device::{EccCounter as Scope, MemoryError};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::structs::device::FieldId;

#[test]
fn processes_are_listed_kind_by_kind() {
    let mut device = Device::h100(1);
    let unknown = Process { used_bytes: None, gi: Some(1), ci: Some(2), ..Process::new(77, 0) };
    device.processes.compute = Some(ProcessList::of(vec![Process::new(42, 1 << 30), unknown]));
    device.processes.graphics = Some(ProcessList::of((1..=10_000).map(|pid| Process::new(pid, 1)).collect()));
    device.processes.mps = None;
    let node = Loaded::with(&Scenario::of(vec![device, Device::h100(2)]));
    let nvml = node.nvml();
    let found = nvml.device_by_index(0).unwrap();
    let compute = found.running_compute_processes().unwrap();
    let read: Vec<_> =
        compute.into_iter().map(|p| (p.pid, p.used_gpu_memory, p.gpu_instance_id, p.compute_instance_id)).collect();
    assert_eq!(read[0], (42, UsedGpuMemory::Used(1 << 30), None, None));
    assert_eq!(read[1..], [(77, UsedGpuMemory::Unavailable, Some(1), Some(2))]);
    assert_eq!(found.running_graphics_processes().unwrap().len(), 10_000);
    same("mps", found.mps_running_compute_processes().map(|list| list.len()), None);
    let idle = nvml.device_by_index(1).unwrap();
    assert_eq!(idle.running_compute_processes().unwrap().len(), 0, "none is not the same as not supported");
    assert_eq!(idle.mps_running_compute_processes().unwrap().len(), 0);
}

#[test]
fn a_list_of_processes_may_grow_between_two_calls() {
    let grows = |times| ProcessList { grows_by: 20, grows_times: times, ..ProcessList::of(vec![Process::new(1, 1)]) };
    let mut device = Device::h100(1);
    device.processes.compute = Some(grows(None));
    device.processes.graphics = Some(grows(Some(3)));
    let node = Loaded::with(&Scenario::of(vec![device]));
    let nvml = node.nvml();
    let found = nvml.device_by_index(0).unwrap();
    for attempt in 0..3 {
        let error = found.running_compute_processes().map_err(u32::from).err();
        assert_eq!(error, Some(7), "attempt {attempt}: more came than the wrapper left room for");
    }
    assert_eq!(found.running_graphics_processes().map_err(u32::from).err(), Some(7));
    assert_eq!(found.running_graphics_processes().map_err(u32::from).err(), Some(7));
    assert_eq!(found.running_graphics_processes().unwrap().len(), 61, "it has stopped growing");
}

#[test]
fn an_instance_has_a_handle_and_values_of_its_own() {
    let mut parent = Device::h100(1).divided(3);
    parent.mig_instances.remove(1);
    parent.mig_instances[1].memory.used_bytes = 10;
    let on_instance = |pid, gi| Process { gi: Some(gi), ci: Some(0), ..Process::new(pid, 6) };
    parent.processes.compute = Some(ProcessList::of(vec![Process::new(1, 2), on_instance(5, 9), on_instance(6, 7)]));
    let given = parent.mig_instances[1].clone();
    let node = Loaded::with(&Scenario::of(vec![Device::h100(9), parent.clone()]));
    let nvml = node.nvml();
    let device = nvml.device_by_index(1).unwrap();
    assert_eq!(device.mig_device_count().unwrap(), 7, "the most there can be");
    assert_eq!(nvml.device_by_index(0).unwrap().mig_device_count().unwrap(), 0);
    assert_eq!(nvml.device_by_index(0).unwrap().mig_device_by_index(0).map(drop).map_err(u32::from), Err(6));
    assert_eq!(device.mig_device_by_index(1).map(drop).map_err(u32::from), Err(6), "nothing is in this place");
    assert_eq!(device.mig_device_by_index(7).map(drop).map_err(u32::from), Err(2), "there is no such place");
    let found = device.mig_device_by_index(2).unwrap();
    assert_eq!(found.uuid().unwrap(), "MIG-fa4e0000-0002-4000-8000-000000000001");
    assert_eq!(found.name().unwrap(), "NVIDIA H100 80GB HBM3 MIG 1g.10gb");
    let memory = found.memory_info().unwrap();
    assert_eq!((Some(memory.total), memory.used), (given.memory_bytes, 10));
    let attributes = found.attributes().unwrap();
    assert_eq!((attributes.multiprocessor_count, attributes.gpu_instance_slice_count), (16, 1));
    assert_eq!(attributes.memory_size_mb, 10_194);
    assert_eq!(found.mig_parent_device().unwrap().uuid().unwrap(), parent.uuid);
    let pids = |part: &nvml_wrapper::Device<'_>| {
        part.running_compute_processes().unwrap().into_iter().map(|process| process.pid).collect::<Vec<_>>()
    };
    assert_eq!((pids(&found), pids(&device)), (vec![5], vec![1, 5, 6]));
    assert_eq!(nvml.device_by_uuid(given.uuid.as_str()).unwrap().uuid().unwrap(), given.uuid);
    let ids = |handle| {
        let (mut gi, mut ci) = (0, 0);
        // SAFETY: pointers to locals.
        let codes = unsafe {
            (
                node.raw.nvmlDeviceGetGpuInstanceId(handle, &mut gi),
                node.raw.nvmlDeviceGetComputeInstanceId(handle, &mut ci),
            )
        };
        (codes, gi, ci)
    };
    // SAFETY: handles that the library gave.
    let (whole, part) = unsafe { (device.handle(), found.handle()) };
    assert_eq!(ids(part), ((0, 0), 9, 0));
    assert_eq!(ids(whole).0, (3, 3));
    same("attributes of a whole device", device.attributes().map(drop), None);
    assert_eq!(device.mig_parent_device().map(drop).map_err(u32::from), Err(2));
    same("serial of an instance", found.serial(), None);

    // What the driver does not say of a divided device.
    same("utilisation", device.utilization_rates().map(drop), None);
    same("volatile errors", device.total_ecc_errors(MemoryError::Uncorrected, Scope::Volatile), None);
    same("aggregate errors", device.total_ecc_errors(MemoryError::Uncorrected, Scope::Aggregate), Some(0));
    let samples = device.field_values_for(&[FieldId(144)]).unwrap();
    assert_eq!(sampled(&samples, 0), Err(3), "remapped rows");
    let ([mut a, mut b, mut c, mut d], mut banks) = ([0; 4], zeroed());
    // SAFETY: pointers to locals.
    let rows = unsafe {
        (
            node.raw.nvmlDeviceGetRemappedRows(whole, &mut a, &mut b, &mut c, &mut d),
            node.raw.nvmlDeviceGetRowRemapperHistogram(whole, &mut banks),
        )
    };
    assert_eq!(rows, (3, 3));

    parent.mig_instances.truncate(1);
    node.becomes(&Scenario::of(vec![parent]));
    assert_eq!(found.uuid().map_err(u32::from), Err(6), "somebody destroyed it");
    assert!(device.uuid().is_ok(), "and its device moved to another index");
}
