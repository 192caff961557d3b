//! What this member says to others that only its newest version counts: beacons, offers, requests, grants.
//!
//! Guarantees: `seq` rises per subject and starts above any earlier process' (it is at least the clock in microseconds);
//! what is not confirmed by [`LatestPublisher::set`] within its own validity is not signed again, so that a part that no
//! longer decides cannot keep leases alive. A list of requests renews leases, so it is signed only when it is set, and
//! never from memory. Nothing here is durable: what a decision rests on is stored by the decider.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use koinon_core::body::Body;
use koinon_core::body::latest::{Beacon, Grants, Offer, Requests};
use koinon_core::dsse::{Envelope, Signer};
use koinon_core::ids::{CoopId, MemberId, Seq, SiteName, StatementId, UnixSeconds};
use koinon_core::statement::{Audience, Draft, Position, StatementError, Subject};
use koinon_net::commons::Latest;
use thiserror::Error;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::peers::Heard;

/// More subjects than the largest cooperative needs (64 members, two lists each, and a dozen for everybody).
const MAX_SUBJECTS: usize = 160;

/// In whose name statements are signed.
#[derive(Clone)]
pub struct Identity {
    /// The cooperative.
    pub coop: CoopId,
    /// This member.
    pub member: MemberId,
    /// This site.
    pub site: SiteName,
    /// The operator key.
    pub signer: Arc<dyn Signer + Send + Sync>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("coop", &self.coop).field("member", &self.member).finish_non_exhaustive()
    }
}

/// Why something could not be published.
#[derive(Debug, Error)]
pub enum PublishError {
    /// It does not fit a statement.
    #[error("signing {subject} failed")]
    Sign {
        /// Which one.
        subject: Subject,
        /// Why.
        #[source]
        source: Box<StatementError>,
    },
    /// Names of members make names of subjects, so this is a member id that no statement can name.
    #[error("{0} cannot be the subject of a statement")]
    Subject(String),
    /// A bound against a caller that makes up subjects.
    #[error("refused to publish a {MAX_SUBJECTS}th subject: members that are gone must be withdrawn first")]
    TooMany,
}

/// Publishes Latest statements. Clones share everything.
#[derive(Clone, Debug)]
pub struct LatestPublisher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct State {
    identity: Option<Identity>,
    halted: Halted,
    subjects: BTreeMap<Subject, Published>,
    /// Numbers outlive their subject: one that is withdrawn and set again must still be newer.
    last_seq: BTreeMap<Subject, u64>,
}

/// Who does no work, so that nothing but signs of life goes to or comes from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Halted {
    /// This member: it says nothing but that it lives, to anybody.
    pub own: bool,
    /// These others are told nothing else.
    pub others: BTreeSet<MemberId>,
}

#[derive(Debug)]
struct Published {
    to: Audience,
    body: Body,
    valid_for: Duration,
    confirmed: Duration,
    signed: Option<Signed>,
}

#[derive(Clone, Debug)]
struct Signed {
    envelope: Arc<Envelope>,
    id: StatementId,
    seq: Seq,
    at: Duration,
    issued_at: UnixSeconds,
    not_after: UnixSeconds,
}

impl LatestPublisher {
    /// A publisher that signs nothing before [`LatestPublisher::bind`].
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let inner = Inner { clock, state: Mutex::default(), changed: Arc::new(watch::Sender::new(0)) };
        LatestPublisher { inner: Arc::new(inner) }
    }

    /// Signs in this name from now on; `None` when the operator may not sign. What was signed in another name is dropped.
    pub fn bind(&self, identity: Option<Identity>) {
        let mut state = self.lock();
        let same = match (&state.identity, &identity) {
            (Some(a), Some(b)) => {
                (a.coop, &a.member, &a.site, a.signer.public_key())
                    == (b.coop, &b.member, &b.site, b.signer.public_key())
            }
            (None, None) => true,
            _ => false,
        };
        if !same {
            state.identity = identity;
            state.subjects.values_mut().for_each(|published| published.signed = None);
            drop(state);
            self.renew();
            self.bump();
        }
    }

    /// Serves only signs of life to and from these from now on. What is published for them is served again when they work.
    pub fn halt(&self, halted: Halted) {
        let mut state = self.lock();
        if state.halted != halted {
            state.halted = halted;
            drop(state);
            self.bump();
        }
    }

    /// Publishes a sign of life.
    ///
    /// # Errors
    /// As [`LatestPublisher::set`].
    pub fn beacon(&self, beacon: Beacon, valid_for: Duration) -> Result<Option<StatementId>, PublishError> {
        self.set(subject("beacon")?, Audience::Everyone, Body::Beacon(Box::new(beacon)), valid_for)
    }

    /// Publishes what this member offers.
    ///
    /// # Errors
    /// As [`LatestPublisher::set`].
    pub fn offer(&self, offer: Offer, valid_for: Duration) -> Result<Option<StatementId>, PublishError> {
        self.set(subject("offer")?, Audience::Everyone, Body::Offer(Box::new(offer)), valid_for)
    }

    /// Publishes the complete list of what this member asks of `host` or renews there.
    ///
    /// # Errors
    /// As [`LatestPublisher::set`].
    pub fn requests(
        &self,
        host: &MemberId,
        requests: Requests,
        valid_for: Duration,
    ) -> Result<Option<StatementId>, PublishError> {
        let subject = subject(&format!("requests/{host}"))?;
        self.set(subject, Audience::Member(host.clone()), Body::Requests(Box::new(requests)), valid_for)
    }

    /// Serves no list to `host` until the next one: called before a copy there durably stops being renewed, so that no
    /// lease can begin anew after that. Absence withdraws nothing; what the host has heard holds.
    pub fn hold_back_requests(&self, host: &MemberId) {
        if let Ok(subject) = subject(&format!("requests/{host}")) {
            self.withdraw(&subject);
        }
    }

    /// Publishes the complete list of what this member holds, or refused, for `home`.
    ///
    /// # Errors
    /// As [`LatestPublisher::set`].
    pub fn grants(
        &self,
        home: &MemberId,
        grants: Grants,
        valid_for: Duration,
    ) -> Result<Option<StatementId>, PublishError> {
        let subject = subject(&format!("grants/{home}"))?;
        self.set(subject, Audience::Member(home.clone()), Body::Grants(Box::new(grants)), valid_for)
    }

    /// Publishes `body` under `subject`, or confirms what is published there already.
    ///
    /// It is signed anew when it differs, and again and again at half of its validity, for as long as it was set within
    /// the last `valid_for`. Returns the id of the statement that is served now; `None` while nothing may be signed.
    ///
    /// # Errors
    /// When the body does not fit a statement; what was published before stays.
    pub fn set(
        &self,
        subject: Subject,
        to: Audience,
        body: Body,
        valid_for: Duration,
    ) -> Result<Option<StatementId>, PublishError> {
        let now = self.inner.clock.monotonic();
        let mut guard = self.lock();
        let state = &mut *guard;
        let same = state.subjects.get(&subject).is_some_and(|old| old.to == to && old.body == body);
        if same && let Some(old) = state.subjects.get_mut(&subject) {
            old.confirmed = now;
            old.valid_for = valid_for;
            if let Some(signed) = old.signed.as_ref().filter(|signed| !due(signed, valid_for, now)) {
                return Ok(Some(signed.id));
            }
        }
        if !state.subjects.contains_key(&subject) && state.subjects.len() >= MAX_SUBJECTS {
            return Err(PublishError::TooMany);
        }
        let mut published = Published { to, body, valid_for, confirmed: now, signed: None };
        if let Some(identity) = state.identity.clone() {
            let last = state.last_seq.get(&subject).copied();
            let (signed, seq) = self.sign(&identity, &subject, &published, last)?;
            state.last_seq.insert(subject.clone(), seq);
            published.signed = Some(signed);
        }
        let id = published.signed.as_ref().map(|signed| signed.id);
        state.subjects.insert(subject, published);
        drop(guard);
        self.bump();
        Ok(id)
    }

    /// Stops publishing under `subject`. What was served ends by its own time: absence withdraws nothing.
    pub fn withdraw(&self, subject: &Subject) {
        self.lock().subjects.remove(subject);
    }

    /// Forgets everything but the numbers, when this replica no longer leads.
    pub fn clear(&self) {
        self.lock().subjects.clear();
        self.bump();
    }

    /// The statement that is served under `subject`.
    #[must_use]
    pub fn current(&self, subject: &Subject) -> Option<StatementId> {
        self.lock().subjects.get(subject)?.signed.as_ref().map(|signed| signed.id)
    }

    /// What `reader` may have, without what has ended.
    #[must_use]
    pub fn served_to(&self, reader: &MemberId) -> Vec<Latest> {
        let now = self.inner.clock.unix();
        let state = self.lock();
        let works = !state.halted.own && !state.halted.others.contains(reader);
        let may_be_told = |published: &&Published| works || matches!(published.body, Body::Beacon(_));
        let readable = state.subjects.values().filter(|published| published.to.includes(reader)).filter(may_be_told);
        readable
            .filter_map(|published| published.signed.as_ref())
            .filter(|signed| signed.not_after > now)
            .map(|signed| Latest { id: signed.id, envelope: signed.envelope.clone() })
            .collect()
    }

    /// What this member offers itself, in the form in which others hear it.
    #[must_use]
    pub fn own_offer(&self) -> Option<Heard<Offer>> {
        let state = self.lock();
        let (_, published) = state.subjects.iter().find(|(_, published)| matches!(published.body, Body::Offer(_)))?;
        let (Body::Offer(offer), Some(signed)) = (&published.body, &published.signed) else { return None };
        Some(Heard {
            id: signed.id,
            seq: signed.seq,
            issued_at: signed.issued_at,
            not_after: signed.not_after,
            body: Arc::new((**offer).clone()),
            heard_at: signed.at,
        })
    }

    /// Moves whenever what is served changes. Whoever serves more than these statements moves it too.
    #[must_use]
    pub fn pulse(&self) -> Arc<watch::Sender<u64>> {
        self.inner.changed.clone()
    }

    /// Signs anew whatever has passed half of its validity and is still confirmed; called every second by the commons.
    pub fn renew(&self) {
        let now = self.inner.clock.monotonic();
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(identity) = state.identity.clone() else { return };
        let mut renewed = false;
        for (subject, published) in &mut state.subjects {
            let confirmed = now.saturating_sub(published.confirmed) <= published.valid_for;
            let is_due = published.signed.as_ref().is_none_or(|signed| due(signed, published.valid_for, now));
            let from_memory = !matches!(published.body, Body::Requests(_));
            if !(from_memory && confirmed && is_due) {
                continue;
            }
            match self.sign(&identity, subject, published, state.last_seq.get(subject).copied()) {
                Ok((signed, seq)) => {
                    state.last_seq.insert(subject.clone(), seq);
                    published.signed = Some(signed);
                    renewed = true;
                }
                Err(error) => tracing::error!(%subject, %error, "a Latest statement could not be signed again"),
            }
        }
        drop(guard);
        if renewed {
            self.bump();
        }
    }

    fn sign(
        &self,
        identity: &Identity,
        subject: &Subject,
        published: &Published,
        last: Option<u64>,
    ) -> Result<(Signed, u64), PublishError> {
        let clock = &self.inner.clock;
        let micros = u64::try_from(clock.micros().0).unwrap_or(0);
        let seq = last.map_or(micros, |last| micros.max(last.saturating_add(1)));
        let now = clock.unix();
        let validity = i64::try_from(published.valid_for.as_secs().max(1)).unwrap_or(i64::MAX);
        let not_after = UnixSeconds(now.0.saturating_add(validity));
        let draft = Draft {
            coop: Some(identity.coop),
            author: identity.member.clone(),
            site: identity.site.clone(),
            issued_at: now,
            position: Position::Latest { subject: subject.clone(), seq: Seq(seq), to: published.to.clone(), not_after },
            body: published.body.clone(),
        };
        let statement = draft
            .sign(identity.signer.as_ref(), &[])
            .map_err(|source| PublishError::Sign { subject: subject.clone(), source: Box::new(source) })?;
        let envelope = Arc::new(statement.envelope().clone());
        let (id, at) = (statement.id(), clock.monotonic());
        Ok((Signed { envelope, id, seq: Seq(seq), at, issued_at: now, not_after }, seq))
    }

    fn bump(&self) {
        self.inner.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn due(signed: &Signed, valid_for: Duration, now: Duration) -> bool {
    now.saturating_sub(signed.at) >= valid_for / 2
}

fn subject(name: &str) -> Result<Subject, PublishError> {
    name.parse().map_err(|_| PublishError::Subject(name.to_owned()))
}

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;
