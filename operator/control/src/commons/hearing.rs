//! What is heard of each member, and what follows from how long it was not.
//!
//! Only words over a connection to the member itself count. Everything is measured by the own monotonic clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use koinon_core::body::Body;
use koinon_core::body::charter::Parameters;
use koinon_core::ids::{CoopId, MemberId, PublicKey, UnixSeconds};
use koinon_core::kind::Kind;
use koinon_core::latest::{Inbox, LatestRefused, Peer};
use koinon_core::liveness::{Instant, LivenessTimes, Roster, Transition};
use koinon_core::statement::{Position, Statement};

use crate::clock::Clock;
use crate::peers::{Heard, Liveness, PeerView, PeersSnapshot};

/// The members that take part, as the log has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Operator keys by member, this one included.
    pub members: BTreeMap<MemberId, PublicKey>,
    /// Those of them of whom a quorum must be heard.
    pub counted: BTreeSet<MemberId>,
    /// Those of them that may not work: only their signs of life are taken.
    pub halted: BTreeSet<MemberId>,
    /// How many members make a seal quorum.
    pub quorum: usize,
}

/// The ears of one member.
#[derive(Debug)]
pub struct Hearing {
    me: MemberId,
    clock: Arc<dyn Clock>,
    inbox: Inbox,
    roster: Roster,
    membership: Membership,
    views: BTreeMap<MemberId, PeerView>,
    heard_quorum: bool,
}

impl Hearing {
    /// Ears that have heard nothing.
    #[must_use]
    pub fn new(me: MemberId, coop: CoopId, parameters: &Parameters, clock: Arc<dyn Clock>) -> Self {
        let membership = Membership::default();
        let roster = Roster::new(times(parameters));
        Hearing {
            inbox: Inbox::new(me.clone(), coop),
            me,
            clock,
            roster,
            membership,
            views: BTreeMap::new(),
            heard_quorum: false,
        }
    }

    /// Follows a change of the membership.
    pub fn set_members(&mut self, membership: Membership) {
        if self.membership == membership {
            return;
        }
        let now = self.clock.monotonic();
        let others = membership.members.keys().filter(|member| **member != self.me);
        self.roster.set_peers(others, instant(now));
        self.roster.count(|member| membership.counted.contains(member), membership.counted.contains(&self.me));
        for gone in self.membership.members.keys().filter(|member| !membership.members.contains_key(*member)) {
            self.inbox.forget(gone);
        }
        // A new operator key is another voice: nothing that the old one said holds on.
        for (member, key) in &self.membership.members {
            if membership.members.get(member).is_some_and(|now| now != key) {
                self.inbox.forget(member);
                self.views.remove(member);
            }
        }
        self.views.retain(|member, _| membership.members.contains_key(member));
        for member in membership.members.keys() {
            let liveness = if *member == self.me { Liveness::Own } else { Liveness::Suspect };
            self.views.entry(member.clone()).or_insert_with(|| PeerView::silent(liveness, now));
        }
        self.membership = membership;
    }

    /// Takes over that a member was Lost before this replica led.
    pub fn restore_lost(&mut self, member: &MemberId) {
        self.roster.restore_lost(member);
        if *member != self.me
            && let Some(view) = self.views.get_mut(member)
        {
            view.liveness = Liveness::Lost;
        }
    }

    /// Takes a Latest statement that came over a connection to the holder of `from`.
    ///
    /// # Errors
    /// When it does not count here.
    pub fn hear(&mut self, from: &PublicKey, statement: Statement) -> Result<Option<Transition>, LatestRefused> {
        let Some(member) = self.member_of(from).cloned() else {
            return Err(LatestRefused::OtherKey(*from));
        };
        if self.membership.halted.contains(&member) && *statement.kind() != Kind::Beacon {
            return Err(LatestRefused::Halted(statement.kind().clone()));
        }
        let (unix, monotonic) = (self.clock.unix(), self.clock.monotonic());
        let known = statement.clone();
        // Its end is measured from when it was heard, not compared with our clock: see `Heard::remaining`. Only what was
        // made to hold for no time at all is refused by passing its own beginning as "now".
        let issued = statement.header().issued_at;
        let fresh = self.inbox.accept(Peer { id: &member, operator: from }, statement, issued)?;
        if !fresh {
            return Ok(None);
        }
        self.note(&member, &known, unix, monotonic);
        let transition = self.roster.heard(&member, instant(monotonic));
        self.apply(transition.as_slice(), monotonic);
        Ok(transition)
    }

    /// Moves on to now.
    pub fn step(&mut self) -> Vec<Transition> {
        let now = self.clock.monotonic();
        let transitions = self.roster.step(instant(now), self.membership.quorum);
        self.apply(&transitions, now);
        transitions
    }

    /// What is heard now. `own` is what this member offers itself.
    #[must_use]
    pub fn snapshot(&mut self, own: Option<Heard<koinon_core::body::latest::Offer>>) -> PeersSnapshot {
        let isolated = self.isolated();
        // Whoever belongs to no membership yet has heard no quorum of it.
        self.heard_quorum |= !isolated && self.membership.members.contains_key(&self.me);
        if let Some(view) = self.views.get_mut(&self.me) {
            view.offer = own;
        }
        PeersSnapshot { members: self.views.clone(), isolated, heard_quorum: self.heard_quorum }
    }

    /// Whether fewer than a quorum are heard, this member included.
    #[must_use]
    pub fn isolated(&self) -> bool {
        self.roster.isolated(self.membership.quorum)
    }

    /// Whether `member` itself was heard recently.
    #[must_use]
    pub fn is_fresh(&self, member: &MemberId) -> bool {
        self.views.get(member).is_some_and(|view| view.liveness == Liveness::Fresh)
    }

    /// The others that are heard and count.
    fn counted(&self) -> impl Iterator<Item = &PeerView> {
        let fresh = self.views.iter().filter(|(_, view)| view.liveness == Liveness::Fresh);
        fresh.filter(|(member, _)| self.membership.counted.contains(*member)).map(|(_, view)| view)
    }

    /// How far the clocks of those who are heard are from ours, in microseconds.
    pub fn clock_offsets(&self) -> impl Iterator<Item = i64> {
        self.counted().filter_map(|view| view.clock_offset_micros)
    }

    /// How many members that are heard, this one included, can decide by `rules`.
    #[must_use]
    pub fn can_decide_by(&self, rules: u32) -> usize {
        let able =
            |view: &&PeerView| view.beacon.as_ref().is_some_and(|beacon| beacon.body.rules_supported.contains(&rules));
        1 + self.counted().filter(able).count()
    }

    /// Whether `member` is one of those of whom a quorum must be heard.
    #[must_use]
    pub fn is_counted(&self, member: &MemberId) -> bool {
        self.membership.counted.contains(member)
    }

    /// The member whose operator key this is.
    #[must_use]
    pub fn member_of(&self, key: &PublicKey) -> Option<&MemberId> {
        self.membership.members.iter().find(|(_, known)| *known == key).map(|(member, _)| member)
    }

    fn note(&mut self, member: &MemberId, statement: &Statement, unix: UnixSeconds, heard_at: Duration) {
        let Some(view) = self.views.get_mut(member) else { return };
        let Position::Latest { subject, seq, not_after, .. } = statement.position() else { return };
        let (seq, not_after) = (*seq, *not_after);
        view.last_heard_unix = Some(unix);
        let (id, issued_at) = (statement.id(), statement.header().issued_at);
        macro_rules! heard {
            ($body:expr) => {
                Some(Heard { id, seq, issued_at, not_after, body: Arc::new((**$body).clone()), heard_at })
            };
        }
        match statement.body() {
            Body::Beacon(beacon) => {
                view.clock_offset_micros = Some(beacon.clock_micros.0.saturating_sub(self.clock.micros().0));
                view.beacon = heard!(beacon);
            }
            Body::Offer(offer) => view.offer = heard!(offer),
            Body::Requests(requests) => view.requests = heard!(requests),
            Body::Grants(grants) => view.grants = heard!(grants),
            Body::Challenge(report) => {
                view.challenges.extend(heard!(report).map(|heard| (subject.clone(), heard)));
            }
            _ => {}
        }
    }

    fn apply(&mut self, transitions: &[Transition], now: Duration) {
        for transition in transitions {
            if let Some(view) = self.views.get_mut(&transition.member) {
                view.liveness = transition.to.into();
                view.since = now;
            }
        }
    }
}

fn times(parameters: &Parameters) -> LivenessTimes {
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    LivenessTimes { fresh_millis: millis(parameters.fresh_seconds.0), lost_millis: millis(parameters.lost_seconds.0) }
}

fn instant(monotonic: Duration) -> Instant {
    Instant(u64::try_from(monotonic.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use koinon_core::body::charter::Preset;
    use koinon_core::body::latest::Beacon;
    use koinon_core::dsse::Signer;
    use koinon_core::ids::{Digest, Seq, UnixMicros};
    use koinon_core::presets;
    use koinon_core::statement::{Audience, Draft};
    use koinon_core::testkit::{self, Person, T0};

    use super::*;
    use crate::clock::ManualClock;

    const COOP: CoopId = CoopId(Digest([9; 32]));

    fn beacon(person: &Person, seq: u64, issued: i64) -> Statement {
        let body = Body::Beacon(Box::new(Beacon {
            heads: BTreeMap::new(),
            policy: BTreeMap::new(),
            rules_supported: vec![1],
            clock_micros: UnixMicros(issued * 1_000_000),
        }));
        latest(person, seq, issued, "beacon", Audience::Everyone, body)
    }

    fn latest(person: &Person, seq: u64, issued: i64, subject: &str, to: Audience, body: Body) -> Statement {
        Draft {
            coop: Some(COOP),
            author: person.id(),
            site: person.member.site.name.clone(),
            issued_at: UnixSeconds(issued),
            position: Position::Latest {
                subject: subject.parse().unwrap(),
                seq: Seq(seq),
                to,
                not_after: UnixSeconds(issued + 6),
            },
            body,
        }
        .sign(&person.operator, &[])
        .unwrap()
    }

    fn three() -> (Hearing, Arc<ManualClock>, Person, Person) {
        let (me, bilbao, cork) = (testkit::person("aarhus"), testkit::person("bilbao"), testkit::person("cork"));
        let clock = Arc::new(ManualClock::at(T0));
        let mut hearing = Hearing::new(me.id(), COOP, &presets::parameters(Preset::Trial), clock.clone());
        let members = [&me, &bilbao, &cork].map(|p| (p.id(), p.operator.public_key()));
        hearing.set_members(of(members.into(), []));
        (hearing, clock, bilbao, cork)
    }

    fn of<const N: usize>(members: BTreeMap<MemberId, PublicKey>, halted: [MemberId; N]) -> Membership {
        let counted = members.keys().cloned().collect();
        Membership { members, counted, halted: halted.into(), quorum: 2 }
    }

    fn liveness(hearing: &mut Hearing, person: &Person) -> Liveness {
        hearing.snapshot(None).members[&person.id()].liveness
    }

    #[test]
    fn a_member_is_suspect_until_heard_then_fresh_then_lost_while_another_is_heard() {
        let (mut hearing, clock, bilbao, cork) = three();
        assert_eq!(liveness(&mut hearing, &bilbao), Liveness::Suspect);
        hearing.hear(&bilbao.operator.public_key(), beacon(&bilbao, 1, T0.0)).unwrap();
        assert_eq!(liveness(&mut hearing, &bilbao), Liveness::Fresh);
        for second in 1..=20 {
            clock.advance(Duration::from_secs(1));
            hearing.hear(&cork.operator.public_key(), beacon(&cork, second, T0.0)).unwrap();
            hearing.step();
            let expected = match second {
                ..=6 => Liveness::Fresh,
                7..=19 => Liveness::Suspect,
                _ => Liveness::Lost,
            };
            assert_eq!(liveness(&mut hearing, &bilbao), expected, "after {second} s");
        }
    }

    #[test]
    fn a_peer_whose_clock_is_hours_off_is_heard_all_the_same_and_its_offset_shown() {
        let (mut hearing, _, bilbao, _) = three();
        hearing.hear(&bilbao.operator.public_key(), beacon(&bilbao, 1, T0.0 - 7200)).unwrap();
        let snapshot = hearing.snapshot(None);
        let view = &snapshot.members[&bilbao.id()];
        assert_eq!((view.liveness, view.clock_offset_micros), (Liveness::Fresh, Some(-7_200_000_000)));
        assert!(view.beacon.as_ref().unwrap().is_current(Duration::from_secs(5)));
    }

    #[test]
    fn what_another_passes_on_in_a_members_name_is_not_heard() {
        let (mut hearing, _, bilbao, cork) = three();
        let relayed = hearing.hear(&cork.operator.public_key(), beacon(&bilbao, 1, T0.0));
        assert!(matches!(relayed, Err(LatestRefused::NotFromAuthor { .. })), "{relayed:?}");
        assert_eq!(liveness(&mut hearing, &bilbao), Liveness::Suspect);
        let stranger = testkit::person("dublin");
        assert!(hearing.hear(&stranger.operator.public_key(), beacon(&stranger, 1, T0.0)).is_err());
    }

    #[test]
    fn of_a_member_that_may_not_work_the_sign_of_life_counts_and_nothing_that_it_asks_or_offers() {
        let (mut hearing, _, bilbao, _) = three();
        let key = bilbao.operator.public_key();
        let asks = |seq| {
            let requests = Body::Requests(Box::default());
            let to = Audience::Member("aarhus".parse().unwrap());
            latest(&bilbao, seq, T0.0, "requests/aarhus", to, requests)
        };
        let everybody = hearing.membership.members.clone();
        hearing.set_members(of(everybody.clone(), [bilbao.id()]));
        assert_eq!(hearing.hear(&key, asks(1)), Err(LatestRefused::Halted(Kind::Requests)));
        assert_eq!(liveness(&mut hearing, &bilbao), Liveness::Suspect);
        hearing.hear(&key, beacon(&bilbao, 1, T0.0)).unwrap();
        assert_eq!(liveness(&mut hearing, &bilbao), Liveness::Fresh);
        assert!(!hearing.isolated(), "it counts as it did");
        hearing.set_members(of(everybody, []));
        hearing.hear(&key, asks(1)).unwrap();
        assert!(hearing.snapshot(None).members[&bilbao.id()].requests.is_some());
    }

    #[test]
    fn the_same_words_again_are_no_sign_of_life() {
        let (mut hearing, clock, bilbao, _) = three();
        hearing.hear(&bilbao.operator.public_key(), beacon(&bilbao, 1, T0.0)).unwrap();
        clock.advance(Duration::from_secs(7));
        hearing.hear(&bilbao.operator.public_key(), beacon(&bilbao, 1, T0.0)).unwrap();
        hearing.step();
        assert_eq!(liveness(&mut hearing, &bilbao), Liveness::Suspect);
    }

    #[test]
    fn whoever_hears_nobody_is_isolated_and_calls_nobody_lost() {
        let (mut hearing, clock, bilbao, _) = three();
        assert!(!hearing.snapshot(None).heard_quorum);
        hearing.hear(&bilbao.operator.public_key(), beacon(&bilbao, 1, T0.0)).unwrap();
        assert!(hearing.snapshot(None).heard_quorum);
        clock.advance(Duration::from_secs(3600));
        hearing.step();
        let snapshot = hearing.snapshot(None);
        assert!(snapshot.isolated && snapshot.heard_quorum);
        assert_eq!(snapshot.members[&bilbao.id()].liveness, Liveness::Suspect);
    }

    #[test]
    fn a_member_that_was_lost_before_a_restart_stays_so_until_it_is_heard() {
        let (mut hearing, _, bilbao, _) = three();
        hearing.restore_lost(&bilbao.id());
        assert_eq!(liveness(&mut hearing, &bilbao), Liveness::Lost);
        hearing.hear(&bilbao.operator.public_key(), beacon(&bilbao, 1, T0.0)).unwrap();
        assert_eq!(liveness(&mut hearing, &bilbao), Liveness::Fresh);
    }
}
