#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| redis_sharding::fuzzing::archive(data));
