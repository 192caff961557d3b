//! What the engine shows to everybody else in the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_api::conditions::Reason;
use koinon_core::body::charter::Charter;
use koinon_core::ids::{CoopId, MemberId, PolicyHash, PublicKey, Seq, StatementId};
use koinon_core::policy::State;

use super::candidate::{Refusal, Source};
use super::people::Verdict;

/// What this member is to the cooperative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its application waits for the vote.
    Applicant,
    /// What the sponsor shows lacks this membership version, which the invite names; nothing of it is believed.
    Truncated(PolicyHash),
    /// It takes part.
    Member,
    /// It has left.
    Left,
    /// The cooperative knows its id and another operator key for it.
    OtherKey(PublicKey),
}

/// Whether the operator signs log entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signing {
    /// It does.
    Yes,
    /// It does not.
    No(Refusal),
}

impl Signing {
    pub(super) fn no(reason: Reason, message: impl Into<String>) -> Self {
        Signing::No(Refusal::new(reason, message))
    }
}

/// A log as it is held here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// Payload bytes that are kept.
    pub bytes: usize,
    /// How many entries it has.
    pub entries: u64,
    /// Entries that are known to exist and are not here.
    pub missing: u64,
    /// The local cap keeps it from growing here.
    pub capped: bool,
    /// Where it forked.
    pub forked_at: Option<Seq>,
}

/// Everything about the commons that others act on, as of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct CommonsView {
    /// This member.
    pub me: MemberId,
    /// The cooperative.
    pub coop: CoopId,
    /// Its charter.
    pub charter: Arc<Charter>,
    /// What was decided.
    pub state: Arc<State>,
    /// What this member is to it.
    pub standing: Standing,
    /// Whether log entries are signed.
    pub signing: Signing,
    /// What became of each resource that people applied.
    pub verdicts: Arc<BTreeMap<Source, Verdict>>,
    /// The logs by member.
    pub logs: Arc<BTreeMap<MemberId, LogFacts>>,
    /// The store's last failure, while it lasts.
    pub store_trouble: Option<String>,
    /// Whether a quorum's clocks agree with ours.
    pub clock_in_tolerance: bool,
    /// A resumption was noted in the log: the annotation that asked for it can go.
    pub resumed: bool,
    /// Proposals that came here when more than half of their vote was over.
    pub late: BTreeSet<StatementId>,
}
