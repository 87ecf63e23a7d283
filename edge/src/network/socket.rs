//! A TCP stream that pingora takes as its own: writes are gathered until a flush, and bytes that were read
//! ahead can be put back.

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use futures_util::ready;
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID,
};
use socket2::SockRef;
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// Gathered until a flush. The room is the thread's when it is empty.
    gathered: Vec<u8>,
    /// So much of that is gone already.
    sent: usize,
    /// Read ahead and put back.
    ahead: BytesMut,
    digest: Arc<SocketDigest>,
    established: SystemTime,
    /// Set while a write waits for the peer to read.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// `client` need not be who is connected: a balancer may stand between.
    pub(super) fn new(stream: TcpStream, client: SocketAddr) -> Self {
        // Tokens are small and late; waiting to fill a packet would only add to that.
        let _ = stream.set_nodelay(true);
        // Else the kernel takes megabytes for a client that reads nothing, and the engine works on for nobody.
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        let _ = digest.peer_addr.set(Some(PeerAddr::Inet(client)));
        Self {
            stream,
            gathered: Vec::new(),
            sent: 0,
            ahead: BytesMut::new(),
            digest: Arc::new(digest),
            established: SystemTime::now(),
            stalled: None,
        }
    }

    /// Takes up what is to be written, or hands it on where it is too much to be gathered.
    fn poll_gather(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        if self.gathered.len() + length > WRITE_BUFFER_BYTES {
            ready!(self.poll_send(cx))?;
        }
        if length >= WRITE_BUFFER_BYTES {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        }
        if self.gathered.capacity() == 0 {
            self.gathered = ROOM.take();
            self.gathered.reserve_exact(WRITE_BUFFER_BYTES);
        }
        parts.iter().for_each(|part| self.gathered.extend_from_slice(part));
        Poll::Ready(Ok(length))
    }

    /// Sends all that was gathered, and lends its room to the thread's next.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.sent = 0;
        if self.gathered.capacity() > 0 {
            self.gathered.clear();
            ROOM.set(mem::take(&mut self.gathered));
        }
        Poll::Ready(Ok(()))
    }

    /// Passes a write's result on, unless the peer has read nothing for too long. Pingora's own time-out covers
    /// bodies alone; a head, a flush or a goodbye to a peer that never reads would wait for ever.
    fn or_stalled<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL_MAX)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    pub(super) fn put_back(&mut self, bytes: BytesMut) {
        debug_assert!(self.ahead.is_empty(), "what was put back before has not been read");
        self.ahead = bytes;
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let length = self.ahead.len().min(into.remaining());
        into.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.poll_gather(cx, &[IoSlice::new(bytes)]);
        self.or_stalled(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.poll_gather(cx, bytes);
        self.or_stalled(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.poll_send(cx);
        self.or_stalled(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.poll_send(cx);
        ready!(self.or_stalled(sent, cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Socket {
    fn id(&self) -> i32 {
        self.stream.as_raw_fd()
    }
}

impl Ssl for Socket {}

impl Peek for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.established, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}

/// Reads what has come by way of the stack: a connection that waits shall not hold the room for what may come.
pub(super) async fn read_some(
    stream: &mut (impl AsyncRead + Unpin),
    into: &mut BytesMut,
) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        into.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
    .await
}

thread_local! {
    /// Room to gather writes in. It is taken for as long as something waits in it, which mostly is no time, so that
    /// one serves all connections of a thread.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

const READ_BYTES: usize = 4096;
/// Holds a head and a few events; larger writes pass by it.
const WRITE_BUFFER_BYTES: usize = 4096;
/// What the kernel holds for a client beyond what is on its way: some hundred events.
const UNSENT_BYTES_MAX: u32 = 128 << 10;
/// A client that reads nothing for so long holds a stream and its engine for nobody.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        (Socket::new(stream, from), client)
    }

    /// Pieces that fit together into the room, and now and then one that passes by it.
    async fn write(mut socket: Socket, byte: u8) {
        for piece in 0..PIECES {
            socket.write_all(&vec![byte; length(piece)]).await.unwrap();
            if piece.is_multiple_of(3) {
                socket.flush().await.unwrap();
            }
        }
        AsyncWriteExt::shutdown(&mut socket).await.unwrap();
    }

    async fn read(mut client: TcpStream, byte: u8) {
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), (0..PIECES).map(length).sum::<usize>());
        assert!(all.iter().all(|read| *read == byte));
    }

    fn length(piece: usize) -> usize {
        if piece.is_multiple_of(100) { 3 * WRITE_BUFFER_BYTES } else { 1_501 }
    }

    const PIECES: usize = 5_000;

    #[tokio::test]
    async fn a_client_that_reads_late_gets_its_own_bytes_though_its_thread_served_another() {
        let ((late, late_client), (prompt, client)) = (pair().await, pair().await);
        let others = async {
            tokio::join!(write(prompt, b'b'), read(client, b'b'));
            read(late_client, b'a').await;
        };
        tokio::join!(write(late, b'a'), others);
        assert!(ROOM.take().capacity() >= WRITE_BUFFER_BYTES, "it was given back");
    }
}
