//! Logs of any content: one payload a line, each signed and put behind the one before it in its author's log.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| koinon_fuzz::targets::commons(bytes));
