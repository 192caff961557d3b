//! One member's part in the commons: takes what peers say, decides what to sign, and shows the result.
//!
//! The engine is one task with one order of events. It does no I/O but through its [`StatementStore`], so that a test can
//! run it with a store in memory, and lose answers, kill it and restore it at any point.

pub(in crate::commons) mod follow;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use koinon_api::conditions::Reason;
use koinon_core::body::charter::Charter;
use koinon_core::body::entry::{Anchor, LogResume};
use koinon_core::body::latest::Beacon;
use koinon_core::body::{Body, RULES, RULES_SUPPORTED};
use koinon_core::ids::{MemberId, PublicKey, Seq, StatementId};
use koinon_core::invite::Invite;
use koinon_core::kind::Kind;
use koinon_core::log::Settled;
use koinon_core::policy::Taken;
use koinon_core::recovery::{Gate, Recovery, resumed_at};
use koinon_core::sealing::{self, Arrivals, Circumstances, Promises};
use koinon_core::statement::Statement;
use koinon_net::client::{News, PeerEvent};
use koinon_net::commons::Heads;

use super::candidate::{Candidate, Source};
use super::hearing::Hearing;
use super::logs::{self, AppendError, Appended, Author};
use super::people::{self, Verdict};
use super::publisher::{Identity, LatestPublisher};
use super::shelf::Shelf;
use super::view::{Signing, Standing};
use crate::metrics::Metrics;
use follow::Farewells;

/// Entries that one turn may append. Whatever is left is decided again at the next turn, a second later at most.
const APPENDS_A_TURN: usize = 32;

/// How often the store is compared with what is held. Somebody may have deleted a statement, or put an older copy of the
/// cluster's store in place, while this operator ran on.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// When to try again after the store did not answer: while a cluster is being restored it is away for a while.
const AUDIT_AGAIN: Duration = Duration::from_secs(5);

/// What the cluster's owner, and its resources, tell the engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Controls {
    /// The key belongs to another cluster: serve, sign nothing.
    pub cloned: Option<String>,
    /// A person takes the risk of signing without a quorum having told the own head, for this log.
    pub resume: Option<PublicKey>,
    /// Operator keys that used an invite of this member and may read until their proposal ends.
    pub applicants: BTreeSet<PublicKey>,
}

/// A statement together with how many have signed it: a copy with another co-signature is worth another anchor.
type Signed = (StatementId, usize);

fn signed(statement: &Statement) -> Signed {
    (statement.id(), statement.envelope().signatures.len())
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who signs, and where it is kept.
    pub author: Author,
    /// What is held and served.
    pub shelf: Arc<Shelf>,
    /// What only its newest version counts of.
    pub publisher: LatestPublisher,
    /// When joining: what the history must contain.
    pub invite: Option<Invite>,
    /// Members that were Lost when the last leader looked.
    pub lost: BTreeSet<MemberId>,
    /// The metrics.
    pub metrics: Metrics,
}

/// Entries of the own log of which somebody told, and which are still to come.
#[derive(Clone, Copy, Debug)]
struct Promised {
    /// The first of them.
    next: Seq,
    /// Since when nothing has come, by the monotonic clock.
    since: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    parts: Parts,
    recovery: Recovery,
    hearing: Hearing,
    arrivals: Arrivals,
    people: Arc<Vec<Candidate>>,
    verdicts: Arc<BTreeMap<Source, Verdict>>,
    /// What is anchored stays so, and is not looked for again at every turn.
    settled: BTreeMap<Source, (Signed, Verdict)>,
    controls: Controls,
    heads: BTreeMap<PublicKey, Heads>,
    beacon_due: Duration,
    audit_due: Duration,
    started: Duration,
    charter: Arc<Charter>,
    resumed: bool,
    promised: Option<Promised>,
    trouble: Option<String>,
    over_budget: Option<String>,
    /// What remains of entries that were let go, until the store has it.
    unnoted: Option<Arc<Settled>>,
    farewells: Farewells,
}

impl Engine {
    /// An engine over what its shelf holds.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Author { me, clock, .. } = &parts.author;
        let hearing = parts.shelf.read(|commons| {
            Hearing::new(me.clone(), commons.replica().coop(), commons.state().parameters(), clock.clone())
        });
        let mut engine = Engine {
            recovery: Recovery::new(me.clone(), parts.author.log()),
            hearing,
            arrivals: parts.shelf.read(|commons| Arrivals::starting(commons.state())),
            people: Arc::default(),
            verdicts: Arc::default(),
            settled: BTreeMap::new(),
            controls: Controls::default(),
            heads: BTreeMap::new(),
            beacon_due: Duration::ZERO,
            audit_due: parts.author.clock.monotonic() + AUDIT_EVERY,
            charter: Arc::new(parts.shelf.read(|commons| commons.founding().charter().clone())),
            started: parts.author.clock.monotonic(),
            resumed: false,
            promised: None,
            trouble: None,
            over_budget: None,
            unnoted: None,
            farewells: Farewells::default(),
            parts,
        };
        engine.follow_membership();
        for member in engine.parts.lost.clone() {
            engine.hearing.restore_lost(&member);
        }
        engine
    }

    /// What people have applied, all of it.
    pub fn set_people(&mut self, people: Arc<Vec<Candidate>>) {
        self.people = people;
    }

    /// What the owner says.
    pub fn set_controls(&mut self, controls: Controls) {
        self.controls = controls;
    }

    /// Takes what peers said. Nothing that they can say is an error here; what does not hold is counted.
    pub fn hear(&mut self, events: Vec<PeerEvent>) {
        let mut entries = Vec::new();
        for PeerEvent { from, news } in events {
            match news {
                News::Up | News::Down { .. } => {}
                News::Heads(heads) => {
                    self.heads.insert(from, heads);
                }
                News::Entry(entry) => entries.push(*entry),
                News::Latest(statement) => self.hear_latest(&from, *statement),
            }
        }
        if !entries.is_empty() {
            let Taken { refused, .. } = self.parts.shelf.take(entries);
            for (id, error) in refused {
                self.parts.metrics.refused.with_label_values(&[error.category()]).inc();
                tracing::debug!(%id, %error, "an entry of a peer was not taken");
            }
        }
    }

    fn hear_latest(&mut self, from: &PublicKey, statement: Statement) {
        let id = statement.id();
        match self.hearing.hear(from, statement) {
            Ok(Some(transition)) => {
                tracing::info!(member = %transition.member, from = ?transition.from, "a member is heard again");
            }
            Ok(None) => {}
            Err(error) => {
                self.parts.metrics.refused.with_label_values(&[error.category()]).inc();
                tracing::debug!(%id, %error, "a Latest statement was not taken");
            }
        }
    }

    /// Stores what was taken, signs what is due, and moves every clock on.
    pub async fn turn(&mut self) {
        self.audit().await;
        let stored = logs::flush(&self.parts.author, &self.parts.shelf).await;
        self.trouble = stored.err().map(|error| error.to_string());
        self.forget().await;
        self.follow_membership();
        for transition in self.hearing.step() {
            tracing::warn!(member = %transition.member, from = ?transition.from, to = ?transition.to, "liveness changed");
        }
        self.note_arrivals();
        self.over_budget = None;
        for _ in 0..APPENDS_A_TURN {
            if self.trouble.is_some() || self.signing() != Signing::Yes {
                break;
            }
            let Some(body) = self.next_body() else { break };
            if !self.append(body).await {
                break;
            }
        }
        self.follow_membership();
        self.judge_people();
        self.speak();
    }

    /// Lets go of what a checkpoint has settled. What remains of it is noted after, not before: with a note of something that
    /// is still in memory nothing is gained, and without one the next start reads every entry.
    async fn forget(&mut self) {
        if self.trouble.is_none()
            && let Some(settled) = self.parts.shelf.forget()
        {
            // What was shown of it stays as it is: see `people::Verdict::Settled`.
            self.settled.clear();
            let kept = settled.kept.len();
            tracing::info!(kept, "entries that a checkpoint has settled are served from the store from now on");
            self.unnoted = Some(settled);
        }
        if let Some(settled) = &self.unnoted {
            match self.parts.author.store.remember(settled).await {
                Ok(()) => self.unnoted = None,
                Err(error) => tracing::info!(%error, "what remains of settled entries is noted later"),
            }
        }
    }

    async fn audit(&mut self) {
        let now = self.parts.author.clock.monotonic();
        if now < self.audit_due {
            return;
        }
        self.audit_due = now + AUDIT_EVERY;
        match logs::audit(&self.parts.author, &self.parts.shelf).await {
            Ok(0) => {}
            Ok(missing) => tracing::warn!(missing, "statements were missing in the store and are put back"),
            Err(error) => {
                self.audit_due = now + AUDIT_AGAIN;
                tracing::info!(%error, "the store could not be compared with what is held");
            }
        }
    }

    fn note_arrivals(&mut self) {
        let now = self.parts.author.clock.unix();
        let late = self.parts.shelf.read(|commons| self.arrivals.note(commons.state(), now));
        for proposal in late {
            tracing::warn!(%proposal, "a proposal came when more than half of its vote was over: its votes are not vouched for here");
        }
    }

    /// Appends one entry; whether to go on.
    async fn append(&mut self, body: Body) -> bool {
        let kind = body.kind();
        match logs::append(&self.parts.author, &self.parts.shelf, body).await {
            Ok(Appended::Done(id)) => {
                self.resumed |= kind == Some(Kind::LogResume);
                let kind = kind.map_or_else(String::new, |kind| kind.to_string());
                tracing::info!(%id, %kind, "signed a log entry");
                true
            }
            Ok(Appended::Occupied) => {
                self.parts.metrics.reservation_conflicts.inc();
                tracing::warn!("another process had taken the next position of the own log: deciding again");
                true
            }
            Err(error @ AppendError::OverBudget { .. }) => {
                self.over_budget = Some(error.to_string());
                false
            }
            Err(error) => {
                self.trouble = Some(error.to_string());
                false
            }
        }
    }

    /// The one thing that is to be signed next, decided from what is held now.
    fn next_body(&self) -> Option<Body> {
        let (me, log, now) = (&self.parts.author.me, self.parts.author.log(), self.parts.author.clock.unix());
        let (isolated, clock_in_tolerance) = (self.hearing.isolated(), self.clock_in_tolerance());
        let rules_shared = self.rules_shared();
        self.parts.shelf.read(|commons| {
            let replica = commons.replica();
            if self.recovery.is_resumed() && !self.resumed {
                return Some(Body::LogResume(LogResume { old_log: log, old_head: replica.head(&log) }));
            }
            let mut people: Vec<&Candidate> = self.people.iter().filter(|c| self.settled(c).is_none()).collect();
            people.sort_by_key(|candidate| people::order(candidate));
            let due = people.into_iter().find(|c| people::judge(c, commons, me, &log, now).is_none());
            if let Some(Candidate { statement: Ok(statement), .. }) = due {
                return Some(Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })));
            }
            // Heads show one branch only, so a fork that nobody has reported would stay with those who saw both.
            if let Some(fork) = replica.unreported_forks().into_iter().find(|fork| fork.log != log) {
                return Some(Body::Evidence(Box::new(fork.to_evidence())));
            }
            if let Some(evidence) = commons.state().unreported_seals(replica, &log).into_iter().next() {
                return Some(Body::SealEvidence(Box::new(evidence)));
            }
            let resumed_at = resumed_at(replica, &log);
            let late = self.arrivals.late().clone();
            let promises = Promises::KEPT;
            let circumstances =
                Circumstances { now, isolated, clock_in_tolerance, resumed_at, rules_shared, promises, late };
            sealing::next(commons.state(), me, &circumstances).into_iter().next()
        })
    }

    /// Whether log entries may be signed now, and why not.
    fn signing(&mut self) -> Signing {
        if let Some(message) = &self.controls.cloned {
            return Signing::no(Reason::ClusterCloned, message.clone());
        }
        if self.standing() != Standing::Member {
            return Signing::no(Reason::NotAdmitted, "this operator's key is no member's in the present membership");
        }
        if self.controls.resume == Some(self.parts.author.log()) {
            self.recovery.resume();
        }
        for (key, heads) in &self.heads {
            // Who is not counted, such as a new member, can hold nobody up with what it tells.
            if let Some(member) = self.hearing.member_of(key).filter(|member| self.hearing.is_counted(member)) {
                self.recovery.told(member.clone(), heads.get(&self.parts.author.log()).copied());
            }
        }
        let (gate, patience) = self.parts.shelf.read(|commons| {
            let electors: Vec<MemberId> = commons.state().active().map(|member| member.id.clone()).collect();
            let gate = self.recovery.gate(commons.replica(), &electors, commons.state().quorum());
            (gate, seconds(commons.state().parameters().lost_seconds.0))
        });
        self.doubt_promises(&gate, patience);
        match gate {
            Gate::Ready => Signing::Yes,
            Gate::AwaitingQuorum { told, needed } => {
                let waited = self.parts.author.clock.monotonic().saturating_sub(self.started);
                let reason = if waited < patience { Reason::RecoveringHead } else { Reason::ResumeNeeded };
                let message = format!(
                    "{told} of {needed} members have told this operator where its own log ends; if they cannot be \
                     reached and nothing was lost: kubectl koinon resume"
                );
                Signing::no(reason, message)
            }
            Gate::TakeBack { from, to, holders } => {
                let holders: Vec<String> = holders.iter().map(ToString::to_string).collect();
                let message = format!(
                    "entries {from} to {} of the own log were forgotten here and are fetched from {}; if what they say is false and \
                     they cannot be reached: kubectl koinon resume",
                    to.seq,
                    holders.join(", ")
                );
                Signing::no(Reason::RecoveringHead, message)
            }
            Gate::Conflict { head, holder } => Signing::no(
                Reason::LogForked,
                format!("{holder} holds another entry at position {} of the own log", head.seq),
            ),
            Gate::Forked(fork) => Signing::no(
                Reason::LogForked,
                format!("the own log has two entries at position {}: {} and {}", fork.seq, fork.first.0, fork.second.0),
            ),
        }
    }

    /// Doubts whoever tells of entries of the own log and does not hand them over within `patience`.
    ///
    /// Whoever cannot be reached may well hold them, and is doubted only when a person has said to go on.
    fn doubt_promises(&mut self, gate: &Gate, patience: Duration) {
        let (next, holders) = match gate {
            Gate::TakeBack { from, holders, .. } => (*from, holders.as_slice()),
            Gate::Conflict { head, holder } => (head.seq, std::slice::from_ref(holder)),
            Gate::Ready | Gate::AwaitingQuorum { .. } | Gate::Forked(_) => {
                self.promised = None;
                return;
            }
        };
        let now = self.parts.author.clock.monotonic();
        let promised = match self.promised {
            Some(promised) if promised.next == next => promised,
            _ => *self.promised.insert(Promised { next, since: now }),
        };
        if now.saturating_sub(promised.since) < patience {
            return;
        }
        for holder in holders {
            if self.recovery.is_resumed() || self.hearing.is_fresh(holder) {
                tracing::warn!(member = %holder, position = %next, "it told of an entry of the own log and does not hand it over; its word is not counted");
                self.recovery.doubt(holder.clone());
            }
        }
        // Another one may promise the same position and deserves the same patience.
        self.promised = None;
    }

    /// What this member is to the cooperative.
    fn standing(&self) -> Standing {
        let (me, log) = (&self.parts.author.me, self.parts.author.log());
        self.parts.shelf.read(|commons| {
            let state = commons.state();
            if let Some(invite) = &self.parts.invite {
                let contains = state.version(&invite.membership_head).is_some();
                let caught_up = self.heads.get(&invite.operator_key).is_some_and(|heads| {
                    // Waiting for nothing more from the sponsor, and still without what the invite promised.
                    commons.replica().wants(heads).is_empty()
                });
                if !contains {
                    let missing = invite.membership_head;
                    return if caught_up { Standing::Truncated(missing) } else { Standing::Applicant };
                }
            }
            match state.member(me) {
                None => Standing::Applicant,
                Some(member) if member.member.keys.operator != log => Standing::OtherKey(member.member.keys.operator),
                Some(member) if member.standing.is_gone() => Standing::Left,
                Some(_) => Standing::Member,
            }
        })
    }

    /// Whether a quorum's clocks, ours among them, agree with ours within the charter's tolerance.
    fn clock_in_tolerance(&self) -> bool {
        let (tolerance, quorum) = self.parts.shelf.read(|commons| {
            let state = commons.state();
            (state.parameters().clock_tolerance_seconds.0.saturating_mul(1_000_000), state.quorum())
        });
        let (mut near, mut far) = (1, 0);
        for offset in self.hearing.clock_offsets() {
            if offset.saturating_abs() <= tolerance { near += 1 } else { far += 1 }
        }
        // Whoever hears nobody cannot tell; being isolated stops it from sealing anyway.
        near >= quorum || far == 0
    }

    /// The highest rules that a seal quorum, this operator included, says that it can decide by.
    fn rules_shared(&self) -> u32 {
        let quorum = self.parts.shelf.read(|commons| commons.state().quorum());
        let shared = RULES_SUPPORTED.into_iter().filter(|rules| self.hearing.can_decide_by(*rules) >= quorum);
        shared.max().unwrap_or(RULES)
    }

    /// Says in the own name what is due: a beacon, and again what is about to end.
    fn speak(&mut self) {
        let Author { me, site, key, clock, .. } = &self.parts.author;
        let coop = self.parts.shelf.read(|commons| commons.replica().coop());
        let may_speak = self.controls.cloned.is_none() && self.standing() == Standing::Member;
        let identity = Identity { coop, member: me.clone(), site: site.clone(), signer: key.clone() };
        self.parts.publisher.bind(may_speak.then_some(identity));
        let now = clock.monotonic();
        if may_speak && now >= self.beacon_due {
            let (beacon, every, valid) = self.parts.shelf.read(|commons| {
                let (state, parameters) = (commons.state(), commons.state().parameters());
                let policy = state.heads().into_iter().map(|(scope, head)| (scope.to_string(), head)).collect();
                let heads = commons.replica().heads();
                let beacon =
                    Beacon { heads, policy, rules_supported: RULES_SUPPORTED.to_vec(), clock_micros: clock.micros() };
                (beacon, seconds(parameters.beacon_seconds.0), seconds(parameters.fresh_seconds.0))
            });
            self.beacon_due = now + every;
            if let Err(error) = self.parts.publisher.beacon(beacon, valid) {
                tracing::error!(%error, "the beacon could not be signed");
            }
        }
        self.parts.publisher.renew();
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0).max(1))
}
