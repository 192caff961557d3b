//! Latest statements as a reader keeps them: in memory, the newest of each subject, only from their author.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{CoopId, MemberId, PublicKey, Seq, UnixMicros, UnixSeconds};
use crate::kind::Kind;
use crate::statement::{Audience, Position, Statement, Subject};

/// Most subjects of one author that a reader keeps.
pub const MAX_SUBJECTS: usize = 16;

/// Why a Latest statement was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LatestRefused {
    /// It has another position.
    #[error("a {0} statement is not a Latest one")]
    NotLatest(Kind),
    /// It belongs to another cooperative.
    #[error("the statement belongs to cooperative {0}")]
    OtherCooperative(CoopId),
    /// It was not heard from its author: a relay could hold back a newer one.
    #[error("the statement is {author}'s but was heard from {peer}: Latest statements count only from their author")]
    NotFromAuthor {
        /// Who says it.
        author: MemberId,
        /// Who served it.
        peer: MemberId,
    },
    /// It is signed by a key that is not its author's operator key.
    #[error("the statement is signed by {0}, which is not its author's operator key")]
    OtherKey(PublicKey),
    /// It is for somebody else.
    #[error("the statement is addressed to {0}")]
    NotForMe(Audience),
    /// It has ended.
    #[error("the statement ended at {not_after}, it is {now}: compare the clocks")]
    Ended {
        /// Its end.
        not_after: UnixSeconds,
        /// The reader's time.
        now: UnixSeconds,
    },
    /// A newer one is held.
    #[error("version {seen} of {subject} is older than {held}, which is held")]
    Older {
        /// Which subject.
        subject: Subject,
        /// The version that came.
        seen: Seq,
        /// The version that is held.
        held: Seq,
    },
    /// Its author may not work: its sign of life counts, what it asks and offers does not.
    #[error("the author may not work, so its {0} is not taken")]
    Halted(Kind),
    /// Its author has too many subjects.
    #[error("the author has {MAX_SUBJECTS} subjects already")]
    TooManySubjects,
}

impl LatestRefused {
    /// A short name for metrics and events.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotLatest(_) => "NotLatest",
            Self::OtherCooperative(_) => "OtherCooperative",
            Self::NotFromAuthor { .. } => "NotFromAuthor",
            Self::OtherKey(_) => "OtherKey",
            Self::NotForMe(_) => "NotForMe",
            Self::Ended { .. } => "Ended",
            Self::Older { .. } => "Older",
            Self::Halted(_) => "Halted",
            Self::TooManySubjects => "TooManySubjects",
        }
    }
}

/// The member at the other end of a connection, as the log pins it.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Who it is.
    pub id: &'a MemberId,
    /// Its operator key.
    pub operator: &'a PublicKey,
}

/// What one member holds of the others' Latest statements.
#[derive(Clone, Debug)]
pub struct Inbox {
    me: MemberId,
    coop: CoopId,
    held: BTreeMap<MemberId, BTreeMap<Subject, Arc<Statement>>>,
}

impl Inbox {
    /// An empty one.
    pub fn new(me: MemberId, coop: CoopId) -> Self {
        Self { me, coop, held: BTreeMap::new() }
    }

    /// Takes a statement that `peer` served; `false` if it was held already.
    pub fn accept(&mut self, peer: Peer<'_>, statement: Statement, now: UnixSeconds) -> Result<bool, LatestRefused> {
        let Position::Latest { subject, seq, to, not_after } = statement.position() else {
            return Err(LatestRefused::NotLatest(statement.kind().clone()));
        };
        if statement.coop() != self.coop {
            return Err(LatestRefused::OtherCooperative(statement.coop()));
        }
        if statement.author() != peer.id {
            let author = statement.author().clone();
            return Err(LatestRefused::NotFromAuthor { author, peer: peer.id.clone() });
        }
        if statement.header().key != *peer.operator {
            return Err(LatestRefused::OtherKey(statement.header().key));
        }
        if !to.includes(&self.me) {
            return Err(LatestRefused::NotForMe(to.clone()));
        }
        if *not_after <= now {
            return Err(LatestRefused::Ended { not_after: *not_after, now });
        }
        let subjects = self.held.entry(peer.id.clone()).or_default();
        match subjects.get(subject).map(|held| (held.id(), latest_seq(held))) {
            Some((id, _)) if id == statement.id() => return Ok(false),
            Some((_, held)) if held >= *seq => {
                return Err(LatestRefused::Older { subject: subject.clone(), seen: *seq, held });
            }
            None if subjects.len() >= MAX_SUBJECTS => return Err(LatestRefused::TooManySubjects),
            _ => {}
        }
        subjects.insert(subject.clone(), Arc::new(statement));
        Ok(true)
    }

    /// The newest statement of `kind` by `author` that has not ended.
    pub fn current(&self, author: &MemberId, kind: &Kind, now: UnixSeconds) -> Option<&Arc<Statement>> {
        self.held
            .get(author)?
            .values()
            .filter(|s| s.kind() == kind)
            .filter(|s| matches!(s.position(), Position::Latest { not_after, .. } if *not_after > now))
            .max_by_key(|s| latest_seq(s))
    }

    /// Forgets a member, for instance one that left.
    pub fn forget(&mut self, author: &MemberId) {
        self.held.remove(author);
    }
}

fn latest_seq(statement: &Statement) -> Seq {
    match statement.position() {
        Position::Latest { seq, .. } => *seq,
        _ => Seq(0),
    }
}

/// The number of the next version: above the last one, and above those that a lost state may have given out.
pub fn next_seq(last: Option<Seq>, now: UnixMicros) -> Seq {
    let by_clock = u64::try_from(now.0).unwrap_or(0);
    Seq(last.map_or(0, |last| last.0.saturating_add(1)).max(by_clock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::dsse::Signer;
    use crate::ids::{Digest, Seconds};
    use crate::statement::Draft;
    use crate::testkit::{Person, T0, person};

    fn coop() -> CoopId {
        CoopId(Digest::of(b"coop"))
    }

    fn requests(who: &Person, subject: &str, seq: u64, to: &str) -> Statement {
        let position = Position::Latest {
            subject: subject.parse().unwrap(),
            seq: Seq(seq),
            to: to.parse().unwrap(),
            not_after: T0.plus(Seconds(60)),
        };
        let body = Body::Requests(Box::default());
        let site = who.member.site.name.clone();
        Draft { coop: Some(coop()), author: who.id(), site, issued_at: T0, position, body }
            .sign(&who.operator, &[])
            .unwrap()
    }

    #[test]
    fn the_newest_of_a_subject_counts_until_it_ends() {
        let bilbao = person("bilbao");
        let (id, operator) = (bilbao.id(), bilbao.operator.public_key());
        let peer = Peer { id: &id, operator: &operator };
        let mut inbox = Inbox::new("cork".parse().unwrap(), coop());
        let newest = requests(&bilbao, "requests/cork", 7, "cork");
        assert_eq!(inbox.accept(peer, newest.clone(), T0), Ok(true));
        assert_eq!(inbox.accept(peer, newest.clone(), T0), Ok(false));
        let older = inbox.accept(peer, requests(&bilbao, "requests/cork", 6, "cork"), T0).unwrap_err();
        assert_eq!(older.category(), "Older");
        assert_eq!(inbox.current(&id, &Kind::Requests, T0).map(|s| s.id()), Some(newest.id()));
        assert_eq!(inbox.current(&id, &Kind::Requests, T0.plus(Seconds(60))), None);
    }

    #[test]
    fn only_the_author_s_own_word_to_this_reader_counts() {
        let (bilbao, eve) = (person("bilbao"), person("eve"));
        let (id, key) = (bilbao.id(), bilbao.operator.public_key());
        let (eve_id, eve_key) = (eve.id(), eve.operator.public_key());
        let mut inbox = Inbox::new("cork".parse().unwrap(), coop());
        let statement = requests(&bilbao, "requests/cork", 7, "cork");
        let mut refusal = |peer, s, now| inbox.accept(peer, s, now).unwrap_err().category();
        let (bilbao_peer, eve_peer) = (Peer { id: &id, operator: &key }, Peer { id: &eve_id, operator: &eve_key });
        assert_eq!(refusal(eve_peer, statement.clone(), T0), "NotFromAuthor");
        assert_eq!(refusal(Peer { id: &id, operator: &eve_key }, statement.clone(), T0), "OtherKey");
        assert_eq!(refusal(bilbao_peer, requests(&bilbao, "requests/aarhus", 7, "aarhus"), T0), "NotForMe");
        assert_eq!(refusal(bilbao_peer, statement, T0.plus(Seconds(60))), "Ended");
        assert_eq!(refusal(bilbao_peer, bilbao.application(coop(), T0), T0), "NotLatest");
    }

    #[test]
    fn subjects_of_one_author_are_bounded() {
        let bilbao = person("bilbao");
        let (id, key) = (bilbao.id(), bilbao.operator.public_key());
        let mut inbox = Inbox::new("cork".parse().unwrap(), coop());
        let mut accept = |n: usize| {
            inbox.accept(Peer { id: &id, operator: &key }, requests(&bilbao, &format!("requests/{n}"), 1, "*"), T0)
        };
        for n in 0..MAX_SUBJECTS {
            assert_eq!(accept(n), Ok(true));
        }
        assert_eq!(accept(MAX_SUBJECTS), Err(LatestRefused::TooManySubjects));
    }

    #[test]
    fn versions_rise_also_when_the_clock_or_the_memory_goes_back() {
        assert_eq!(next_seq(None, UnixMicros(5)), Seq(5));
        assert_eq!(next_seq(Some(Seq(9)), UnixMicros(5)), Seq(10));
        assert_eq!(next_seq(Some(Seq(9)), UnixMicros(50)), Seq(50));
        assert_eq!(next_seq(None, UnixMicros(-5)), Seq(0));
    }
}
