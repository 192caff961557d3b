use std::time::Duration;

use koinon_core::belief::draw::Target;
use koinon_core::body::challenges::ClassChallenge;
use koinon_core::body::charter::Preset;
use koinon_core::body::norms::PlacementRules;
use koinon_core::challenge::{Nonce, Occasion, Secret, Size, Timing, Transcript, Window};
use koinon_core::founding::Founding;
use koinon_core::ids::{CoopId, Digest, ManifestDigest, Seconds, Seq, StatementId, UnixSeconds};
use koinon_core::log::{Limits, Replica};
use koinon_core::testkit::{Person, T0, charter, found, person};

use super::*;
use crate::peers::{Heard, Liveness, PeerView};

const NOW: UnixMicros = UnixMicros(T0.0 * 1_000_000);

fn rules() -> Challenges {
    let window = |least, most| Window { least, most };
    let size = Size::new(128, 64).unwrap();
    let asked = ClassChallenge { size, compute: window(2000, 4000), recall: window(200, 450) };
    Challenges {
        engine: "koinon-challenge".parse().unwrap(),
        model: ManifestDigest(Digest::of(b"nothing")),
        every_seconds: Seconds(24_000),
        challengers: 1,
        fresh_seconds: Seconds(86_400),
        most_seconds: Seconds(60),
        classes: [("h100-80".parse().unwrap(), asked)].into(),
    }
}

fn state() -> State {
    let people = ["aarhus", "bilbao", "cork"].map(person);
    let everybody: Vec<&Person> = people.iter().collect();
    let founding: Founding = found(&everybody, charter(&everybody, Preset::Trial));
    State::fold(&founding, &Replica::new(&founding, Limits::default()))
}

fn transcript(by: &str, millis: u32) -> Transcript {
    let occasion = Occasion {
        coop: CoopId(Digest::of(b"coop")),
        challenger: by.parse().unwrap(),
        host: "cork".parse().unwrap(),
        class: "h100-80".parse().unwrap(),
        after: StatementId(Digest::of(b"entry")),
        nonce: Nonce([1; 32]),
    };
    let timing = Timing { compute_millis: millis, recall_millis: 300 };
    Transcript { occasion, size: Size::new(128, 64).unwrap(), secret: Secret([2; 32]), timing, devices: vec![] }
}

fn report(ended: UnixMicros, outcome: Outcome) -> ChallengeReport {
    ChallengeReport {
        host: "cork".parse().unwrap(),
        class: "h100-80".parse().unwrap(),
        rules: rules().digest(),
        devices: 0,
        began: UnixMicros(ended.0 - 5_000_000),
        ended,
        outcome,
    }
}

fn says(author: &str, offset: i64, report: ChallengeReport) -> PeersSnapshot {
    let heard = Heard {
        id: StatementId(Digest::of(b"said")),
        seq: Seq(1),
        issued_at: UnixSeconds(T0.0),
        not_after: UnixSeconds(T0.0 + 60),
        body: Arc::new(report),
        heard_at: Duration::ZERO,
    };
    let mut peer = PeerView::silent(Liveness::Fresh, Duration::ZERO);
    peer.clock_offset_micros = Some(offset);
    peer.challenges.insert("challenge/0".parse().unwrap(), heard);
    PeersSnapshot { members: [(author.parse().unwrap(), peer)].into(), ..PeersSnapshot::default() }
}

/// What aarhus makes of it, as if these rules had been voted.
fn made(peers: &PeersSnapshot, own: &[ChallengeReport], checked: &Checked) -> Beliefs {
    let (me, state) = ("aarhus".parse().unwrap(), state());
    let voted = Some(Arc::new(rules()));
    let mut beliefs = Beliefs::of_peers(&me, &state, &PeersSnapshot::default(), &[], &Checked::default());
    assert_eq!(state.norms().placement, PlacementRules::default());
    beliefs.rules = voted;
    beliefs.count(&me, peers, own, checked);
    beliefs
}

fn findings(beliefs: &Beliefs) -> Vec<(String, &'static str)> {
    let target = Target { host: "cork".parse().unwrap(), class: "h100-80".parse().unwrap() };
    let entries = beliefs.entries(&target.host, &target.class);
    entries.map(|entry| (entry.measured.by.to_string(), entry.measured.finding.name())).collect()
}

#[test]
fn what_another_shows_counts_once_it_was_checked() {
    let shown = transcript("bilbao", 3000);
    let peers = says("bilbao", 0, report(NOW, Outcome::Answered(Box::new(shown.clone()))));
    let mut checked = Checked::default();
    assert!(findings(&made(&peers, &[], &checked)).is_empty());
    let which = Fingerprint::of(&"bilbao".parse().unwrap(), &shown);
    checked.note(which.clone(), false);
    assert!(findings(&made(&peers, &[], &checked)).is_empty());
    checked.note(which, true);
    assert_eq!(findings(&made(&peers, &[], &checked)), [("bilbao".to_owned(), "Fits")]);
    // Another member that shows the same has to have made it itself.
    let copied = says("cork", 0, report(NOW, Outcome::Answered(Box::new(shown))));
    assert!(findings(&made(&copied, &[], &checked)).is_empty());
}

#[test]
fn a_failure_is_its_author_s_word_and_what_this_member_saw_needs_no_check() {
    let why = || "the rows were wrong".to_owned();
    let peers = says("bilbao", 0, report(NOW, Outcome::Refuted { why: why() }));
    let own = [report(NOW, Outcome::Answered(Box::new(transcript("aarhus", 9000))))];
    let beliefs = made(&peers, &own, &Checked::default());
    assert_eq!(findings(&beliefs), [("aarhus".to_owned(), "TooSlow"), ("bilbao".to_owned(), "Refuted")]);
    let entry = beliefs.entries(&"cork".parse().unwrap(), &"h100-80".parse().unwrap()).last().unwrap();
    assert_eq!(entry.message, why());
}

#[test]
fn ages_are_by_the_clock_of_whoever_measured() {
    let (host, class) = ("cork".parse().unwrap(), "h100-80".parse().unwrap());
    let outcome = || Outcome::Refuted { why: String::new() };
    let failing = |offset: i64, ended: i64| {
        let said = says("bilbao", offset * 1_000_000, report(UnixMicros(NOW.0 + ended * 1_000_000), outcome()));
        !made(&said, &[], &Checked::default()).failing(&host, &class, NOW).is_empty()
    };
    assert!(failing(0, -86_399) && !failing(0, -86_400));
    assert!(failing(7200, 7200) && !failing(0, 7200), "a clock that is two hours ahead");
    assert!(failing(7200, 7200 - 86_399) && !failing(7200, 7200 - 86_400));
}
