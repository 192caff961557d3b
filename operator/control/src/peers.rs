//! What this member hears of the others, as one value that controllers decide on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use koinon_core::body::ChallengeReport;
use koinon_core::body::latest::{Beacon, Grants, Offer, Requests};
use koinon_core::ids::{MemberId, Seq, StatementId, UnixSeconds};
use koinon_core::liveness;
use koinon_core::statement::Subject;

/// Whether a member is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// It is this member.
    Own,
    /// Heard recently.
    Fresh,
    /// Silent for a while: no new work.
    Suspect,
    /// Silent for long: its work is placed again.
    Lost,
}

impl Liveness {
    /// All of them, for closed labels.
    pub const ALL: [Liveness; 4] = [Liveness::Own, Liveness::Fresh, Liveness::Suspect, Liveness::Lost];

    /// The name in resources and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Liveness::Own => "Self",
            Liveness::Fresh => "Fresh",
            Liveness::Suspect => "Suspect",
            Liveness::Lost => "Lost",
        }
    }
}

impl From<liveness::Liveness> for Liveness {
    fn from(liveness: liveness::Liveness) -> Self {
        match liveness {
            liveness::Liveness::Fresh => Liveness::Fresh,
            liveness::Liveness::Suspect => Liveness::Suspect,
            liveness::Liveness::Lost => Liveness::Lost,
        }
    }
}

impl From<Liveness> for koinon_api::member::Liveness {
    fn from(liveness: Liveness) -> Self {
        match liveness {
            Liveness::Own => Self::Own,
            Liveness::Fresh => Self::Fresh,
            Liveness::Suspect => Self::Suspect,
            Liveness::Lost => Self::Lost,
        }
    }
}

/// A Latest statement as it was heard, over a connection to its author.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard<T> {
    /// The statement.
    pub id: StatementId,
    /// Its number.
    pub seq: Seq,
    /// When its author says it was made.
    pub issued_at: UnixSeconds,
    /// When it ends, by its author's clock.
    pub not_after: UnixSeconds,
    /// What it says.
    pub body: Arc<T>,
    /// When it was heard, by the own monotonic clock.
    pub heard_at: Duration,
}

impl<T> Clone for Heard<T> {
    fn clone(&self) -> Self {
        Heard { body: self.body.clone(), ..*self }
    }
}

impl<T> Heard<T> {
    /// For how long it still holds, measured from when it was heard: its author's clock says how long it is meant to
    /// hold, never what time it is here.
    #[must_use]
    pub fn remaining(&self, monotonic_now: Duration) -> Duration {
        let meant = self.not_after.0.saturating_sub(self.issued_at.0).max(0);
        let meant = Duration::from_secs(u64::try_from(meant).unwrap_or(0));
        meant.saturating_sub(monotonic_now.saturating_sub(self.heard_at))
    }

    /// Whether it still holds.
    #[must_use]
    pub fn is_current(&self, monotonic_now: Duration) -> bool {
        !self.remaining(monotonic_now).is_zero()
    }
}

/// One member as it is heard. For the own member, `offer` is what this member publishes itself.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerView {
    /// Whether it is heard.
    pub liveness: Liveness,
    /// Since when, by the own monotonic clock. A state that was restored from `Member.status` counts from the start.
    pub since: Duration,
    /// When it was last heard directly, by the own clock.
    pub last_heard_unix: Option<UnixSeconds>,
    /// Its clock minus ours when its last beacon was heard, in microseconds.
    pub clock_offset_micros: Option<i64>,
    /// Its last beacon.
    pub beacon: Option<Heard<Beacon>>,
    /// Its last offer. Whether it still holds is the reader's question: see [`Heard::is_current`].
    pub offer: Option<Heard<Offer>>,
    /// The complete list of what it asks of this member.
    pub requests: Option<Heard<Requests>>,
    /// The complete list of what it holds, or refused, for this member.
    pub grants: Option<Heard<Grants>>,
    /// What it measured of others' GPUs, each subject's newest. There are as many as one author may have subjects.
    pub challenges: BTreeMap<Subject, Heard<ChallengeReport>>,
}

impl PeerView {
    /// Nothing heard yet.
    #[must_use]
    pub fn silent(liveness: Liveness, since: Duration) -> Self {
        PeerView {
            liveness,
            since,
            last_heard_unix: None,
            clock_offset_micros: None,
            beacon: None,
            offer: None,
            requests: None,
            grants: None,
            challenges: BTreeMap::new(),
        }
    }
}

/// All members that take part, this one included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeersSnapshot {
    /// By id.
    pub members: BTreeMap<MemberId, PeerView>,
    /// Fewer than a quorum are heard: what runs goes on, nothing new is placed or sealed.
    pub isolated: bool,
    /// A quorum has been heard at least once since this replica leads. Before it, silence says nothing about others.
    pub heard_quorum: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use koinon_core::ids::Digest;

    #[test]
    fn a_statement_holds_as_long_as_its_author_meant_whatever_the_two_clocks_say() {
        let heard = Heard {
            id: StatementId(Digest::of(b"x")),
            seq: Seq(1),
            issued_at: UnixSeconds(1_000_000),
            not_after: UnixSeconds(1_000_060),
            body: Arc::new(Requests::default()),
            heard_at: Duration::from_secs(500),
        };
        assert_eq!(heard.remaining(Duration::from_secs(510)), Duration::from_secs(50));
        assert!(heard.is_current(Duration::from_secs(559)));
        assert!(!heard.is_current(Duration::from_secs(560)));
    }
}
