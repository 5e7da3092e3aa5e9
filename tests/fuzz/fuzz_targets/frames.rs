//! The control socket's frames, as anybody of the same user might send them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rmux_bootstrap::fuzzing::frames(bytes));
