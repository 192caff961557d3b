use koinon_core::body::charter::Preset;
use koinon_core::body::proposal::{Action, Proposal, RemoveEngine, Scope};
use koinon_core::dsse::Signer as _;
use koinon_core::ids::{Seconds, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::testkit::{Writer, charter, found, person};

use super::*;

/// A cooperative of one in which a proposal was anchored whose vote opens `wait` from now.
fn commons(wait: i64) -> (Commons, StatementId) {
    let founder = person("aarhus");
    let mut commons = Commons::new(found(&[&founder], charter(&[&founder], Preset::Standard)), Limits::default());
    let (state, coop) = (commons.state().clone(), commons.founding().coop());
    let action = Action::RemoveEngine(RemoveEngine { name: "vllm".parse().unwrap() });
    let (rules, parameters) = (state.class(action.class()).unwrap(), state.parameters());
    let opens_at = now().plus(Seconds(wait));
    let closes_at = opens_at.plus(rules.period_seconds);
    let eta = closes_at.plus(parameters.grace_seconds).plus(rules.timelock_seconds);
    let issued_at = UnixSeconds(opens_at.0 - rules.delay_seconds.0);
    let proposal = Proposal {
        class: action.class(),
        scope: action.scope(),
        parent: state.head(action.scope()),
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
        title: "t".parse().unwrap(),
        text: "".parse().unwrap(),
    };
    let statement = founder.human(coop, issued_at, Body::Proposal(Box::new(proposal)));
    let mut log = Writer::new(&founder, coop);
    commons.insert(log.anchor(issued_at, &statement)).unwrap();
    (commons, statement.id())
}

fn cast_by(signer: &SeedSigner, commons: &Commons, proposal: StatementId) -> anyhow::Result<()> {
    let me = person("aarhus");
    let ballot = proposal::Vote { proposal, choice: proposal::Choice::Yes, vseq: 0, ground: None, reason: None };
    let site = me.member.site.name.clone();
    let vote = sign(signer, commons.founding().coop(), &me.id(), &site, ballot, "koinon-system").unwrap();
    check(commons.state(), &me.id(), &vote)
}

#[test]
fn a_vote_counts_while_the_box_is_open_and_is_refused_with_the_hour_before() {
    let governance = person("aarhus").governance;
    let (open, id) = commons(-60);
    cast_by(&governance, &open, id).unwrap();
    let (closed, id) = commons(1800);
    let early = cast_by(&governance, &closed, id).unwrap_err().to_string();
    let opens = time(closed.state().proposals()[&id].proposal.opens_at);
    assert!(early.contains(&format!("the vote opens at {opens}")), "{early}");
}

#[test]
fn a_vote_with_another_key_is_refused_and_one_on_what_is_not_heard_of_yet_is_not() {
    let (open, id) = commons(-60);
    let thief = person("thief").governance;
    let refused = cast_by(&thief, &open, id).unwrap_err().to_string();
    assert!(refused.contains(&thief.public_key().to_string()), "{refused}");
    let unheard = StatementId(koinon_core::ids::Digest::of(b"elsewhere"));
    cast_by(&person("aarhus").governance, &open, unheard).unwrap();
}
