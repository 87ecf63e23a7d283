//! Whatever bytes come, from a client or from an engine: no panic, no growth, and the same reading however they are cut.
//! More of it: `PROPTEST_CASES=1000000`, and `fuzz/run`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use openai::RequestView;
use openai::sse::Framer;
use proptest::prelude::*;

/// Mostly what the format is made of, so that much of it is nearly right.
fn made_of(words: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        8 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

const EVENTS: &[&[u8]] = &[
    b"data: ",
    b"data:",
    b"id: ",
    b"id: 1:2:00",
    b": comment",
    b":",
    b"{}",
    b"[DONE]",
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"event: x",
    b" ",
    b"\0",
    b"\xef\xbb\xbf",
];

const JSON: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\"model\"",
    b"\"m\"",
    b"\"stream\"",
    b"\"n\"",
    b"\"seed\"",
    b"\"max_tokens\"",
    b"\"stream_options\"",
    b"\"include_usage\"",
    b"\"messages\"",
    b"true",
    b"null",
    b"1",
    b"-",
    b"1e999",
    b"0.5",
    b"\\ud800",
    b"\\u0000",
    b"\xff",
    b" ",
    b"{\"model\":\"m\"",
    b"{\"model\":\"m\",\"x\":",
];

type Read = (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Read> {
    let mut framer = Framer::default();
    let mut all = Vec::new();
    for piece in pieces {
        framer.push(piece).unwrap();
        while let Some(event) = framer.next_event() {
            let [id, data, comment] =
                [event.id, event.data, event.comment].map(|part| part.map(<[u8]>::to_vec));
            all.push((id, data, comment));
        }
    }
    all
}

/// Events as the format defines them, without a thought for speed or for what has not come yet.
fn events_by_definition(bytes: &[u8]) -> usize {
    let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
    let (mut events, mut begin) = (0, 0);
    for pair in ends.windows(2) {
        let between = &bytes[pair[0] + 1..pair[1]];
        if pair[0] >= begin && matches!(between, b"" | b"\r") {
            events += 1;
            begin = pair[1] + 1;
        }
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn events_are_the_same_however_they_are_cut(
        bytes in made_of(EVENTS),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = events(std::iter::once(&bytes[..]));
        prop_assert_eq!(whole.len(), events_by_definition(&bytes));
        prop_assert_eq!(&events(bytes.chunks(1)), &whole);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        prop_assert_eq!(&events(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]])), &whole);
    }

    #[test]
    fn a_view_says_what_the_json_says(body in made_of(JSON)) {
        match RequestView::parse(&body) {
            Ok(view) => {
                let json: serde_json::Value = serde_json::from_slice(&body).map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(json["model"].as_str(), Some(&*view.model));
                prop_assert_eq!(json["stream"].as_bool().unwrap_or(false), view.stream);
                prop_assert_eq!(json["n"].as_u64().unwrap_or(1), view.n);
                prop_assert_eq!(json["seed"].as_i64(), view.seed);
                prop_assert!((1..=128).contains(&view.n));
            }
            Err(bad) => prop_assert!(bad.to_error().to_json().len() < 1_000),
        }
    }
}
