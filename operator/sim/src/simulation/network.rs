//! Who hears whom, and how long entries are on their way.

use std::sync::Arc;

use koinon_core::ids::{Seconds, Seq, UnixSeconds};
use koinon_core::statement::Statement;

use super::plan::{Plan, Trick};
use super::world::{Event, World};

/// Entries that somebody is asked for at once.
const AT_ONCE: usize = 200;

impl Plan {
    /// Whether `a` and `b` are on the same side of every split.
    pub(super) fn linked(&self, a: usize, b: usize, now: UnixSeconds) -> bool {
        let open = self.splits.iter().filter(|split| split.from <= now && now < split.to);
        open.into_iter().all(|split| split.apart.contains(&a) == split.apart.contains(&b))
    }
}

impl World {
    /// `reader` asks `source` for what it lacks, and learns where its own log ends there.
    pub(super) fn pull(&mut self, reader: usize, source: usize) {
        let up = self.nodes[reader].up && self.nodes[source].up;
        if reader == source || !up || !self.plan.linked(reader, source, self.now) {
            return;
        }
        let face = self.nodes[source].face_for(reader);
        let theirs = self.nodes[source].faces[face].replica();
        let mut heads = theirs.heads();
        let hidden = self.hides(source, reader);
        heads.retain(|log, _| !hidden.contains(log));
        let own = self.nodes[reader].log();
        let told = heads.get(&own).copied();
        let wanted = self.nodes[reader].faces[0].replica().wants(&heads);
        let entries: Vec<Arc<Statement>> = wanted
            .iter()
            .flat_map(|range| theirs.range(&range.log, range.from, AT_ONCE).into_iter())
            .filter(|entry| !hidden.contains(&entry.header().key))
            .collect();
        let teller = self.nodes[source].who.id();
        self.nodes[reader].recovery.told(teller, told);
        self.send(reader, entries);
    }

    /// The logs that a liar does not show to `reader`.
    fn hides(&self, source: usize, reader: usize) -> Vec<koinon_core::ids::PublicKey> {
        let lies = self.nodes[source].lies && self.plan.tricks.contains(&Trick::Withhold);
        if !lies || (reader + source).is_multiple_of(2) {
            return Vec::new();
        }
        let victim = (reader + 1) % self.plan.members;
        vec![self.nodes[source].log(), self.nodes[victim].log()]
    }

    /// Puts entries on their way to `to`; some are lost, and where the network is slow each travels by itself.
    pub(super) fn send(&mut self, to: usize, mut entries: Vec<Arc<Statement>>) {
        if entries.is_empty() {
            return;
        }
        let slow = self.plan.latency > Seconds(60);
        if slow {
            let loss = self.plan.loss_percent;
            entries.retain(|_| !self.dice.percent(loss));
            self.dice.shuffle(&mut entries);
        }
        let parts = if slow { entries.len().div_ceil(3).max(1) } else { entries.len().max(1) };
        for part in entries.chunks(parts) {
            let at = self.now.plus(self.dice.between(0, self.plan.latency.0));
            self.schedule(at, Event::Arrive { to, entries: part.to_vec() });
        }
    }

    /// Sends everything of `who`'s own log from `from` on to `to`, without being asked.
    pub(super) fn push(&mut self, who: usize, face: usize, from: Seq, to: usize) {
        if !self.plan.linked(who, to, self.now) {
            return;
        }
        let log = self.nodes[who].log();
        let entries = self.nodes[who].faces[face].replica().range(&log, from, AT_ONCE);
        self.send(to, entries);
    }
}
