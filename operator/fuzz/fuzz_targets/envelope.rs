//! Bytes that claim to be an envelope, as they come from a peer, a file or an API server.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| koinon_fuzz::targets::envelope(bytes));
