//! What a broken stream is to go on from.

#![no_main]

use libfuzzer_sys::fuzz_target;
use types::ResumeLine;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((line, body)) = ResumeLine::split(bytes) {
        let again = [line.to_line(), body.to_vec()].concat();
        assert_eq!(ResumeLine::split(&again), Ok((line, body)));
    }
});
