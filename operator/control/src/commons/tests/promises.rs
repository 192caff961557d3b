//! Peers that tell of entries of the own log which nobody can have, against an engine whose clock is moved by hand.

use std::sync::Arc;
use std::time::Duration;

use koinon_core::body::Body;
use koinon_core::body::entry::Head;
use koinon_core::body::latest::Beacon;
use koinon_core::dsse::Signer;
use koinon_core::founding::Founding;
use koinon_core::ids::{Digest, Seq, StatementId, UnixMicros, UnixSeconds};
use koinon_core::log::Limits;
use koinon_core::statement::{Audience, Draft, Position};
use koinon_core::testkit::Person;
use koinon_net::client::{News, PeerEvent};
use koinon_net::commons::Heads;

use super::kit::{Operator, now, quick};
use crate::clock::{Clock, ManualClock};
use crate::commons::engine::{Engine, Parts};
use crate::commons::logs;
use crate::commons::publisher::LatestPublisher;
use crate::commons::shelf::{KeptIn, Shelf};
use crate::commons::view::Signing;

struct Setting {
    engine: Engine,
    clock: Arc<ManualClock>,
    founding: Founding,
    said: u64,
}

impl Setting {
    async fn new(operators: &[Operator; 3]) -> Self {
        let founding = quick(&operators.each_ref());
        let clock = Arc::new(ManualClock::at(now()));
        let author = logs::Author { clock: clock.clone(), ..operators[0].author() };
        let limits = Limits::default();
        let contents = logs::Contents::read(author.store.as_ref(), founding.coop(), limits).await.unwrap();
        let (commons, _) = contents.load(founding.clone(), limits);
        let publisher = LatestPublisher::new(author.clock.clone());
        let kept = KeptIn { store: author.store.clone(), own: author.log() };
        let shelf = Shelf::new(commons, kept, publisher.clone(), operators[0].desk(founding.coop()));
        let metrics = crate::metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
        let engine = Engine::new(Parts { author, shelf, publisher, invite: None, lost: Default::default(), metrics });
        Setting { engine, clock, founding, said: 0 }
    }

    fn told(&mut self, from: &Person, heads: Heads) {
        self.engine.hear(vec![PeerEvent { from: from.operator.public_key(), news: News::Heads(heads) }]);
    }

    /// A beacon: the member is there, whatever else it does.
    fn beacon(&mut self, from: &Person) {
        self.said += 1;
        let issued = self.clock.unix();
        let clock_micros = UnixMicros(issued.0 * 1_000_000);
        let beacon = Beacon { heads: Heads::new(), policy: Default::default(), rules_supported: vec![1], clock_micros };
        let position = Position::Latest {
            subject: "beacon".parse().unwrap(),
            seq: Seq(self.said),
            to: Audience::Everyone,
            not_after: UnixSeconds(issued.0 + 4),
        };
        let (author, site) = (from.id(), from.member.site.name.clone());
        let body = Body::Beacon(Box::new(beacon));
        let draft = Draft { coop: Some(self.founding.coop()), author, site, issued_at: issued, position, body };
        let statement = draft.sign(&from.operator, &[]).unwrap();
        let news = News::Latest(Box::new(statement));
        self.engine.hear(vec![PeerEvent { from: from.operator.public_key(), news }]);
    }

    /// Lets `count` seconds pass, with a beacon of each of `heard` in every one.
    async fn seconds(&mut self, count: u64, heard: &[&Person]) -> Signing {
        for _ in 0..count {
            self.clock.advance(Duration::from_secs(1));
            for person in heard {
                self.beacon(person);
            }
            self.engine.turn().await;
        }
        self.engine.view().signing
    }
}

/// A position that the own log never had.
fn invented(operators: &[Operator; 3]) -> Heads {
    [(operators[0].log(), Head { seq: Seq(1_000_000), id: StatementId(Digest::of(b"invented")) })].into()
}

#[tokio::test]
async fn a_peer_that_tells_of_entries_and_never_hands_them_over_is_soon_not_counted() {
    let operators = ["aarhus", "bilbao", "cork"].map(Operator::new);
    let mut setting = Setting::new(&operators).await;
    let [_, bilbao, cork] = operators.each_ref().map(|operator| &operator.person);
    setting.told(cork, Heads::new());
    assert_eq!(setting.seconds(1, &[bilbao, cork]).await, Signing::Yes);
    setting.told(bilbao, invented(&operators));
    assert!(matches!(setting.seconds(7, &[bilbao, cork]).await, Signing::No(_)), "it may still hand them over");
    assert_eq!(setting.seconds(3, &[bilbao, cork]).await, Signing::Yes);
    setting.told(bilbao, invented(&operators));
    assert_eq!(setting.seconds(1, &[bilbao, cork]).await, Signing::Yes, "it does not work twice");
}

#[tokio::test]
async fn who_told_of_entries_and_cannot_be_reached_is_doubted_only_when_a_person_says_so() {
    let operators = ["aarhus", "bilbao", "cork"].map(Operator::new);
    let mut setting = Setting::new(&operators).await;
    let [_, bilbao, cork] = operators.each_ref().map(|operator| &operator.person);
    setting.told(cork, Heads::new());
    setting.told(bilbao, invented(&operators));
    let Signing::No(why) = setting.seconds(60, &[cork]).await else { panic!("it may well hold them") };
    assert!(why.message.contains("bilbao") && why.message.contains("kubectl koinon resume"), "{why:?}");
    let controls = crate::commons::engine::Controls { resume: Some(operators[0].log()), ..Default::default() };
    setting.engine.set_controls(controls);
    assert_eq!(setting.seconds(10, &[cork]).await, Signing::Yes);
}
