//! Bodies of requests, as the edge reads them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Err(bad) = openai::RequestView::parse(body) {
        assert!(bad.to_error().to_json().len() < 1_000, "a refusal must not quote a body");
    }
});
