//! A way to a violation, for people to read.

use koinon_core::body::Body;
use koinon_core::ids::StatementId;

use super::safety::Broken;
use super::search::{World, all_of};
use super::views::{Held, Views};

/// The shortest way to something that must never happen.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What happened.
    pub broken: Broken,
    /// Whether the fold comes to it too, from replicas that hold parts of what was said.
    pub confirmed: bool,
    /// What was signed, what time passed, who was restored.
    pub steps: Vec<String>,
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {:>2}. {step}", number + 1)?;
        }
        let fold = if self.confirmed { "the fold agrees" } else { "the fold does not come to it" };
        write!(f, "  => {} ({fold})", self.broken)
    }
}

pub(crate) fn of(views: &mut Views<'_>, way: &[World], broken: Broken, confirmed: bool) -> Trace {
    let Some((first, rest)) = way.split_first() else { return Trace { broken, confirmed, steps: Vec::new() } };
    // On the way interchangeable members were put in order; here each keeps its name.
    let mut now = *first;
    let mut steps = Vec::new();
    for after in rest {
        let (what, then) = step(views, &now, after);
        steps.push(what);
        now = then;
    }
    Trace { broken, confirmed, steps }
}

/// What led from `before` to a state like `after`, and to which.
fn step(views: &mut Views<'_>, before: &World, after: &World) -> (String, World) {
    let scenario = views.scenario;
    if before.clock != after.clock {
        let then = World { clock: after.clock, ..*before };
        return (format!("time passes: {}", scenario.times[usize::from(after.clock)].1), then);
    }
    if let (Some(restores), true) = (&scenario.restores, before.lost != after.lost) {
        let mut then = World { lost: after.lost, ..*before };
        then.said[restores.member] = after.said[restores.member];
        let (lost, kept) = (views.tape.len(before.said[restores.member]), views.tape.len(then.said[restores.member]));
        let forgotten = lost - (kept - usize::from(restores.by_word));
        return (
            format!("{} is restored from a backup and forgets {forgotten}", scenario.member(restores.member)),
            then,
        );
    }
    for me in 0..scenario.honest() {
        let Some(next) = after.said.into_iter().find(|next| {
            let mut result = *before;
            result.said[me] = *next;
            views.tape.before(*next) == Some(before.said[me]) && scenario.sorted(result) == *after
        }) else {
            continue;
        };
        let mut then = *before;
        then.said[me] = next;
        let held = views.reason(&all_of(views, before, me), me, usize::from(before.clock), next);
        let last = views.tape.bodies(next).pop();
        let what = last.map_or_else(String::new, |(_, body)| says(views, &body));
        let why = held.map_or_else(String::new, |held| because(views, &held, me));
        return (format!("{} {what}{why}", scenario.member(me)), then);
    }
    (String::new(), *after)
}

fn name(views: &Views<'_>, id: &StatementId) -> String {
    views.scenario.children.get(id).map_or_else(|| id.to_string(), |child| child.name.to_owned())
}

/// What a log entry says.
fn says(views: &Views<'_>, body: &Body) -> String {
    match body {
        Body::BoxOffer(offer) => format!("offers {} entries for {}", offer.entries.len(), name(views, &offer.proposal)),
        Body::CloseSeal(seal) => {
            let term = seal.basis.as_ref().map_or(0, |basis| basis.slot.term);
            let (child, count) = (name(views, &seal.proposal), seal.count);
            format!("seals {child} with {count} entries as {:?} in term {term}", seal.outcome)
        }
        Body::EnactSeal(seal) => {
            format!("signs the enactment of {} in term {}", name(views, &seal.proposal), seal.slot.term)
        }
        Body::SlotStatus(status) => {
            let signed = status.signed.as_ref().map_or_else(|| "nothing".to_owned(), |id| name(views, id));
            format!("ends term {}, where it signed {signed}", status.slot.term)
        }
        other => other.kind().map_or_else(|| "says something".to_owned(), |kind| format!("says {kind}")),
    }
}

/// What somebody had heard when it acted.
fn because(views: &Views<'_>, held: &Held, me: usize) -> String {
    let scenario = views.scenario;
    let mut heard: Vec<String> = (0..scenario.honest())
        .filter(|member| *member != me)
        .map(|member| (scenario.member(member), views.tape.len(held.said[member])))
        .filter(|(_, count)| *count > 0)
        .map(|(member, count)| format!("{count} of {member}"))
        .collect();
    if let (Some(liar), Some(tale)) = (scenario.liar(), scenario.tales.get(usize::from(held.tale))) {
        let told: Vec<String> = tale.says.iter().map(|(_, body)| says(views, body)).collect();
        if !told.is_empty() {
            heard.push(format!("of {} that it {}", scenario.member(liar), told.join(" and ")));
        }
    }
    if heard.is_empty() { String::new() } else { format!(" (having heard {})", heard.join(", ")) }
}
