//! Members that ask their peers whether they can be reached.

use std::sync::Arc;
use std::time::Duration;

use super::kit::{Operator, quick};
use crate::commons::reach::Reach;

/// Waits until some peer has answered.
async fn told(operator: &Operator) -> Arc<Reach> {
    let mut reach = operator.up().reach.clone();
    let answered = async { reach.wait_for(|reach| !reach.told.is_empty()).await.unwrap().clone() };
    tokio::time::timeout(Duration::from_secs(30), answered).await.unwrap()
}

#[tokio::test]
async fn a_member_hears_from_its_peers_whether_they_reach_it() {
    let (mut aarhus, mut bilbao) = (Operator::new("aarhus"), Operator::new("bilbao"));
    // Bilbao's router leads nowhere: it is heard all the same, over the connection that it opens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere: koinon_core::ids::Endpoint = format!("https://{free}").parse().unwrap();
    bilbao.person.member.endpoints.peer = vec![nowhere.clone()];
    aarhus.person.member.endpoints.gateway.clear();
    // Something answers where its gateway should, and it is not the gateway.
    let other: koinon_core::ids::Endpoint = aarhus.person.member.endpoints.peer[0].clone();
    bilbao.person.member.endpoints.gateway = vec![other.clone()];
    let founding = quick(&[&aarhus, &bilbao]);
    aarhus.start(&founding, None).await;
    bilbao.start(&founding, None).await;
    bilbao.until_signing().await;

    let reach = told(&aarhus).await;
    let own = aarhus.person.member.endpoints.peer[0].clone();
    assert_eq!(reach.endpoints, [own.clone()]);
    assert_eq!(reach.reached(&own).collect::<Vec<_>>(), [&bilbao.person.id()]);
    assert!(reach.whole());

    let reach = told(&bilbao).await;
    let missed: Vec<_> = reach.missed(&nowhere).collect();
    assert_eq!(missed[0].0, &aarhus.person.id());
    assert!(missed[0].1.contains("connecting to"), "{missed:?}");
    let missed: Vec<_> = reach.missed(&other).collect();
    assert_eq!((reach.gateways.as_slice(), missed[0].0), ([other.clone()].as_slice(), &aarhus.person.id()));
    assert!(!reach.whole());
    aarhus.stop().await;
    bilbao.stop().await;
}
