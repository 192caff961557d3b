//! Random ballots, counted by the real fold and by a reference that was written from the rules and not from the code.
//!
//! Where the rules leave a choice, the reference takes it as follows:
//! - who signs what cannot count (the wrong key, the wrong time, a veto without ground) has not contradicted itself;
//! - a member's newest delegation replaces the earlier ones also where it comes too late to be used itself: whoever took
//!   trust back is not voted for;
//! - what one member of an owner declares, the owner has declared.

use proptest::prelude::*;

use super::*;
use crate::body::charter::{Class, Fraction, MinYes, Threshold};
use crate::body::proposal::{ChangeCharter, Delegation, Ground, Recusal, Withdrawal};
use crate::body::{BoxOffer, Outcome};
use crate::dsse::Signer;
use crate::presets;
use crate::tally::seal_quorum;
use crate::testkit::Writer;

/// Enough to meet every rule many times over; thousands have been tried.
const CASES: u32 = 96;

const NAMES: [&str; 8] = ["aarhus", "bilbao", "cork", "delft", "espoo", "faro", "ghent", "halle"];

/// When something is signed, as seen from the ballot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    LongBefore,
    JustBefore,
    Opening,
    During,
    Close,
    After,
}

#[derive(Clone, Debug)]
enum Says {
    Vote {
        choice: Choice,
        vseq: u32,
        grounded: bool,
        own_key: bool,
        elsewhere: bool,
    },
    Delegate {
        to: Option<usize>,
        covers: bool,
        vseq: u32,
        outlasts: bool,
        too_long: bool,
    },
    Recuse {
        own_key: bool,
    },
    Withdraw {
        own_key: bool,
    },
    /// Anchors once more what it said at first.
    Repeat,
}

#[derive(Clone, Debug)]
struct Said {
    by: usize,
    when: When,
    says: Says,
    /// Who offers it, one bit each.
    offered: u8,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum About {
    /// Routine, with delegation and vetoes.
    Model,
    /// Charter, where nobody votes for another.
    Charter,
    /// Expel, of the last member.
    Last,
}

#[derive(Clone, Debug)]
struct Case {
    members: usize,
    /// To which owner each member belongs.
    owners: Vec<u8>,
    about: About,
    interested: Option<usize>,
    rules: crate::body::ClassRules,
    cap: Fraction,
    votes_are_final: bool,
    said: Vec<Said>,
}

fn fraction() -> impl Strategy<Value = Fraction> {
    (1u32..=12).prop_flat_map(|den| (0..=den).prop_map(move |num| Fraction { num, den }))
}

fn says() -> impl Strategy<Value = Says> {
    let choice = prop_oneof![
        4 => Just(Choice::Yes), 2 => Just(Choice::No), 1 => Just(Choice::Abstain), 2 => Just(Choice::Veto)
    ];
    let mostly = || prop_oneof![9 => Just(true), 1 => Just(false)];
    let vseq = prop_oneof![6 => 0u32..3, 1 => 14u32..18];
    prop_oneof![
        8 => (choice, vseq, mostly(), mostly(), mostly()).prop_map(|(choice, vseq, grounded, own_key, here)| Says::Vote {
            choice, vseq, grounded, own_key, elsewhere: !here
        }),
        4 => (prop_oneof![1 => Just(None), 6 => (0usize..2).prop_map(Some), 3 => (0usize..8).prop_map(Some)], mostly(), 0u32..3, mostly(), mostly())
            .prop_map(|(to, covers, vseq, outlasts, short)| Says::Delegate { to, covers, vseq, outlasts, too_long: !short }),
        1 => mostly().prop_map(|own_key| Says::Recuse { own_key }),
        1 => Just(Says::Repeat),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    let when = prop_oneof![
        3 => Just(When::LongBefore), 1 => Just(When::JustBefore), 2 => Just(When::Opening), 8 => Just(When::During),
        1 => Just(When::Close), 1 => Just(When::After)
    ];
    let says = prop_oneof![30 => says(), 1 => any::<bool>().prop_map(|own_key| Says::Withdraw { own_key })];
    // Delegations are of use only if they come before.
    let offered = prop_oneof![4 => Just(0xff), 3 => any::<u8>()];
    (0usize..8, when, says, offered).prop_map(|(by, when, says, offered)| {
        let when = match says {
            Says::Delegate { .. } if when == When::During => When::LongBefore,
            Says::Vote { .. } if when == When::LongBefore => When::During,
            _ => when,
        };
        Said { by, when, says, offered }
    })
}

fn case() -> impl Strategy<Value = Case> {
    let numbers = (fraction(), fraction(), any::<bool>(), fraction(), any::<bool>(), proptest::option::of(fraction()));
    let about = prop_oneof![5 => Just(About::Model), 1 => Just(About::Charter), 2 => Just(About::Last)];
    let cap = (1u32..=10, 0u32..=5).prop_map(|(den, num)| Fraction { num: num.min(den / 2), den });
    let rules = (numbers, any::<bool>()).prop_map(|((turnout, share, strict, yes, floor, veto), delegation)| {
        crate::body::ClassRules {
            turnout,
            threshold: if strict { Threshold::MoreThan(share) } else { Threshold::AtLeast(share) },
            min_yes: if floor { MinYes::FloorPlusOne(yes) } else { MinYes::Ceil(yes) },
            veto,
            delegation,
            delay_seconds: Seconds(0),
            ..presets::classes(Preset::Standard)[&Class::Routine]
        }
    });
    let people = (4usize..=8, proptest::collection::vec(0u8..8, 8), any::<bool>());
    let interested = proptest::option::weighted(0.3, 1usize..8);
    let said = proptest::collection::vec(said(), 4..24);
    (people, about, interested, rules, cap, proptest::bool::weighted(0.2), said).prop_map(
        |((members, owners, shared), about, interested, rules, cap, votes_are_final, said)| Case {
            members,
            owners: if shared { owners } else { (0..8).collect() },
            about,
            interested: interested.filter(|who| *who < members),
            rules,
            cap,
            votes_are_final,
            said: said.into_iter().map(|said| Said { by: said.by % members, ..said }).collect(),
        },
    )
}

/// What was said, with the names that it got.
struct Cast {
    entry: StatementId,
    statement: StatementId,
    by: usize,
    place: usize,
    at: UnixSeconds,
    says: Says,
}

/// A ballot as it happened: the logs' entries, and what they amount to.
struct Held {
    opens_at: UnixSeconds,
    closes_at: UnixSeconds,
    cast: Vec<Cast>,
    boxed: BTreeSet<StatementId>,
    seen: ProposalState,
}

fn action(case: &Case) -> Action {
    match case.about {
        About::Model => approve("qwen"),
        About::Charter => Action::ChangeCharter(Box::new(ChangeCharter {
            parameters: crate::body::Parameters {
                deliberation: Some(presets::deliberation()),
                ..presets::parameters(Preset::Standard)
            },
            classes: presets::classes(Preset::Standard),
        })),
        About::Last => super::hearing::expel(&NAMES[case.members - 1].parse().unwrap()),
    }
}

fn hold(case: &Case) -> Held {
    let mut people: Vec<Person> = NAMES[..case.members].iter().map(|name| person(name)).collect();
    for (person, owner) in people.iter_mut().zip(&case.owners) {
        person.member.control_group = format!("owner-{owner}").parse().unwrap();
    }
    let everybody: Vec<&Person> = people.iter().collect();
    let mut charter = charter(&everybody, Preset::Standard);
    charter.parameters.deliberation =
        Some(crate::body::charter::Deliberation { delegation_cap: case.cap, ..presets::deliberation() });
    charter.parameters.close_when_all_voted = case.votes_are_final;
    charter.classes.values_mut().for_each(|rules| *rules = case.rules);
    let tolerance = charter.parameters.clock_tolerance_seconds;
    let founding = found(&everybody, charter);
    let coop = founding.coop();
    let mut commons = Commons::new(founding, Limits::default());
    let mut proposal =
        commons.state().draft_proposal(action(case), "A change".parse().unwrap(), Default::default(), T0).unwrap();
    proposal.interested.extend(case.interested.map(|who| people[who].id()));
    let (opens_at, closes_at, class) = (proposal.opens_at, proposal.closes_at, proposal.class);
    let interested = case.interested.map(|who| &people[who].governance as &dyn Signer);
    let draft = Draft { issued_at: T0, ..people[0].draft_for_tests(coop, Body::Proposal(Box::new(proposal))) };
    let proposal = draft.sign(&people[0].governance, interested.as_slice()).unwrap();
    let on = proposal.id();
    let mut logs: Vec<Writer<'_>> = people.iter().map(|person| Writer::new(person, coop)).collect();
    logs[0].anchor(T0, &proposal);
    let mut cast: Vec<Cast> = Vec::new();
    let mut offers = vec![BTreeSet::new(); case.members];
    let mut heard = None;
    if case.about == About::Last {
        // It is heard: what an unheard member's votes come to is no question of counting.
        let (last, reply) = (case.members - 1, crate::body::Reply { proposal: on, text: "No".parse().unwrap() });
        let entry = logs[last].anchor(T0, &people[last].human(coop, T0, Body::Reply(reply))).id();
        offer(&mut offers, u8::MAX, entry);
        heard = Some(entry);
    }
    for said in &case.said {
        let who = &people[said.by];
        let at = match said.when {
            When::LongBefore => opens_at.minus(Seconds(1000)),
            When::JustBefore => opens_at.minus(tolerance),
            When::Opening => opens_at,
            When::During => opens_at.plus(Seconds(3600)),
            When::Close => closes_at,
            When::After => closes_at.plus(Seconds(1)),
        };
        let elsewhere = StatementId(Digest::of(b"another proposal"));
        let (own_key, body, says) = match &said.says {
            Says::Vote { choice, vseq, grounded, own_key, elsewhere: not_here } => {
                let ground = (*choice == Choice::Veto && *grounded).then_some(Ground::Safety);
                let proposal = if *not_here { elsewhere } else { on };
                let vote = Vote { proposal, choice: *choice, vseq: *vseq, ground, reason: None };
                (*own_key, Body::Vote(vote), said.says.clone())
            }
            Says::Delegate { to, covers, vseq, outlasts, too_long } => {
                let to = to.map(|to| to % case.members);
                let not_after = match (outlasts, too_long) {
                    (_, true) => at.plus(Seconds(181 * 86_400)),
                    (true, _) => closes_at,
                    (false, _) => closes_at.minus(Seconds(1)),
                };
                let classes = BTreeSet::from([if *covers { class } else { Class::Admit }]);
                let body = Delegation { to: to.map(|to| people[to].id()), classes, vseq: *vseq, not_after };
                let says = Says::Delegate {
                    to,
                    covers: *covers,
                    vseq: *vseq,
                    outlasts: *outlasts || *too_long,
                    too_long: *too_long,
                };
                (true, Body::Delegation(body), says)
            }
            Says::Recuse { own_key } => (*own_key, Body::Recusal(Recusal { proposal: on }), said.says.clone()),
            Says::Withdraw { own_key } => (*own_key, Body::Withdrawal(Withdrawal { proposal: on }), said.says.clone()),
            Says::Repeat => {
                let Some(first) = cast.iter().find(|earlier| earlier.by == said.by) else { continue };
                let place = logs[said.by].entries.len();
                let (statement, at, says) = (first.statement, first.at, first.says.clone());
                let again = logs[said.by].entries[first.place].nested().unwrap().clone();
                let entry = logs[said.by].anchor(T0, &again).id();
                cast.push(Cast { entry, statement, by: said.by, place, at, says });
                offer(&mut offers, said.offered, entry);
                continue;
            }
        };
        let statement = if own_key {
            who.human(coop, at, body)
        } else {
            Draft { issued_at: at, ..who.draft_for_tests(coop, body) }.sign(&who.operator, &[]).unwrap()
        };
        let place = logs[said.by].entries.len();
        let entry = logs[said.by].anchor(T0, &statement).id();
        cast.push(Cast { entry, statement: statement.id(), by: said.by, place, at, says });
        offer(&mut offers, said.offered, entry);
    }
    for (log, entries) in logs.iter_mut().zip(offers.clone()) {
        log.add(T0, Body::BoxOffer(BoxOffer { proposal: on, entries }));
    }
    assert!(commons.insert_all(logs.into_iter().flat_map(|log| log.entries)).is_empty());
    // One more than may lie must have held it.
    let vouchers = (case.members - 1) / 3 + 1;
    assert!(case.members >= seal_quorum(case.members));
    let named = |entry: &StatementId| offers.iter().filter(|offer| offer.contains(entry)).count();
    let said = cast.iter().map(|cast| cast.entry).chain(heard);
    let boxed = said.filter(|entry| named(entry) >= vouchers).collect();
    Held { opens_at, closes_at, cast, boxed, seen: commons.state().proposals()[&on].clone() }
}

fn offer(offers: &mut [BTreeSet<StatementId>], who: u8, entry: StatementId) {
    for (index, offer) in offers.iter_mut().enumerate() {
        if who & (1 << index) != 0 {
            offer.insert(entry);
        }
    }
}

/// What the rules say that a box amounts to.
#[derive(Debug, PartialEq)]
struct Expected {
    electors: usize,
    /// Yes, no, abstain, veto.
    counts: [usize; 4],
    counted: BTreeSet<StatementId>,
    outcome: Outcome,
}

fn reference(case: &Case, held: &Held) -> Expected {
    let owner = |who: usize| case.owners[who];
    let mut concerned: Vec<u8> = case.interested.map(owner).into_iter().collect();
    if case.about == About::Last {
        concerned.push(owner(case.members - 1));
    }
    let may_vote = |who: usize| !concerned.contains(&owner(who));
    let owners: BTreeSet<u8> = (0..case.members).filter(|who| may_vote(*who)).map(owner).collect();
    let inside: Vec<&Cast> = held.cast.iter().filter(|cast| held.boxed.contains(&cast.entry)).collect();

    let mut votes: Vec<(usize, usize, u32, Choice, StatementId)> = Vec::new();
    for cast in inside.iter().filter(|cast| may_vote(cast.by)) {
        let Says::Vote { choice, vseq, grounded, own_key, elsewhere } = cast.says else { continue };
        let in_time = cast.at.0 + 120 >= held.opens_at.0 && cast.at <= held.closes_at;
        let seen = votes.iter_mut().find(|vote| vote.4 == cast.statement);
        match seen {
            Some(earlier) => earlier.1 = earlier.1.min(cast.place),
            None if own_key && !elsewhere && in_time && vseq <= 15 && (choice != Choice::Veto || grounded) => {
                votes.push((cast.by, cast.place, vseq, choice, cast.statement));
            }
            None => {}
        }
    }
    let mut liars: BTreeSet<usize> = BTreeSet::new();
    if case.votes_are_final {
        let all = votes.clone();
        votes.retain(|vote| !all.iter().any(|other| other.0 == vote.0 && other.1 < vote.1));
    } else {
        for a in &votes {
            if votes.iter().any(|b| (a.0, a.2) == (b.0, b.2) && a.3 != b.3) {
                liars.insert(a.0);
            }
        }
    }
    let mut recused: BTreeSet<u8> = BTreeSet::new();
    for cast in inside.iter().filter(|cast| may_vote(cast.by) && cast.at <= held.closes_at) {
        if let Says::Recuse { own_key: true } = cast.says {
            recused.insert(owner(cast.by));
        }
    }
    let mut direct: BTreeMap<u8, (Choice, StatementId)> = BTreeMap::new();
    for one in &owners {
        let of_owner = votes.iter().filter(|vote| owner(vote.0) == *one && !liars.contains(&vote.0));
        let newest = of_owner.max_by(|a, b| (a.2, b.4).cmp(&(b.2, a.4)));
        if let Some(vote) = newest.filter(|_| !recused.contains(one)) {
            direct.insert(*one, (vote.3, vote.4));
        }
    }
    let mut choices: BTreeMap<u8, Choice> = direct.iter().map(|(one, vote)| (*one, vote.0)).collect();
    choices.extend(recused.iter().map(|one| (*one, Choice::Abstain)));
    if case.rules.delegation {
        let mut newest: BTreeMap<usize, (u32, StatementId, Option<usize>)> = BTreeMap::new();
        for cast in inside.iter().filter(|cast| may_vote(cast.by)) {
            let Says::Delegate { to, covers: true, vseq, outlasts, too_long } = cast.says else { continue };
            let usable = cast.at <= held.opens_at && outlasts && !too_long;
            let found = (vseq, cast.statement, to.filter(|to| usable && *to != cast.by));
            let known = newest.entry(cast.by).or_insert(found);
            if (found.0, found.1) > (known.0, known.1) {
                *known = found;
            }
        }
        let mut in_order: Vec<(StatementId, usize, usize)> =
            newest.into_iter().filter_map(|(from, (_, id, to))| Some((id, from, to?))).collect();
        in_order.sort();
        let cap = (owners.len() * case.cap.num as usize / case.cap.den as usize).max(1);
        let mut carried: BTreeMap<u8, usize> = BTreeMap::new();
        for (_, from, to) in in_order {
            let lied = liars.contains(&to) || liars.iter().any(|liar| owner(*liar) == owner(from));
            let Some((choice, _)) = direct.get(&owner(to)).filter(|_| !lied) else { continue };
            let carries = carried.entry(owner(to)).or_default();
            if !choices.contains_key(&owner(from)) && *carries < cap {
                *carries += 1;
                choices.insert(owner(from), *choice);
            }
        }
    }
    let of = |wanted: Choice| choices.values().filter(|choice| **choice == wanted).count();
    let counts = [of(Choice::Yes), of(Choice::No), of(Choice::Abstain), of(Choice::Veto)];
    let withdrawn = inside
        .iter()
        .any(|cast| cast.by == 0 && cast.at <= held.closes_at && matches!(cast.says, Says::Withdraw { own_key: true }));
    let outcome = if withdrawn { Outcome::Withdrawn } else { decide(counts, owners.len(), &case.rules) };
    Expected { electors: owners.len(), counts, counted: direct.into_values().map(|(_, id)| id).collect(), outcome }
}

fn decide([yes, no, abstain, veto]: [usize; 4], electors: usize, rules: &crate::body::ClassRules) -> Outcome {
    let (turnout, decisive) = (yes + no + abstain + veto, yes + no + veto);
    let at_least = |n: usize, share: Fraction, of: usize| n * share.den as usize >= share.num as usize * of;
    let above = |n: usize, share: Fraction, of: usize| n * share.den as usize > share.num as usize * of;
    let enough_yes = match rules.min_yes {
        MinYes::Ceil(share) => at_least(yes, share, electors),
        MinYes::FloorPlusOne(share) => above(yes, share, electors),
    };
    let share_of_yes = match rules.threshold {
        Threshold::MoreThan(share) => above(yes, share, decisive),
        Threshold::AtLeast(share) => at_least(yes, share, decisive),
    };
    let blocked = rules.veto.is_some_and(|share| at_least(veto, share, turnout));
    if !at_least(turnout, rules.turnout, electors) {
        Outcome::QuorumNotMet
    } else if blocked && veto >= (if electors <= 4 { 1 } else { 2 }) {
        Outcome::Vetoed
    } else if decisive == 0 || !share_of_yes || !enough_yes {
        Outcome::Rejected
    } else {
        Outcome::Passed
    }
}

fn found_by_the_fold(seen: &ProposalState) -> Expected {
    let counts = seen.ballot.tally.counts;
    Expected {
        electors: seen.ballot.tally.electors as usize,
        counts: [counts.yes, counts.no, counts.abstain, counts.veto].map(|n| n as usize),
        counted: seen.votes.iter().filter(|vote| vote.verdict == Verdict::Counted).map(|vote| vote.id).collect(),
        outcome: seen.box_outcome,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    #[test]
    fn a_ballot_comes_to_what_the_rules_say(case in case()) {
        let held = hold(&case);
        prop_assert_eq!(&held.seen.invalid, &None);
        prop_assert_eq!(&held.seen.ballot.ids, &held.boxed);
        prop_assert_eq!(found_by_the_fold(&held.seen), reference(&case, &held));
    }
}

/// A routine ballot in which everybody offers everything.
fn ballot(owners: &[u8], said: Vec<(usize, When, Says)>) -> Case {
    Case {
        members: owners.len(),
        owners: owners.to_vec(),
        about: About::Model,
        interested: None,
        rules: crate::body::ClassRules {
            delay_seconds: Seconds(0),
            ..presets::classes(Preset::Standard)[&Class::Routine]
        },
        cap: Fraction { num: 1, den: 10 },
        votes_are_final: false,
        said: said.into_iter().map(|(by, when, says)| Said { by, when, says, offered: 0xff }).collect(),
    }
}

fn votes(choice: Choice, vseq: u32) -> Says {
    Says::Vote { choice, vseq, grounded: true, own_key: true, elsewhere: false }
}

fn counts(case: &Case) -> [usize; 4] {
    found_by_the_fold(&hold(case).seen).counts
}

#[test]
fn an_interest_that_one_member_declares_is_its_owners() {
    let recuses = (1, When::During, Says::Recuse { own_key: true });
    let case = ballot(&[0, 1, 1, 2], vec![recuses, (2, When::During, votes(Choice::Yes, 0))]);
    assert_eq!(counts(&case), [0, 0, 1, 0]);
}

#[test]
fn a_vote_that_was_anchored_twice_is_one_vote() {
    let vote = (1, When::During, votes(Choice::No, 0));
    let case = ballot(&[0, 1, 2, 3], vec![vote, (1, When::During, Says::Repeat)]);
    let seen = hold(&case).seen;
    assert_eq!(seen.ballot.ids.len(), 2);
    assert_eq!(seen.votes.iter().map(|vote| vote.verdict).collect::<Vec<_>>(), [Verdict::Counted]);
}

#[test]
fn who_contradicts_itself_carries_nobodys_vote() {
    let trusts =
        (0, When::LongBefore, Says::Delegate { to: Some(1), covers: true, vseq: 0, outlasts: true, too_long: false });
    let one = (1, When::During, votes(Choice::Yes, 0));
    let other = (1, When::During, votes(Choice::No, 0));
    // Another member of the same owner votes like anybody else.
    let third = (2, When::During, votes(Choice::Yes, 0));
    let honest = ballot(&[0, 1, 1, 2], vec![trusts.clone(), one.clone(), third.clone()]);
    assert_eq!(counts(&honest), [2, 0, 0, 0]);
    assert_eq!(counts(&ballot(&[0, 1, 1, 2], vec![trusts, one, other, third])), [1, 0, 0, 0]);
}
