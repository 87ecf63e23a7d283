//! Takes connections at the addresses of the plan.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::warn;

/// How many connections there may be.
#[derive(Clone)]
pub(super) struct Places(Arc<Semaphore>);

impl Places {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS_MAX)))
    }
}

/// Bound before the runtime runs, so that whoever starts the network knows that it can be dialled.
pub(super) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Carries every connection that comes, for ever. More than there may be wait, most of them in the kernel.
pub(super) async fn accept<Carry: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    places: Places,
    carry: impl Fn(TcpStream, SocketAddr) -> Carry,
) {
    loop {
        match listener.accept().await {
            Ok((client, address)) => {
                let Ok(place) = Arc::clone(&places.0).acquire_owned().await else { return };
                let carrying = carry(client, address);
                tokio::spawn(async move {
                    carrying.await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "the network cannot take a connection");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

/// Two files each.
const CONNECTIONS_MAX: usize = 4_096;
/// Files have run out, mostly.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);
