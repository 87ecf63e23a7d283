//! Heads of HTTP/1 requests.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../edge/src/network/head.rs"]
mod head;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(end)) = head::end(bytes, 0) {
        let _ = head::check(&bytes[..end]);
    }
});
