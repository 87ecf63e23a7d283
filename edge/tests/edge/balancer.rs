//! Load balancers that say who the client is, and everybody else, who cannot.

use crate::access;
use crate::intent::key;
use crate::world::{SOON, Scene, World};
use bytes::Bytes;
use edge::File;
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::Identity;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, copy_bidirectional};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
const ANYBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 78));
/// Whom [`HEADER`] names.
const CLIENT: &str = "203.0.113.7:4660";
const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc0\x00\x02\x01\x12\x34\x01\xbb";
/// A balancer that speaks for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// An edge with both listeners that believes [`BALANCER`].
struct Behind {
    world: World,
    secure: SocketAddr,
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<C: AsyncRead + AsyncWrite + Unpin + Send> Connection for C {}

impl Behind {
    async fn start() -> Self {
        access::keep();
        let scene = Scene::set().await;
        scene.store(&scene.resources());
        let tls = scene.tls();
        let secure = tls.listen;
        let file = File { proxy_v2_from: vec![BALANCER], tls: Some(tls), ..scene.file(None) };
        Self { world: scene.start_as(file).await, secure }
    }

    /// Whom the edge takes a client for that asks over this connection.
    async fn client_on(&self, connection: DuplexStream, tls: bool, h2: bool) -> String {
        let mut connection: Box<dyn Connection> = Box::new(connection);
        if tls {
            let identity = Identity::load(&self.world.dir.path().join("edge")).unwrap();
            let mut config = (*identity.client_config()).clone();
            config.alpn_protocols = if h2 { vec![b"h2".to_vec()] } else { Vec::new() };
            let name = "edge.test".try_into().unwrap();
            let connected = TlsConnector::from(Arc::new(config)).connect(name, connection).await;
            connection = Box::new(connected.unwrap());
        }
        let request = hyper::Request::get("http://test/v1/models")
            .header("host", "test")
            .header("authorization", format!("Bearer {}", key("anyone").reveal()))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let io = TokioIo::new(connection);
        let answer = if h2 {
            let (mut sender, driven) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(driven);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, driven) = http1::handshake(io).await.unwrap();
            tokio::spawn(driven);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(answer.status(), 200);
        access::client_of(answer.headers()["x-request-id"].to_str().unwrap()).await
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// A connection whose first packet is a header and what the client says first. Its own address, and the client's end.
async fn through(from: IpAddr, to: SocketAddr, header: &[u8]) -> (SocketAddr, DuplexStream) {
    let mut stream = connect(from, to).await;
    let own = stream.local_addr().unwrap();
    let (client, mut near) = tokio::io::duplex(64 << 10);
    let mut first = header.to_vec();
    tokio::spawn(async move {
        near.read_buf(&mut first).await.unwrap();
        stream.write_all(&first).await.unwrap();
        let _ = copy_bidirectional(&mut near, &mut stream).await;
    });
    (own, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_balancer_is_believed_on_every_kind_of_connection() {
    let behind = Behind::start().await;
    for tls in [false, true] {
        for h2 in [false, true] {
            let to = if tls { behind.secure } else { behind.world.edge };
            let (_, connection) = through(BALANCER, to, HEADER).await;
            assert_eq!(behind.client_on(connection, tls, h2).await, CLIENT, "TLS {tls}, h2 {h2}");
            let (own, connection) = through(BALANCER, to, LOCAL).await;
            assert_eq!(behind.client_on(connection, tls, h2).await, own.to_string(), "TLS {tls}, h2 {h2}");
            let (own, connection) = through(ANYBODY, to, b"").await;
            assert_eq!(behind.client_on(connection, tls, h2).await, own.to_string(), "TLS {tls}, h2 {h2}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_may_come_in_pieces() {
    let behind = Behind::start().await;
    let mut stream = connect(BALANCER, behind.world.edge).await;
    stream.set_nodelay(true).unwrap();
    let request = format!(
        "GET /v1/models HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        key("anyone").reveal()
    );
    for byte in [HEADER, request.as_bytes()].concat() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    assert_eq!(access::client_of(id).await, CLIENT);
}

/// What came back until the edge closed the connection.
async fn refused(from: IpAddr, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(from, to).await;
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("closed soon");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_can_forge_an_address() {
    let behind = Behind::start().await;
    let request = [HEADER, b"GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n"].concat();
    let answer = refused(ANYBODY, behind.world.edge, &request).await;
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    let answer = refused(ANYBODY, behind.secure, &request).await;
    assert!(!answer.windows(4).any(|bytes| bytes == b"HTTP"), "only an alert of TLS");
    let metrics = behind.world.admin("/metrics").await.body;
    assert!(!metrics.contains("rhumb_edge_proxy_headers_refused_total{"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_says_nothing_of_use_is_cut_off_and_counted() {
    let behind = Behind::start().await;
    let too_long = [&HEADER[..14], b"\xff\xff", &[0; 600]].concat();
    let version_3 = [&HEADER[..12], b"\x31", &HEADER[13..]].concat();
    let request = b"GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n";
    for bytes in [
        &b"PROXY TCP4 203.0.113.7 192.0.2.1 4660 443\r\n"[..],
        request,
        &version_3,
        &too_long,
        &HEADER[..20],
        // As balancers do to see whether somebody listens.
        b"",
    ] {
        for to in [behind.world.edge, behind.secure] {
            assert_eq!(refused(BALANCER, to, bytes).await, b"");
        }
    }
    // It says nothing at all, and is given a while.
    let mut silent = connect(BALANCER, behind.secure).await;
    let ended = tokio::time::timeout(SOON, silent.read(&mut [0; 1])).await.expect("closed soon");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let metrics = loop {
        let metrics = behind.world.admin("/metrics").await.body;
        if metrics.contains("\nrhumb_edge_connections 0\n") {
            break metrics;
        }
    };
    let counted: Vec<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("rhumb_edge_proxy_headers_refused_total"))
        .collect();
    let expected = [
        r#"{reason="absent"} 4"#,
        r#"{reason="cut-short"} 2"#,
        r#"{reason="late"} 1"#,
        r#"{reason="malformed"} 2"#,
        r#"{reason="too-long"} 2"#,
    ];
    assert_eq!(counted, expected);
}
