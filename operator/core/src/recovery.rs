//! When an operator may sign, after a start, a restored backup, or in a cloned cluster.
//!
//! A restored operator that signed at once would write a second payload at a number that its peers hold already:
//! an honest member would prove itself a liar. So it first learns its own head from a quorum and takes back what it
//! forgot. A cloned cluster has the same key in two places, and must not sign at all until somebody decides.

use std::collections::{BTreeMap, BTreeSet};

use crate::body::Body;
use crate::body::entry::Head;
use crate::ids::{MemberId, ObjectUid, PublicKey, Seq, UnixSeconds};
use crate::log::{ForkProof, Replica};

/// What an operator knows about its own log after a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    me: MemberId,
    log: PublicKey,
    told: BTreeMap<MemberId, Option<Head>>,
    doubted: BTreeSet<MemberId>,
    resumed: bool,
}

/// Whether log entries may be signed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Too few members have told this operator its own head.
    AwaitingQuorum {
        /// How many have, itself included.
        told: usize,
        /// How many are needed.
        needed: usize,
    },
    /// Peers hold entries that were forgotten here: fetch them from one of the holders first.
    TakeBack {
        /// The first forgotten one.
        from: Seq,
        /// The last one that anybody told.
        to: Head,
        /// Who holds it.
        holders: Vec<MemberId>,
    },
    /// The log has two payloads of one position: a person must decide.
    Forked(Box<ForkProof>),
    /// A peer holds another entry at a position that is filled here; the proof comes with that entry.
    Conflict {
        /// What was told.
        head: Head,
        /// By whom.
        holder: MemberId,
    },
    /// It may sign.
    Ready,
}

impl Recovery {
    /// The state of an operator that has just started.
    pub fn new(me: MemberId, log: PublicKey) -> Self {
        Self { me, log, told: BTreeMap::new(), doubted: BTreeSet::new(), resumed: false }
    }

    /// `member` itself has told what it holds of this operator's log.
    pub fn told(&mut self, member: MemberId, head: Option<Head>) {
        if member != self.me {
            self.told.insert(member, head);
        }
    }

    /// `member` told of entries and then did not hand them over, although there was time for it.
    ///
    /// Nobody signs what it tells of heads, so one that lies could hold an operator up for ever. It counts from now on as one
    /// that has told nothing, which a liar may always be: neither for the quorum nor against signing. What it tells counts
    /// again as soon as it is of entries that are held here.
    pub fn doubt(&mut self, member: MemberId) {
        self.doubted.insert(member);
    }

    /// A person takes the responsibility that nothing was forgotten, because no quorum can be reached.
    pub fn resume(&mut self) {
        self.resumed = true;
    }

    /// Whether to sign, given what is stored now and the members that count with their quorum.
    pub fn gate(&self, replica: &Replica, electors: &[MemberId], quorum: usize) -> Gate {
        if let Some(proof) = replica.fork(&self.log) {
            return Gate::Forked(Box::new(proof.clone()));
        }
        let next = replica.next_seq(&self.log).0;
        let is_unknown = |head: &Head| !replica.contains(&head.id);
        let told: Vec<(&MemberId, &Option<Head>)> = self
            .told
            .iter()
            .filter(|(member, head)| !(self.doubted.contains(*member) && head.as_ref().is_some_and(is_unknown)))
            .collect();
        let unknown: Vec<(&MemberId, Head)> = told
            .iter()
            .filter_map(|(member, head)| Some((*member, (**head)?)))
            .filter(|(_, head)| is_unknown(head))
            .collect();
        if let Some((holder, head)) = unknown.iter().find(|(_, head)| head.seq.0 < next) {
            return Gate::Conflict { head: *head, holder: (*holder).clone() };
        }
        if let Some((_, to)) = unknown.iter().max_by_key(|(_, head)| head.seq) {
            let holders = unknown.iter().filter(|(_, head)| head == to).map(|(member, _)| (*member).clone()).collect();
            return Gate::TakeBack { from: Seq(next), to: *to, holders };
        }
        // Its own store is one voice; an operator that is no elector yet has none and needs the whole quorum.
        let own = usize::from(electors.contains(&self.me));
        let told = own + told.iter().filter(|(member, _)| electors.contains(member)).count();
        if told < quorum && !self.resumed { Gate::AwaitingQuorum { told, needed: quorum } } else { Gate::Ready }
    }

    /// Whether signing rests on a person's word rather than on a quorum; then a resumption belongs into the log.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }
}

/// The time of the last resumption in a log: no seal is signed for a proposal older than that, because the promises
/// made before it may be forgotten.
pub fn resumed_at(replica: &Replica, log: &PublicKey) -> Option<UnixSeconds> {
    let resumptions = replica.entries(log).filter(|e| matches!(e.statement.body(), Body::LogResume(_)));
    resumptions.map(|e| e.statement.header().issued_at).max()
}

/// Whether this is still the cluster for which the operator key was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloneVerdict {
    /// Nothing is recorded yet: record what is seen.
    Unrecorded,
    /// It is.
    Same,
    /// It is another cluster with a copy of the key: serve, but sign nothing until somebody adopts it.
    Cloned {
        /// What the key's Secret records.
        recorded: ObjectUid,
        /// What this cluster has.
        seen: ObjectUid,
    },
}

impl CloneVerdict {
    /// Judges the UID of `kube-system` that the key's Secret records against the one that this cluster has.
    pub fn of(recorded: Option<&ObjectUid>, seen: &ObjectUid) -> Self {
        match recorded {
            None => Self::Unrecorded,
            Some(recorded) if recorded == seen => Self::Same,
            Some(recorded) => Self::Cloned { recorded: recorded.clone(), seen: seen.clone() },
        }
    }

    /// Whether the operator may sign.
    pub fn may_sign(&self) -> bool {
        !matches!(self, Self::Cloned { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::LogResume;
    use crate::body::charter::Preset;
    use crate::dsse::Signer;
    use crate::ids::Seconds;
    use crate::log::{Limits, Range};
    use crate::testkit::{Person, T0, Writer, charter, found, person};

    struct Setting {
        people: [Person; 3],
    }

    impl Setting {
        fn new() -> Self {
            Self { people: ["aarhus", "bilbao", "cork"].map(person) }
        }
        fn electors(&self) -> Vec<MemberId> {
            self.people.iter().map(Person::id).collect()
        }
    }

    #[test]
    fn nothing_is_signed_before_a_quorum_has_told_the_head() {
        let setting = Setting::new();
        let [a, b, _] = &setting.people;
        let people: Vec<&Person> = setting.people.iter().collect();
        let founding = found(&people, charter(&people, Preset::Trial));
        let replica = Replica::new(&founding, Limits::default());
        let mut recovery = Recovery::new(a.id(), a.operator.public_key());
        let gate = |r: &Recovery| r.gate(&replica, &setting.electors(), 2);
        assert_eq!(gate(&recovery), Gate::AwaitingQuorum { told: 1, needed: 2 });
        // Its own echo and a stranger's word are no second voice.
        recovery.told(a.id(), None);
        recovery.told("eve".parse().unwrap(), None);
        assert_eq!(gate(&recovery), Gate::AwaitingQuorum { told: 1, needed: 2 });
        let mut by_hand = recovery.clone();
        by_hand.resume();
        assert_eq!(gate(&by_hand), Gate::Ready);
        recovery.told(b.id(), None);
        assert_eq!(gate(&recovery), Gate::Ready);
        assert_eq!(Recovery::new(a.id(), a.operator.public_key()).gate(&replica, &[a.id()], 1), Gate::Ready);
    }

    #[test]
    fn what_a_restored_backup_forgot_is_taken_back_first() {
        let setting = Setting::new();
        let [a, b, _] = &setting.people;
        let people: Vec<&Person> = setting.people.iter().collect();
        let founding = found(&people, charter(&people, Preset::Trial));
        let (log, mut writer) = (a.operator.public_key(), Writer::new(a, founding.coop()));
        let (mut theirs, mut mine) =
            (Replica::new(&founding, Limits::default()), Replica::new(&founding, Limits::default()));
        for note in 0..5 {
            let entry = writer.note(T0, note);
            theirs.insert(entry.clone()).unwrap();
            if note < 2 {
                mine.insert(entry).unwrap();
            }
        }
        let mut recovery = Recovery::new(a.id(), log);
        recovery.told(b.id(), theirs.head(&log));
        let expected = Gate::TakeBack { from: Seq(2), to: theirs.head(&log).unwrap(), holders: vec![b.id()] };
        assert_eq!(recovery.gate(&mine, &setting.electors(), 2), expected);
        // Also a person's word does not skip entries that somebody holds.
        recovery.resume();
        assert_eq!(recovery.gate(&mine, &setting.electors(), 2), expected);
        assert_eq!(mine.wants(&theirs.heads()), vec![Range { log, from: Seq(2), to: Seq(4) }]);
        for entry in theirs.range(&log, Seq(2), 10) {
            mine.insert((*entry).clone()).unwrap();
        }
        assert_eq!(recovery.gate(&mine, &setting.electors(), 2), Gate::Ready);
    }

    #[test]
    fn entries_that_nobody_hands_over_hold_it_up_only_for_a_while() {
        let setting = Setting::new();
        let [a, b, c] = &setting.people;
        let people: Vec<&Person> = setting.people.iter().collect();
        let founding = found(&people, charter(&people, Preset::Trial));
        let replica = Replica::new(&founding, Limits::default());
        let mut recovery = Recovery::new(a.id(), a.operator.public_key());
        let invented = Head { seq: Seq(1_000_000), id: Writer::new(b, founding.coop()).note(T0, 0).id() };
        recovery.told(b.id(), Some(invented));
        assert!(matches!(recovery.gate(&replica, &setting.electors(), 2), Gate::TakeBack { .. }));
        recovery.doubt(b.id());
        recovery.told(b.id(), Some(invented));
        // Its word is no voice in the quorum either.
        assert_eq!(recovery.gate(&replica, &setting.electors(), 2), Gate::AwaitingQuorum { told: 1, needed: 2 });
        recovery.told(c.id(), None);
        assert_eq!(recovery.gate(&replica, &setting.electors(), 2), Gate::Ready);
        assert_eq!(
            recovery.gate(&replica, &setting.electors(), 3),
            Gate::AwaitingQuorum { told: 2, needed: 3 },
            "until it tells what can be checked"
        );
        recovery.told(b.id(), None);
        assert_eq!(recovery.gate(&replica, &setting.electors(), 3), Gate::Ready);
    }

    #[test]
    fn two_histories_of_one_log_stop_it() {
        let setting = Setting::new();
        let [a, b, _] = &setting.people;
        let people: Vec<&Person> = setting.people.iter().collect();
        let founding = found(&people, charter(&people, Preset::Trial));
        let (log, mut writer) = (a.operator.public_key(), Writer::new(a, founding.coop()));
        writer.note(T0, 0);
        let mut clone = writer.restored(1);
        let (mine, other) = (writer.note(T0, 1), clone.note(T0, 2));
        let mut replica = Replica::new(&founding, Limits::default());
        replica.insert(writer.entries[0].clone()).unwrap();
        replica.insert(mine).unwrap();
        let mut recovery = Recovery::new(a.id(), log);
        let head = Head { seq: Seq(1), id: other.id() };
        recovery.told(b.id(), Some(head));
        assert_eq!(recovery.gate(&replica, &setting.electors(), 2), Gate::Conflict { head, holder: b.id() });
        replica.insert(other).unwrap();
        assert!(matches!(recovery.gate(&replica, &setting.electors(), 2), Gate::Forked(_)));
    }

    #[test]
    fn a_resumption_is_read_from_the_log() {
        let a = person("aarhus");
        let founding = found(&[&a], charter(&[&a], Preset::Trial));
        let (log, mut writer) = (a.operator.public_key(), Writer::new(&a, founding.coop()));
        let mut replica = Replica::new(&founding, Limits::default());
        replica.insert(writer.note(T0, 0)).unwrap();
        assert_eq!(resumed_at(&replica, &log), None);
        let later = T0.plus(Seconds(60));
        let body = LogResume { old_log: log, old_head: replica.head(&log) };
        replica.insert(writer.add(later, Body::LogResume(body))).unwrap();
        assert_eq!(resumed_at(&replica, &log), Some(later));
    }

    #[test]
    fn a_key_in_a_cloned_cluster_signs_nothing() {
        let (here, there): (ObjectUid, ObjectUid) = ("uid-1".parse().unwrap(), "uid-2".parse().unwrap());
        assert!(CloneVerdict::of(None, &here).may_sign());
        assert!(CloneVerdict::of(Some(&here), &here).may_sign());
        assert!(!CloneVerdict::of(Some(&there), &here).may_sign());
    }
}
