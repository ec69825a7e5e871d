#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| rejoin_fuzz::run("client_session", data));
