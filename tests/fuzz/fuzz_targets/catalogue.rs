#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lakebed_testkit::fuzz::catalogue(bytes));
