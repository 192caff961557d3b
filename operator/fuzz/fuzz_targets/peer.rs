//! What another member's node sends: lines, messages and the certificate of its handshake.

#![no_main]

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use koinon_core::dsse::SeedSigner;
use koinon_core::ids::{CoopId, Digest, UnixSeconds};
use koinon_core::json;
use koinon_net::limits::LimitExceeded;
use koinon_net::tls::{CertUse, LeafName, PeerIdentity, issue};
use koinon_net::wire::{
    DialBackMessage, ErrorMessage, HeadsMessage, JoinAccepted, JoinRefused, JoinRequest, StreamLine,
};
use rustls_pki_types::CertificateDer;

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

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
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
});
