use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use koinon_core::dsse::{SeedSigner, Signer};
use koinon_core::ids::{CoopId, Digest, PublicKey, UnixSeconds};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::version::TLS12;
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::issue::issue_for;
use super::verify::read_leaf;
use super::*;
use crate::Clock;

const NOW: i64 = 1_795_000_000;
const COOP: CoopId = CoopId(Digest([7; 32]));

fn signer(seed: u8) -> SeedSigner {
    SeedSigner::from_seed(&[seed; 32])
}

fn key(seed: u8) -> PublicKey {
    signer(seed).public_key()
}

fn name(member: &str, cert_use: CertUse) -> LeafName {
    LeafName { coop: COOP, member: member.parse().unwrap(), cert_use }
}

fn leaf(seed: u8, member: &str, cert_use: CertUse) -> Leaf {
    issue(&signer(seed), &name(member, cert_use), UnixSeconds(NOW)).unwrap()
}

fn identity(leaf: &Leaf, clock: &Arc<AtomicI64>) -> TlsIdentity {
    let clock = clock.clone();
    TlsIdentity {
        resolver: LeafResolver::with(leaf).unwrap(),
        coop: COOP,
        clock: Clock::from_fn(move || UnixSeconds(clock.load(Ordering::Relaxed))),
    }
}

/// What a handshake of two peers comes to, seen from both sides.
struct Outcome {
    server: Result<PeerIdentity, Option<PeerRefusal>>,
    client: Result<PeerIdentity, Option<PeerRefusal>>,
}

async fn shake(server: Arc<rustls::ServerConfig>, client: Arc<ClientConfig>) -> Outcome {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serve = async {
        match TlsAcceptor::from(server).accept(near).await {
            Ok(tls) => Ok(peer_of(tls.get_ref().1).unwrap()),
            Err(error) => Err(refusal_in(&error)),
        }
    };
    let dial = async {
        let host = ServerName::try_from("anything.example").unwrap();
        match TlsConnector::from(client).connect(host, far).await {
            Ok(tls) => Ok(peer_of(tls.get_ref().1).unwrap()),
            Err(error) => Err(refusal_in(&error)),
        }
    };
    let (server, client) = tokio::join!(serve, dial);
    Outcome { server, client }
}

/// Dials with `theirs` into a listener of member `aarhus` that trusts as `trust` says; the listener's verdict.
async fn knock(theirs: &Leaf, trust: Trust) -> Result<PeerIdentity, Option<PeerRefusal>> {
    let clock = Arc::new(AtomicI64::new(NOW));
    let ours = identity(&leaf(1, "aarhus", CertUse::Peer), &clock);
    let server = server_config(&ours, CertUse::Peer, trust, &[Alpn::Peer]).unwrap();
    let theirs = identity(theirs, &clock);
    let client = client_config(&theirs, CertUse::Peer, Trust::Exactly(key(1)), &[Alpn::Peer]).unwrap();
    shake(server, client).await.server
}

fn pins(known: &[(u8, &str)]) -> Pins {
    let pins = Pins::default();
    pins.replace(known.iter().map(|(seed, member)| (key(*seed), member.parse().unwrap())).collect());
    pins
}

#[tokio::test]
async fn two_operators_that_pin_each_other_learn_who_the_other_is() {
    let clock = Arc::new(AtomicI64::new(NOW));
    let (a, b) = (leaf(1, "aarhus", CertUse::Peer), leaf(2, "bilbao", CertUse::Peer));
    let pins = pins(&[(1, "aarhus"), (2, "bilbao")]);
    let server =
        server_config(&identity(&a, &clock), CertUse::Peer, Trust::Pinned(pins.clone()), &[Alpn::Peer]).unwrap();
    let client = client_config(&identity(&b, &clock), CertUse::Peer, Trust::Pinned(pins), &[Alpn::Peer]).unwrap();
    let outcome = shake(server, client).await;
    assert_eq!(outcome.server.unwrap(), *b.identity());
    assert_eq!(outcome.client.unwrap(), *a.identity());
}

#[tokio::test]
async fn each_reason_to_refuse_a_client_is_told_apart() {
    use CertUse::{Gateway, Peer};
    let good = leaf(2, "bilbao", Peer);
    let pinned = || Trust::Pinned(pins(&[(2, "bilbao")]));
    assert!(knock(&good, pinned()).await.is_ok());
    assert!(knock(&good, Trust::Proven).await.is_ok());

    let refused = |outcome: Result<PeerIdentity, Option<PeerRefusal>>| outcome.unwrap_err().unwrap();
    assert_eq!(refused(knock(&good, Trust::Pinned(pins(&[]))).await), PeerRefusal::UnknownKey { key: key(2) });
    assert_eq!(
        refused(knock(&good, Trust::Exactly(key(3))).await),
        PeerRefusal::WrongKey { expected: key(3), seen: key(2) }
    );
    assert_eq!(
        refused(knock(&leaf(2, "bilbao", Gateway), pinned()).await),
        PeerRefusal::WrongUse { expected: Peer, seen: Gateway }
    );
    assert!(matches!(refused(knock(&leaf(2, "cork", Peer), pinned()).await), PeerRefusal::WrongMember { .. }));

    let other = LeafName { coop: CoopId(Digest([8; 32])), ..name("bilbao", Peer) };
    let other = issue(&signer(2), &other, UnixSeconds(NOW)).unwrap();
    assert!(matches!(refused(knock(&other, pinned()).await), PeerRefusal::WrongCooperative { .. }));

    let past = issue(&signer(2), &name("bilbao", Peer), UnixSeconds(NOW - LEAF_LIFETIME_SECONDS)).unwrap();
    assert_eq!(refused(knock(&past, pinned()).await), PeerRefusal::Expired { until: NOW, now: NOW });
    let soon = issue(&signer(2), &name("bilbao", Peer), UnixSeconds(NOW + LEAF_BACKDATE_SECONDS + 1)).unwrap();
    assert_eq!(refused(knock(&soon, pinned()).await), PeerRefusal::NotYetValid { from: NOW + 1, now: NOW });
}

#[tokio::test]
async fn the_dialler_refuses_a_server_under_another_key_and_says_which() {
    let clock = Arc::new(AtomicI64::new(NOW));
    let ours = identity(&leaf(1, "aarhus", CertUse::Peer), &clock);
    let server = server_config(&ours, CertUse::Peer, Trust::Proven, &[Alpn::Peer]).unwrap();
    let theirs = identity(&leaf(2, "bilbao", CertUse::Peer), &clock);
    let client = client_config(&theirs, CertUse::Peer, Trust::Exactly(key(9)), &[Alpn::Peer]).unwrap();
    let refusal = shake(server, client).await.client.unwrap_err();
    assert_eq!(refusal, Some(PeerRefusal::WrongKey { expected: key(9), seen: key(1) }));
}

#[tokio::test]
async fn an_expired_own_leaf_is_replaced_without_a_new_configuration() {
    let clock = Arc::new(AtomicI64::new(NOW));
    let first = leaf(1, "aarhus", CertUse::Peer);
    let ours = identity(&first, &clock);
    let server = server_config(&ours, CertUse::Peer, Trust::Proven, &[Alpn::Peer]).unwrap();

    clock.store(first.identity().not_after.0, Ordering::Relaxed);
    let theirs = issue(&signer(2), &name("bilbao", CertUse::Peer), UnixSeconds(clock.load(Ordering::Relaxed))).unwrap();
    let dial =
        || client_config(&identity(&theirs, &clock), CertUse::Peer, Trust::Exactly(key(1)), &[Alpn::Peer]).unwrap();
    assert!(matches!(shake(server.clone(), dial()).await.client, Err(Some(PeerRefusal::Expired { .. }))));

    let second = issue(&signer(1), &name("aarhus", CertUse::Peer), first.identity().not_after).unwrap();
    ours.resolver.renew(&second).unwrap();
    assert_eq!(shake(server, dial()).await.client.unwrap(), *second.identity());
}

#[tokio::test]
async fn a_second_connection_presents_its_certificate_again() {
    let clock = Arc::new(AtomicI64::new(NOW));
    let ours = identity(&leaf(1, "aarhus", CertUse::Peer), &clock);
    let known = pins(&[(2, "bilbao")]);
    let server = server_config(&ours, CertUse::Peer, Trust::Pinned(known.clone()), &[Alpn::Peer]).unwrap();
    let theirs = identity(&leaf(2, "bilbao", CertUse::Peer), &clock);
    let client = client_config(&theirs, CertUse::Peer, Trust::Exactly(key(1)), &[Alpn::Peer]).unwrap();
    // A client that would resume its session if it were let.
    let mut client = (*client).clone();
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let host = ServerName::try_from("anything.example").unwrap();
        let (served, dialled) = tokio::join!(
            TlsAcceptor::from(server.clone()).accept(near),
            TlsConnector::from(client.clone()).connect(host, far)
        );
        let (mut served, mut dialled) = (served.unwrap(), dialled.unwrap());
        assert_eq!(served.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        // A ticket would travel with the first bytes.
        tokio::io::AsyncWriteExt::write_all(&mut served, b"x").await.unwrap();
        tokio::io::AsyncReadExt::read_u8(&mut dialled).await.unwrap();
    }
    known.replace(Default::default());
    let again = shake(server, client).await.server;
    assert_eq!(again, Err(Some(PeerRefusal::UnknownKey { key: key(2) })), "no ticket brings a removed key back in");
}

#[tokio::test]
async fn older_tls_and_clients_without_a_certificate_are_refused() {
    let clock = Arc::new(AtomicI64::new(NOW));
    let ours = identity(&leaf(1, "aarhus", CertUse::Peer), &clock);
    let server = server_config(&ours, CertUse::Peer, Trust::Proven, &[Alpn::Peer]).unwrap();
    let theirs = identity(&leaf(2, "bilbao", CertUse::Peer), &clock);

    let nameless = TlsIdentity { resolver: Arc::default(), ..theirs.clone() };
    let client = client_config(&nameless, CertUse::Peer, Trust::Exactly(key(1)), &[Alpn::Peer]).unwrap();
    assert!(shake(server.clone(), client).await.server.is_err());

    let roots = rustls::RootCertStore::empty();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(theirs.resolver);
    assert!(shake(server, Arc::new(old)).await.server.is_err());
}

#[test]
fn a_leaf_survives_its_secret_and_names_its_half_life() {
    let made = leaf(1, "aarhus", CertUse::Gateway);
    let read = Leaf::from_pem(made.certificate_pem(), made.key_pem()).unwrap();
    assert_eq!(read.identity(), made.identity());
    assert_eq!(read.identity().name, name("aarhus", CertUse::Gateway));
    assert_eq!(made.identity().not_after.0 - made.identity().not_before.0, 24 * 3600);
    assert_eq!(made.renew_at().0, made.identity().not_before.0 + 12 * 3600);
    LeafResolver::with(&read).unwrap();
}

#[test]
fn a_leaf_with_the_key_of_another_is_noticed_when_it_is_loaded() {
    let (a, b) = (leaf(1, "aarhus", CertUse::Gateway), leaf(1, "aarhus", CertUse::Gateway));
    let mixed = Leaf::from_pem(a.certificate_pem(), b.key_pem()).unwrap();
    assert!(matches!(LeafResolver::with(&mixed), Err(TlsError::PrivateKey(_))));
    assert!(Leaf::from_pem("no PEM", b.key_pem()).is_err());
    assert!(Leaf::from_pem(a.certificate_pem(), "no PEM").is_err());
}

#[test]
fn no_secret_is_printed() {
    let made = leaf(1, "aarhus", CertUse::Gateway);
    let body: String = made.key_pem().lines().nth(1).unwrap().to_owned();
    assert!(!format!("{made:?}").contains(&body));
}

#[test]
fn a_leaf_with_any_byte_changed_is_refused() {
    let good = leaf(1, "aarhus", CertUse::Peer).certificate;
    for index in 0..good.len() {
        for flip in [0x01, 0x80] {
            let mut bytes = good.to_vec();
            bytes[index] ^= flip;
            assert!(read_leaf(&CertificateDer::from(bytes)).is_err(), "byte {index} changed by {flip} passed");
        }
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert!(read_leaf(&CertificateDer::from(longer)).is_err());
}

/// A certificate that claims `issuer`, made by rcgen's own key, changed by `change`.
fn foreign(issuer: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let issuer_key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8_of([1; 32]))).unwrap();
    let mut issuer_params = CertificateParams::default();
    issuer_params.distinguished_name = rcgen::DistinguishedName::new();
    issuer_params.distinguished_name.push(DnType::CommonName, issuer);
    let made = leaf(1, "aarhus", CertUse::Peer);
    let mut params = CertificateParams::default();
    params.not_before = time::OffsetDateTime::from_unix_timestamp(made.identity().not_before.0).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(made.identity().not_after.0).unwrap();
    params.subject_alt_names = vec![uri(&made.identity().name.to_string())];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &Issuer::from_params(&issuer_params, issuer_key)).unwrap().into()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// PKCS#8 version 1 of an Ed25519 seed (RFC 8410).
fn pkcs8_of(seed: [u8; 32]) -> Vec<u8> {
    let mut der = vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    der.extend_from_slice(&seed);
    der
}

#[test]
fn only_the_exact_shape_of_a_leaf_is_one() {
    let ours = key(1).to_string();
    assert!(read_leaf(&foreign(&ours, |_| ())).is_ok(), "the key of the seed signs what it names");
    let malformed = |change: fn(&mut CertificateParams)| {
        let refusal = read_leaf(&foreign(&key(1).to_string(), change)).unwrap_err();
        assert!(matches!(refusal, PeerRefusal::Malformed(_)), "{refusal}");
    };
    malformed(|p| p.subject_alt_names.clear());
    malformed(|p| p.subject_alt_names.push(uri("koinon://x/y/peer")));
    malformed(|p| p.subject_alt_names.push(SanType::DnsName("aarhus.example".try_into().unwrap())));
    malformed(|p| p.subject_alt_names = vec![uri("https://aarhus.example")]);
    malformed(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    malformed(|p| p.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::DigitalSignature]);
    malformed(|p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Any]);
    malformed(|p| p.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0])]);
    malformed(|p| p.not_after += time::Duration::seconds(1));
    malformed(|p| p.not_after = p.not_before);
}

#[test]
fn a_certificate_that_names_a_key_which_did_not_sign_it_is_forged() {
    let forged = foreign(&key(2).to_string(), |_| ());
    assert_eq!(read_leaf(&forged), Err(PeerRefusal::BadSignature { key: key(2) }));
}

#[test]
fn a_certificate_of_the_web_is_named_by_its_issuer() {
    let proxy = foreign("Corp \"Inspection\" CA\u{7}", |_| ());
    let refusal = read_leaf(&proxy).unwrap_err();
    let PeerRefusal::NotOperatorCertificate { issuer } = &refusal else { panic!("{refusal}") };
    assert!(issuer.contains("Corp Inspection CA"), "{issuer}");
    assert!(refusal.to_string().contains("TLS passthrough"), "the error names the fix: {refusal}");
}

#[test]
fn a_lifetime_beyond_a_day_is_refused_even_if_the_operator_signs_it() {
    let long = issue_for(&signer(1), &name("aarhus", CertUse::Peer), UnixSeconds(NOW), LEAF_LIFETIME_SECONDS + 1);
    assert!(matches!(long, Err(IssueError::NoLeaf(PeerRefusal::Malformed(_)))));
}

#[test]
fn names_of_leaves_are_read_strictly() {
    let text = name("aarhus", CertUse::Peer).to_string();
    assert_eq!(text.parse::<LeafName>().unwrap(), name("aarhus", CertUse::Peer));
    let wrong = [
        text.replace("peer", "root"),
        text.replace("koinon:", "http:"),
        format!("{text}/x"),
        text.replace("aarhus", "Aarhus"),
        text.replace("0707", "07"),
    ];
    for wrong in wrong {
        assert!(wrong.parse::<LeafName>().is_err(), "{wrong}");
    }
}
