//! What somebody with a key signs: every kind of statement, with any body.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| koinon_fuzz::targets::statement(bytes));
