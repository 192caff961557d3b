//! Which pod a process belongs to, by the names of the control groups that the kubelet and its runtime made for it.
//!
//! Read from outermost to innermost, and the outermost pod counts: what lies below a container is that container's to name.

use std::collections::BTreeSet;

use koinon_core::gpu::usage::{ContainerId, Owner};
use koinon_core::ids::ObjectUid;

/// More than a line for each controller takes, even with the longest path that Linux has.
pub(super) const MAX_BYTES: u64 = 64 << 10;
/// The kernel has fewer hierarchies than that.
const MAX_LINES: usize = 64;

/// Whose a process is, by the text of its `/proc/<pid>/cgroup`.
pub(super) fn owner(text: &[u8]) -> Owner {
    let Ok(text) = std::str::from_utf8(text) else { return Owner::Unreadable };
    let lines: Vec<&str> = text.lines().take(MAX_LINES + 1).collect();
    if lines.is_empty() || lines.len() > MAX_LINES {
        return Owner::Unreadable;
    }
    let mut pods = BTreeSet::new();
    for line in lines {
        // `<hierarchy>:<controllers>:<path>`; the path itself may contain colons.
        let Some(path) = line.splitn(3, ':').nth(2) else { return Owner::Unreadable };
        pods.extend(pod(path));
    }
    // A controller that is not used by the kubelet leaves its processes in the root: those lines say nothing.
    let uids: BTreeSet<&ObjectUid> = pods.iter().map(|(uid, _)| uid).collect();
    match uids.len() {
        0 => Owner::Host,
        1 => {
            // By their order a container comes after none.
            let Some((uid, container)) = pods.into_iter().next_back() else { return Owner::Host };
            Owner::Pod { uid, container }
        }
        _ => Owner::Unreadable,
    }
}

/// The outermost pod of a path, and the container within it.
fn pod(path: &str) -> Option<(ObjectUid, Option<ContainerId>)> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    segments.iter().enumerate().find_map(|(index, segment)| {
        let above = segments.get(..index).unwrap_or_default();
        // A kubelet for systemd with a containerd that is not set up for it: `kubepods-….slice:cri-containerd:<id>`.
        let (slice, tail) = segment.split_once(':').map_or((*segment, None), |(slice, tail)| (slice, Some(tail)));
        let uid = of_systemd(slice).or_else(|| of_cgroupfs(segment, above))?;
        let container = match tail {
            Some(tail) => tail.rsplit(':').next().and_then(container),
            None => segments.get(index + 1).copied().and_then(container),
        };
        Some((uid, container))
    })
}

/// `kubepods[-burstable|-besteffort]-pod<uid>.slice`, perhaps with the name of the cgroup that the kubelet was given before it.
fn of_systemd(slice: &str) -> Option<ObjectUid> {
    let (class, uid) = slice.strip_suffix(".slice")?.rsplit_once("-pod")?;
    let class = class.strip_suffix("-burstable").or_else(|| class.strip_suffix("-besteffort")).unwrap_or(class);
    let known = class == "kubepods" || class.ends_with("-kubepods");
    // A dash would be a level of the hierarchy, so systemd is given underscores.
    if known && !uid.contains('-') { parse(&uid.replace('_', "-")) } else { None }
}

/// `kubepods[/burstable|/besteffort]/pod<uid>`. Seen from another pod's cgroup namespace the beginning is `..`.
fn of_cgroupfs(segment: &str, above: &[&str]) -> Option<ObjectUid> {
    let uid = parse(segment.strip_prefix("pod")?)?;
    let parent = match above {
        [.., parent, "burstable" | "besteffort"] => Some(parent),
        [.., parent] => Some(parent),
        [] => None,
    };
    let outside = |parent: &str| parent == "kubepods" || parent == "..";
    // Below the root of a cgroup namespace the quality of service may stand alone behind `..`.
    parent.is_some_and(|parent| outside(parent)).then_some(uid)
}

/// A uid as an API server gives it, or the digest by which a static pod goes.
fn parse(uid: &str) -> Option<ObjectUid> {
    let groups: Vec<usize> = uid.split('-').map(str::len).collect();
    let lengths = groups == [8, 4, 4, 4, 12] || groups == [32];
    let digits = uid.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if lengths && digits { uid.parse().ok() } else { None }
}

/// `<id>`, `cri-containerd-<id>.scope`, `crio-<id>`, `docker-<id>.scope` and what other runtimes put before it.
fn container(segment: &str) -> Option<ContainerId> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    name.rsplit('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "8f1c2a34-5b6d-4e7f-8a90-b1c2d3e4f506";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";
    const ID: &str = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2";

    fn in_pod(uid: &str, container: Option<&str>) -> Owner {
        Owner::Pod { uid: uid.parse().unwrap(), container: container.map(|id| id.parse().unwrap()) }
    }

    fn of(path: &str) -> Owner {
        owner(format!("0::{path}\n").as_bytes())
    }

    /// `{u}` stands for the uid with underscores.
    fn path(text: &str) -> String {
        text.replace("{u}", &UID.replace('-', "_"))
            .replace("{uid}", UID)
            .replace("{id}", ID)
            .replace("{static}", STATIC)
    }

    #[test]
    fn the_paths_of_every_driver_and_runtime_name_pod_and_container() {
        for text in [
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{u}.slice/cri-containerd-{id}.scope",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{u}.slice/crio-{id}.scope",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{u}.slice/crio-{id}.scope/container",
            "/kubepods.slice/kubepods-pod{u}.slice/docker-{id}.scope",
            "/kubepods/burstable/pod{uid}/{id}",
            "/kubepods/besteffort/pod{uid}/crio-{id}",
            "/kubepods/pod{uid}/{id}/nested/below",
            "/system.slice/containerd.service/kubepods-burstable-pod{u}.slice:cri-containerd:{id}",
            // A kubelet with a cgroup root of its own, and one in a container.
            "/koinon.slice/koinon-kubepods.slice/koinon-kubepods-pod{u}.slice/cri-containerd-{id}.scope",
            "/docker/0a1b/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{u}.slice/cri-containerd-{id}.scope",
            "/lxc/node-1/kubepods/burstable/pod{uid}/{id}",
            // Seen from the cgroup namespace of another pod.
            "/../../kubepods-burstable-pod{u}.slice/cri-containerd-{id}.scope",
            "/../../../kubepods-pod{u}.slice/cri-containerd-{id}.scope",
            "/../../pod{uid}/{id}",
            "/../../../besteffort/pod{uid}/{id}",
            "/../../../../kubepods/pod{uid}/{id}",
        ] {
            assert_eq!(of(&path(text)), in_pod(UID, Some(ID)), "{text}");
        }
        assert_eq!(of(&path("/kubepods/burstable/pod{static}/{id}")), in_pod(STATIC, Some(ID)));
        assert_eq!(
            of(&path("/kubepods.slice/kubepods-pod{static}.slice/cri-containerd-{id}.scope")),
            in_pod(STATIC, Some(ID))
        );
        assert_eq!(of(&path("/kubepods/burstable/pod{uid}")), in_pod(UID, None));
        assert_eq!(of(&path("/kubepods/burstable/pod{uid}/init.scope")), in_pod(UID, None));
    }

    #[test]
    fn what_is_not_below_the_kubelets_groups_is_the_hosts() {
        for text in [
            "/",
            "/init.scope",
            "/system.slice/kubelet.service",
            "/user.slice/user-1000.slice/session-2.scope",
            "/system.slice/pod{uid}/{id}",
            "/machine.slice/libpod-{id}.scope",
            "/kubepods.slice/kubepods-burstable.slice",
            "/kubepods/burstable/pod../{id}",
            "/kubepods/burstable/podABCDEF12-5b6d-4e7f-8a90-b1c2d3e4f506/{id}",
            "/pods.slice/pods-pod{u}.slice/cri-containerd-{id}.scope",
            "/kubepods.slice/kubepods-guaranteed-pod{u}.slice/x",
            "/../../../../system.slice/sshd.service",
        ] {
            assert_eq!(of(&path(text)), Owner::Host, "{text}");
        }
    }

    #[test]
    fn a_container_cannot_pass_for_another_pod_by_naming_its_own_groups() {
        let other = "11111111-2222-3333-4444-555555555555";
        let below = path("/kubepods/pod{uid}/{id}");
        assert_eq!(of(&format!("{below}/kubepods/pod{other}/{}", "0".repeat(64))), in_pod(UID, Some(ID)));
        let slice = format!("kubepods-pod{}.slice", other.replace('-', "_"));
        assert_eq!(of(&format!("{below}/kubepods.slice/{slice}/x")), in_pod(UID, Some(ID)));
    }

    #[test]
    fn of_many_hierarchies_those_that_name_a_pod_count_and_must_agree() {
        let root = "12:rdma:/\n3:misc:/\n0::/\n";
        let lines = path(
            "4:memory:/kubepods/pod{uid}\n2:cpu,cpuacct:/kubepods/pod{uid}/{id}\n1:name=systemd:/kubepods/pod{uid}/{id}\n",
        );
        assert_eq!(owner(format!("{root}{lines}").as_bytes()), in_pod(UID, Some(ID)));
        let other = format!("{lines}7:pids:/kubepods/pod{STATIC}/{ID}\n");
        assert_eq!(owner(other.as_bytes()), Owner::Unreadable);
    }

    #[test]
    fn what_is_not_such_a_file_is_unreadable_and_not_the_hosts() {
        for wrong in [&b""[..], b"no colons here\n", b"0::\xff\xfe\n", b"0:\n", "0::/\n".repeat(65).as_bytes()] {
            assert_eq!(owner(wrong), Owner::Unreadable, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_it_says_a_pod_has_a_uid_of_either_form(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = owner(&text);
        }

        #[test]
        fn any_mixture_of_the_pieces_is_read_without_harm(pieces in prop::collection::vec(prop::sample::select(vec![
            "/", "..", "kubepods", ".slice", "-pod", "pod", ":", "burstable", "-", "_", "\n", "0::", ".scope", UID, ID, STATIC,
        ]), 0..24)) {
            if let Owner::Pod { uid, .. } = owner(pieces.concat().as_bytes()) {
                prop_assert!([UID, STATIC].contains(&uid.as_str()) || parse(uid.as_str()).is_some());
            }
        }
    }
}
