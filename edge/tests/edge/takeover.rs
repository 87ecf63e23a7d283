//! Edges that leave, and edges that come in their place: no client notices.

use crate::node::Act;
use crate::raw::{Connection, request};
use crate::world::{Running, SOON, Scene, World, got, run};
use bytes::Bytes;
use edge::{File, StartError};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What clients saw.
#[derive(Debug, Default)]
struct Seen {
    served: AtomicUsize,
    refused: AtomicUsize,
    lost: AtomicUsize,
}

impl Seen {
    fn count(&self, of: &AtomicUsize) {
        of.fetch_add(1, Relaxed);
    }

    fn answered(&self, answer: io::Result<u16>) {
        match answer {
            Ok(200) => self.count(&self.served),
            other => {
                eprintln!("{other:?}");
                self.count(&self.lost);
            }
        }
    }

    fn trouble(&self) -> (usize, usize) {
        (self.refused.load(Relaxed), self.lost.load(Relaxed))
    }
}

/// Clients that ask without a pause: over a new connection each time, over one as long as it lives, and by h2.
struct Load {
    seen: Arc<Seen>,
    over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(edge: SocketAddr) -> Self {
        let (seen, over) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
        let mut clients = JoinSet::new();
        for number in 0..16 {
            let (seen, over) = (seen.clone(), over.clone());
            match number % 4 {
                0 | 1 => clients.spawn(async move { by_http1(edge, &seen, &over, number % 2 == 0).await }),
                2 => clients.spawn(async move { by_http1(edge, &seen, &over, true).await }),
                _ => clients.spawn(async move { by_http2(edge, &seen, &over).await }),
            };
        }
        Self { seen, over, clients }
    }

    async fn end(self) -> Arc<Seen> {
        self.over.store(true, Relaxed);
        self.clients.join_all().await;
        self.seen
    }

    async fn served(&self, more: usize) {
        let enough = self.seen.served.load(Relaxed) + more;
        while self.seen.served.load(Relaxed) < enough {
            tokio::task::yield_now().await;
        }
    }
}

async fn by_http1(edge: SocketAddr, seen: &Seen, over: &AtomicBool, keeps: bool) {
    let request = request("");
    let mut kept = None;
    while !over.load(Relaxed) {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match Connection::open(edge).await {
                Ok(connection) => connection,
                Err(_) => {
                    seen.count(&seen.refused);
                    continue;
                }
            },
        };
        let answer = connection.ask(&request).await;
        if keeps && answer.as_ref().is_ok_and(|answer| !answer.closes()) {
            kept = Some(connection);
        }
        seen.answered(answer.map(|answer| answer.status));
    }
}

async fn by_http2(edge: SocketAddr, seen: &Seen, over: &AtomicBool) {
    while !over.load(Relaxed) {
        let Ok(stream) = TcpStream::connect(edge).await else {
            seen.count(&seen.refused);
            continue;
        };
        let (mut sender, connection) = match h2::client::handshake(stream).await {
            Ok(connected) => connected,
            Err(error) => {
                seen.answered(Err(io::Error::other(error)));
                continue;
            }
        };
        tokio::spawn(connection);
        while !over.load(Relaxed) {
            // The edge says that it takes no further request: nothing is lost by asking elsewhere.
            let Ok(ready) = sender.ready().await else { break };
            sender = ready;
            match ask_by_http2(&mut sender).await {
                Err(error) if error.is_go_away() && error.is_remote() => break,
                answer => seen.answered(answer.map_err(io::Error::other)),
            }
        }
    }
}

async fn ask_by_http2(sender: &mut h2::client::SendRequest<Bytes>) -> Result<u16, h2::Error> {
    let request = http::Request::post("http://test/v1/chat/completions")
        .header("authorization", format!("Bearer {}", crate::intent::key("anyone").reveal()))
        .body(())
        .unwrap();
    let (answer, mut body) = sender.send_request(request, false)?;
    body.send_data(crate::world::body("").into(), true)?;
    let mut answer = answer.await?;
    while let Some(data) = answer.body_mut().data().await {
        let length = data?.len();
        let _ = answer.body_mut().flow_control().release_capacity(length);
    }
    Ok(answer.status().as_u16())
}

async fn start() -> World {
    let scene = Scene::set().await;
    scene.store(&scene.resources());
    let handover = Some(scene.dir.path().join("handover"));
    let file = File { handover, drain_seconds: 20, ..scene.file(None) };
    scene.start_as(file).await
}

/// What the name of the handover stands for; another one once an edge has taken over.
fn offered(world: &World) -> u64 {
    std::fs::metadata(world.dir.path().join("handover")).unwrap().ino()
}

async fn ends(Running { run, shutdown }: Running) {
    tokio::time::timeout(2 * SOON, run).await.expect("drains soon").unwrap().unwrap();
    drop(shutdown);
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_replace_each_other_under_load_and_no_client_notices() {
    let mut world = start().await;
    // Asked of the first of them, answered after the others have come.
    world.near.will([Act::WaitAfter(1)]);
    let early = world.begin("anyone", r#", "stream":true"#).await;
    let load = Load::start(world.edge);
    let mut before = Vec::new();
    for _ in 0..6 {
        load.served(500).await;
        let name = offered(&world);
        before.push(world.replace());
        while offered(&world) == name {
            tokio::task::yield_now().await;
        }
        let last = before.len() - 1;
        if last > 0 {
            ends(before.remove(last)).await;
        }
    }
    load.served(200).await;
    world.near.go_on();
    let early = got(early, || {}).await;
    assert!(early.whole && early.body.ends_with("data: [DONE]\n\n"), "{}", early.body);
    for running in before {
        ends(running).await;
    }
    load.served(200).await;
    let seen = load.end().await;
    eprintln!("{seen:?}");
    assert_eq!(seen.trouble(), (0, 0), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_cannot_serve_changes_nothing() {
    let world = start().await;
    let load = Load::start(world.edge);
    load.served(100).await;
    // It has no pictures, and there is nobody to get them from.
    let Running { run: failing, shutdown } =
        run(File { data: world.dir.path().join("none"), ..world.file() });
    load.served(200).await;
    assert!(!failing.is_finished(), "it waits for its pictures");
    drop(shutdown);
    let ended = failing.await.unwrap();
    assert!(matches!(ended, Err(StartError::Handover { .. })), "{ended:?}");
    load.served(200).await;
    assert_eq!(load.end().await.trouble(), (0, 0));
    assert_eq!(world.admin("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_to_stop_says_so_before_it_refuses_anybody() {
    let scene = Scene::set().await;
    scene.store(&scene.resources());
    let file = File { notice_seconds: 2, drain_seconds: 20, ..scene.file(None) };
    let mut world = scene.start_as(file).await;
    let mut idle = Connection::open(world.edge).await.unwrap();
    assert!(!idle.ask(&request("")).await.unwrap().closes());
    let began = Instant::now();
    let stopping = world.tell_to_stop();
    let unready = async {
        while world.admin("/readyz").await.status != 503 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_millis(500), unready).await.expect("at once");
    // As balancers go on doing until they look.
    let mut connection = Connection::open(world.edge).await.unwrap();
    let answer = connection.ask(&request("")).await.unwrap();
    assert!(answer.status == 200 && !answer.closes(), "{answer:?}");
    while TcpStream::connect(world.edge).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let noticed = began.elapsed();
    assert!(noticed >= Duration::from_secs(2), "{noticed:?}");
    // Connections that were kept are not cut in the middle of a request that is on its way.
    for kept in [&mut connection, &mut idle] {
        let answer = kept.ask(&request("")).await.unwrap();
        assert!(answer.status == 200 && answer.closes(), "{answer:?}");
    }
    tokio::time::timeout(SOON, stopping).await.expect("nothing is left").unwrap().unwrap();
}
