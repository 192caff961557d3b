use koinon_core::body::charter::Preset;
use koinon_core::body::proposal::{Admit, RemoveEngine, Scope};
use koinon_core::dsse::Signer as _;
use koinon_core::ids::Seconds;
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::statement::{Draft, Position};
use koinon_core::testkit::{Person, T0, Writer, charter, found, person};

use super::*;

fn commons(people: &[&Person], preset: Preset) -> Commons {
    Commons::new(found(people, charter(people, preset)), Limits::default())
}

fn proposal_of(commons: &Commons, action: Action, title: &str) -> Proposal {
    let (state, scope) = (commons.state(), action.scope());
    let (rules, parameters) = (state.class(action.class()).unwrap(), state.parameters());
    let opens_at = T0.plus(rules.delay_seconds);
    let closes_at = opens_at.plus(rules.period_seconds);
    let eta = closes_at.plus(parameters.grace_seconds).plus(rules.timelock_seconds);
    Proposal {
        class: action.class(),
        scope,
        parent: state.head(scope),
        membership: state.head(Scope::Membership),
        action,
        opens_at,
        closes_at,
        eta,
        expires_at: eta.plus(parameters.enact_window_seconds),
        term: 0,
        subject: None,
        charter: None,
        interested: Default::default(),
        title: title.parse().unwrap(),
        text: "".parse().unwrap(),
    }
}

fn admission(commons: &Commons, author: &Person, others: &[&Person]) -> Statement {
    let coop = commons.founding().coop();
    let application = person("coimbra").application(coop, T0).envelope().clone();
    let body = proposal_of(commons, Action::Admit(Admit { application }), "Admit coimbra");
    let draft = Draft {
        coop: Some(coop),
        author: author.id(),
        site: author.member.site.name.clone(),
        issued_at: T0,
        position: Position::Human,
        body: Body::Proposal(Box::new(body)),
    };
    let others: Vec<&dyn koinon_core::dsse::Signer> = others.iter().map(|p| &p.governance as _).collect();
    draft.sign(&author.governance, &others).unwrap()
}

fn removal(commons: &Commons, author: &Person, engine: &str) -> Statement {
    let body = proposal_of(commons, Action::RemoveEngine(RemoveEngine { name: engine.parse().unwrap() }), engine);
    author.human(commons.founding().coop(), T0, Body::Proposal(Box::new(body)))
}

#[test]
fn the_standard_preset_wants_two_sponsors_and_the_refusal_names_the_three_commands() {
    let (aarhus, bilbao) = (person("aarhus"), person("bilbao"));
    let commons = commons(&[&aarhus, &bilbao], Preset::Standard);
    let refused = proposal(commons.state(), &admission(&commons, &aarhus, &[])).unwrap_err();
    assert!(refused.lacks_sponsors());
    let text = refused.to_string();
    for part in [
        "TooFewSponsors",
        "1 of the 2 members that are needed have signed",
        "--from admit-coimbra --out admit-coimbra.yaml",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(text.contains("--co-sign admit-coimbra.yaml") && text.contains("--signed admit-coimbra.yaml"), "{text}");
    assert_eq!(proposal(commons.state(), &admission(&commons, &aarhus, &[&bilbao])), Ok(()));
}

#[test]
fn one_sponsor_is_enough_in_the_trial_preset_and_in_a_cooperative_of_one() {
    let (aarhus, bilbao) = (person("aarhus"), person("bilbao"));
    for commons in [commons(&[&aarhus, &bilbao], Preset::Trial), commons(&[&aarhus], Preset::Standard)] {
        assert_eq!(proposal(commons.state(), &admission(&commons, &aarhus, &[])), Ok(()));
    }
}

#[test]
fn a_key_that_the_charter_does_not_name_is_refused_with_where_to_look() {
    let aarhus = person("aarhus");
    let commons = commons(&[&aarhus], Preset::Trial);
    let mut thief = person("aarhus");
    thief.governance = person("thief").governance;
    let refused = proposal(commons.state(), &removal(&commons, &thief, "vllm")).unwrap_err();
    assert_eq!(refused.why, Invalid::WrongKey(thief.governance.public_key()));
    assert!(refused.to_string().contains("--keys DIR"), "{refused}");
}

#[test]
fn a_fourth_open_proposal_is_refused_as_the_operators_count_them() {
    let aarhus = person("aarhus");
    let mut commons = commons(&[&aarhus], Preset::Standard);
    let mut log = Writer::new(&aarhus, commons.founding().coop());
    for engine in ["a", "b", "c"] {
        let next = removal(&commons, &aarhus, engine);
        assert_eq!(proposal(commons.state(), &next), Ok(()));
        commons.insert(log.anchor(T0, &next)).unwrap();
    }
    let fourth = removal(&commons, &aarhus, "d");
    assert_eq!(proposal(commons.state(), &fourth).unwrap_err().why, Invalid::TooManyOpen { open: 3, allowed: 3 });
    // The operators say the same once it stands in the log.
    commons.insert(log.anchor(T0, &fourth)).unwrap();
    assert_eq!(commons.state().proposals()[&fourth.id()].invalid, Some(Invalid::TooManyOpen { open: 3, allowed: 3 }));
}

#[test]
fn a_vote_beside_the_proposal_is_early_wherever_the_charter_has_a_delay() {
    let aarhus = person("aarhus");
    for (preset, early) in [(Preset::Trial, false), (Preset::Standard, true)] {
        let commons = commons(&[&aarhus], preset);
        let statement = removal(&commons, &aarhus, "vllm");
        let Body::Proposal(body) = statement.body() else { panic!("no proposal") };
        assert_eq!(too_early(commons.state(), body, T0), early);
        assert!(!too_early(commons.state(), body, body.opens_at.minus(Seconds(1))), "clocks differ a little");
    }
}
