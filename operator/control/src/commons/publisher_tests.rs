use koinon_core::statement::Statement;
use koinon_core::testkit::{self, T0};

use super::*;
use crate::clock::ManualClock;

const MINUTE: Duration = Duration::from_secs(60);

fn publisher() -> (LatestPublisher, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(T0));
    (LatestPublisher::new(clock.clone()), clock)
}

fn identity(name: &str) -> Identity {
    let person = testkit::person(name);
    let coop = CoopId(koinon_core::ids::Digest::of(b"coop"));
    let (member, site) = (person.id(), person.member.site.name.clone());
    Identity { coop, member, site, signer: Arc::new(person.operator) }
}

fn member(name: &str) -> MemberId {
    name.parse().unwrap()
}

fn seq(envelope: &Envelope) -> u64 {
    match Statement::verify(envelope.clone()).unwrap().position() {
        Position::Latest { seq, .. } => seq.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_for_one_member_is_served_to_nobody_else() {
    let (publisher, _) = publisher();
    publisher.bind(Some(identity("aarhus")));
    publisher.requests(&member("bilbao"), Requests::default(), MINUTE).unwrap();
    assert_eq!(publisher.served_to(&member("bilbao")).len(), 1);
    assert!(publisher.served_to(&member("cork")).is_empty());
}

#[test]
fn whoever_may_not_work_is_told_of_life_alone_and_everything_again_once_it_may() {
    let (publisher, clock) = publisher();
    publisher.bind(Some(identity("aarhus")));
    let beacon = Beacon {
        heads: BTreeMap::new(),
        policy: BTreeMap::new(),
        rules_supported: vec![1],
        clock_micros: clock.micros(),
    };
    let alive = publisher.beacon(beacon, MINUTE).unwrap().unwrap();
    for name in ["bilbao", "cork"] {
        publisher.requests(&member(name), Requests::default(), MINUTE).unwrap();
    }
    let served = |name: &str| publisher.served_to(&member(name)).iter().map(|latest| latest.id).collect::<Vec<_>>();
    let mut pulse = publisher.pulse().subscribe();
    pulse.mark_unchanged();
    publisher.halt(Halted { own: false, others: [member("bilbao")].into() });
    assert!(pulse.has_changed().unwrap(), "connections are to look again");
    assert_eq!((served("bilbao"), served("cork").len()), (vec![alive], 2));
    publisher.halt(Halted { own: true, ..Halted::default() });
    assert_eq!((served("bilbao"), served("cork")), (vec![alive], vec![alive]));
    publisher.halt(Halted::default());
    assert_eq!((served("bilbao").len(), served("cork").len()), (2, 2));
}

#[test]
fn nothing_is_signed_before_there_is_a_name_and_everything_once_there_is() {
    let (publisher, _) = publisher();
    assert_eq!(publisher.grants(&member("bilbao"), Grants::default(), MINUTE).unwrap(), None);
    assert!(publisher.served_to(&member("bilbao")).is_empty());
    publisher.bind(Some(identity("aarhus")));
    assert_eq!(publisher.served_to(&member("bilbao")).len(), 1);
    publisher.bind(None);
    assert!(publisher.served_to(&member("bilbao")).is_empty());
}

#[test]
fn the_same_words_are_signed_again_only_at_half_of_their_time() {
    let (publisher, clock) = publisher();
    publisher.bind(Some(identity("aarhus")));
    let set = || publisher.requests(&member("bilbao"), Requests::default(), MINUTE).unwrap().unwrap();
    let first = set();
    clock.advance(Duration::from_secs(20));
    assert_eq!(set(), first);
    clock.advance(Duration::from_secs(20));
    assert_ne!(set(), first);
}

#[test]
fn what_nobody_confirms_any_more_is_not_signed_again() {
    let (publisher, clock) = publisher();
    publisher.bind(Some(identity("aarhus")));
    publisher.grants(&member("bilbao"), Grants::default(), MINUTE).unwrap();
    let mut alive = 0;
    for _ in 0..20 {
        clock.advance(Duration::from_secs(10));
        publisher.renew();
        alive += publisher.served_to(&member("bilbao")).len();
    }
    // Confirmed for one validity, and the last signature within it lives for another one.
    assert!((6..12).contains(&alive), "{alive}");
    assert!(publisher.served_to(&member("bilbao")).is_empty());
}

#[test]
fn a_list_that_renews_leases_is_never_signed_from_memory() {
    let (publisher, clock) = publisher();
    publisher.bind(Some(identity("aarhus")));
    let first = publisher.requests(&member("bilbao"), Requests::default(), MINUTE).unwrap();
    clock.advance(Duration::from_secs(40));
    publisher.renew();
    assert_eq!(publisher.current(&"requests/bilbao".parse().unwrap()), first);
    publisher.hold_back_requests(&member("bilbao"));
    publisher.renew();
    assert!(publisher.served_to(&member("bilbao")).is_empty());
    let second = publisher.requests(&member("bilbao"), Requests::default(), MINUTE).unwrap();
    assert!(second.is_some() && second != first);
}

#[test]
fn numbers_rise_even_when_the_clock_is_set_back_or_the_subject_was_withdrawn() {
    let (publisher, clock) = publisher();
    publisher.bind(Some(identity("aarhus")));
    let number = |text: &str| {
        let grants = Grants::default();
        publisher.grants(&member(text), grants, MINUTE).unwrap();
        seq(&publisher.served_to(&member(text))[0].envelope)
    };
    let first = number("bilbao");
    clock.set_back(Duration::from_secs(3600));
    publisher.withdraw(&"grants/bilbao".parse().unwrap());
    let second = number("bilbao");
    assert_eq!(second, first + 1);
}
