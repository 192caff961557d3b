//! What nodes that behave get from each other.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy knows tests by their attribute, not their helpers.

mod kit;

use std::sync::atomic::Ordering;

use koinon_core::statement::Audience;
use koinon_net::client::{News, PeerAddress, Proxies};
use koinon_net::limits::{Limits, Timing};
use koinon_net::tls::Alpn;
use koinon_net::wire::DialledBack;

use kit::{League, Node, a_while, until};

async fn pair() -> (League, Node, Node) {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let (a, b) = (Node::start(&league, "aarhus").await, Node::start(&league, "bilbao").await);
    a.knows(&b);
    b.knows(&a);
    (league, a, b)
}

#[tokio::test]
async fn both_sides_read_on_one_connection_whoever_dialled() {
    let (_league, a, b) = pair().await;
    a.append(3);
    b.append(5);
    // Only a dials; b knows no address of a.
    b.reads(&[], &[&a]);
    a.reads(&[&b], &[]);
    until("a has b's log and b has a's", || a.store.len_of(&b.key()) == 5 && b.store.len_of(&a.key()) == 3).await;
    a.append(1);
    b.append(1);
    until("what comes later follows at once", || a.store.len_of(&b.key()) == 6 && b.store.len_of(&a.key()) == 4).await;
    let (at_a, at_b) = (a.service.metrics().snapshot(), b.service.metrics().snapshot());
    assert_eq!(at_b.peers[&a.key()].connections, 1, "one connection carries both directions");
    assert!(at_a.peers[&b.key()].up && at_b.peers[&a.key()].up);
}

#[tokio::test]
async fn a_member_that_only_dials_is_read_again_after_a_session_with_it_was_given_up() {
    let (_league, a, b) = pair().await;
    b.reads(&[], &[&a]);
    a.reads(&[&b], &[]);
    until("b reads a", || b.ups(&a.key()) == 1).await;
    b.dialler.drop_session(&a.key());
    until("b reads a again", || b.ups(&a.key()) == 2).await;
    a.append(1);
    until("and gets what is new", || b.store.len_of(&a.key()) == 1).await;
    assert_eq!(a.ups(&b.key()), 1, "a's own reading went on over the same connection");
}

#[tokio::test]
async fn nodes_that_dial_each_other_agree_all_the_same() {
    let (_league, a, b) = pair().await;
    a.append(40);
    b.append(40);
    a.reads(&[&b], &[]);
    b.reads(&[&a], &[]);
    until("both have both", || a.store.len_of(&b.key()) == 40 && b.store.len_of(&a.key()) == 40).await;
    assert_eq!((a.delivered(&b.key()), b.delivered(&a.key())), (40, 40), "each entry is delivered once");
    assert_eq!(a.delivered(&a.key()), 0, "nobody is told its own log");
}

#[tokio::test]
async fn a_member_without_a_link_still_gets_the_whole_commons() {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let a = Node::start(&league, "aarhus").await;
    let b = Node::start(&league, "bilbao").await;
    let c = Node::start(&league, "cork").await;
    for (one, other) in [(&a, &b), (&b, &a), (&b, &c), (&c, &b)] {
        one.knows(other);
    }
    a.append(10);
    c.append(20);
    a.reads(&[&b], &[&c]);
    b.reads(&[], &[&a, &c]);
    c.reads(&[&b], &[&a]);
    until("a has c's log through b, and c has a's", || {
        a.store.len_of(&c.key()) == 20 && c.store.len_of(&a.key()) == 10
    })
    .await;
    c.append(1);
    until("new entries are relayed", || a.store.len_of(&c.key()) == 21).await;
    assert_eq!(a.ups(&c.key()), 0);
}

#[tokio::test]
async fn latest_statements_go_to_their_addressee_and_only_over_a_connection_to_their_author() {
    let (_league, a, b) = pair().await;
    b.reads(&[&a], &[]);
    let to_all = a.beacon(1, Audience::Everyone);
    let to_b = a.beacon(2, Audience::Member(b.person.id()));
    let to_c = a.beacon(3, Audience::Member("cork".parse().unwrap()));
    until("b hears two", || b.heard(&a.key()).len() == 2).await;
    let newer = a.beacon(4, Audience::Everyone);
    until("b hears the newer one", || b.heard(&a.key()).contains(&newer.id())).await;
    let heard = b.heard(&a.key());
    assert!(heard.contains(&to_all.id()) && heard.contains(&to_b.id()) && !heard.contains(&to_c.id()));
    assert_eq!(heard.len(), 3, "each is heard once");
}

#[tokio::test]
async fn what_was_held_back_for_a_while_is_told_on_the_same_connection_when_it_is_served_again() {
    let (_league, a, b) = pair().await;
    b.reads(&[&a], &[]);
    let to_b = Audience::Member(b.person.id());
    let asked = a.beacon(1, to_b.clone());
    until("b hears it", || b.heard(&a.key()) == [asked.id()]).await;
    a.store.latest.lock().unwrap().clear();
    let alive = a.beacon(2, Audience::Everyone);
    until("b hears that a lives", || b.heard(&a.key()).last() == Some(&alive.id())).await;
    a.store.latest(to_b, &asked);
    until("b hears it once more", || b.heard(&a.key()) == [asked.id(), alive.id(), asked.id()]).await;
    assert_eq!(b.ups(&a.key()), 1);
}

#[tokio::test]
async fn a_latest_statement_of_somebody_else_does_not_count() {
    let (league, a, b) = pair().await;
    let cork = koinon_core::testkit::person("cork");
    let foreign = kit::beacon(&cork, league.coop, 1, Audience::Everyone);
    a.store.latest(Audience::Everyone, &foreign);
    let own = a.beacon(1, Audience::Everyone);
    b.reads(&[&a], &[]);
    until("b hears a's own", || b.heard(&a.key()) == [own.id()]).await;
    until("the foreign one is counted as refused", || b.service.metrics().snapshot().peers[&a.key()].refused == 1)
        .await;
}

#[tokio::test]
async fn after_a_drop_reading_goes_on_without_loss_or_duplicates() {
    let (_league, a, b) = pair().await;
    a.append(50);
    b.reads(&[&a], &[]);
    until("half is there", || b.store.len_of(&a.key()) >= 25).await;
    b.dialler.drop_session(&a.key());
    a.append(50);
    until("the rest follows", || b.store.len_of(&a.key()) == 100).await;
    b.dialler.drop_session(&a.key());
    until("a third session", || b.ups(&a.key()) >= 3).await;
    a.append(7);
    until("and goes on", || b.store.len_of(&a.key()) == 107).await;
    // A session that ends may leave what was delivered and not yet stored; it is delivered again, and no more than that.
    assert!(b.delivered(&a.key()) <= 107 + 17, "delivered {}", b.delivered(&a.key()));
    assert!(b.downs(&a.key()).iter().all(|reason| reason.starts_with("Dropped")), "{:?}", b.downs(&a.key()));
}

#[tokio::test]
async fn entries_that_could_not_be_stored_are_asked_for_again() {
    let (_league, a, b) = pair().await;
    b.store.stores.store(false, Ordering::Relaxed);
    b.reads(&[&a], &[]);
    a.append(5);
    until("five were delivered", || b.delivered(&a.key()) == 5).await;
    b.store.stores.store(true, Ordering::Relaxed);
    until("and come again by themselves", || b.store.len_of(&a.key()) == 5).await;
    a.append(1);
    b.dialler.resync(&a.key());
    until("a resync in between loses nothing", || b.store.len_of(&a.key()) == 6).await;
    assert_eq!(b.ups(&a.key()), 1, "all in one session");
}

#[tokio::test]
async fn the_reader_sets_the_pace() {
    let (_league, a, b) = pair().await;
    a.append(2000);
    let paused = b.pause.clone().lock_owned().await;
    b.reads(&[&a], &[]);
    a_while().await;
    let before = b.service.metrics().snapshot().peers[&a.key()].entries;
    assert!(before <= 20, "16 may wait, and a few in hand; {before} were taken");
    let sent = a.service.metrics().snapshot().bytes_served;
    assert!(sent < 800_000, "the writer stops with the windows full; it wrote {sent} bytes");
    drop(paused);
    until("everything comes in the end", || b.store.len_of(&a.key()) == 2000).await;
}

#[tokio::test]
async fn a_long_history_does_not_hold_back_a_beacon() {
    let (_league, a, b) = pair().await;
    a.append(6000);
    b.reads(&[&a], &[]);
    until("the history is coming", || b.store.len_of(&a.key()) > 100).await;
    let beacon = a.beacon(1, Audience::Everyone);
    until("the beacon is heard", || b.heard(&a.key()) == [beacon.id()]).await;
    assert!(b.store.len_of(&a.key()) < 6000, "while the history is still coming");
}

#[tokio::test]
async fn nobody_reads_from_itself() {
    let (_league, a, _b) = pair().await;
    a.reads(&[&a], &[]);
    a_while().await;
    assert!(a.events.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_way_back_that_is_not_needed_is_kept_for_the_day_it_is() {
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let quick = Timing { idle: std::time::Duration::from_millis(300), ..kit::timing() };
    let a = Node::start_with(&league, "aarhus", Limits::default(), quick.clone(), Proxies::none()).await;
    let b = Node::start_with(&league, "bilbao", Limits::default(), quick, Proxies::none()).await;
    a.knows(&b);
    b.knows(&a);
    a.reads(&[&b], &[]);
    b.reads(&[&a], &[]);
    until("both read", || a.ups(&b.key()) == 1 && b.ups(&a.key()) == 1).await;
    a_while().await;
    a_while().await;
    for node in [&a, &b] {
        assert_eq!(node.service.metrics().snapshot().limits["idleSeconds"], 0);
    }
    assert_eq!((a.ups(&b.key()), b.ups(&a.key())), (1, 1));
}

#[tokio::test]
async fn both_branches_of_a_forked_log_reach_every_reader() {
    let (_league, a, b) = pair().await;
    // Bilbao's restored operator signs position 2 twice; aarhus has one branch, and bilbao the other.
    b.append(2);
    let prev = b.entry().position().clone();
    let koinon_core::statement::Position::Log { prev, .. } = prev else { unreachable!() };
    let (one, other) = (b.entry_at(2, prev, 1), b.entry_at(2, prev, 2));
    for entry in b.store.replica.lock().unwrap().range(&b.key(), koinon_core::ids::Seq(0), 2) {
        a.store.insert((*entry).clone());
    }
    a.store.insert(one.clone());
    b.store.insert(other.clone());
    a.reads(&[&b], &[]);
    b.reads(&[], &[&a]);
    let has_both = |node: &Node| {
        let replica = node.store.replica.lock().unwrap();
        replica.contains(&one.id()) && replica.contains(&other.id())
    };
    until("both nodes hold the proof", || has_both(&a) && has_both(&b)).await;
    let delivered = a.delivered(&b.key());
    a.dialler.drop_session(&b.key());
    let duplicates = || a.service.metrics().snapshot().peers[&b.key()].duplicates;
    until("the proof is sent again in a new session", || duplicates() >= 2).await;
    assert_eq!(a.delivered(&b.key()), delivered, "what is held is not delivered again");

    // A third, whose copy has gone on beyond the fork, gets it too.
    let league = League::new(&["aarhus", "bilbao", "cork"]);
    let c = Node::start(&league, "cork").await;
    c.knows(&a);
    a.knows(&c);
    for entry in b.store.replica.lock().unwrap().range(&b.key(), koinon_core::ids::Seq(0), 2) {
        c.store.insert((*entry).clone());
    }
    c.store.insert(one.clone());
    c.store.insert(b.entry_at(3, one.id().0, 1));
    c.reads(&[&a], &[]);
    until("the third holds the proof", || has_both(&c)).await;
}

#[tokio::test]
async fn documents_are_fetched_from_whoever_has_them() {
    let (_league, a, b) = pair().await;
    let document = b.entry_at(0, koinon_core::ids::Digest([0; 32]), 9);
    b.store.documents.lock().unwrap().insert(document.id(), std::sync::Arc::new(document.envelope().clone()));
    a.reads(&[&b], &[]);
    until("a reads b", || a.dialler.up() == [b.key()]).await;
    assert_eq!(a.dialler.document(&document.id()).await.unwrap().unwrap(), *document.envelope());
    let unknown = koinon_core::ids::StatementId(koinon_core::ids::Digest([1; 32]));
    assert_eq!(a.dialler.document(&unknown).await.unwrap(), None);
    b.append(3);
    let range = a.dialler.range(&b.key(), &b.key(), koinon_core::ids::Seq(1), 10).await.unwrap();
    assert_eq!(range.len(), 2);
    assert!(a.dialler.range(&a.key(), &b.key(), koinon_core::ids::Seq(0), 1).await.is_err(), "nobody there to ask");
}

#[tokio::test]
async fn a_peer_that_stops_says_so_and_is_found_again() {
    let (league, a, b) = pair().await;
    a.reads(&[&b], &[]);
    until("a reads b", || a.ups(&b.key()) == 1).await;
    let (address, key) = (b.address, b.key());
    b.stop.cancel();
    until("a hears why", || a.downs(&key).iter().any(|reason| reason.starts_with("Ended"))).await;
    drop(b);
    a_while().await;
    // The same member comes back under the same address.
    let again = Node::start(&league, "bilbao").await;
    again.knows(&a);
    let forward = tokio::net::TcpListener::bind(address).await.unwrap();
    let to = again.address;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = forward.accept().await {
            let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    until("a reads it again", || a.ups(&key) == 2).await;
}

#[tokio::test]
async fn a_newcomer_among_the_peers_is_read_and_one_that_left_is_not() {
    let (_league, a, b) = pair().await;
    a.reads(&[&b], &[]);
    until("a reads b", || a.ups(&b.key()) == 1).await;
    a.reads(&[], &[]);
    until("a reads nobody", || a.dialler.up().is_empty()).await;
    until("b's connection is gone", || b.service.metrics().snapshot().peers[&a.key()].connections == 0).await;
    b.append(1);
    a_while().await;
    assert_eq!(a.store.len_of(&b.key()), 0);
    assert!(!a.service.metrics().snapshot().peers.get(&b.key()).is_some_and(|peer| peer.up));
    a.reads(&[&b], &[]);
    until("a reads b again", || a.store.len_of(&b.key()) == 1).await;
    assert_eq!(a.count(|event| matches!(event.news, News::Down { .. })), 0, "leaving on purpose is no failure");
}

#[tokio::test]
async fn a_member_learns_from_a_peer_whether_it_can_be_reached() {
    let (_league, a, b) = pair().await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere: koinon_core::ids::Endpoint = format!("https://{}", free.local_addr().unwrap()).parse().unwrap();
    drop(free);
    a.reads(&[&b], &[]);
    until("a reads b", || a.dialler.up() == [b.key()]).await;
    b.reads(&[], &[&a]);
    assert_eq!(a.dialler.dial_back(&b.key()).await.unwrap(), [], "b has no endpoint of a");

    let address = PeerAddress {
        endpoints: vec![nowhere.clone(), a.endpoint(), b.endpoint()],
        gateways: vec![],
        protocol: Alpn::Peer,
    };
    b.dialler.set_peers([(a.key(), address)].into());
    let told = a.dialler.dial_back(&b.key()).await.unwrap();
    assert_eq!(told[1], DialledBack { endpoint: a.endpoint(), error: None });
    assert_eq!(told[0].endpoint, nowhere);
    assert!(told[0].error.as_ref().unwrap().contains("connecting to"), "{told:?}");
    assert!(told[2].error.as_ref().unwrap().contains("not the peer"), "another key answers there: {told:?}");

    let mut limited = None;
    for _ in 0..10 {
        limited = limited.or(a.dialler.dial_back(&b.key()).await.err());
    }
    assert!(limited.unwrap().to_string().contains("dialBacksPerMinute"));
}
