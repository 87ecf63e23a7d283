//! Streams of events, cut where their first byte says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use openai::sse::Framer;

fn count(pieces: &[&[u8]]) -> Option<usize> {
    let mut framer = Framer::default();
    let mut count = 0;
    for piece in pieces {
        framer.push(piece).ok()?;
        while framer.next_event().is_some() {
            count += 1;
        }
    }
    Some(count)
}

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let (left, right) = bytes.split_at(usize::from(cut).min(bytes.len()));
    assert_eq!(count(&[bytes]), count(&[left, right]));
});
