//! A link between the edge and a node: slow, or silent.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub struct Link {
    /// Where the edge is to dial.
    pub address: SocketAddr,
    held: watch::Sender<bool>,
}

impl Link {
    /// Every byte takes `delay` each way.
    pub async fn to(node: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, hold) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((edge, _)) = listener.accept().await {
                let hold = hold.clone();
                tokio::spawn(async move {
                    let node = TcpStream::connect(node).await.unwrap();
                    edge.set_nodelay(true).unwrap();
                    node.set_nodelay(true).unwrap();
                    let ((from_edge, to_edge), (from_node, to_node)) = (edge.into_split(), node.into_split());
                    tokio::spawn(carry(from_edge, to_node, delay, hold.clone()));
                    tokio::spawn(carry(from_node, to_edge, delay, hold));
                });
            }
        });
        Self { address, held }
    }

    /// As a cut cable, or a stopped process: connections are accepted, no byte passes, nobody is told.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Whatever was held goes on its way.
    pub fn release(&self) {
        self.held.send_replace(false);
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    mut hold: watch::Receiver<bool>,
) {
    let (send, mut parts) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let mut part = Vec::with_capacity(4096);
            if !matches!(from.read_buf(&mut part).await, Ok(1..)) {
                return;
            }
            let _ = send.send((Instant::now() + delay, part));
        }
    });
    while let Some((due, part)) = parts.recv().await {
        tokio::time::sleep_until(due).await;
        if hold.wait_for(|held| !held).await.is_err() || to.write_all(&part).await.is_err() {
            return;
        }
    }
}
