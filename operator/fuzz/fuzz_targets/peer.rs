//! What another member's node sends: lines, messages and the certificate of its handshake.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| koinon_fuzz::targets::peer(bytes));
