//! Text that people paste or files hold: invites, manifests, strict JSON.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| koinon_fuzz::targets::text(bytes));
