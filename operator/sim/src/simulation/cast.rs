//! The people and operators of every run. Their keys and foundings cost signatures, so they are made once.

use std::sync::{Arc, OnceLock};

use koinon_core::body::charter::{Budgets, Charter, Class, Deliberation, MemberPeriods, Preset};
use koinon_core::body::{Anchor, Body};
use koinon_core::dsse::SeedSigner;
use koinon_core::ids::{CoopId, Seconds, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::presets;
use koinon_core::statement::{Draft, Position, Statement};
use koinon_core::testkit::{Person, charter, found, person};

/// Founders and newcomers that there can be.
pub(super) const MOST: usize = 25;
/// How far clocks may differ.
pub(super) const TOLERANCE: Seconds = Seconds(120);
const MINUTE: i64 = 60;

/// How fast the cooperative decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Hours, with a grace that most entries need only a part of.
    Deliberate,
    /// Minutes, closed as soon as all have voted; votes are final.
    Quick,
}

/// The member that founds at `place`.
pub(super) fn founder(place: usize) -> &'static Person {
    static PEOPLE: [OnceLock<Person>; MOST] = [const { OnceLock::new() }; MOST];
    PEOPLE[place % MOST].get_or_init(|| person(&format!("member-{place:02}")))
}

/// The `place`th applicant.
pub(super) fn newcomer(place: usize) -> &'static Person {
    static PEOPLE: [OnceLock<Person>; MOST] = [const { OnceLock::new() }; MOST];
    PEOPLE[place % MOST].get_or_init(|| person(&format!("newcomer-{place:02}")))
}

/// The commons of `members` founders at its founding.
pub(super) fn founded(members: usize, pace: Pace) -> Commons {
    static DELIBERATE: [OnceLock<Commons>; MOST + 1] = [const { OnceLock::new() }; MOST + 1];
    static QUICK: [OnceLock<Commons>; MOST + 1] = [const { OnceLock::new() }; MOST + 1];
    let shelf = if pace == Pace::Quick { &QUICK } else { &DELIBERATE };
    let members = members.min(MOST);
    let found = || {
        let people: Vec<&Person> = (0..members).map(founder).collect();
        Commons::new(found(&people, numbers(charter(&people, Preset::Custom), pace)), Limits::default())
    };
    shelf[members].get_or_init(found).clone()
}

fn numbers(mut charter: Charter, pace: Pace) -> Charter {
    let quick = pace == Pace::Quick;
    let parameters = &mut charter.parameters;
    parameters.grace_seconds = Seconds(if quick { 6 } else { 20 } * MINUTE);
    parameters.seal_by_seconds = Seconds(5 * MINUTE);
    parameters.clock_tolerance_seconds = TOLERANCE;
    parameters.enact_window_seconds = Seconds(40 * MINUTE);
    // A day's work of an operator here, and a few dozen more, so that a flood goes over it.
    parameters.budgets = Budgets { entries_per_day: 100, ..parameters.budgets };
    parameters.sponsors = 1;
    parameters.max_open_proposals = 3;
    parameters.close_when_all_voted = quick;
    // Short, so that checkpoints have something to forget.
    let members = MemberPeriods { dormant_after_seconds: Seconds(20 * MINUTE), ..MemberPeriods::default() };
    parameters.deliberation = Some(Deliberation { members, ..presets::deliberation() });
    for (class, rules) in &mut charter.classes {
        let (period, timelock) = match (class, quick) {
            (Class::Cancel, _) => (10, 0),
            (_, true) => (20, 30),
            (_, false) => (30, 90),
        };
        rules.delay_seconds = Seconds(0);
        rules.period_seconds = Seconds(period * MINUTE);
        rules.timelock_seconds = Seconds(timelock * MINUTE);
    }
    charter
}

fn draft(who: &Person, coop: CoopId, at: UnixSeconds, position: Position, body: Body) -> Draft {
    let (author, site) = (who.id(), who.member.site.name.clone());
    Draft { coop: Some(coop), author, site, issued_at: at, position, body }
}

/// What `who` signs as a person.
pub(super) fn said(who: &Person, coop: CoopId, at: UnixSeconds, body: Body) -> Option<Statement> {
    said_with(who, &who.governance, coop, at, body, None)
}

/// The same with any key, and with what it carries.
pub(super) fn said_with(
    who: &Person,
    signer: &SeedSigner,
    coop: CoopId,
    at: UnixSeconds,
    body: Body,
    carried: Option<&Statement>,
) -> Option<Statement> {
    draft(who, coop, at, Position::Human, body).sign_unread(signer, carried).ok()
}

/// An entry of a log whose key is `signer`'s.
pub(super) fn entry(
    who: &Person,
    signer: &SeedSigner,
    coop: CoopId,
    at: UnixSeconds,
    position: Position,
    line: &Line,
) -> Option<Arc<Statement>> {
    let body = match line {
        Line::Own(body) => body.clone(),
        Line::Anchor(statement) => Body::Anchor(Box::new(Anchor { statement: statement.envelope().clone() })),
    };
    let carried = match line {
        Line::Own(_) => None,
        Line::Anchor(statement) => Some(statement),
    };
    draft(who, coop, at, position, body).sign_unread(signer, carried).ok().map(Arc::new)
}

/// What an operator is about to write into its log.
#[derive(Clone, Debug)]
pub(super) enum Line {
    /// Its own word.
    Own(Body),
    /// What a person has signed.
    Anchor(Statement),
}
