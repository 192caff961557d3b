//! What a `Statement`'s Effective condition says.

use koinon_api::conditions;
use koinon_core::body::charter::Preset;
use koinon_core::body::{Body, Cause, EmergencyOrder, KeyUpdate, Leave, Scope, Stop};
use koinon_core::ids::Seq;
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::testkit::{self, Person, T0, Writer};

use super::*;
use crate::commons::candidate::Refusal;
use crate::commons::envelope::to_resource;
use crate::commons::view::{Signing, Standing};

/// Aarhus, bilbao and cork; aarhus' leave stands in its log.
fn left() -> (Commons, Signed) {
    let people: Vec<Person> = ["aarhus", "bilbao", "cork"].map(testkit::person).into();
    let everybody: Vec<&Person> = people.iter().collect();
    let founding = testkit::found(&everybody, testkit::charter(&everybody, Preset::Trial));
    let coop = founding.coop();
    let mut commons = Commons::new(founding, Limits::default());
    let leave = people[0].human(coop, T0, Body::Leave(Leave { reason: None }));
    let entry = Writer::new(&people[0], coop).anchor(T0, &leave);
    assert!(commons.insert_all([entry]).is_empty());
    (commons, leave)
}

fn view(commons: &Commons, name: &str, verdict: Option<people::Verdict>) -> CommonsView {
    let verdicts = verdict.map(|verdict| (Source::Statement(name.to_owned()), verdict));
    CommonsView {
        me: "aarhus".parse().unwrap(),
        coop: commons.replica().coop(),
        charter: Arc::new(commons.founding().charter().clone()),
        state: commons.state().clone(),
        standing: Standing::Member,
        signing: Signing::Yes,
        verdicts: Arc::new(verdicts.into_iter().collect()),
        logs: Arc::default(),
        store_trouble: None,
        clock_in_tolerance: true,
        resumed: false,
        late: Default::default(),
    }
}

/// Status, reason and message of the condition; `None` where there is no status.
fn shown(commons: &Commons, signed: &Signed, verdict: Option<people::Verdict>) -> Option<(String, String, String)> {
    let object = Statement::new("applied", StatementSpec { envelope: to_resource(signed.envelope()) });
    shown_of(commons, object, verdict)
}

fn shown_of(
    commons: &Commons,
    object: Statement,
    verdict: Option<people::Verdict>,
) -> Option<(String, String, String)> {
    let moment =
        Moment { now: T0, time: koinon_api::time::from_unix(T0.0).unwrap(), monotonic: std::time::Duration::ZERO };
    let statuses = statuses(&view(commons, "applied", verdict), &[Arc::new(object)], &moment);
    let found = conditions::find(&statuses.get("applied")?.conditions, ConditionType::Effective).cloned().unwrap();
    Some((found.status, found.reason, found.message))
}

fn anchored(commons: &Commons) -> people::Verdict {
    let entry = commons.replica().all(&testkit::person("aarhus").member.keys.operator).next().unwrap();
    people::Verdict::Anchored { entry: entry.id(), seq: Seq(0), log: entry.statement.header().key, at: T0 }
}

#[test]
fn a_leave_is_effective_once_it_stands_in_its_authors_log() {
    let (commons, leave) = left();
    let (status, reason, _) = shown(&commons, &leave, None).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "AwaitingAnchor"));
    let (status, reason, message) = shown(&commons, &leave, Some(anchored(&commons))).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Anchored"), "{message}");
}

#[test]
fn a_leave_that_is_refused_says_why() {
    let (commons, _) = left();
    let strangers = testkit::person("dublin").human(commons.replica().coop(), T0, Body::Leave(Leave { reason: None }));
    let refused = people::Verdict::Refused(Refusal::new(Reason::NotElector, "dublin is no member"));
    let (status, reason, message) = shown(&commons, &strangers, Some(refused)).unwrap();
    assert_eq!((status.as_str(), reason.as_str(), message.as_str()), ("False", "NotElector", "dublin is no member"));
    let (status, ..) = shown(&commons, &strangers, Some(anchored(&commons))).unwrap();
    assert_eq!(status, "False", "anchored and yet of nobody who could leave");
}

#[test]
fn what_people_do_not_apply_as_a_statement_says_how_it_is_applied() {
    let (commons, leave) = left();
    let mut object = Statement::new("applied", StatementSpec { envelope: to_resource(leave.envelope()) });
    object.spec.envelope.payload_type = Kind::Vote.payload_type();
    let (status, reason, message) = shown_of(&commons, object.clone(), None).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "PayloadMalformed"));
    assert!(message.contains("a vote as a Vote"), "{message}");
    object.spec.envelope.payload_type = "text/plain".to_owned();
    assert_eq!(shown_of(&commons, object.clone(), None).unwrap().1, "PayloadMalformed");
    object.spec.envelope.payload_type = "application/vnd.koinon.treaty.v1+json".to_owned();
    let (status, reason, message) = shown_of(&commons, object.clone(), None).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "UnsupportedRules"));
    assert!(message.contains("treaty"), "{message}");
    for kind in [Kind::Anchor, Kind::BoxOffer, Kind::SlotStatus, Kind::NoticeSent, Kind::SealEvidence, Kind::Charter] {
        object.spec.envelope.payload_type = kind.payload_type();
        assert_eq!(shown_of(&commons, object.clone(), None), None, "what operators store shows its effect elsewhere");
    }
}

/// The same three by rules 2, and what `say` of the first one is anchored.
fn complete(say: impl Fn(&Commons, &Person) -> Body) -> (Commons, Signed) {
    let people: Vec<Person> = ["aarhus", "bilbao", "cork"].map(testkit::person).into();
    let everybody: Vec<&Person> = people.iter().collect();
    let mut charter = testkit::charter(&everybody, Preset::Trial);
    charter.parameters.deliberation = Some(koinon_core::presets::deliberation());
    let mut commons = Commons::new(testkit::found(&everybody, charter), Limits::default());
    let coop = commons.replica().coop();
    let signed = people[0].human(coop, T0, say(&commons, &people[0]));
    assert!(commons.insert_all([Writer::new(&people[0], coop).anchor(T0, &signed)]).is_empty());
    (commons, signed)
}

#[test]
fn an_order_says_how_many_must_still_sign_it_and_how() {
    let (commons, order) = complete(|commons, _| {
        let state = commons.state();
        Body::EmergencyOrder(Box::new(EmergencyOrder {
            stop: Stop::Member("cork".parse().unwrap()),
            cause: Cause::Safety,
            membership: state.head(Scope::Membership),
            charter: state.head(Scope::Charter),
            text: Default::default(),
        }))
    });
    let (status, reason, message) = shown(&commons, &order, Some(anchored(&commons))).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "AwaitingSignatures"));
    assert!(message.contains("1 of the 2 owners") && message.contains("kubectl koinon cosign sha256:"), "{message}");
}

#[test]
fn keys_that_stay_as_they_are_say_why_although_the_update_is_anchored() {
    let stranger = testkit::person("stranger").member.keys.governance;
    let update = KeyUpdate { number: 1, governance: stranger };
    let (commons, signed) = complete(|_, _| Body::KeyUpdate(update.clone()));
    let (status, reason, message) = shown(&commons, &signed, Some(anchored(&commons))).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "KeysUnchanged"));
    assert!(message.contains("has not signed too"), "{message}");
    let (commons, signed) =
        complete(|_, me| Body::KeyUpdate(KeyUpdate { number: 1, governance: me.member.keys.governance.clone() }));
    assert_eq!(shown(&commons, &signed, Some(anchored(&commons))).unwrap().0, "True");
}
