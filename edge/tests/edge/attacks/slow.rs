//! Clients that take their time, in the hope that the edge holds something for them meanwhile.

use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Talk, frame};
use super::http2::head_with;
use super::resident_kib;
use crate::node::Act;
use crate::raw::{Connection, closes_within, fields, request};
use crate::world::{SOON, Scene, World, body};
use edge::File;
use identity::Identity;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const STREAM: &str = r#", "stream":true"#;

/// Sends an octet every 200 ms until the edge closes. How long that took.
async fn drip(stream: impl AsyncRead + AsyncWrite, what: Vec<u8>) -> (Duration, String) {
    let began = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut heard = Vec::new();
    let dripping = async {
        for byte in what.into_iter().chain(std::iter::repeat(b'x')) {
            if writer.write_all(&[byte]).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = reader.read_to_end(&mut heard) => {}
        () = dripping => {}
    }
    (began.elapsed(), String::from_utf8_lossy(&heard).into_owned())
}

async fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Heads, handshakes and bodies: all at once, since each takes as long as it may.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_drips_has_ten_seconds() {
    let scene = Scene::set().await;
    scene.store(&scene.resources());
    let tls = scene.tls();
    let secure = tls.listen;
    let file = File { tls: Some(tls), ..scene.file(None) };
    let world = scene.start_as(file).await;
    let identity = Identity::load(&world.dir.path().join("edge")).unwrap();
    let over_tls = async || {
        let mut config = (*identity.client_config()).clone();
        config.alpn_protocols = Vec::new();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect("edge.test".try_into().unwrap(), connect(secure).await).await.unwrap()
    };
    let head = b"GET /v1/models HTTP/1.1\r\nx: ".to_vec();
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    let long_head = frame(HEADERS, END_HEADERS, 1, &[0; 8_000]);
    let slow_body = format!("POST /v1/chat/completions HTTP/1.1\r\n{}content-length: 9000\r\n\r\n", fields());
    let chunks = format!(
        "POST /v1/chat/completions HTTP/1.1\r\n{}transfer-encoding: chunked\r\n\r\n2000\r\n",
        fields()
    );
    let whole = async |start: Vec<u8>| {
        let mut stream = connect(world.edge).await;
        stream.write_all(&start).await.unwrap();
        drip(stream, Vec::new()).await
    };
    let (plain, tls, hello, silent, h2_head, by_length, by_chunks) = tokio::join!(
        async { drip(connect(world.edge).await, head.clone()).await },
        async { drip(over_tls().await, head.clone()).await },
        async { drip(connect(secure).await, b"\x16\x03\x01\x02\x00".to_vec()).await },
        async {
            let began = Instant::now();
            assert!(closes_within(&mut connect(world.edge).await, 4 * SOON).await);
            (began.elapsed(), String::new())
        },
        async {
            let mut stream = connect(world.edge).await;
            stream.write_all(&preface).await.unwrap();
            drip(stream, long_head).await
        },
        whole(slow_body.clone().into()),
        whole(chunks.into()),
    );
    for (what, (took, said), answer) in [
        ("head", plain, "HTTP/1.1 408"),
        ("head by TLS", tls, "HTTP/1.1 408"),
        ("TLS handshake", hello, ""),
        ("nothing", silent, ""),
        ("h2 head", h2_head, ""),
        ("body", by_length, "HTTP/1.1 408"),
        ("chunked body", by_chunks, "HTTP/1.1 408"),
    ] {
        eprintln!("{what}: {took:.1?}");
        assert!((9.0..14.0).contains(&took.as_secs_f64()), "{what}: {took:?}");
        assert!(said.starts_with(answer), "{what}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_by_h2_that_drips_is_refused_and_the_connection_goes_on() {
    let world = World::start().await;
    let head = head_with(&[]);
    let mut talk = Talk::open(world.edge, &[]).await;
    talk.send(&frame(HEADERS, END_HEADERS, 1, &head)).await.unwrap();
    let began = Instant::now();
    let heard = loop {
        talk.send(&frame(DATA, 0, 1, b" ")).await.unwrap();
        let heard = talk.hear(Duration::from_millis(200)).await;
        if !heard.statuses.is_empty() {
            break heard;
        }
        assert!(began.elapsed() < 3 * SOON);
    };
    assert_eq!(heard.statuses, [(1, 408)]);
    talk.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).await.unwrap();
    let honest = [frame(HEADERS, END_HEADERS, 3, &head), frame(DATA, END_STREAM, 3, body("").as_bytes())];
    talk.send(&honest.concat()).await.unwrap();
    assert_eq!(talk.hear(Duration::from_millis(500)).await.statuses, [(3, 200)]);
}

/// Waits until the node sends no more, and tells how much it has.
async fn paused(world: &World) -> usize {
    loop {
        let before = world.near.sent();
        tokio::time::sleep(Duration::from_millis(500)).await;
        if before > 0 && world.near.sent() == before {
            return before;
        }
    }
}

/// The engine is not paid to fill buffers: it is paused, and after a while left.
async fn is_left_after_a_pause(world: &World) {
    let began = Instant::now();
    let left = world.near.left();
    let held = tokio::time::timeout(2 * SOON, paused(world)).await.expect("paused soon");
    eprintln!("paused after {} KiB", held >> 10);
    assert!(held < 8 << 20, "{held}");
    tokio::time::timeout(Duration::from_secs(45), left).await.expect("left in time").unwrap();
    let took = began.elapsed();
    eprintln!("left after {took:.1?}");
    assert!(took > Duration::from_secs(25), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_by_http1_pauses_the_engine_and_then_loses_it() {
    let world = World::start().await;
    world.near.will([Act::Endless]);
    let mut connection = Connection::open(world.edge).await.unwrap();
    connection.stream.write_all(&request(STREAM)).await.unwrap();
    is_left_after_a_pause(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_no_window_by_h2_pauses_the_engine_and_then_loses_it() {
    let world = World::start().await;
    world.near.will([Act::Endless]);
    // An initial window of nothing.
    let mut talk = Talk::open(world.edge, &[0, 4, 0, 0, 0, 0]).await;
    let head = head_with(&[]);
    let ask = [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, body(STREAM).as_bytes())];
    talk.send(&ask.concat()).await.unwrap();
    // The connection itself is well: pings must not end it.
    let alive = async { while !talk.hear(SOON).await.closed {} };
    tokio::select! {
        () = is_left_after_a_pause(&world) => {}
        () = alive => panic!("only the stream was to end"),
    }
}

/// Each stream is answered before it is left: nothing that the protocol itself could bound.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_every_answer_at_its_start_is_sent_away() {
    let world = World::start().await;
    world.near.will(std::iter::repeat_n(Act::Endless, 1_000));
    let head = head_with(&[]);
    let mut talk = Talk::open(world.edge, &[]).await;
    for number in 0..1_000 {
        let stream = 2 * number + 1;
        let ask = [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(DATA, END_STREAM, stream, body(STREAM).as_bytes()),
        ];
        if talk.send(&ask.concat()).await.is_err() {
            break;
        }
        let heard = talk.hear(Duration::from_millis(5)).await;
        if heard.closed {
            assert_eq!(heard.goaway, Some(u32::from(h2::Reason::ENHANCE_YOUR_CALM)));
            eprintln!("sent away after {number} streams");
            assert!((200..300).contains(&number), "{number}");
            return;
        }
        let _ = talk.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await;
    }
    panic!("never sent away");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_idle_connections_cost_little_and_keep_nobody_out() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let world = World::start().await;
    let ask = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n";
    let before = resident_kib();
    let mut idle = Vec::new();
    for _ in 0..50 {
        let opened = (0..100).map(|_| async {
            let mut connection = Connection::open(world.edge).await.unwrap();
            assert_eq!(connection.ask(ask).await.unwrap().status, 401);
            connection
        });
        idle.extend(futures_util::future::join_all(opened).await);
    }
    let each = (resident_kib() - before) as f64 / idle.len() as f64;
    eprintln!("{each:.1} KiB for both ends of a connection");
    assert!(each < 64.0, "{each} KiB");
    let began = Instant::now();
    assert_eq!(world.ask("").await.status, 200);
    eprintln!("another client was served in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1));
    let last = idle.last_mut().unwrap();
    assert_eq!(last.ask(ask).await.unwrap().status, 401, "and those that idle are still there");
}
