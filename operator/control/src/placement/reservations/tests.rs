use koinon_core::ids::ReplicaIndex;

use super::memory::Memory;
use super::*;

fn replica(home: &str, index: u32) -> ReplicaKey {
    ReplicaKey {
        home: home.parse().unwrap(),
        job: "0c1f3a52-7a3e-4f0e-9d55-0a4d6f1f2b11".parse().unwrap(),
        replica: ReplicaIndex(index),
    }
}

fn ask(home: &str, index: u32, epoch: u64, gpus: u32) -> Ask {
    Ask { replica: replica(home, index), epoch: Epoch(epoch), gpus }
}

fn nodes(names: &[&str]) -> Vec<NodeName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

async fn reserved(reservations: &Reservations<Memory>) -> u32 {
    reservations.records().await.unwrap().values().map(NodeReservations::reserved).sum()
}

#[tokio::test]
async fn two_members_that_ask_for_the_last_gpu_at_once_do_not_both_get_it() {
    for _ in 0..50 {
        let store = Memory::default();
        let tasks = ["aarhus", "cork"].map(|home| {
            let reservations = Reservations::new(store.clone());
            tokio::spawn(async move { reservations.reserve(&ask(home, 0, 1, 1), &nodes(&["n1"]), |_| 1).await })
        });
        let outcomes = futures::future::join_all(tasks).await;
        let won = outcomes.iter().filter(|outcome| outcome.as_ref().unwrap().is_ok()).count();
        assert_eq!(won, 1);
        let refused = outcomes.into_iter().find_map(|outcome| outcome.unwrap().err()).unwrap();
        assert_eq!(refused.to_string(), "asks for 1 GPUs on n1, which has 0 of 1 unreserved");
        assert_eq!(reserved(&Reservations::new(store)).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_onto_room_for_ten_reserve_ten() {
    let store = Memory::default();
    let tasks = (0..100).map(|index| {
        let reservations = Reservations::new(store.clone());
        tokio::spawn(async move {
            let ask = ask(if index % 2 == 0 { "aarhus" } else { "cork" }, index, 1, 1);
            loop {
                match reservations.reserve(&ask, &nodes(&["n1", "n2"]), |_| 5).await {
                    Err(ReservationError::Contended(_)) => {}
                    Ok(_) => return true,
                    Err(ReservationError::Refused(_)) => return false,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    let outcomes = futures::future::join_all(tasks).await;
    assert_eq!(outcomes.into_iter().filter(|outcome| *outcome.as_ref().unwrap()).count(), 10);
    assert_eq!(reserved(&Reservations::new(store)).await, 10);
}

#[tokio::test]
async fn two_operators_that_both_believe_they_lead_reserve_the_same_request_once_a_node() {
    let store = Memory::default();
    let request = ask("aarhus", 0, 1, 4);
    let tasks = [0, 1].map(|_| {
        let (reservations, request) = (Reservations::new(store.clone()), request.clone());
        tokio::spawn(async move { reservations.reserve(&request, &nodes(&["n1"]), |_| 4).await })
    });
    for outcome in futures::future::join_all(tasks).await {
        assert_eq!(outcome.unwrap().unwrap().node.as_str(), "n1");
    }
    assert_eq!(reserved(&Reservations::new(store)).await, 4);
}

#[tokio::test]
async fn a_reservation_whose_writer_was_killed_is_found_again_and_not_made_twice() {
    let store = Memory::default();
    store.lose_answers(1);
    let reservations = Reservations::new(store.clone());
    let killed = reservations.reserve(&ask("aarhus", 0, 1, 2), &nodes(&["n1", "n2"]), |_| 2).await;
    assert!(matches!(killed, Err(ReservationError::Store(StoreError::Write(_)))));
    let restarted = Reservations::new(store);
    let held = restarted.reserve(&ask("aarhus", 0, 1, 2), &nodes(&["n2", "n1"]), |_| 2).await.unwrap();
    assert_eq!((held.node.as_str(), held.how), ("n1", Reserved::Already));
    assert_eq!(reserved(&restarted).await, 2);
}

#[tokio::test]
async fn the_second_node_is_asked_where_the_first_has_no_room() {
    let reservations = Reservations::new(Memory::default());
    let held = reservations
        .reserve(
            &ask("aarhus", 0, 1, 4),
            &nodes(&["n1", "n2"]),
            |record| {
                if record.node().as_str() == "n1" { 3 } else { 4 }
            },
        )
        .await
        .unwrap();
    assert_eq!(held.node.as_str(), "n2");
}

#[tokio::test]
async fn an_epoch_that_another_node_remembers_fences_everywhere() {
    let reservations = Reservations::new(Memory::default());
    let high = ask("aarhus", 0, 5, 1);
    reservations.reserve(&high, &nodes(&["n1"]), |_| 1).await.unwrap();
    assert!(reservations.release(&nodes(&["n1"])[0], &high.replica, high.epoch).await.unwrap());
    let low = reservations.reserve(&ask("aarhus", 0, 4, 1), &nodes(&["n2"]), |_| 1).await.unwrap_err();
    assert!(matches!(low, ReservationError::Refused(Refusal::EpochFenced { highest: Epoch(5), .. })));
    let same = reservations.reserve(&high, &nodes(&["n2"]), |_| 1).await.unwrap_err();
    assert!(matches!(same, ReservationError::Refused(Refusal::EpochEnded { .. })));
}

#[tokio::test]
async fn a_higher_epoch_takes_over_where_the_copy_runs_and_needs_no_second_set_of_gpus() {
    let reservations = Reservations::new(Memory::default());
    reservations.reserve(&ask("aarhus", 0, 1, 8), &nodes(&["n2"]), |_| 8).await.unwrap();
    let held = reservations.reserve(&ask("aarhus", 0, 2, 8), &nodes(&["n1", "n2"]), |_| 8).await.unwrap();
    assert_eq!((held.node.as_str(), held.how), ("n2", Reserved::TakenOver { from: Epoch(1) }));
    assert_eq!(reserved(&reservations).await, 8);
}

#[tokio::test]
async fn giving_back_is_idempotent_and_leaves_other_epochs_alone() {
    let reservations = Reservations::new(Memory::default());
    let (n1, request) = (nodes(&["n1"]), ask("aarhus", 0, 2, 1));
    reservations.reserve(&request, &n1, |_| 1).await.unwrap();
    assert!(!reservations.release(&n1[0], &request.replica, Epoch(1)).await.unwrap());
    assert!(reservations.release(&n1[0], &request.replica, Epoch(2)).await.unwrap());
    assert!(!reservations.release(&n1[0], &request.replica, Epoch(2)).await.unwrap());
    assert_eq!(highest(&reservations.records().await.unwrap(), &request.replica), Some(Epoch(2)));
}
