//! Any bytes as a frame: `cargo +nightly fuzz run packet` in `dataplane/esp`.
#![no_main]

#[path = "../exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|frame: &[u8]| exercise::frame(frame));
