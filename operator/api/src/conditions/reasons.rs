//! Why a condition has its value. A reason says what kind of thing happened; the numbers stand in the message.

super::closed_set! {
    /// The reason of a condition, an event or a refusal.
    Reason {
        // ---- several kinds
        /// All is as it should be.
        Ready,
        /// The part that decides this has just started.
        Starting,
        /// It is being deleted.
        Deleting,
        /// The API server refused a write; the message says which.
        WriteFailed,
        /// An object could not be read; the others go on.
        Undecodable,

        // ---- Cooperative: joining
        /// This member is one of the founders.
        Founded,
        /// This member was admitted by a vote.
        Admitted,
        /// The application is with the sponsor.
        Applying,
        /// There is no invite to apply with.
        InviteMissing,
        /// The invite's secret was used before.
        InviteUsed,
        /// The invite's time is over.
        InviteExpired,
        /// The invite was made by another cooperative or for another member.
        InviteForeign,
        /// The sponsor knows no such invite.
        InviteRefused,
        /// The sponsor's history lacks the head that the invite names.
        HistoryTruncated,
        /// The sponsor does not answer.
        SponsorUnreachable,
        /// The cooperative voted against the application.
        ApplicationRejected,
        /// The application is malformed, or not signed by its own keys.
        ApplicationInvalid,
        /// The charter is malformed, not signed by every founder, or has another id.
        CharterInvalid,
        /// Another Cooperative in this namespace is older.
        AnotherExists,
        /// The operator's key is not the one that the charter or the application names.
        KeyMismatch,
        /// The member left.
        Left,
        /// The member was expelled.
        Expelled,

        // ---- Cooperative: signing
        /// The operator signs.
        Signing,
        /// The key was made in another cluster; `kubectl koinon adopt` makes it this cluster's.
        ClusterCloned,
        /// The operator waits until a quorum has told it its own head.
        RecoveringHead,
        /// Too few members answer to learn the own head; `kubectl koinon resume` takes the risk.
        ResumeNeeded,
        /// There is no operator key.
        KeyMissing,
        /// The operator key is not admitted yet.
        NotAdmitted,
        /// The log is over its daily budget.
        OverBudget,
        /// Two entries of one log stand at one position.
        LogForked,

        // ---- Cooperative: surroundings
        /// Every member is heard.
        AllReachable,
        /// A quorum is heard, but not every member.
        QuorumReachable,
        /// Fewer than a quorum are heard: what runs goes on, nothing new is placed or sealed.
        Isolated,
        /// There is no other member yet.
        NoPeers,
        /// A peer dialled back and this operator answered.
        EndpointReached,
        /// A peer dialled back and this operator did not answer; the message says what to do.
        EndpointUnreachable,
        /// No peer has dialled back yet.
        NotDialled,
        /// The membership names no endpoint to dial.
        NoEndpoint,
        /// The probe was held back.
        Enforced,
        /// The probe got through.
        NotEnforced,
        /// The probe got through, and the owner accepts that.
        AcceptedUnenforced,
        /// The probe has not run yet.
        NotProbed,
        /// Foreign work is accepted.
        AcceptingGuests,
        /// Foreign work may end in its own time; nothing new comes.
        DrainingGuests,
        /// All foreign work is ended.
        GuestsStopped,
        /// This member has no gateway endpoint, so it can be a home only.
        HomeOnly,
        /// The weights cache answers.
        CacheReady,
        /// The weights cache does not answer.
        CacheUnreachable,
        /// The clock is within tolerance.
        ClockInTolerance,
        /// The clock is off by more than the charter tolerates.
        ClockOffset,
        /// The cooperative advises no release of the operator.
        NoAdvice,
        /// This is the release that the cooperative advises.
        AdvisedRelease,
        /// The cooperative advises another release; the message names it and its image.
        OtherRelease,

        // ---- Member
        /// Heard recently.
        Fresh,
        /// Not heard for a while: no new work.
        Suspect,
        /// Not heard for long: its replicas are placed elsewhere.
        Lost,
        /// Never heard since this operator started.
        NeverHeard,
        /// Active in the current membership.
        Active,
        /// New and not confirmed yet: it works within limits and has no vote.
        OnProbation,
        /// It fell silent: it works while it is heard, and has no vote until it is counted again.
        Dormant,
        /// It has said that it leaves: nothing new, and what runs goes on until it has left.
        Leaving,
        /// Suspended by a vote or an order.
        Suspended,
        /// Its operator's own signatures prove what an honest one does not do.
        Quarantined,
        /// An order blocks the key with which its operator speaks.
        KeyBlocked,
        /// The local owner cordoned it.
        Cordoned,
        /// The log is whole.
        LogWhole,
        /// It uses rules that this version does not know.
        UnsupportedRules,

        // ---- GPUNode
        /// The library answers.
        NVMLAnswers,
        /// There is no NVML library where the agent looked.
        LibraryMissing,
        /// The library lacks a function that the survey needs.
        SymbolMissing,
        /// The kernel has no NVIDIA driver loaded.
        DriverNotLoaded,
        /// The agent may not open the devices.
        PermissionDenied,
        /// Library and driver are of different versions.
        VersionMismatch,
        /// The survey did not end in time and was killed.
        Unresponsive,
        /// NVML answered with an error.
        NVMLError,
        /// The agent's heartbeat is too old.
        AgentSilent,
        /// All devices are healthy.
        AllHealthy,
        /// Some device is not healthy or not known to be.
        DeviceUnhealthy,
        /// The node has no GPU.
        NoDevices,
        /// The agent was not given what it needs for this.
        NotGiven,
        /// The kubelet says who holds what, and what it gives out.
        KubeletAnswers,
        /// The kubelet does not say who holds what.
        KubeletSilent,
        /// The kubelet does not say which devices it gives out.
        AllocatableUnknown,
        /// The node's processes and their pods can be seen.
        ProcessesSeen,
        /// The node's processes cannot be seen.
        ProcessesHidden,
        /// The API server does not say which pods the node has, or which device a resource slice means.
        PodsUnknown,
        /// The kernel's log is read.
        KernelLogRead,
        /// The kernel's log cannot be read.
        KernelLogUnreadable,

        // ---- GPUPool, GPUOffer
        /// GPUs are shared.
        Sharing,
        /// All that could be shared is in use or reserved.
        NothingFree,
        /// No node matches the pool's selector.
        NoMatchingNodes,
        /// Devices belong to an older pool.
        Overlaps,
        /// The GPUs of a node are counted as an older pool asks for them.
        CountedOtherwise,
        /// No other pool has these devices.
        Exclusive,
        /// Outside the owner's hours.
        OutsideHours,
        /// Figures of some node are too old to be used.
        StaleNodes,
        /// NVML and scheduler agree.
        Consistent,
        /// A kubelet has lost its GPUs a moment ago: their plugin is about to register them anew.
        PluginReregistering,
        /// NVML sees devices that the scheduler may not know yet.
        RegistrationPending,
        /// The scheduler knows fewer devices than NVML.
        ResourceNotRegistered,
        /// Pods share the devices of a node, by time slices, MPS or something like it: such devices are never offered.
        SharedDevices,
        /// A process of some pod is on a device that the pod does not hold.
        Intruder,
        /// The scheduler may give out a device that is not healthy, so that nobody is sent to its node.
        UnfitGivenOut,
        /// NVML sees fewer devices than the scheduler gives out.
        FewerInNVML,
        /// So many devices failed at once that nothing more is drained for their sake.
        BreakerOpen,
        /// No more devices failed than do by themselves.
        BreakerClosed,
        /// What must not be used is tainted, as the owner asks.
        Tainted,
        /// There is nothing to taint.
        NothingTainted,
        /// It is well again by the rules, or the owner asks for no taint any more.
        Untainted,
        /// The chart's `operator.taints` does not let the operator set or remove what the pool asks for.
        TaintsNotPermitted,
        /// This cluster serves no DeviceTaintRules.
        TaintsNotServed,
        /// Another taint would be on more of the pool than may be.
        TaintLimit,
        /// The offer is past its `notAfterTime`.
        Expired,
        /// The offer's member is not Active, or is cordoned here.
        MemberNotUsable,

        // ---- Proposal, Vote
        /// It is signed.
        Signed,
        /// It is a draft; the message prints the command that signs it.
        Unsigned,
        /// It is valid.
        Valid,
        /// The fields differ from the signed payload.
        EnvelopeMismatch,
        /// A signature does not verify.
        InvalidSignature,
        /// The payload is not what its type says.
        PayloadMalformed,
        /// The payload is larger than allowed.
        PayloadTooLarge,
        /// It is for another cooperative.
        ForeignCooperative,
        /// It is signed by a key that is not its author's.
        UnknownKey,
        /// It is signed by a key that its author had before.
        KeyReplaced,
        /// It is signed by an operator key, and only people may do this.
        OperatorKeyNotAllowed,
        /// The author has no vote here.
        NotElector,
        /// The electorate or the parent version is not known.
        UnknownParent,
        /// The times do not fit the class.
        TimesInvalid,
        /// The action is malformed, or contradicts what is already decided.
        ActionInvalid,
        /// Its author has too many open proposals.
        TooManyOpen,
        /// It is anchored.
        Anchored,
        /// This cluster is not the seat of the author, whose operator anchors it.
        NotSeat,
        /// It is not anchored yet.
        AwaitingAnchor,
        /// The proposal opens later.
        Pending,
        /// The proposal is open for votes.
        Open,
        /// The poll is over, the ballot box is being sealed.
        AwaitingSeals,
        /// It passed; its time lock runs.
        AwaitingTimelock,
        /// It passed; enacting seals are being gathered.
        AwaitingEnactment,
        /// It is enacted.
        Enacted,
        /// It passed and was not enacted in time; whether it may have been is being settled.
        AwaitingSlot,
        /// More voted against it than for it.
        Rejected,
        /// Too few voted.
        QuorumNotMet,
        /// It was vetoed.
        Vetoed,
        /// Its author took it back.
        Withdrawn,
        /// It passed, and the member that it is about has appealed.
        Appealed,
        /// The member that it is about has shown that it is not so.
        Refuted,
        /// The member that it is about was not heard.
        Unheard,
        /// It rests on a version that is no longer in force.
        Stale,
        /// It repeats what was rejected a short while ago.
        CoolDown,
        /// No quorum sealed it in time.
        Stalled,
        /// Another proposal took its slot.
        Superseded,
        /// A checkpoint has settled it.
        Settled,
        /// It was cancelled by a vote.
        Cancelled,
        /// The vote is in the tally.
        Counted,
        /// The vote waits for its proposal to be known.
        UnknownProposal,
        /// The vote was signed before the poll opened.
        TooEarly,
        /// The vote was signed after the poll closed.
        TooLate,
        /// The member has declared an interest and does not vote.
        Recused,
        /// A later vote of the same member counts.
        SupersededByVote,

        // ---- ModelRelease, PolicyVersion, Statement
        /// The order waits for further members to sign.
        AwaitingSignatures,
        /// The order's time is over.
        Lapsed,
        /// Another order has stopped the same for the same cause.
        Barred,
        /// The keys of its author stay as they are.
        KeysUnchanged,
        /// There is nothing to appeal against, or nothing new in it.
        NothingToAppeal,
        /// The local owner denies it.
        DeniedLocally,

        // ---- InferenceJob
        /// The namespace lacks the label that lets jobs run in it.
        NamespaceNotAllowed,
        /// Another job of the namespace has this served name.
        ServedNameTaken,
        /// The catalogue has no such engine.
        EngineUnknown,
        /// The engine is not among those that the release names.
        EngineNotAllowed,
        /// The engine has no such option.
        EngineOptionUnknown,
        /// The engine's option does not take this value.
        EngineOptionInvalid,
        /// It asks for evidence of capacity that this release cannot find out.
        EvidenceNotAvailable,
        /// The cooperative approved the release.
        ReleaseEnacted,
        /// The job stays in its own cluster, which needs no approval.
        LocalScope,
        /// The cooperative approved no release with this digest and quantisation.
        ReleaseNotEnacted,
        /// The cooperative withdrew the release.
        ReleaseWithdrawn,
        /// This owner's limits leave the release's licence out.
        LicenseNotAllowed,
        /// Every replica has its host.
        AllPlaced,
        /// Some replicas have their host.
        PartlyPlaced,
        /// No replica is wanted.
        ScaledToZero,
        /// No member shares GPUs of this class.
        ClassUnknown,
        /// No node has as many GPUs as one replica needs.
        ExceedsLargestNode,
        /// No member has enough free GPUs at present.
        NoCapacity,
        /// No member passes the job's own rules.
        NoEligibleMember,
        /// No offer has arrived yet.
        NoOffers,
        /// A host was asked and has not answered.
        AwaitingGrant,
        /// The hosts that were asked refused.
        RefusedByHosts,
        /// Its host is gone; another is being found.
        Replacing,
        /// So many members vanished at once that the fault is probably here; nothing is moved.
        MassLossGuard,

        // ---- Placement: granting
        /// The host granted it.
        Granted,
        /// The home is no member.
        HomeNotActive,
        /// The home may not work: it is suspended or quarantined, or its key is blocked.
        HomeHalted,
        /// The host may not work.
        HostHalted,
        /// An order lets no new copy of the model begin.
        ReleaseFrozen,
        /// The host's owner takes no foreign work now.
        GuestsNotAccepted,
        /// The host's owner keeps this member or model out.
        DeniedByOwner,
        /// The home holds as many GPUs of the pool as it may.
        MemberLimit,
        /// The cooperative's placement rules do not let it run there.
        OutsideRules,
        /// The home holds as much there as the cooperative lets one member hold.
        ShareLimit,
        /// The host does not confine guests, and its owner does not accept that.
        NetworkPolicyUnenforced,
        /// A higher epoch was seen; the message names it.
        StaleEpoch,
        /// The request is malformed.
        InvalidRequest,
        /// A reason that only a later version knows.
        Other,

        // ---- Placement: loading and running
        /// Weights are being fetched.
        WeightsLoading,
        /// Weights are complete and verified.
        WeightsVerified,
        /// The weights' digest is not the one that was approved.
        DigestMismatch,
        /// The source of the weights does not answer.
        SourceUnreachable,
        /// The owner's sources have none for this URI.
        SourceUnknown,
        /// A Secret or ConfigMap that the owner's source names cannot be used; the message names it and its entry.
        CredentialsMissing,
        /// The cache has no room.
        CacheFull,
        /// The weights could not be had at the host.
        WeightsFailed,
        /// The pod waits for a node.
        Unschedulable,
        /// The image cannot be pulled.
        ImagePullFailed,
        /// Admission refused the pod.
        PodRefused,
        /// The engine starts.
        EngineStarting,
        /// The engine answers its probe.
        EngineReady,
        /// The engine ended or fails its probe.
        EngineFailed,

        // ---- GPUOffer: challenges
        /// Enough members found that the class computes as it should.
        ChallengeFits,
        /// Enough members found that it does not.
        ChallengeFailed,
        /// Too few members have measured it.
        TooFewChallengers,
        /// The cooperative voted for no challenges of these classes.
        NotAsked,
        /// A person asked for a challenge that the vote, or the host's state, does not allow now.
        ChallengeRefused,

        // ---- Placement: routing and ending
        /// Calls are routed to it.
        Routable,
        /// Its host is asked for it again and again.
        Renewing,
        /// The engine is not ready.
        NotReady,
        /// The host is lost.
        HostLost,
        /// The host was asked, is heard, and does not answer.
        HostDoesNotAnswer,
        /// The host's grant ran out.
        LeaseLapsed,
        /// A copy with a higher epoch serves.
        EpochFenced,
        /// The home no longer lists it.
        NoLongerRequested,
        /// The job is gone or needs fewer replicas.
        NoLongerWanted,
        /// The owner takes the GPUs back.
        Reclaimed,
        /// Nothing is taken back, or no longer.
        NothingReclaimed,
        /// It is given its time to finish.
        Draining,
        /// It has ended; nothing is held.
        Released,
    }
}
