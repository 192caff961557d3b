//! What is challenged next: what a person asks for, or what this member's lots and its last measurements make due. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use koinon_api::{Member, labels};
use koinon_core::belief::draw::{Target, draw, due as due_at, period, seed};
use koinon_core::body::challenges::Challenges;
use koinon_core::body::latest::{GuestsMode, OfferedClass};
use koinon_core::body::proposal::Scope;
use koinon_core::challenge::MAX_DEVICES;
use koinon_core::ids::{ControlGroup, Digest, GpuClass, MemberId, UnixSeconds};
use kube::{Resource as _, ResourceExt as _};

use super::records::Records;
use crate::peers::{Liveness, PeersSnapshot};
use crate::placement::rules::Rules;

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time of day.
    pub unix: UnixSeconds,
    /// The own monotonic clock.
    pub monotonic: Duration,
}

/// What a choice rests on.
#[derive(Clone, Copy, Debug)]
pub struct Lots<'a> {
    /// What was decided.
    pub rules: &'a Rules,
    /// What was voted about challenges.
    pub voted: &'a Challenges,
    /// What is heard.
    pub peers: &'a PeersSnapshot,
    /// What was measured before.
    pub records: &'a Records,
    /// This member's own.
    pub secret: &'a [u8; 32],
    /// Since when this process has known these rules.
    pub since: UnixSeconds,
}

/// A challenge to make now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of whose GPUs.
    pub target: Target,
    /// Of how many at once.
    pub devices: u8,
    /// The annotation by which a person asks for it.
    pub asked: Option<String>,
}

/// What a person asks for and does not get.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The object that asks.
    pub member: ObjectReference,
    /// The annotation, so that it is refused once.
    pub asked: String,
    /// Why.
    pub why: String,
}

/// What a person asks for that was neither done nor refused yet.
pub fn asked(lots: &Lots<'_>, members: &[Arc<Member>], moment: Moment) -> Option<Result<Wanted, Box<Refused>>> {
    members.iter().find_map(|member| {
        let wish = member.annotations().get(labels::CHALLENGE_NOW)?;
        let asked = format!("{} {wish}", member.name_any());
        if lots.records.knows(&asked) {
            return None;
        }
        let wanted = by_hand(lots, member, wish, moment);
        let wanted = wanted.map(|wanted| Wanted { asked: Some(asked.clone()), ..wanted }).map_err(|why| {
            Box::new(Refused { member: member.object_ref(&()), asked, why: format!("no challenge: {why}") })
        });
        Some(wanted)
    })
}

fn by_hand(lots: &Lots<'_>, member: &Member, wish: &str, moment: Moment) -> Result<Wanted, String> {
    let host: MemberId = member.name_any().parse().map_err(|_| "the object's name is no member's".to_owned())?;
    let class: GpuClass = wish
        .split_whitespace()
        .next()
        .and_then(|class| class.parse().ok())
        .ok_or_else(|| format!("write CLASS TIME into {}", labels::CHALLENGE_NOW))?;
    if !lots.voted.classes.contains_key(&class) {
        return Err(format!("the cooperative voted for no challenge of {class}"));
    }
    let devices = devices(lots, &host, &class, moment)?;
    let target = Target { host, class };
    let last = lots.records.last(&target, lots.voted).filter(|last| last.granted);
    if let Some(next) = last.map(|last| last.at.plus(lots.voted.every_seconds)).filter(|next| *next > moment.unix) {
        let left = next.since(moment.unix);
        return Err(format!("this member measured it already, and may again in {left} s (everySeconds)"));
    }
    Ok(Wanted { target, devices, asked: None })
}

/// How many GPUs can be asked at once, or why none.
fn devices(lots: &Lots<'_>, host: &MemberId, class: &GpuClass, moment: Moment) -> Result<u8, String> {
    let state = &lots.rules.view().state;
    if host == lots.rules.me() {
        return Err("nobody challenges itself".to_owned());
    }
    if let Some(halted) = state.halted(host, moment.unix) {
        return Err(format!("{host} {halted}"));
    }
    if lots.rules.cordoned(host) {
        return Err(format!("{host} is cordoned here"));
    }
    let peer = lots.peers.members.get(host).filter(|peer| peer.liveness == Liveness::Fresh);
    let peer = peer.ok_or_else(|| format!("{host} is not heard"))?;
    let offer = peer.offer.as_ref().filter(|offer| offer.is_current(moment.monotonic));
    let offer = offer.ok_or_else(|| format!("{host} has no valid offer"))?;
    if offer.body.guests != GuestsMode::Accept {
        return Err(format!("{host} takes no guests now"));
    }
    let block = |class: &OfferedClass| class.largest_block.min(class.offered);
    let free = offer.body.classes.iter().filter(|offered| offered.class == *class).map(block).max();
    match free {
        None => Err(format!("{host} does not offer {class}")),
        Some(0) => Err(format!("no {class} of {host} is free now")),
        Some(free) => Ok(u8::try_from(free).unwrap_or(MAX_DEVICES).min(MAX_DEVICES)),
    }
}

/// What is due the longest.
pub fn due(lots: &Lots<'_>, moment: Moment) -> Option<Wanted> {
    let view = lots.rules.view();
    let works = |id: &MemberId| view.state.halted(id, moment.unix).is_none();
    let there = view.state.members().iter().filter(|(id, member)| !member.standing.is_gone() && works(id));
    let members: BTreeMap<MemberId, ControlGroup> =
        there.map(|(id, member)| (id.clone(), member.member.control_group.clone())).collect();
    let offered = lots.peers.members.iter().flat_map(|(host, peer)| {
        let classes = peer.offer.iter().flat_map(|offer| &offer.body.classes);
        classes.map(move |offered| Target { host: host.clone(), class: offered.class.clone() })
    });
    let targets: BTreeSet<Target> = offered.filter(|target| lots.voted.classes.contains_key(&target.class)).collect();
    let now = period(lots.voted, moment.unix);
    let begins = |period: i64| UnixSeconds(period.saturating_mul(lots.voted.fresh_seconds.0));
    let half = begins(now).plus(koinon_core::ids::Seconds(lots.voted.fresh_seconds.0 / 2));
    // Those who were drawn before keep up what they measured until those who are drawn now have measured.
    let periods = [Some(now), Some(now - 1).filter(|_| moment.unix < half)];
    let mut mine: BTreeMap<Target, UnixSeconds> = BTreeMap::new();
    for period in periods.into_iter().flatten() {
        let seed = seed(view.coop, view.state.head(Scope::Placement), period);
        let drawn = draw(&seed, lots.voted, &members, &targets);
        for (target, _) in drawn.into_iter().filter(|(_, by)| by.contains(lots.rules.me())) {
            let last = lots.records.last(&target, lots.voted);
            let keeps_up = last.is_some_and(|last| last.counts);
            if !keeps_up && period < now {
                continue;
            }
            let dice = dice(lots.secret, &target, period, last.map(|last| last.at));
            let mut at = due_at(lots.voted, begins(period), dice, last);
            if !keeps_up {
                // Or all would come at the moment of a vote, or of an upgrade.
                let spread = lots.voted.fresh_seconds.0 / 20 * i64::from(dice) / i64::from(u16::MAX);
                at = at.max(lots.since.plus(koinon_core::ids::Seconds(spread)));
            }
            mine.entry(target).and_modify(|known| *known = (*known).min(at)).or_insert(at);
        }
    }
    let ready = mine.into_iter().filter(|(_, at)| *at <= moment.unix);
    let mut ready: Vec<(UnixSeconds, Target)> = ready.map(|(target, at)| (at, target)).collect();
    ready.sort();
    ready.into_iter().find_map(|(_, target)| {
        let devices = devices(lots, &target.host, &target.class, moment).ok()?;
        Some(Wanted { target, devices, asked: None })
    })
}

fn dice(secret: &[u8; 32], target: &Target, period: i64, last: Option<UnixSeconds>) -> u16 {
    let Digest(bytes) = Digest::of(
        format!("{} {} {} {period} {}", Digest(*secret), target.host, target.class, last.unwrap_or_default())
            .as_bytes(),
    );
    u16::from_be_bytes([bytes[0], bytes[1]])
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
