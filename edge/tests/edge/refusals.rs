//! Refusals that come before the request has: they must reach whoever still sends, and cost the edge little.

use crate::world::{SOON, World};
use bytes::Bytes;
use h2::{Reason, SendStream};
use std::future::poll_fn;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A request by h2 that was refused after its head, and what can still be sent of it.
async fn refused(world: &World) -> SendStream<Bytes> {
    let stream = TcpStream::connect(world.edge).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = http::Request::post("http://test/v1/chat/completions").body(()).unwrap();
    let (answer, body) = sender.send_request(request, false).unwrap();
    let mut answer = answer.await.unwrap();
    assert_eq!(answer.status(), 401);
    let said = timeout(SOON, answer.body_mut().data()).await.expect("at once").unwrap().unwrap();
    assert!(said.ends_with(b"}}"), "{said:?}");
    assert!(answer.body_mut().data().await.is_none() && answer.body().is_end_stream());
    body
}

async fn reset(body: &mut SendStream<Bytes>) -> Reason {
    timeout(SOON, poll_fn(|cx| body.poll_reset(cx))).await.expect("reset soon").unwrap()
}

/// curl 7.88 forgets the answer over a reset, though it says that nothing is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_body_that_is_refused_by_h2_may_come_to_its_end() {
    let world = World::start().await;
    let mut body = refused(&world).await;
    body.send_data(Bytes::from(vec![b'x'; 60_000]), false).unwrap();
    // As much as a busy client may be behind.
    let reset = timeout(Duration::from_millis(300), poll_fn(|cx| body.poll_reset(cx))).await;
    assert!(reset.is_err(), "{reset:?}");
    body.send_data(Bytes::new(), true).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_by_h2_is_bounded_in_bytes_and_time() {
    let world = World::start().await;
    let began = Instant::now();
    let mut long = refused(&world).await;
    long.send_data(Bytes::from(vec![b'x'; 200_000]), false).unwrap();
    assert_eq!(reset(&mut long).await, Reason::NO_ERROR);
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "too long a body ends sooner: {:?}",
        began.elapsed()
    );

    let mut slow = refused(&world).await;
    assert_eq!(reset(&mut slow).await, Reason::NO_ERROR);
}
