//! HTTP/2 clients: many streams on one connection, each with a life of its own.

use crate::world::{World, eventually};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";

#[test]
fn http2_clients_are_answered() {
    let world = World::start(&["--step-time", "5ms", "--regions", "us-east"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(&world).await;
        streams_share_a_connection(&world, &client).await;
        a_reset_stops_the_engine_and_nothing_else(&world, &client).await;
    });
}

async fn connect(world: &World) -> SendRequest<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect(world.edge(0)).await.unwrap();
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

fn request(world: &World, options: &str) -> hyper::Request<Full<Bytes>> {
    hyper::Request::post(format!("http://{}{CHAT}", world.edge(0)))
        .header("authorization", format!("Bearer {}", world.key()))
        .body(Full::from(world.chat("Hello", options)))
        .unwrap()
}

async fn streams_share_a_connection(world: &World, client: &SendRequest<Full<Bytes>>) {
    let options = r#","stream":true,"max_tokens":20,"ignore_eos":true"#;
    let streams: Vec<_> = (0..12)
        .map(|_| {
            let answer = client.clone().send_request(request(world, options));
            tokio::spawn(async move {
                let answer = answer.await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.unwrap().to_bytes()
            })
        })
        .collect();
    for stream in streams {
        assert!(stream.await.unwrap().ends_with(b"data: [DONE]\n\n"));
    }
    let refused = hyper::Request::post(format!("http://{}{CHAT}", world.edge(0)));
    let refused = client.clone().send_request(refused.body(Full::from("{")).unwrap()).await.unwrap();
    assert_eq!(refused.status(), 401);
}

async fn a_reset_stops_the_engine_and_nothing_else(world: &World, client: &SendRequest<Full<Bytes>>) {
    let long = r#","stream":true,"max_tokens":900,"ignore_eos":true"#;
    let mut left = client.clone().send_request(request(world, long)).await.unwrap().into_body();
    let mut stays = client.clone().send_request(request(world, long)).await.unwrap().into_body();
    left.frame().await.unwrap().unwrap();
    // hyper resets the stream of a body that is dropped.
    drop(left);
    eventually("only one answer is still being generated", Duration::from_secs(3), || {
        world.json(&["status", "--json"])["regions"][0]["running"] == 1
    });
    stays.frame().await.unwrap().unwrap();
}
