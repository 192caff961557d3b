//! What each fuzzer does with its bytes: also run, without a fuzzer, by the tests of `operator/net` on everything that the
//! fuzzers begin with.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use koinon_core::body::Body;
use koinon_core::body::challenge_report::ChallengeReport;
use koinon_core::body::challenges::Challenges;
use koinon_core::body::charter::Preset;
use koinon_core::challenge::{Ask, Asking, Check, Nonce, Occasion, Reply, Secret, Size, Transcript};
use koinon_core::dsse::{Envelope, SeedSigner};
use koinon_core::founding::Founding;
use koinon_core::ids::{CoopId, Digest, StatementId, UnixSeconds};
use koinon_core::invite::{Invite, PREFIX};
use koinon_core::json;
use koinon_core::log::Limits;
use koinon_core::manifest::Manifest;
use koinon_core::policy::Commons;
use koinon_core::presets;
use koinon_core::sealing::{self, Circumstances};
use koinon_core::statement::Statement;
use koinon_core::testkit::{self, Person, T0};
use koinon_net::limits::LimitExceeded;
use koinon_net::tls::{CertUse, LeafName, PeerIdentity, issue};
use koinon_net::wire::{
    DialBackMessage, ErrorMessage, HeadsMessage, JoinAccepted, JoinRefused, JoinRequest, StreamLine,
};
use rustls_pki_types::CertificateDer;
use serde_json::Value;

/// Bytes that claim to be an envelope, as they come from a peer, a file or an API server.
pub fn envelope(bytes: &[u8]) {
    let Ok(envelope) = Envelope::from_json(bytes) else { return };
    assert_eq!(Envelope::from_json(&envelope.to_json()).as_ref(), Ok(&envelope));
    if let Ok(statement) = Statement::verify(envelope.clone()) {
        assert_eq!(statement.envelope(), &envelope);
    }
    let _ = Founding::verify(envelope);
}

/// What somebody with a key signs: every kind of statement, with any body.
pub fn statement(bytes: &[u8]) {
    let strict = json::check(bytes).is_ok();
    let Ok(Value::Object(payload)) = serde_json::from_slice(bytes) else { return };
    let people = super::people();
    let Some(envelope) = super::sign(people, payload) else { return };
    let Ok(statement) = Statement::verify(envelope.clone()) else { return };
    assert_eq!(Statement::verify(envelope.clone()).as_ref(), Ok(&statement));
    if let (true, Some(kind)) = (strict, statement.body().kind()) {
        assert_eq!(kind, *statement.kind());
        assert!(statement.body().since_rules() <= statement.header().rules);
    }
    match statement.body() {
        Body::Charter(_) => drop(Founding::verify(envelope)),
        Body::Opaque(_) => assert!(statement.understood().is_err()),
        // What is read and written again says the same.
        body => assert!(body.to_json().is_some()),
    }
}

/// The beginning of every log.
fn founded() -> &'static (Founding, Commons) {
    static FOUNDED: OnceLock<(Founding, Commons)> = OnceLock::new();
    FOUNDED.get_or_init(|| {
        let founders: Vec<&Person> = super::people().iter().collect();
        let mut charter = testkit::charter(&founders, Preset::Standard);
        charter.parameters.deliberation = Some(presets::deliberation());
        let founding = testkit::found(&founders, charter);
        (founding.clone(), Commons::new(founding, Limits::default()))
    })
}

/// Logs of any content: one payload a line, each signed and put behind the one before it in its author's log.
pub fn commons(bytes: &[u8]) {
    let people = super::people();
    let (founding, mut commons) = founded().clone();
    let coop = founding.coop();
    let mut ends: BTreeMap<String, (u64, Digest)> = BTreeMap::new();
    let mut entries = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').take(16) {
        let Ok(Value::Object(mut payload)) = serde_json::from_slice(line) else { continue };
        payload.insert("coop".into(), coop.to_string().into());
        if let Some(inner) = payload.get_mut("body").and_then(|body| body.get_mut("statement"))
            && let Some(inner) = inner.as_object_mut()
        {
            inner.insert("coop".into(), coop.to_string().into());
        }
        let Some(log) = payload.get("log").and_then(Value::as_str).map(str::to_owned) else { continue };
        let end = ends.entry(log).or_insert((0, coop.0));
        super::follow(&mut payload, end.0, end.1);
        let Some(entry) = super::sign(people, payload).and_then(|e| Statement::verify(e).ok()) else { continue };
        *end = (end.0 + 1, entry.id().0);
        entries.push(entry);
    }
    commons.insert_all(entries.clone());
    for now in [T0.0, T0.0 + 80 * 3600, i64::MAX] {
        let circumstances = Circumstances::good(UnixSeconds(now));
        for proposal in commons.state().proposals().values() {
            let _ = commons.state().phase(proposal, UnixSeconds(now));
        }
        for person in people {
            sealing::next(commons.state(), &person.id(), &circumstances);
        }
    }
    let (again, _) = Commons::load(founding, Limits::default(), entries.into_iter().rev());
    assert_eq!(again.state(), commons.state(), "the order of arrival must not matter");
}

/// Text that people paste or files hold: invites, manifests, strict JSON.
pub fn text(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert!(manifest.files().all(|(path, _)| !path.starts_with('/') && !path.split('/').any(|part| part == "..")));
    }
    if json::check(bytes).is_ok() {
        assert!(serde_json::from_slice::<serde_json::Value>(bytes).is_ok(), "strict JSON is JSON");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Invite::from_line(text);
    }
    if let Ok(invite) = Invite::from_line(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))) {
        assert_eq!(Invite::from_line(&invite.to_line()), Ok(invite));
    }
}

/// A good leaf, as bytes.
fn leaf() -> &'static [u8] {
    static LEAF: OnceLock<Vec<u8>> = OnceLock::new();
    LEAF.get_or_init(|| {
        let name = LeafName {
            coop: CoopId(Digest::of(b"coop")),
            member: "aarhus".parse().expect("a member id"),
            cert_use: CertUse::Peer,
        };
        let leaf = issue(&SeedSigner::from_seed(&[7; 32]), &name, UnixSeconds(1_795_000_000)).expect("a leaf");
        let pem: String = leaf.certificate_pem().lines().filter(|line| !line.starts_with('-')).collect();
        STANDARD.decode(pem).expect("base64")
    })
}

/// A good leaf with something written over some of it, so that most of it is still one.
fn damaged(bytes: &[u8]) -> Option<Vec<u8>> {
    let [high, low, patch @ ..] = bytes else { return None };
    let mut der = leaf().to_vec();
    let from = usize::from(u16::from_be_bytes([*high, *low])) % der.len();
    for (byte, patch) in der[from..].iter_mut().zip(patch) {
        *byte = *patch;
    }
    Some(der)
}

/// What another member's node sends: lines, messages and the certificate of its handshake.
pub fn peer(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let limit = 1 << 20;
    match choice % 9 {
        0 => drop(StreamLine::parse(bytes, limit)),
        1 => drop(json::from_slice::<HeadsMessage>(bytes, limit, "heads")),
        2 => drop(json::from_slice::<JoinRequest>(bytes, limit, "a join request")),
        3 => drop(json::from_slice::<JoinAccepted>(bytes, limit, "an answer")),
        4 => drop(json::from_slice::<JoinRefused>(bytes, limit, "an answer")),
        5 => drop(json::from_slice::<DialBackMessage>(bytes, limit, "an answer")),
        6 => {
            let _ = serde_json::from_slice::<LimitExceeded>(bytes);
            let _ = serde_json::from_slice::<ErrorMessage>(bytes);
        }
        7 => {
            let Some(der) = damaged(bytes) else { return };
            let read = PeerIdentity::of_certificate(&CertificateDer::from(der.clone()));
            // Its signature covers every byte that means something.
            assert!(read.is_err() || der == leaf() || PeerIdentity::of_certificate(&leaf().into()) == read);
        }
        _ => drop(PeerIdentity::of_certificate(&CertificateDer::from(bytes))),
    }
}

/// A challenge of one small device.
fn asking() -> Asking {
    let occasion = Occasion {
        coop: CoopId(Digest::of(b"coop")),
        challenger: "aarhus".parse().expect("a member id"),
        host: "bilbao".parse().expect("a member id"),
        class: "h100-80".parse().expect("a class"),
        after: StatementId(Digest::of(b"entry")),
        nonce: Nonce([1; 32]),
    };
    Asking { occasion, size: Size::new(128, 64).expect("a size"), devices: 1, secret: Secret([2; 32]) }
}

/// What an engine answers, and what a member says of it: the lines are questions, answers, transcripts, reports and rules, and the
/// first three answer the questions of one challenge.
pub fn challenge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines: Vec<&str> = text.lines().take(4).collect();
    for line in &lines {
        if let Ok(ask) = Ask::read(line) {
            assert_eq!(Ask::read(&ask.text()), Ok(ask));
        }
        if let Ok(reply) = Reply::read(line) {
            assert_eq!(Reply::read(&reply.text()), Ok(reply));
        }
        if let Ok(transcript) = Transcript::read(line.as_bytes()) {
            assert_eq!(transcript.text(), *line, "a transcript has one spelling");
            checked(&transcript);
        }
        let rules = json::from_slice::<Challenges>(line.as_bytes(), 1 << 16, "rules").ok();
        if let Some(rules) = &rules {
            assert!(rules.validate().is_err() || rules.every_seconds.0 >= rules.least_every());
        }
        if let Ok(report) = json::from_slice::<ChallengeReport>(line.as_bytes(), 1 << 16, "a report")
            && let Some(rules) = lines.iter().find_map(|line| serde_json::from_str::<Challenges>(line).ok())
        {
            let _ = report.shows(&asking().occasion.challenger, &rules);
        }
    }
    let [first, second, third, ..] = lines[..] else { return };
    let (computing, _) = asking().begin().expect("one device");
    let Ok((recalling, _)) = computing.computed(first, 1) else { return };
    let Ok((opening, _)) = recalling.recalled(second, 1) else { return };
    if let Ok(transcript) = opening.opened(third) {
        assert_eq!(Transcript::read(transcript.text().as_bytes()).as_ref(), Ok(&transcript));
        assert!(!checked(&transcript), "made up, and found right");
    }
}

/// Whether the rows of a small transcript are right.
fn checked(transcript: &Transcript) -> bool {
    let Ok(check) = Check::sample(transcript, 1, b"fuzz") else { return false };
    check.work() < 1 << 18 && check.finish().is_ok()
}
