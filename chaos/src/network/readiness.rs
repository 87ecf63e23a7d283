//! Asks edges whether they take requests.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// What one edge said last. Nobody asks it over links: a real network knows its own sites without the clients' way.
#[derive(Clone, Default)]
pub(super) struct Readiness(Arc<Mutex<Option<Instant>>>);

impl Readiness {
    /// Whether the edge said so within the last second.
    pub(super) fn is_ready(&self) -> bool {
        let said = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.is_some_and(|said| said.elapsed() < HOLDS)
    }

    /// Keeps asking, for ever.
    pub(super) async fn follow(self, admin: SocketAddr) {
        loop {
            let asked = Instant::now();
            let said = match timeout(ANSWER_MAX, ask(admin)).await {
                Ok(Ok(true)) => Some(Some(asked)),
                // Who cannot be asked, or says no, is not ready; who is slow was ready a moment ago.
                Ok(Ok(false) | Err(_)) => Some(None),
                Err(_) => None,
            };
            if let Some(said) = said {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = said;
            }
            sleep(PAUSE).await;
        }
    }
}

async fn ask(admin: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(admin).await?;
    let question = format!("GET /readyz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut status = [0; STATUS.len()];
    stream.read_exact(&mut status).await?;
    Ok(&status == STATUS)
}

const STATUS: &[u8; 12] = b"HTTP/1.1 200";
const HOLDS: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);
const ANSWER_MAX: Duration = Duration::from_millis(500);
