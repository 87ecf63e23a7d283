//! Requests on an HTTP/2 connection, many at a time.

use super::client::Client;
use super::listen::{Answer, Listener};
use super::{HEAD_BYTES_MAX, HEAD_DEADLINE, IDLE_MAX};
use pingora_core::protocols::Digest;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{self, H2Accept, H2Options, HttpSession};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Serves the connection to its end.
pub(super) async fn serve<A: Answer>(listener: &Arc<Listener<A>>, stream: Stream) -> Option<()> {
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: None,
        socket_digest: stream.get_socket_digest(),
    });
    let mut connection =
        timeout(HEAD_DEADLINE, server::handshake(stream, Some(options()))).await.ok()?.ok()?;
    let mut ping_pong = connection.ping_pong()?;
    // A peer that answers no ping holds its streams for nothing. A frame that drips cannot answer either.
    let alive = async move {
        loop {
            sleep(PING_INTERVAL).await;
            let pong = timeout(PING_DEADLINE, ping_pong.ping(h2::Ping::opaque())).await;
            if !matches!(pong, Ok(Ok(_))) {
                return;
            }
        }
    };
    tokio::pin!(alive);
    let mut rejected = 0;
    let mut accepted = 0_u32;
    let cut_short = Arc::new(AtomicU32::new(0));
    let mut draining = false;
    loop {
        let idle = !connection.has_streams();
        tokio::select! {
            biased;
            () = listener.drain.cancelled(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            next = HttpSession::from_h2_conn(&mut connection, digest.clone()) => match next.ok()?? {
                H2Accept::Session(session) => {
                    accepted = accepted.saturating_add(1);
                    let cut = cut_short.load(Relaxed);
                    // An honest client leaves some answers. One that leaves most of very many at once makes the edge
                    // and its engines work for nobody, at the price of two small frames each.
                    if cut >= CUT_SHORT_MAX && cut > accepted / 2 {
                        connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                    }
                    let (listener, cut_short) = (listener.clone(), cut_short.clone());
                    listener.connections.clone().spawn(async move {
                        let began = Instant::now();
                        if !answer(&listener, session).await && began.elapsed() < CUT_SHORT {
                            cut_short.fetch_add(1, Relaxed);
                        }
                    });
                }
                H2Accept::Rejected => {
                    rejected += 1;
                    // Not at once: the other streams may be other clients', behind one load balancer.
                    if rejected == REJECTED_MAX {
                        draining = true;
                        connection.graceful_shutdown();
                    }
                }
            },
            () = &mut alive => return None,
            // Streams wake nobody here when they end, so a busy connection looks again now and then.
            // A connection over which nothing was asked yet has as long as any head.
            () = sleep(HEAD_DEADLINE), if accepted == 0 && rejected == 0 => return None,
            () = sleep(IDLE_MAX) => if idle && !draining {
                draining = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// False = the answer did not come to its end.
async fn answer<A: Answer>(listener: &Listener<A>, session: HttpSession) -> bool {
    let mut client = Client::new(Box::new(ServerSession::new_http2(session)));
    let whole = listener.answer(&mut client).await;
    if whole {
        let mut session = client.into_session();
        linger(&mut session).await;
        let _ = session.finish().await;
    } else {
        client.into_session().shutdown().await;
    }
    whole
}

/// Answered before the whole body came: HTTP/2 lets a server end the stream with a reset then, but curl 7.88, which
/// Debian 12 has, forgets most answers over it. So the body may come to its end, within a bound; and the answer is
/// out long before a reset where it does not. Nobody waits for this.
async fn linger(session: &mut ServerSession) {
    let swallow = async {
        let mut left = LINGER_BYTES_MAX;
        while !session.is_body_done() {
            let Ok(Some(bytes)) = session.read_request_body().await else { return };
            let Some(rest) = left.checked_sub(bytes.len()) else { return };
            left = rest;
        }
    };
    let _ = timeout(LINGER_MAX, swallow).await;
}

/// All limits set, none defaulted.
fn options() -> H2Options {
    let mut options = server::default_h2_options();
    options
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(1 << 20)
        .max_concurrent_streams(128)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_frame_size(16 << 10)
        .max_send_buffer_size(64 << 10)
        .data_frame_budget(DATA_OVERHEAD_BYTES)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(64))
        .max_concurrent_reset_streams(32);
    options
}

const WINDOW_BYTES: u32 = 64 << 10;
/// What frames that carry next to nothing may cost in memory until somebody reads them.
const DATA_OVERHEAD_BYTES: usize = 256 << 10;
const CUT_SHORT_MAX: u32 = 200;
const CUT_SHORT: Duration = Duration::from_secs(1);
/// What a client may send without hearing from the edge.
const LINGER_BYTES_MAX: usize = WINDOW_BYTES as usize;
const LINGER_MAX: Duration = Duration::from_secs(2);
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// Malformed requests on one connection before it is not worth having.
const REJECTED_MAX: u32 = 32;
