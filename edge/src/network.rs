//! The edge's sockets: everything that knows pingora, behind four types of our own.
//!
//! In reading order: [`socket`] a TCP stream that pingora takes · [`listen`] accepts connections · [`workers`] carry
//! them, one thread for each core · [`slots`] bounds them · [`proxy_header`] whom a balancer speaks for · [`handover`]
//! gives the listening sockets to a new edge ·
//! [`http1`] and [`http2`] find requests on a connection, [`head`] refuses what is none · [`client`] one request and its
//! answer ·
//! [`upstream`] one request to a node and its stream · [`plain`] and [`plain_body`] the same to a server without an
//! agent · [`credential`] what nodes are shown · [`tls`] what HTTPS
//! clients see.
//!
//! Pingora's sessions do the protocols; the loops around them are ours, because pingora's own service has no
//! deadline for heads, preface and handshake, takes megabytes of head, and loses requests at drain.

pub(crate) mod client;
mod credential;
pub(crate) mod handover;
mod head;
mod http1;
mod http2;
pub(crate) mod listen;
mod plain;
mod plain_body;
mod proxy_header;
mod slots;
mod socket;
pub(crate) mod tls;
pub(crate) mod upstream;
pub(crate) mod workers;

use std::time::Duration;

/// From the first byte to the end of the head; the TLS handshake and the h2 preface each.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Cookies of a whole browser fit; nobody needs more to ask a model.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// A connection without requests is closed after this long.
const IDLE_MAX: Duration = Duration::from_secs(60);
