//! HTTP/2: requests that no request may be, and peers that make work for nobody.

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Heard, PING, RST_STREAM, SETTINGS, Talk,
    WINDOW_UPDATE, block, frame, text,
};
use super::{Row, compare, reached, resident_kib};
use crate::intent::key;
use crate::node::Act;
use crate::world::{SOON, World, body};
use std::time::Duration;

const PATH: (&str, &str) = (":path", "/v1/chat/completions");
const POST: (&str, &str) = (":method", "POST");
const HTTP: (&str, &str) = (":scheme", "http");
const HOST: (&str, &str) = (":authority", "test");

fn bearer() -> String {
    format!("Bearer {}", key("anyone").reveal())
}

/// An honest head and something more.
pub fn head_with(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&[POST, HTTP, HOST, PATH, ("authorization", &bearer())], more].concat())
}

fn open(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, block)
}

fn ask(block: &[u8]) -> Vec<u8> {
    [open(1, block), frame(DATA, END_STREAM, 1, body("").as_bytes())].concat()
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let length = body("").len().to_string();
    let (more, less) = ((body("").len() + 1).to_string(), (body("").len() - 1).to_string());
    let auth = bearer();
    let auth = ("authorization", auth.as_str());
    let with = |more: &[(&str, &str)]| ask(&head_with(more));
    let fields = |fields: &[(&str, &str)]| ask(&block(fields));
    let long = "y".repeat(70 << 10);
    let long = head_with(&[("x", &long)]);
    let long = [frame(HEADERS, 0, 1, &long[..16_000]), {
        let parts: Vec<&[u8]> = long[16_000..].chunks(16_000).collect();
        let last = parts.len() - 1;
        let part = |(at, part): (usize, &&[u8])| {
            frame(CONTINUATION, if at == last { END_HEADERS } else { 0 }, 1, part)
        };
        parts.iter().enumerate().flat_map(part).collect()
    }]
    .concat();
    vec![
        ("an honest request", with(&[("content-length", &length)])),
        ("`connection: close`", with(&[("connection", "close")])),
        ("`transfer-encoding: chunked`", with(&[("transfer-encoding", "chunked")])),
        ("`upgrade: h2c`", with(&[("upgrade", "h2c")])),
        ("`keep-alive` and `proxy-connection`", with(&[("keep-alive", "5"), ("proxy-connection", "x")])),
        ("`te: gzip`", with(&[("te", "gzip")])),
        ("`te: trailers`, in order", with(&[("te", "trailers")])),
        ("a header's name in capitals", with(&[("X-Capital", "y")])),
        ("a header's name with a blank", with(&[("x y", "z")])),
        ("a header's name with a line end", with(&[("x\r\ny", "z")])),
        ("a line end in a value", with(&[("x", "a\r\ncontent-length: 5")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("a length that is too long", with(&[("content-length", &more)])),
        ("a length that is too short", with(&[("content-length", &less)])),
        ("two lengths that differ", with(&[("content-length", &length), ("content-length", &more)])),
        ("`content-length: +N`", with(&[("content-length", &format!("+{length}"))])),
        ("a host that is not the authority", with(&[("host", "other")])),
        ("a pseudo-header after a header", fields(&[POST, HTTP, HOST, auth, PATH])),
        ("an unknown pseudo-header", fields(&[POST, HTTP, HOST, PATH, (":x", "y"), auth])),
        ("a pseudo-header of answers", fields(&[POST, HTTP, HOST, PATH, (":status", "200"), auth])),
        ("two paths", fields(&[POST, HTTP, HOST, PATH, PATH, auth])),
        ("no method", fields(&[HTTP, HOST, PATH, auth])),
        ("no path", fields(&[POST, HTTP, HOST, auth])),
        ("an empty path", fields(&[POST, HTTP, HOST, (":path", ""), auth])),
        ("no authority and no host", fields(&[POST, HTTP, PATH, auth])),
        (
            "a request line in the path",
            fields(&[POST, HTTP, HOST, (":path", "/v1/x HTTP/1.1\r\nhost: a\r\n\r\n"), auth]),
        ),
        (
            "an absolute path",
            fields(&[POST, HTTP, HOST, (":path", "http://other/v1/chat/completions"), auth]),
        ),
        ("a method with a blank", fields(&[(":method", "GET /x"), HTTP, HOST, PATH, auth])),
        ("CONNECT", fields(&[(":method", "CONNECT"), HOST, auth])),
        ("a header list of 70 KiB", long),
        ("DATA before HEADERS", frame(DATA, 0, 1, b"x")),
        ("a stream with an even number", frame(HEADERS, END_HEADERS, 2, &head_with(&[]))),
        ("a frame that is too large", frame(DATA, 0, 1, &vec![0; 17 << 10])),
        ("a block that no table holds", open(1, &[0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("a window of more than 2^31", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a PING of seven octets", frame(PING, 0, 0, &[0; 7])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_by_h2_has_one_reading_or_none() {
    let world = World::start().await;
    let mut rows = Vec::new();
    for (attack, bytes) in requests() {
        let mut talk = Talk::open(world.edge, &[]).await;
        talk.patience = SOON;
        let _ = talk.send(&bytes).await;
        let heard = talk.hear(Duration::from_millis(300)).await;
        let seen = reached(&world);
        assert!(seen.iter().all(|seen| seen.body == body("")), "{attack}: {seen:?}");
        let reached = if seen.is_empty() { "no request" } else { "1 whole" };
        rows.push(Row { attack, outcome: format!("{} | {reached}", heard.outcome()) });
    }
    compare(&rows);
}

/// Lets a client do its worst. What was heard of it; how much it made this process grow is in the row, and bounded.
async fn flood(
    world: &World,
    settings: &[u8],
    frames: impl Iterator<Item = Vec<u8>> + Send + 'static,
) -> Heard {
    let before = resident_kib();
    let mut talk = Talk::open(world.edge, settings).await;
    talk.flood(frames);
    let heard = talk.hear(Duration::from_secs(2)).await;
    let grown = resident_kib().saturating_sub(before);
    eprintln!(
        "{} statuses, {} resets, {} pongs, grown by {grown} KiB",
        heard.statuses.len(),
        heard.resets.len(),
        heard.pongs
    );
    assert!(grown < GROWTH_KIB_MAX, "grown by {grown} KiB");
    // Everybody else is served as if nothing was.
    let asked = tokio::time::timeout(SOON, world.ask(""));
    assert_eq!(asked.await.expect("soon").status, 200);
    heard
}

fn ended(attack: &'static str, heard: &Heard) -> Row {
    let mut outcome = Vec::from_iter(heard.goaway.map(|code| format!("GOAWAY {:?}", h2::Reason::from(code))));
    outcome.push(if heard.closed { "closed" } else { "open" }.to_owned());
    Row { attack, outcome: outcome.join(", ") }
}

fn odd(count: u32) -> impl Iterator<Item = u32> + Send {
    (0..count).map(|number| 2 * number + 1)
}

const CANCEL: [u8; 4] = [0, 0, 0, 8];
const GROWTH_KIB_MAX: usize = 48 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_to_be_reset_end_the_connection() {
    let world = World::start().await;
    // As they would be by somebody without a key, and by a tenant whose requests reach a node.
    let nobody = block(&[POST, HTTP, HOST, PATH]);
    let tenant = head_with(&[]);
    let reset = |stream, head: &[u8], body: &[u8]| {
        [open(stream, head), body.to_vec(), frame(RST_STREAM, 0, stream, &CANCEL)].concat()
    };
    let by_nobody = odd(20_000).map(move |stream| reset(stream, &nobody, b""));
    let by_nobody = flood(&world, &[], by_nobody).await;
    let by_tenant = odd(20_000).map(move |stream| {
        reset(stream, &tenant, &frame(DATA, END_STREAM, stream, body(r#", "stream":true"#).as_bytes()))
    });
    let hang = std::iter::repeat_with(|| Act::HangAfter(1));
    world.near.will(hang.take(1_000));
    world.far.will(hang.take(1_000));
    let by_tenant = {
        let mut talk = Talk::open(world.edge, &[]).await;
        talk.flood(by_tenant);
        talk.hear(Duration::from_secs(2)).await
    };
    let asked = reached(&world).len();
    eprintln!("{asked} requests reached a node");
    assert!(asked < 1_000, "{asked}");
    // The edge itself is made to reset: by windows that overflow, once for each stream.
    let head = block(&[POST, HTTP, HOST, PATH]);
    let overflow = odd(20_000).map(move |stream| {
        [open(stream, &head), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat()
    });
    let made = flood(&world, &[], overflow).await;
    let head = block(&[POST, HTTP, HOST, PATH]);
    let nothing = odd(20_000)
        .map(move |stream| [open(stream, &head), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat());
    let nothing = flood(&world, &[], nothing).await;
    compare(&[
        ended("rapid reset, 20,000 streams without a key", &by_nobody),
        ended("rapid reset, 20,000 requests of a tenant", &by_tenant),
        ended("MadeYouReset by 20,000 windows that overflow", &made),
        ended("MadeYouReset by 20,000 windows of nothing", &nothing),
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_say_nothing_end_the_connection_or_cost_nothing() {
    let world = World::start().await;
    let head = head_with(&[]);
    let continued = std::iter::once(frame(HEADERS, 0, 1, &head))
        .chain((0..100_000).map(|_| frame(CONTINUATION, 0, 1, &[])));
    let continued = flood(&world, &[], continued).await;
    let field = block(&[("x", &"y".repeat(1_000))]);
    let head = head_with(&[]);
    let long = std::iter::once(frame(HEADERS, 0, 1, &head))
        .chain((0..50_000).map(move |_| frame(CONTINUATION, 0, 1, &field)));
    let long = flood(&world, &[], long).await;
    let head = head_with(&[]);
    let empty = std::iter::once(open(1, &head)).chain((0..500_000).map(|_| frame(DATA, 0, 1, &[])));
    let empty = flood(&world, &[], empty).await;
    let head = head_with(&[]);
    let small = std::iter::once(open(1, &head)).chain((0..200_000).map(|_| frame(DATA, 0, 1, b" ")));
    let small = flood(&world, &[], small).await;
    let pings = flood(&world, &[], (0..500_000).map(|_| frame(PING, 0, 0, &[7; 8]))).await;
    let settings = flood(&world, &[], (0..500_000).map(|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]))).await;
    // One field of 4,000 octets goes into the table; then each octet of a head stands for it.
    let mut bomb = head_with(&[]);
    bomb.extend([&[0x40][..], &text("x"), &text(&"y".repeat(4_000))].concat());
    bomb.extend(std::iter::repeat_n(0xbe, 12_000 - bomb.len()));
    let bombs = (0..200).map(move |number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &bomb));
    let bombs = flood(&world, &[], bombs).await;
    compare(&[
        ended("100,000 empty CONTINUATION frames", &continued),
        ended("50 MB of CONTINUATION frames", &long),
        ended("500,000 empty DATA frames", &empty),
        ended("200,000 DATA frames of one octet", &small),
        ended("500,000 PING frames", &pings),
        ended("500,000 SETTINGS frames", &settings),
        ended("HPACK bomb: 200 heads of 12 KB that stand for 45 MB each", &bombs),
    ]);
}
