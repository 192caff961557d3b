//! Writes generated histories, each with what the audit of this code makes of it, for `e2e/audit/verify.py` to compare.
//!
//! A history is a bundle of a few dozen entries of one to nine members: honest ones, liars, people who are late, forks, cuts,
//! seals that are false or missing. Every fourth is damaged afterwards, so that it does not hold.

mod charters;
mod checkpoints;
mod damage;
mod keys;
mod people;
mod random;
mod seals;
mod standing;
mod stories;
mod strange;
mod world;

use std::io::Write as _;

use koinon_core::audit::{audit, canonical, canonical_finding, export};

use world::World;

type Failure = Box<dyn std::error::Error>;

const USAGE: &str =
    "histories --count N [--seed S] [--often WHAT] [OUT]; without OUT to standard output, one JSON document a line";

/// What happens often.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    Anything,
    /// What lies behind is settled, several times.
    Settled,
    /// Expulsions, replies and appeals.
    Heard,
    Keys,
    Orders,
    /// Lies, and what is shown of them.
    Proofs,
    /// Members come, fall silent and return.
    Members,
    /// What was refused is tried again, also across what is settled.
    Refused,
}

impl Course {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "settled" => Self::Settled,
            "heard" => Self::Heard,
            "keys" => Self::Keys,
            "orders" => Self::Orders,
            "proofs" => Self::Proofs,
            "members" => Self::Members,
            "refused" => Self::Refused,
            _ => return None,
        })
    }

    /// A cooperative for it: under the first rules there is none of it.
    fn world(self, seed: u64) -> World {
        let seeds = (0..64_u64).map(|turn| seed.wrapping_add(turn << 40));
        let mut worlds = seeds.map(World::new);
        let first = worlds.by_ref().find(|world| self == Self::Anything || world.state(0).rules() >= 2);
        first.unwrap_or_else(|| World::new(seed))
    }

    fn step(self, world: &mut World) -> usize {
        let often: &[usize] = match self {
            Self::Anything | Self::Settled => &[],
            Self::Heard => &[28, 43, 44],
            Self::Keys => &[30, 32, 33, 36, 38],
            Self::Orders => &[49, 50, 51],
            Self::Proofs => &[16, 26, 29, 46, 47, 48, 58],
            Self::Members => &[40, 42, 45, 56],
            Self::Refused => &[60, 61, 62, 54],
        };
        let step = world.random.below(63);
        if often.is_empty() || world.random.once_in(2) { step } else { often[world.random.below(often.len())] }
    }
}

fn history(seed: u64, course: Course) -> Vec<u8> {
    let mut world = course.world(seed);
    let steps = world.random.between(4, 16);
    for _ in 0..steps {
        match course.step(&mut world) {
            30..=31 => keys::rotate(&mut world),
            32 => keys::revoke(&mut world),
            33..=35 => keys::change_in_a_vote(&mut world),
            36..=37 => keys::reset(&mut world),
            38..=39 => keys::thief(&mut world),
            40..=41 => standing::probation(&mut world),
            42 => standing::dormancy(&mut world),
            43..=44 => standing::hearing(&mut world),
            45 => standing::suspension(&mut world),
            46 => standing::lift(&mut world),
            47 => standing::report(&mut world),
            48 => standing::third_branch(&mut world),
            49..=50 => standing::order(&mut world),
            51 => standing::again(&mut world),
            52..=53 => stories::step(&mut world),
            54..=55 => checkpoints::settle(&mut world),
            56..=57 => standing::out_of_four(&mut world),
            58..=59 => seals::twice(&mut world),
            60..=62 => stories::try_again(&mut world),
            20..=25 => decide(&mut world),
            26 => stories::cancel(&mut world),
            27 => stories::carry(&mut world),
            28 => stories::expel(&mut world),
            29 => seals::lie(&mut world),
            0..=2 => people::propose(&mut world),
            3..=6 => people::everybody_votes(&mut world),
            7..=8 => people::votes(&mut world),
            9 => people::speaks(&mut world),
            10..=13 => world.settle(),
            14..=15 => wait(&mut world),
            16 => seals::lie(&mut world),
            17 => seals::some_seal(&mut world),
            18 => strange::append(&mut world),
            _ if world.random.once_in(3) => world.mend(),
            _ if world.random.once_in(2) => world.cut(),
            _ => seals::fork(&mut world),
        }
        if world.random.once_in(3) {
            wait(&mut world);
            world.settle();
        }
    }
    world.mend();
    if world.random.once_in(4) || course == Course::Settled {
        // Only what lies behind is settled, so it comes late.
        for _ in 0..if course == Course::Settled { 4 } else { 1 } {
            checkpoints::settle(&mut world);
            decide(&mut world);
        }
        world.mend();
    }
    if world.random.once_in(2) {
        wait(&mut world);
        world.settle();
    }
    let late = if world.random.once_in(2) { 0 } else { world.random.between(0, 5_000) };
    let as_of = world.now.plus(koinon_core::ids::Seconds(late));
    let lines: Vec<Vec<u8>> = export(world.commons(0), as_of).map(|line| line.to_json()).collect();
    damage::perhaps(&mut world.random, lines)
}

/// One proposal from its beginning to what becomes of it, with something in between now and then.
fn decide(world: &mut World) {
    people::propose(world);
    if world.random.once_in(4) {
        people::speaks(world);
    }
    let somebody = world.anybody();
    let newest = world.proposals.last().and_then(|id| world.state(somebody).proposals().get(id));
    if let Some(opens_at) = newest.map(|newest| newest.proposal.opens_at).filter(|opens| *opens > world.now) {
        world.now = opens_at;
    }
    people::everybody_votes(world);
    for _ in 0..world.random.between(2, 7) {
        match world.random.below(14) {
            0 => seals::lie(world),
            1 => seals::some_seal(world),
            2 => people::votes(world),
            3 => people::speaks(world),
            4 => people::everybody_votes(world),
            _ => world.settle(),
        }
        wait(world);
    }
    world.settle();
}

/// Until something changes by the clock alone, or some time.
fn wait(world: &mut World) {
    let somebody = world.anybody();
    let next = world.state(somebody).next_change(world.now);
    match next {
        Some(next) if !world.random.once_in(5) => world.now = next,
        _ => {
            let seconds = world.random.between(1, 400);
            world.wait(seconds);
        }
    }
}

fn main() -> Result<(), Failure> {
    let (mut count, mut seed, mut course, mut out) = (100_u64, 1_u64, Course::Anything, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--count" => count = arguments.next().ok_or(USAGE)?.parse()?,
            "--seed" => seed = arguments.next().ok_or(USAGE)?.parse()?,
            "--often" => course = arguments.next().as_deref().and_then(Course::named).ok_or(USAGE)?,
            path if !path.starts_with('-') => out = Some(std::fs::File::create(path)?),
            _ => return Err(USAGE.into()),
        }
    }
    let mut out: Box<dyn std::io::Write> = match out {
        Some(file) => Box::new(std::io::BufWriter::new(file)),
        None => Box::new(std::io::BufWriter::new(std::io::stdout().lock())),
    };
    for seed in seed..seed.saturating_add(count) {
        let bundle = history(seed, course);
        let told = match audit(&bundle) {
            Ok(report) => canonical(&report),
            Err(finding) => canonical_finding(&finding),
        };
        let document = serde_json::json!({ "seed": seed, "bundle": String::from_utf8(bundle)?, "canonical": told });
        writeln!(out, "{document}")?;
    }
    out.flush()?;
    Ok(())
}
