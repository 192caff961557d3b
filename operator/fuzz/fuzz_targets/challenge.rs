//! What the engine of a host answers a challenge, and what members say of it.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| koinon_fuzz::targets::challenge(bytes));
