//! Proposals and votes as resources: drafts, mirrors, and what their conditions say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_api::conditions::{self, ConditionType, Reason};
use koinon_api::proposal::{Proposal, ProposalClass, ProposalSpec, ProposalState};
use koinon_api::vote::{Choice as Shown, Vote, VoteSpec};
use koinon_core::body::charter::Preset;
use koinon_core::body::proposal::{Choice, Ground};
use koinon_core::body::{Action, Body, ModelRelease, Vote as VoteBody};
use koinon_core::ids::{Digest, ManifestDigest, StatementId, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::statement::Statement;
use koinon_core::testkit::{self, Person, T0, Writer};
use kube::ResourceExt;

use crate::commons::candidate::{self, Refusal, Source};
use crate::commons::envelope::to_resource;
use crate::commons::people;
use crate::commons::view::{CommonsView, Signing, Standing};
use crate::kinds::projections::Moment;
use crate::kinds::{proposal, vote};

struct Fixture {
    commons: Commons,
    proposal: Statement,
    votes: Vec<Statement>,
}

fn release() -> Action {
    Action::AddModelRelease(ModelRelease {
        uri: "hf://example/tiny".parse().unwrap(),
        revision: "main".parse().unwrap(),
        manifest_digest: ManifestDigest(Digest::of(b"tiny")),
        quantization: "q4-k-m".parse().unwrap(),
        license: "Apache-2.0".parse().unwrap(),
        engines: vec![],
        memory_bytes: None,
    })
}

/// Aarhus' proposal, its own vote for it, and bilbao's veto, as cork holds them.
fn fixture() -> Fixture {
    let people: Vec<Person> = ["aarhus", "bilbao", "cork"].map(testkit::person).into();
    let everybody: Vec<&Person> = people.iter().collect();
    let founding = testkit::found(&everybody, testkit::charter(&everybody, Preset::Trial));
    let coop = founding.coop();
    let mut commons = Commons::new(founding, Limits::default());
    let body =
        commons.state().draft_proposal(release(), "Serve tiny".parse().unwrap(), "It is small.".parse().unwrap(), T0);
    let proposal = people[0].human(coop, T0, Body::Proposal(Box::new(body.unwrap())));
    let vote = |person: &Person, choice, ground| {
        let reason = Some("because".parse().unwrap());
        person.human(coop, T0, Body::Vote(VoteBody { proposal: proposal.id(), choice, vseq: 0, ground, reason }))
    };
    let votes = vec![vote(&people[0], Choice::Yes, None), vote(&people[1], Choice::Veto, Some(Ground::Legal))];
    let (mut aarhus, mut bilbao) = (Writer::new(&people[0], coop), Writer::new(&people[1], coop));
    let entries = [aarhus.anchor(T0, &proposal), aarhus.anchor(T0, &votes[0]), bilbao.anchor(T0, &votes[1])];
    assert!(commons.insert_all(entries).is_empty());
    Fixture { commons, proposal, votes }
}

fn view(fixture: &Fixture, verdicts: BTreeMap<Source, people::Verdict>) -> CommonsView {
    let commons = &fixture.commons;
    CommonsView {
        me: "cork".parse().unwrap(),
        coop: commons.replica().coop(),
        charter: Arc::new(commons.founding().charter().clone()),
        state: commons.state().clone(),
        standing: Standing::Member,
        signing: Signing::Yes,
        verdicts: Arc::new(verdicts),
        logs: Arc::default(),
        store_trouble: None,
        clock_in_tolerance: true,
        resumed: false,
        late: BTreeSet::new(),
    }
}

fn moment(at: UnixSeconds) -> Moment {
    Moment { now: at, time: koinon_api::time::from_unix(at.0).unwrap(), monotonic: std::time::Duration::ZERO }
}

#[test]
fn a_mirror_shows_exactly_what_was_signed() {
    let fixture = fixture();
    let mirror = proposal::mirror(&fixture.commons, fixture.proposal.id()).unwrap();
    mirror.validate_cel().unwrap();
    let read = candidate::of_proposal(&mirror.name_any(), &mirror.spec).unwrap();
    assert_eq!(read.statement.unwrap(), fixture.proposal, "no field differs from the envelope");
    for signed in &fixture.votes {
        let (on, record) = fixture.commons.state().vote(&signed.id()).unwrap();
        let mirror = vote::mirror(&fixture.commons, on, record).unwrap();
        mirror.validate_cel().unwrap();
        let read = candidate::of_vote(&mirror.name_any(), &mirror.spec).unwrap();
        assert_eq!(read.statement.unwrap(), *signed);
        let label = mirror.metadata.labels.as_ref().unwrap().get(koinon_api::labels::MIRROR);
        assert_eq!(label.map(String::as_str), Some("true"));
    }
}

#[test]
fn a_mirrored_proposal_shows_its_state_and_its_tally() {
    let fixture = fixture();
    let mirror = Arc::new(proposal::mirror(&fixture.commons, fixture.proposal.id()).unwrap());
    let shown = proposal::statuses(&view(&fixture, BTreeMap::new()), std::slice::from_ref(&mirror), &moment(T0));
    let status = &shown[&mirror.name_any()];
    assert_eq!(status.state, Some(ProposalState::Open));
    let tally = status.tally.as_ref().unwrap();
    assert_eq!((tally.approve, tally.veto, tally.electors), (1, 1, 3));
    assert!(conditions::is_true(&status.conditions, ConditionType::Anchored));
    assert!(!conditions::is_true(&status.conditions, ConditionType::Enacted));
    let long_after = moment(UnixSeconds(T0.0 + 365 * 86_400));
    let shown = proposal::statuses(&view(&fixture, BTreeMap::new()), std::slice::from_ref(&mirror), &long_after);
    assert_eq!(shown[&mirror.name_any()].state, Some(ProposalState::Expired));
}

#[test]
fn a_proposal_that_came_late_says_why_its_box_is_not_offered_here() {
    let fixture = fixture();
    let id = fixture.proposal.id();
    let mirror = Arc::new(proposal::mirror(&fixture.commons, id).unwrap());
    let closed = moment(fixture.commons.state().proposals()[&id].proposal.closes_at);
    let message = |late: BTreeSet<StatementId>| {
        let view = CommonsView { late, ..view(&fixture, BTreeMap::new()) };
        let shown = proposal::statuses(&view, std::slice::from_ref(&mirror), &closed);
        conditions::find(&shown[&mirror.name_any()].conditions, ConditionType::Enacted).unwrap().message.clone()
    };
    assert!(!message(BTreeSet::new()).contains("more than half of its vote"));
    assert!(message(BTreeSet::from([id])).contains("more than half of its vote"));
}

#[test]
fn a_draft_prints_the_command_that_signs_it() {
    let fixture = fixture();
    let spec = ProposalSpec {
        title: "Serve tiny".into(),
        text: String::new(),
        class: ProposalClass::Routine,
        action: None,
        envelope: None,
    };
    let draft = Arc::new(Proposal::new("tiny", spec));
    let shown = proposal::statuses(&view(&fixture, BTreeMap::new()), &[draft], &moment(T0));
    let signed = conditions::find(&shown["tiny"].conditions, ConditionType::Signed).unwrap();
    assert_eq!(signed.reason, Reason::Unsigned.as_str());
    assert!(signed.message.contains("kubectl koinon propose --from tiny"), "{}", signed.message);

    let spec = VoteSpec {
        proposal: fixture.proposal.id().to_string(),
        choice: Shown::Reject,
        vseq: None,
        ground: None,
        reason: None,
        envelope: None,
    };
    let draft = Arc::new(Vote::new("mine", spec));
    let shown = vote::statuses(&view(&fixture, BTreeMap::new()), &[draft], &moment(T0));
    let signed = conditions::find(&shown["mine"].conditions, ConditionType::Signed).unwrap();
    assert!(signed.message.contains("kubectl koinon vote p-") && signed.message.ends_with(" no"), "{}", signed.message);
}

#[test]
fn a_vote_that_was_refused_says_why_it_does_not_count() {
    let fixture = fixture();
    let dublin = testkit::person("dublin");
    let stray = dublin.human(fixture.proposal.coop(), T0, fixture.votes[0].body().clone());
    let spec = VoteSpec {
        proposal: fixture.proposal.id().to_string(),
        choice: Shown::Approve,
        vseq: None,
        ground: None,
        reason: None,
        envelope: Some(to_resource(stray.envelope())),
    };
    let object = Arc::new(Vote::new("mine", spec));
    // Who may not vote has signed all the same; a key that is its author's no more is no signature of it.
    for (reason, signed) in
        [(Reason::NotElector, "True"), (Reason::KeyReplaced, "False"), (Reason::UnknownKey, "False")]
    {
        let verdict = people::Verdict::Refused(Refusal::new(reason, "why"));
        let verdicts = BTreeMap::from([(Source::Vote("mine".into()), verdict)]);
        let shown = vote::statuses(&view(&fixture, verdicts), std::slice::from_ref(&object), &moment(T0));
        let status = &shown["mine"];
        assert_eq!((status.counted, status.reason.as_deref()), (Some(false), Some(reason.as_str())));
        let anchored = conditions::find(&status.conditions, ConditionType::Anchored).unwrap();
        assert_eq!((anchored.status.as_str(), anchored.reason.as_str()), ("False", reason.as_str()));
        assert_eq!(conditions::find(&status.conditions, ConditionType::Signed).unwrap().status, signed, "{reason:?}");
    }
}

#[test]
fn a_counted_vote_and_a_forged_envelope_are_told_apart() {
    let fixture = fixture();
    let (on, record) = fixture.commons.state().vote(&fixture.votes[1].id()).unwrap();
    let mirror = Arc::new(vote::mirror(&fixture.commons, on, record).unwrap());
    let shown = vote::statuses(&view(&fixture, BTreeMap::new()), std::slice::from_ref(&mirror), &moment(T0));
    assert_eq!(shown[&mirror.name_any()].counted, Some(true));

    let mut forged = (*mirror).clone();
    forged.metadata.labels = None;
    forged.spec.choice = Shown::Approve;
    forged.spec.ground = None;
    let read = candidate::of_vote(&forged.name_any(), &forged.spec).unwrap();
    let refusal = read.statement.unwrap_err();
    assert_eq!(refusal.reason, Reason::EnvelopeMismatch);
    let verdicts = BTreeMap::from([(read.source, people::Verdict::Refused(refusal))]);
    let shown = vote::statuses(&view(&fixture, verdicts), &[Arc::new(forged.clone())], &moment(T0));
    assert_eq!(shown[&forged.name_any()].counted, Some(false), "although the same payload counts elsewhere");
    let accepted = conditions::find(&shown[&forged.name_any()].conditions, ConditionType::Accepted).unwrap();
    assert_eq!((accepted.status.as_str(), accepted.reason.as_str()), ("False", "EnvelopeMismatch"));
}
