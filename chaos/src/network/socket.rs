//! Sockets as connections here need them: polled, without owning them.

use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::net::{TcpSocket, TcpStream};

/// Dials from an address; dropped early, it resets. The kernel chooses a port once it knows the target, so that ports never run out.
pub(super) async fn dial(source: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if target.is_ipv4() {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    }
    socket.set_zero_linger()?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One read. Nothing = the other side has sent everything.
pub(super) fn read(
    stream: &TcpStream,
    context: &mut Context<'_>,
    bytes_max: usize,
) -> Poll<io::Result<Bytes>> {
    let mut space = [const { MaybeUninit::uninit() }; READ_MAX];
    let mut space = ReadBuf::uninit(&mut space[..bytes_max.min(READ_MAX)]);
    loop {
        ready!(stream.poll_read_ready(context))?;
        match stream.try_read_buf(&mut space) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
            Ok(_) => return Poll::Ready(Ok(Bytes::copy_from_slice(space.filled()))),
        }
    }
}

/// One write.
pub(super) fn write(stream: &TcpStream, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(context))?;
        match stream.try_write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

/// Says that nothing more will be written.
pub(super) fn finish(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(Shutdown::Write)
}

/// What the other side sees when a socket is dropped. A connection that ends before both sides have said so, for
/// whatever reason, must not look as if they had.
#[derive(Clone, Copy)]
pub(super) enum Closes {
    WithReset,
    WithoutReset,
}

impl Closes {
    pub(super) fn set(self, stream: &TcpStream) {
        let linger = match self {
            Self::WithReset => Some(Duration::ZERO),
            Self::WithoutReset => None,
        };
        // Fails only for a connection that has ended already.
        let _ = SockRef::from(stream).set_linger(linger);
    }
}

const READ_MAX: usize = 64 << 10;
