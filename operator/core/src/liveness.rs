//! Whether a peer is Fresh, Suspect or Lost, judged by the hearer's own monotonic clock.
//!
//! Unreachable is not dead. A silent peer becomes Suspect (nothing new is placed there) and only much later Lost
//! (what it hosts is placed again elsewhere), and it can become Lost only while this member itself hears a quorum:
//! a member that hears nobody is the one that is cut off, and must not conclude that everybody else has died.

use std::collections::BTreeMap;

use crate::ids::MemberId;

/// A reading of the hearer's monotonic clock, in milliseconds since an arbitrary start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Milliseconds from `earlier` to `self`; zero where `earlier` is later.
    #[must_use]
    pub fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a member concludes from how long it has not heard a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// Heard within the charter's `freshSeconds`.
    Fresh,
    /// Silent for longer than that: it gets no new work, and keeps what it has.
    Suspect,
    /// Silent for `lostSeconds`: its work is placed again elsewhere under a higher epoch.
    Lost,
}

/// The charter's times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivenessTimes {
    /// Silence up to this is Fresh.
    pub fresh_millis: u64,
    /// Silence from this on is Lost.
    pub lost_millis: u64,
}

/// A change of one peer's liveness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The peer.
    pub member: MemberId,
    /// What it was.
    pub from: Liveness,
    /// What it is now.
    pub to: Liveness,
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    /// The last time it was heard, or when it was first waited for.
    since: Instant,
    state: Liveness,
    /// Whether it is one of those of whom a quorum must be heard.
    counted: bool,
}

/// The peers of one member and what it concludes about each.
#[derive(Debug, Clone)]
pub struct Roster {
    times: LivenessTimes,
    peers: BTreeMap<MemberId, Peer>,
    /// Whether this member is counted itself.
    own: bool,
    last_loss: Option<Instant>,
}

impl Roster {
    /// A roster without peers.
    #[must_use]
    pub fn new(times: LivenessTimes) -> Self {
        Self { times, peers: BTreeMap::new(), own: true, last_loss: None }
    }

    /// Tracks exactly `members`. A new one is Suspect until it is heard: it has proved nothing yet.
    pub fn set_peers<'a>(&mut self, members: impl IntoIterator<Item = &'a MemberId>, now: Instant) {
        let mut kept = BTreeMap::new();
        for member in members {
            let peer =
                self.peers.remove(member).unwrap_or(Peer { since: now, state: Liveness::Suspect, counted: true });
            kept.insert(member.clone(), peer);
        }
        self.peers = kept;
    }

    /// Counts only these towards a quorum, this member if `own`: new members and silent ones are heard, and make no quorum.
    pub fn count(&mut self, counted: impl Fn(&MemberId) -> bool, own: bool) {
        self.own = own;
        for (member, peer) in &mut self.peers {
            peer.counted = counted(member);
        }
    }

    /// Takes over that a peer was already Lost before this process started.
    pub fn restore_lost(&mut self, member: &MemberId) {
        if let Some(peer) = self.peers.get_mut(member) {
            peer.state = Liveness::Lost;
        }
    }

    /// Notes that something was heard from `member` itself, over a connection to it.
    pub fn heard(&mut self, member: &MemberId, now: Instant) -> Option<Transition> {
        let peer = self.peers.get_mut(member)?;
        peer.since = now;
        let from = std::mem::replace(&mut peer.state, Liveness::Fresh);
        (from != Liveness::Fresh).then(|| Transition { member: member.clone(), from, to: Liveness::Fresh })
    }

    /// How many members that count are heard directly, this one included if it does.
    #[must_use]
    pub fn heard_count(&self) -> usize {
        let heard = self.peers.values().filter(|peer| peer.counted && peer.state == Liveness::Fresh).count();
        usize::from(self.own) + heard
    }

    /// Whether this member hears fewer than `quorum` members, itself included: it then keeps what runs, places
    /// nothing new and seals nothing.
    #[must_use]
    pub fn isolated(&self, quorum: usize) -> bool {
        self.heard_count() < quorum
    }

    /// The conclusion about `member`, where it is a tracked peer.
    #[must_use]
    pub fn liveness(&self, member: &MemberId) -> Option<Liveness> {
        self.peers.get(member).map(|peer| peer.state)
    }

    /// Moves the peers on to `now`.
    ///
    /// # Guarantees
    /// - No peer becomes Lost while this member hears fewer than `quorum` members (mass-loss guard).
    /// - At most one peer becomes Lost per `lostSeconds`, so that a fault of our own that silences several peers
    ///   one after the other does not re-place all their work at once.
    pub fn step(&mut self, now: Instant, quorum: usize) -> Vec<Transition> {
        let mut transitions = Vec::new();
        for (member, peer) in &mut self.peers {
            if peer.state == Liveness::Fresh && now.millis_since(peer.since) > self.times.fresh_millis {
                peer.state = Liveness::Suspect;
                transitions.push(Transition { member: member.clone(), from: Liveness::Fresh, to: Liveness::Suspect });
            }
        }
        if self.isolated(quorum) {
            return transitions;
        }
        let lost_millis = self.times.lost_millis;
        if self.last_loss.is_some_and(|last| now.millis_since(last) < lost_millis) {
            return transitions;
        }
        let longest_silent = self
            .peers
            .iter_mut()
            .filter(|(_, peer)| peer.state == Liveness::Suspect && now.millis_since(peer.since) >= lost_millis)
            .min_by_key(|(_, peer)| peer.since);
        if let Some((member, peer)) = longest_silent {
            peer.state = Liveness::Lost;
            self.last_loss = Some(now);
            transitions.push(Transition { member: member.clone(), from: Liveness::Suspect, to: Liveness::Lost });
        }
        transitions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: LivenessTimes = LivenessTimes { fresh_millis: 30_000, lost_millis: 300_000 };

    fn member(name: &str) -> MemberId {
        name.parse().unwrap()
    }

    fn two_peers_heard_at_zero() -> (Roster, MemberId, MemberId) {
        let (bilbao, cork) = (member("bilbao"), member("cork"));
        let mut roster = Roster::new(TIMES);
        roster.set_peers([&bilbao, &cork], Instant(0));
        roster.heard(&bilbao, Instant(0));
        roster.heard(&cork, Instant(0));
        (roster, bilbao, cork)
    }

    #[test]
    fn a_silent_peer_is_suspect_and_then_lost_while_another_is_heard() {
        let (mut roster, bilbao, cork) = two_peers_heard_at_zero();
        roster.heard(&cork, Instant(29_000));
        roster.step(Instant(31_000), 2);
        assert_eq!(roster.liveness(&bilbao), Some(Liveness::Suspect));
        assert_eq!(roster.liveness(&cork), Some(Liveness::Fresh));
        roster.heard(&cork, Instant(299_000));
        assert!(roster.step(Instant(299_999), 2).is_empty());
        roster.step(Instant(300_000), 2);
        assert_eq!(roster.liveness(&bilbao), Some(Liveness::Lost));
    }

    #[test]
    fn a_member_that_hears_nobody_is_isolated_and_declares_nobody_lost() {
        let (mut roster, bilbao, cork) = two_peers_heard_at_zero();
        roster.step(Instant(10_000_000), 2);
        assert!(roster.isolated(2));
        assert_eq!(roster.liveness(&bilbao), Some(Liveness::Suspect));
        assert_eq!(roster.liveness(&cork), Some(Liveness::Suspect));
    }

    #[test]
    fn losses_are_spaced_by_the_time_that_makes_one() {
        let names = ["b", "c", "d", "e", "f"].map(member);
        let mut roster = Roster::new(TIMES);
        roster.set_peers(&names, Instant(0));
        for peer in &names {
            roster.heard(peer, Instant(0));
        }
        for peer in &names[..3] {
            roster.heard(peer, Instant(399_000));
        }
        let lost = |found: &[Transition]| found.iter().filter(|t| t.to == Liveness::Lost).count();
        assert_eq!(lost(&roster.step(Instant(400_000), 4)), 1);
        assert_eq!(lost(&roster.step(Instant(401_000), 4)), 0);
    }

    #[test]
    fn a_lost_peer_that_is_heard_again_is_fresh_at_once() {
        let (mut roster, bilbao, _) = two_peers_heard_at_zero();
        roster.restore_lost(&bilbao);
        let transition = roster.heard(&bilbao, Instant(5)).unwrap();
        assert_eq!((transition.from, transition.to), (Liveness::Lost, Liveness::Fresh));
    }

    #[test]
    fn a_peer_that_was_never_heard_gets_no_new_work() {
        let bilbao = member("bilbao");
        let mut roster = Roster::new(TIMES);
        roster.set_peers([&bilbao], Instant(0));
        assert_eq!(roster.liveness(&bilbao), Some(Liveness::Suspect));
    }

    #[test]
    fn whoever_is_not_counted_is_heard_and_makes_no_quorum() {
        let (mut roster, bilbao, cork) = two_peers_heard_at_zero();
        roster.count(|member| *member != cork, true);
        assert_eq!((roster.heard_count(), roster.isolated(2), roster.isolated(3)), (2, false, true));
        assert_eq!(roster.liveness(&cork), Some(Liveness::Fresh));
        // A new member hears the two that count, and does not count itself.
        roster.count(|_| true, false);
        assert_eq!((roster.heard_count(), roster.isolated(2)), (2, false));
        roster.step(Instant(10_000_000), 2);
        assert_eq!((roster.heard_count(), roster.liveness(&bilbao)), (0, Some(Liveness::Suspect)));
    }
}
