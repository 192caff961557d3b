//! What conditions are about. Every one is phrased so that True is the good case, but for `Reclaiming`, which says what is under
//! way.

super::closed_set! {
    /// The type of a condition.
    ConditionType {
        /// The summary of a resource: it does what it is there for.
        Ready,

        /// `Cooperative`: this cluster belongs to the cooperative.
        Joined,
        /// `Cooperative`: this operator may sign statements.
        Signing,
        /// `Cooperative`: enough members are heard directly to decide together.
        PeersReachable,
        /// `Cooperative`: a peer that dialled this member's endpoints back reached them.
        EndpointReachable,
        /// `Cooperative`: NetworkPolicies hold back a probe.
        NetworkPolicyEnforced,
        /// `Cooperative`, `Member`: the cooperative lets it work with others.
        MayWork,
        /// `Cooperative`: foreign work may come and stay.
        AcceptingGuests,
        /// `Cooperative`: the weights cache answers.
        WeightsCacheReady,
        /// `Cooperative`: this clock agrees with the peers' within the charter's tolerance.
        ClockSynced,
        /// `Cooperative`: this operator is the release that the cooperative advises.
        AsAdvised,

        /// `Member`: it was heard within the charter's limits.
        Reachable,
        /// `Member`: it may work, is heard, and is not cordoned here.
        Usable,
        /// `Member`: its log is one gapless chain within its budget.
        LogIntact,

        /// `GPUNode`: the driver's library answers.
        NVMLAvailable,
        /// `GPUNode`: every device is healthy.
        DevicesHealthy,
        /// `GPUNode`: the kubelet says which pod holds which device, and which devices it gives out.
        HoldersKnown,
        /// `GPUNode`: each process on a device can be put down to a pod, or to none.
        ProcessesKnown,
        /// `GPUNode`: the kernel's log is read, which tells of every error, where NVML tells only of the last of several.
        KernelLogRead,
        /// `GPUPool`: no device of it belongs to an older pool.
        Exclusive,
        /// `GPUPool`, `GPUOffer`: the figures are recent.
        Fresh,
        /// `GPUPool`: NVML and the scheduler tell the same story.
        SchedulerConsistent,
        /// `GPUOffer`: enough other members found that its GPUs compute as their class does.
        Challenged,

        /// `GPUPool`: work of others leaves devices that fail. Not while so many failed at once that the owner has to look first.
        Quarantining,
        /// `GPUPool`: nodes or devices that must not be used are tainted as the owner asks; only where it does.
        Tainting,
        /// `GPUPool`, `Placement`, `InferenceJob`: GPUs that somebody works on are to be given back, and by when.
        Reclaiming,

        /// `Proposal`, `Vote`: it carries a signed envelope.
        Signed,
        /// `Proposal`, `Vote`, `InferenceJob`: it is well formed and allowed.
        Accepted,
        /// `Proposal`, `Vote`: it stands in a member's log, from where it counts.
        Anchored,
        /// `Proposal`, `ModelRelease`, `PolicyVersion`: the cooperative decided so.
        Enacted,
        /// `Vote`: it is part of the tally.
        Counted,
        /// `Statement`: it is part of its author's log or ballot and understood.
        Effective,

        /// `InferenceJob`: its model may be served at its scope.
        Approved,
        /// `InferenceJob`: every replica has a host that granted it.
        Placed,

        /// `Placement`: the host reserved the GPUs and said so.
        Granted,
        /// `Placement`: the weights are complete and verified at the host.
        Loaded,
        /// `Placement`: the home's gateways send calls to it.
        Routable,
        /// `Placement`: at home, it stands in every list that its host is sent.
        Renewed,
        /// `Placement`: it has ended and holds nothing any more.
        Released,
    }
}
