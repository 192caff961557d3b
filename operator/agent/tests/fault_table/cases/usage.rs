//! Processes and memory that are not what they should be: F18 to F20.

use fake_nvml::{Process, ProcessList};
use koinon_api::gpu_node::GPUNodeStatus;

use crate::cell::Case;
use crate::observed;
use crate::scene::{HostProcess, POD_PROCESS, Phase, Scene, TARGET};

/// A process of the node.
const STRANGER: u32 = 777;
/// After the grace of a minute.
const PAST_GRACE: [u64; 3] = [10, 30, 31];

fn list(scene: &mut Scene) -> &mut ProcessList {
    scene.target().processes.compute.get_or_insert_with(ProcessList::default)
}

/// 98 processes of nobody, and so many more at each call.
fn grows(scene: &mut Scene, by: u32) {
    let list = list(scene);
    (list.grows_by, list.list) = (by, (2..100).map(|pid| Process::new(pid, 1)).collect());
}

/// A process that the driver lists, and what the node knows of it.
fn stranger(scene: &mut Scene, started: u64, cgroup: &str) {
    scene.computes(STRANGER, 1 << 30);
    scene.processes.push(HostProcess { pid: STRANGER, started, cgroup: cgroup.to_owned() });
}

fn of_pod(uid: &str) -> String {
    format!("/kubepods/burstable/pod{uid}/{}", "b".repeat(64))
}

/// Nothing is said of processes, which is not the same as none.
fn says_nothing(status: &GPUNodeStatus) -> Result<(), String> {
    let row = observed::row(status, TARGET).ok_or("no row")?;
    let unattributed = row.memory.as_ref().and_then(|memory| memory.unattributed_bytes);
    (row.processes.is_none() && unattributed.is_none())
        .then_some(())
        .ok_or(format!("processes {:?}, {unattributed:?} bytes of nobody", row.processes))
}

pub fn cases() -> Vec<Case> {
    let unknown = "Healthy UsageUnknown";
    let orphaned = "Healthy Orphaned";
    vec![
        Case::of("F18", "no process").strikes(|scene| list(scene).grows_by = 0),
        Case::of("F18", "ten thousand processes")
            .strikes(|scene| list(scene).list = (2..10_002).map(|pid| Process::new(pid, 1 << 20)).collect())
            .rounds(&[10, 61])
            .target(unknown)
            .target_at(Phase::Held, "Healthy Held")
            .also(|_, status, _| says_nothing(status)),
        Case::of("F18", "twenty processes more at each call")
            .strikes(|scene| grows(scene, 20))
            .rounds(&[10, 61])
            .target(orphaned)
            .target_at(Phase::Held, "Healthy Held")
            .also(|_, status, _| {
                let found = observed::row(status, TARGET).and_then(|row| row.processes.clone());
                let compute = found.map(|processes| processes.compute);
                // The list is longer than the first buffer, and whole at the second call.
                (compute == Some(98 + 20)).then_some(()).ok_or(format!("{compute:?} processes"))
            }),
        Case::of("F18", "four hundred processes more at each call")
            .strikes(|scene| grows(scene, 400))
            .rounds(&[10, 61])
            .target(unknown)
            .target_at(Phase::Held, "Healthy Held")
            .also(|_, status, _| says_nothing(status)),
        Case::of("F18", "a process whose memory is not told")
            .strikes(|scene| {
                list(scene).list.iter_mut().for_each(|process| process.used_bytes = None);
                list(scene).list.push(Process { used_bytes: None, ..Process::new(STRANGER, 0) });
                scene.processes.push(HostProcess {
                    pid: STRANGER,
                    started: 9_000,
                    cgroup: "/system.slice/x.service".to_owned(),
                });
                scene.target().memory.used_bytes = 30 << 30;
            })
            .rounds(&[10, 61])
            .target(orphaned)
            .target_at(Phase::Held, "Healthy Held")
            .also(|_, status, _| {
                let row = observed::row(status, TARGET).ok_or("no row")?;
                let unattributed = row.memory.as_ref().and_then(|memory| memory.unattributed_bytes);
                unattributed.is_none().then_some(()).ok_or(format!("{unattributed:?} bytes of nobody"))
            }),
        Case::of("F19", "a process of no pod, seen just now")
            .strikes(|scene| stranger(scene, 86_399_000, "/system.slice/miner.service"))
            .target(unknown)
            .target_at(Phase::Held, "Healthy Held"),
        Case::of("F19", "a process of no pod, for a minute")
            .strikes(|scene| stranger(scene, 86_399_000, "/system.slice/miner.service"))
            .rounds(&PAST_GRACE)
            .target(orphaned)
            .target_at(Phase::Held, "Healthy Held")
            .also(|_, status, _| {
                let row = observed::row(status, TARGET).and_then(|row| row.processes.clone());
                let unattributed = row.map(|processes| processes.unattributed);
                (unattributed == Some(1)).then_some(()).ok_or(format!("{unattributed:?} processes of nobody"))
            }),
        Case::of("F19", "a process of a pod that is gone, for a minute")
            .strikes(|scene| stranger(scene, 86_399_000, &of_pod("33333333-3333-4333-8333-333333333333")))
            .rounds(&PAST_GRACE)
            .target(orphaned)
            .target_at(Phase::Held, "Healthy Held"),
        Case::of("F19", "a process of a pod that does not hold the device")
            .strikes(|scene| stranger(scene, 86_399_000, &of_pod(crate::scene::IDLE_POD.1)))
            .target("Healthy Intruder")
            .target_at(Phase::Held, "Healthy Held")
            .also(|_, status, phase| {
                use koinon_api::gpu_node::AllocationState::{Held, Intruder};
                let state = observed::row(status, TARGET).and_then(|row| row.allocation.as_ref()).map(|one| one.state);
                let wanted = if phase == Phase::Held { [Some(Intruder), Some(Held)] } else { [Some(Intruder); 2] };
                wanted.contains(&state).then_some(()).ok_or(format!("it is {state:?}"))
            }),
        Case::of("F19", "the number of an ended process is now a pod's")
            // A process that began after the survey is not the one that the survey saw.
            .strikes(|scene| stranger(scene, 999_999_000, &of_pod(crate::scene::IDLE_POD.1)))
            .rounds(&PAST_GRACE)
            .target(orphaned)
            .target_at(Phase::Held, "Healthy Held"),
        Case::of("F20", "memory without a process, seen just now")
            .strikes(|scene| scene.target().memory.used_bytes += 4 << 30)
            .target(unknown)
            .target_at(Phase::Held, "Healthy Held"),
        Case::of("F20", "memory without a process, for a minute")
            .strikes(|scene| scene.target().memory.used_bytes += 4 << 30)
            .rounds(&PAST_GRACE)
            .target("Healthy Leaked")
            .target_at(Phase::Held, "Healthy Held")
            .also(|_, status, _| {
                let memory = observed::row(status, TARGET).and_then(|row| row.memory.clone());
                let bytes = memory.and_then(|memory| memory.unattributed_bytes);
                (bytes == Some(4 << 30)).then_some(()).ok_or(format!("{bytes:?} bytes of nobody"))
            }),
        Case::of("F20", "memory without a process after the pod's has ended")
            .strikes(|scene| {
                list(scene).list.retain(|process| process.pid != POD_PROCESS);
                scene.target().memory.used_bytes = 20 << 30;
            })
            .rounds(&PAST_GRACE)
            .target("Healthy Leaked")
            .target_at(Phase::Held, "Healthy Held"),
    ]
}
