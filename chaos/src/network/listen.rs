//! Takes connections at the addresses of the plan.

use socket2::{Domain, Socket, Type};
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
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
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

/// Bursts of clients come faster than a busy host lets this process take them; the standard library's is 128.
const BACKLOG: i32 = 1_024;
/// Two files each.
const CONNECTIONS_MAX: usize = 4_096;
/// Files have run out, mostly.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);
