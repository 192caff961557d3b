//! Text that people paste or files hold: invites, manifests, strict JSON.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use koinon_core::invite::{Invite, PREFIX};
use koinon_core::json;
use koinon_core::manifest::Manifest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
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
});
