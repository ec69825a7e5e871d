#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| rejoin_fuzz::run("apply_changeset", data));
