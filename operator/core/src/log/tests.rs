//! What a replica holds depends on what was said, never on the order in which it was heard.

use proptest::prelude::*;

use super::*;
use crate::body::charter::Preset;
use crate::founding::Founding;
use crate::ids::Seconds;
use crate::testkit::{Person, T0, Writer, charter, found, person};

fn founded(people: &[&Person]) -> Founding {
    found(people, charter(people, Preset::Trial))
}

fn log_of(person: &Person) -> PublicKey {
    crate::dsse::Signer::public_key(&person.operator)
}

/// A log of `len` entries, and another branch that leaves it after `common` ones and has `other` of its own.
fn forked(who: &Person, coop: CoopId, len: usize, common: usize, other: usize) -> (Vec<Statement>, Vec<Statement>) {
    let mut main = Writer::new(who, coop);
    for note in 0..len {
        main.note(T0, note as u64);
    }
    let mut branch = main.restored(common);
    for note in 0..other {
        branch.note(T0, 1000 + note as u64);
    }
    (main.entries, branch.entries.split_off(common))
}

fn stored(result: Result<Inserted, Refused>) -> usize {
    match result.unwrap() {
        Inserted::Stored { ids, .. } => ids.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_wait_for_the_ones_before_them() {
    let bilbao = person("bilbao");
    let founding = founded(&[&bilbao]);
    let (entries, _) = forked(&bilbao, founding.coop(), 4, 0, 0);
    let (mut replica, log) = (Replica::new(&founding, Limits::default()), log_of(&bilbao));
    assert_eq!(replica.insert(entries[3].clone()), Ok(Inserted::Waiting));
    assert_eq!(replica.insert(entries[1].clone()), Ok(Inserted::Waiting));
    assert_eq!(replica.missing(), vec![Range { log, from: Seq(0), to: Seq(0) }]);
    assert_eq!(stored(replica.insert(entries[0].clone())), 2);
    assert_eq!(replica.missing(), vec![Range { log, from: Seq(2), to: Seq(2) }]);
    assert_eq!(replica.insert(entries[0].clone()), Ok(Inserted::Known));
    assert_eq!(stored(replica.insert(entries[2].clone())), 2);
    assert_eq!(replica.head(&log).unwrap().id, entries[3].id());
    assert!(replica.missing().is_empty() && replica.waiting() == 0);
}

#[test]
fn entries_of_strangers_other_cooperatives_and_false_starts_are_refused() {
    let (bilbao, eve) = (person("bilbao"), person("eve"));
    let founding = founded(&[&bilbao]);
    let mut replica = Replica::new(&founding, Limits::default());
    let other = CoopId(Digest::of(b"another"));
    let refusal = |replica: &mut Replica, s: Statement| replica.insert(s).unwrap_err().category();
    assert_eq!(refusal(&mut replica, Writer::new(&bilbao, other).note(T0, 0)), "OtherCooperative");
    assert_eq!(refusal(&mut replica, Writer::new(&eve, founding.coop()).note(T0, 0)), "UnknownLog");
    let mut writer = Writer::new(&bilbao, founding.coop());
    writer.note(T0, 0);
    let late =
        bilbao.entry(founding.coop(), T0, 0, Digest::of(b"x"), crate::body::Body::Evidence(Box::new(evidence())));
    assert_eq!(refusal(&mut replica, late), "WrongStart");
    assert_eq!(refusal(&mut replica, bilbao.application(founding.coop(), T0)), "NotAnEntry");
    let impostor = Person { member: person("cork").member, governance: eve.governance, operator: bilbao.operator };
    assert_eq!(refusal(&mut replica, Writer::new(&impostor, founding.coop()).note(T0, 0)), "OtherAuthor");
}

fn evidence() -> crate::body::Evidence {
    let id = StatementId(Digest::of(b"x"));
    crate::body::Evidence { log: PublicKey([0; 32]), seq: Seq(0), first: id, second: id, envelopes: vec![] }
}

#[test]
fn a_fork_is_proved_and_voids_what_follows_without_un_counting_what_was_signed() {
    let bilbao = person("bilbao");
    let founding = founded(&[&bilbao]);
    let (main, branch) = forked(&bilbao, founding.coop(), 5, 3, 3);
    let (mut replica, log) = (Replica::new(&founding, Limits::default()), log_of(&bilbao));
    for entry in &main {
        replica.insert(entry.clone()).unwrap();
    }
    let Inserted::Stored { fork: Some(proof), .. } = replica.insert(branch[0].clone()).unwrap() else {
        panic!("the fork was not noticed");
    };
    assert_eq!((proof.seq, &proof.author), (Seq(3), &bilbao.id()));
    replica.insert(branch[1].clone()).unwrap();
    replica.insert(branch[2].clone()).unwrap();
    assert_eq!(replica.effective(&log).count(), 3);
    assert_eq!(replica.signed(&log).count(), 8);
    assert_eq!(replica.range(&log, Seq(3), 100).len(), 5);
    // Anybody can check the proof, from its evidence alone.
    assert_eq!(ForkProof::of_evidence(&proof.to_evidence(), founding.coop()), Some(*proof.clone()));
    assert_eq!(ForkProof::of_envelopes(&proof.first.1, &proof.first.1, founding.coop()), None);
    assert_eq!(ForkProof::of_evidence(&proof.to_evidence(), CoopId(Digest::of(b"another"))), None);
}

#[test]
fn a_member_that_holds_one_branch_learns_of_the_fork_from_evidence() {
    let (bilbao, cork) = (person("bilbao"), person("cork"));
    let founding = founded(&[&bilbao, &cork]);
    let (main, branch) = forked(&bilbao, founding.coop(), 3, 1, 1);
    let proof = ForkProof::of(&main[1], &branch[0]).unwrap();
    let mut replica = Replica::new(&founding, Limits::default());
    for entry in main {
        replica.insert(entry).unwrap();
    }
    let body = crate::body::Body::Evidence(Box::new(proof.to_evidence()));
    replica.insert(Writer::new(&cork, founding.coop()).add(T0, body)).unwrap();
    assert_eq!(replica.fork(&log_of(&bilbao)), Some(&proof));
    assert_eq!(replica.effective(&log_of(&bilbao)).count(), 1);
}

#[test]
fn a_member_on_the_other_branch_asks_its_way_back_to_the_fork() {
    let bilbao = person("bilbao");
    let founding = founded(&[&bilbao]);
    let (main, branch) = forked(&bilbao, founding.coop(), 4, 1, 3);
    let (mut here, mut there) =
        (Replica::new(&founding, Limits::default()), Replica::new(&founding, Limits::default()));
    for entry in &main {
        here.insert(entry.clone()).unwrap();
    }
    for entry in main[..1].iter().chain(&branch) {
        there.insert(entry.clone()).unwrap();
    }
    for _ in 0..10 {
        for range in here.wants(&there.heads()) {
            for entry in there.range(&range.log, range.from, (range.to.0 - range.from.0 + 1) as usize) {
                let _ = here.insert((*entry).clone());
            }
        }
    }
    assert!(here.wants(&there.heads()).is_empty());
    assert_eq!(here.fork(&log_of(&bilbao)).unwrap().seq, Seq(1));
    assert_eq!(here.signed(&log_of(&bilbao)).count(), 7);
}

#[test]
fn an_entry_beyond_the_budget_has_no_effect_and_the_next_day_is_new() {
    let bilbao = person("bilbao");
    let mut charter = charter(&[&bilbao], Preset::Trial);
    charter.parameters.budgets.entries_per_day = 16;
    let founding = found(&[&bilbao], charter);
    let (mut replica, log) = (Replica::new(&founding, Limits::default()), log_of(&bilbao));
    let mut writer = Writer::new(&bilbao, founding.coop());
    let (day, tomorrow) = (Seconds(86_400), T0.plus(Seconds(86_400)));
    for note in 0..20 {
        replica.insert(writer.note(T0, note)).unwrap();
    }
    assert_eq!(replica.effective(&log).count(), 16);
    assert_eq!(replica.budget_left(&log, T0).entries, 0);
    assert_eq!(replica.budget_left(&log, tomorrow).entries, 16);
    replica.insert(writer.note(tomorrow, 20)).unwrap();
    // Going back in time opens no second budget of an earlier day.
    for note in 21..60 {
        replica.insert(writer.note(T0.minus(day), note)).unwrap();
    }
    assert_eq!(replica.effective(&log).count(), 32);
    assert_eq!(replica.entries(&log).count(), 60);
}

#[test]
fn bytes_are_budgeted_too() {
    let bilbao = person("bilbao");
    let mut charter = charter(&[&bilbao], Preset::Trial);
    charter.parameters.budgets.bytes_per_day = 64 * 1024;
    let founding = found(&[&bilbao], charter);
    let (mut replica, log) = (Replica::new(&founding, Limits::default()), log_of(&bilbao));
    let mut writer = Writer::new(&bilbao, founding.coop());
    let mut bytes = 0;
    for note in 0..200 {
        let entry = writer.note(T0, note);
        bytes += entry.size();
        replica.insert(entry).unwrap();
        let valid = replica.effective(&log).count() == note as usize + 1;
        assert_eq!(valid, bytes <= 64 * 1024, "entry {note} at {bytes} bytes");
    }
}

#[test]
fn one_author_s_flood_stops_that_author_alone() {
    let (bilbao, cork) = (person("bilbao"), person("cork"));
    let founding = founded(&[&bilbao, &cork]);
    let limits = Limits { stored_bytes: 4096, waiting_entries: 2, ..Limits::default() };
    let mut replica = Replica::new(&founding, limits);
    let mut flood = Writer::new(&bilbao, founding.coop());
    let refused = (0..100).find_map(|note| replica.insert(flood.note(T0, note)).err()).unwrap();
    assert!(matches!(refused, Refused::Capped { cap: 4096, .. }), "{refused}");
    assert!(replica.capped(&log_of(&bilbao)) && !replica.capped(&log_of(&cork)));
    let (entries, _) = forked(&cork, founding.coop(), 6, 0, 0);
    for ahead in [5, 4, 3] {
        let _ = replica.insert(entries[ahead].clone());
    }
    assert_eq!(replica.waiting(), 2);
    assert_eq!(replica.insert(entries[5].clone()).unwrap_err().category(), "TooFarAhead");
    for entry in &entries[..3] {
        replica.insert(entry.clone()).unwrap();
    }
    assert_eq!(replica.head(&log_of(&cork)).unwrap().seq, Seq(4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_order_of_arrival_changes_nothing(
        len in 1usize..8, common in 0usize..8, other in 0usize..5,
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 60),
    ) {
        let bilbao = person("bilbao");
        let founding = founded(&[&bilbao]);
        let (main, branch) = forked(&bilbao, founding.coop(), len, common.min(len), other);
        let all: Vec<_> = main.into_iter().chain(branch).collect();
        let mut straight = Replica::new(&founding, Limits::default());
        for entry in &all {
            straight.insert(entry.clone()).unwrap();
        }
        let mut shuffled = Replica::new(&founding, Limits::default());
        for pick in &picks {
            let _ = shuffled.insert(pick.get(&all).clone());
        }
        // Whatever is still missing comes backwards.
        for entry in all.iter().rev() {
            let _ = shuffled.insert(entry.clone());
        }
        let log = log_of(&bilbao);
        let ids = |r: &Replica| { let mut ids: Vec<_> = r.signed(&log).map(Entry::id).collect(); ids.sort(); ids };
        let effective = |r: &Replica| r.effective(&log).map(Entry::id).collect::<Vec<_>>();
        prop_assert_eq!(ids(&straight), ids(&shuffled));
        prop_assert_eq!(ids(&straight).len(), all.len());
        prop_assert_eq!(effective(&straight), effective(&shuffled));
        prop_assert_eq!(straight.fork(&log), shuffled.fork(&log));
        prop_assert_eq!(shuffled.waiting(), 0);
    }
}
