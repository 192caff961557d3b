//! What could be seen besides what the driver says, as conditions: an owner learns here what the agent lacks, and what to do.

use koinon_api::conditions::{Reason, Verdict};

use crate::events::KernelLogState;
use crate::usage::{Blind, KubeletError, Observed};

/// Whether the kubelet says who holds what, and what it gives out.
pub(super) fn holders(observed: &Observed) -> Verdict {
    match (&observed.kubelet, &observed.allocatable) {
        (Some(error @ KubeletError::NotGiven), _) => Verdict::no(Reason::NotGiven, error.to_string()),
        (Some(error), _) => Verdict::no(
            Reason::KubeletSilent,
            format!("{error}; until then no GPU beside one that is not healthy is offered on this node"),
        ),
        (None, Some(error)) => Verdict::no(
            Reason::AllocatableUnknown,
            format!("{error}; until then no GPU beside one that is not healthy is offered on this node"),
        ),
        (None, None) => Verdict::yes(Reason::KubeletAnswers, "the kubelet says which pod holds which device"),
    }
}

/// Whether processes can be put down to pods.
pub(super) fn processes(observed: &Observed) -> Verdict {
    if let Some(blind) = &observed.processes {
        let reason = if *blind == Blind::NotGiven { Reason::NotGiven } else { Reason::ProcessesHidden };
        return Verdict::no(reason, blind.to_string());
    }
    let unsaid: Vec<String> = observed.cluster.iter().map(ToString::to_string).collect();
    if unsaid.is_empty() {
        Verdict::yes(Reason::ProcessesSeen, "the node's processes are seen, and whose they are")
    } else {
        Verdict::no(Reason::PodsUnknown, unsaid.join("; "))
    }
}

/// Whether the kernel's log is read; none while that is about to begin.
pub(super) fn kernel_log(state: Option<&KernelLogState>) -> Option<Verdict> {
    Some(match state {
        None => Verdict::no(
            Reason::NotGiven,
            "nobody reads the kernel's log: no --kernel-log is given; errors of GPUs are heard from NVML alone, which tells \
             only the last of several; set agent.kernelLog.enabled in the chart",
        ),
        Some(KernelLogState::NotAsked) => return None,
        Some(KernelLogState::Reading) => Verdict::yes(Reason::KernelLogRead, "the kernel's log is read"),
        Some(KernelLogState::Unreadable(why)) => Verdict::no(Reason::KernelLogUnreadable, why.clone()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use koinon_api::conditions::ConditionStatus;
    use koinon_core::gpu::usage::{NodeUse, Standing};

    use super::*;
    use crate::usage::ClusterError;

    fn observed() -> Observed {
        let (devices, unnamed, standing) = (BTreeMap::new(), BTreeSet::new(), Standing::default());
        let usage = NodeUse { devices, unnamed, allocatable: None, standing };
        let (kubelet, allocatable, processes) = (None, None, None);
        Observed { usage, resources: BTreeMap::new(), kubelet, allocatable, processes, cluster: Vec::new() }
    }

    #[track_caller]
    fn says(verdict: &Verdict, reason: Reason, remedy: &str) {
        let status = if remedy.is_empty() { ConditionStatus::True } else { ConditionStatus::False };
        assert_eq!((verdict.status, verdict.reason), (status, reason));
        assert!(verdict.message.contains(remedy), "{}", verdict.message);
    }

    #[test]
    fn whatever_cannot_be_seen_is_said_with_what_to_do() {
        says(&holders(&observed()), Reason::KubeletAnswers, "");
        let with = |error| Observed { kubelet: Some(error), ..observed() };
        says(&holders(&with(KubeletError::NotGiven)), Reason::NotGiven, "set agent.podResources.enabled");
        let malformed = || KubeletError::Malformed("it lists 5000 pods".to_owned());
        says(&holders(&with(malformed())), Reason::KubeletSilent, "offered on this node");
        let without = Observed { allocatable: Some(malformed()), ..observed() };
        says(&holders(&without), Reason::AllocatableUnknown, "offered on this node");

        says(&processes(&observed()), Reason::ProcessesSeen, "");
        let blind = |why| Observed { processes: Some(why), ..observed() };
        says(&processes(&blind(Blind::NotGiven)), Reason::NotGiven, "set agent.hostPID");
        says(&processes(&blind(Blind::Stuck)), Reason::ProcessesHidden, "look at the kernel's log");
        let unsaid = Observed { cluster: vec![ClusterError::TimedOut { what: "pods" }], ..observed() };
        says(&processes(&unsaid), Reason::PodsUnknown, "look at the API server");

        let log = |state: &KernelLogState| kernel_log(Some(state)).unwrap();
        says(&kernel_log(None).unwrap(), Reason::NotGiven, "set agent.kernelLog.enabled");
        says(&log(&KernelLogState::Reading), Reason::KernelLogRead, "");
        let unreadable = KernelLogState::Unreadable("no such file; mount it".to_owned());
        says(&log(&unreadable), Reason::KernelLogUnreadable, "mount it");
        assert!(kernel_log(Some(&KernelLogState::NotAsked)).is_none(), "that is about to begin");
    }
}
