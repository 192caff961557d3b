use koinon_api::member::MemberSpec;
use koinon_core::belief::draw::Target;
use koinon_core::body::challenge_report::{ChallengeReport, Outcome};
use koinon_core::body::challenges::ClassChallenge;
use koinon_core::body::latest::{EvidenceLevel, NetworkPolicyState, Offer};
use koinon_core::challenge::{Size, Window};
use koinon_core::ids::{Bytes, Digest, ManifestDigest, Seconds, Seq, StatementId, UnixMicros};
use koinon_core::testkit::T0;

use super::*;
use crate::challenges::records::Record;
use crate::peers::{Heard, PeerView};
use crate::placement::fixture;

fn voted() -> Challenges {
    let window = |least, most| Window { least, most };
    let asked = ClassChallenge { size: Size::new(128, 64).unwrap(), compute: window(40, 50), recall: window(1, 10) };
    Challenges {
        engine: "koinon-challenge".parse().unwrap(),
        model: ManifestDigest(Digest::of(b"nothing")),
        every_seconds: Seconds(36_000),
        challengers: 2,
        fresh_seconds: Seconds(86_400),
        most_seconds: Seconds(60),
        classes: [("h100-80".parse().unwrap(), asked)].into(),
    }
}

fn offering(block: u32, guests: GuestsMode) -> PeerView {
    let class = OfferedClass {
        class: "h100-80".parse().unwrap(),
        product: "NVIDIA H100 80GB HBM3".parse().unwrap(),
        memory_bytes: Bytes(80 << 30),
        offered: 40,
        largest_block: block,
        largest_node: None,
        evidence: EvidenceLevel::SchedulerConsistent,
    };
    let offer = Offer {
        classes: vec![class],
        guests,
        network_policy: NetworkPolicyState::Enforced,
        weights: vec![],
        gateway: vec![],
        jurisdiction: "IE".parse().unwrap(),
    };
    let heard = Heard {
        id: StatementId(Digest::of(b"offer")),
        seq: Seq(1),
        issued_at: T0,
        not_after: UnixSeconds(T0.0 + 60),
        body: Arc::new(offer),
        heard_at: Duration::ZERO,
    };
    PeerView { offer: Some(heard), ..PeerView::silent(Liveness::Fresh, Duration::ZERO) }
}

fn peers(bilbao: PeerView) -> PeersSnapshot {
    let own = PeerView { liveness: Liveness::Own, ..offering(8, GuestsMode::Accept) };
    let members = [("aarhus", own), ("bilbao", bilbao)].map(|(id, peer)| (id.parse().unwrap(), peer));
    PeersSnapshot { members: members.into(), ..PeersSnapshot::default() }
}

fn moment(unix: i64) -> Moment {
    Moment { unix: UnixSeconds(unix), monotonic: Duration::from_secs(10) }
}

fn record(host: &str, at: i64, granted: bool, asked: Option<&str>) -> Record {
    let report = ChallengeReport {
        host: host.parse().unwrap(),
        class: "h100-80".parse().unwrap(),
        rules: voted().digest(),
        devices: 8,
        began: UnixMicros(at * 1_000_000),
        ended: UnixMicros((at + 30) * 1_000_000),
        outcome: Outcome::Refuted { why: String::new() },
    };
    Record { report, granted, asked: asked.map(ToOwned::to_owned) }
}

/// The rules of aarhus, which are made once: signing takes its time.
fn aarhus() -> &'static Rules {
    static RULES: std::sync::OnceLock<Rules> = std::sync::OnceLock::new();
    RULES.get_or_init(|| fixture::rules("aarhus"))
}

/// What aarhus does now.
fn chosen(peers: &PeersSnapshot, records: &Records, now: i64, secret: u8) -> Option<Wanted> {
    let (voted, since) = (voted(), UnixSeconds(0));
    due(&Lots { rules: aarhus(), voted: &voted, peers, records, secret: &[secret; 32], since }, moment(now))
}

fn wishing(host: &str, wish: &str) -> Vec<Arc<Member>> {
    let mut member = Member::new(host, MemberSpec::default());
    member.metadata.annotations = Some([(labels::CHALLENGE_NOW.to_owned(), wish.to_owned())].into());
    vec![Arc::new(member)]
}

fn wished(peers: &PeersSnapshot, records: &Records, host: &str, wish: &str) -> Option<Result<Wanted, String>> {
    let voted = voted();
    let lots = Lots { rules: aarhus(), voted: &voted, peers, records, secret: &[1; 32], since: T0 };
    asked(&lots, &wishing(host, wish), moment(T0.0)).map(|wanted| wanted.map_err(|refused| refused.why))
}

/// The last second of the half of a period in which whoever is drawn begins.
fn end_of_half() -> i64 {
    period(&voted(), T0) * 86_400 + 43_200
}

#[test]
fn whoever_is_drawn_measures_all_that_is_free_on_one_node_in_the_first_half_of_the_period() {
    let peers = peers(offering(8, GuestsMode::Accept));
    let target = Target { host: "bilbao".parse().unwrap(), class: "h100-80".parse().unwrap() };
    let wanted = chosen(&peers, &Records::default(), end_of_half(), 1).unwrap();
    assert_eq!(wanted, Wanted { target, devices: 8, asked: None }, "and never its own");
    // The moment is another one for every member's secret.
    let begins = end_of_half() - 43_200;
    let first =
        |secret| (0..=720).find(|minute| chosen(&peers, &Records::default(), begins + minute * 60, secret).is_some());
    let moments: BTreeSet<Option<i64>> = (1..12).map(first).collect();
    assert!(moments.len() > 5 && !moments.contains(&None), "{moments:?}");
}

#[test]
fn a_vote_or_an_upgrade_is_no_moment_at_which_everybody_comes() {
    let (voted, peers) = (voted(), peers(offering(8, GuestsMode::Accept)));
    let (records, since) = (Records::default(), UnixSeconds(end_of_half()));
    let first = |secret: u8| {
        let lots =
            Lots { rules: aarhus(), voted: &voted, peers: &peers, records: &records, secret: &[secret; 32], since };
        (0..=72).find(|minute| due(&lots, moment(since.0 + minute * 60)).is_some())
    };
    let moments: BTreeSet<Option<i64>> = (1..12).map(first).collect();
    assert!(moments.len() > 5 && !moments.contains(&None), "{moments:?}");
}

#[test]
fn what_was_measured_is_left_alone_for_as_long_as_the_vote_says() {
    let peers = peers(offering(8, GuestsMode::Accept));
    let mut records = Records::default();
    let measured = end_of_half();
    records.note(record("bilbao", measured, true, None));
    for after in [1, 35_999] {
        assert_eq!(chosen(&peers, &records, measured + after, 1), None, "{after}");
    }
    let again = (1..1440).find(|minute| chosen(&peers, &records, measured + minute * 60, 1).is_some());
    assert!(again.is_some_and(|minute| (600..1440).contains(&minute)), "{again:?}");
}

#[test]
fn a_host_that_cannot_be_asked_now_is_not() {
    let silent = PeerView::silent(Liveness::Fresh, Duration::ZERO);
    let suspect = PeerView { liveness: Liveness::Suspect, ..offering(8, GuestsMode::Accept) };
    for peer in [offering(0, GuestsMode::Accept), offering(8, GuestsMode::Drain), silent, suspect] {
        assert_eq!(chosen(&peers(peer), &Records::default(), end_of_half(), 1), None);
    }
}

#[test]
fn a_person_gets_one_challenge_for_one_wish_and_within_the_vote_s_bounds() {
    let peers = peers(offering(200, GuestsMode::Accept));
    let wish = "h100-80 2026-11-21T00:00:00Z";
    let wanted = wished(&peers, &Records::default(), "bilbao", wish).unwrap().unwrap();
    assert_eq!((wanted.devices, wanted.asked.as_deref()), (MAX_DEVICES, Some(format!("bilbao {wish}").as_str())));
    let mut records = Records::default();
    records.note(record("bilbao", T0.0 - 36_000, true, wanted.asked.as_deref()));
    assert_eq!(wished(&peers, &records, "bilbao", wish), None, "it was done");
    assert!(wished(&peers, &records, "bilbao", "h100-80 later").unwrap().is_ok());
    records.note(record("bilbao", T0.0 - 35_000, true, None));
    let refused = |host: &str, wish: &str| wished(&peers, &records, host, wish).unwrap().unwrap_err();
    assert!(refused("bilbao", "h100-80 later").contains("again in 1000 s (everySeconds)"));
    assert!(refused("bilbao", "a100-40 later").contains("no challenge of a100-40"));
    assert!(refused("bilbao", "").contains("write CLASS TIME"));
    assert!(refused("aarhus", "h100-80 later").contains("nobody challenges itself"));
    assert!(refused("cork", "h100-80 later").contains("is not heard"));
    let mut told = records.clone();
    told.refuse("bilbao a100-40 later".to_owned());
    assert_eq!(wished(&peers, &told, "bilbao", "a100-40 later"), None, "it was refused once");
    // Or a vote would leave nothing Challenged until then.
    let mut under_others = record("bilbao", T0.0 - 60, true, None);
    under_others.report.rules = Digest::of(b"other rules");
    let mut before_the_vote = Records::default();
    before_the_vote.note(under_others);
    assert!(wished(&peers, &before_the_vote, "bilbao", "h100-80 later").unwrap().is_ok());
    // What the host did not grant cost it nothing.
    let mut free = Records::default();
    free.note(record("bilbao", T0.0 - 60, false, None));
    assert!(wished(&peers, &free, "bilbao", "h100-80 later").unwrap().is_ok());
}
