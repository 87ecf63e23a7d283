//! Connections that are held ready.

use crate::member::World;
use identity::CERTIFICATE_LIFE;
use proto::v1::StatusRequest;
use proto::v1::intent_client::IntentClient;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tonic::Code;

#[tokio::test]
async fn a_warm_channel_connects_unasked_and_again_after_a_break() {
    let world = World::new(CERTIFICATE_LIFE);
    let member = world.member(1).await;
    let channel = world.dialer().warm_channel(&member.address);
    soon(async {
        while member.shown.lock().unwrap().is_empty() {
            tick().await;
        }
    })
    .await;
    let mut client = IntentClient::new(channel);
    for _ in 0..2 {
        soon(async {
            while client.status(StatusRequest {}).await.is_err() {
                tick().await;
            }
        })
        .await;
    }
    assert_eq!(member.shown.lock().unwrap().len(), 1, "all calls go by one connection");

    member.kill();
    let broken = soon(async {
        loop {
            match client.status(StatusRequest {}).await {
                Ok(_) => tick().await,
                Err(status) => break status,
            }
        }
    });
    assert_eq!(broken.await.code(), Code::Unavailable);

    // Somebody listens again, and says nothing: no call waits for that, and it does not last for ever either.
    let silent = TcpListener::bind(member.address.address).await.unwrap();
    let (mut first, _) = soon(silent.accept()).await.unwrap();
    assert_eq!(soon(client.status(StatusRequest {})).await.unwrap_err().code(), Code::Unavailable);
    soon(first.read_to_end(&mut Vec::new())).await.unwrap();
    let (mut second, _) = soon(silent.accept()).await.unwrap();
    drop(client);
    soon(second.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(600), silent.accept()).await.is_err(),
        "nobody holds it"
    );
}

async fn tick() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// A test that waits for what never comes fails rather than hangs.
async fn soon<T>(waited_for: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), waited_for).await.unwrap()
}
