//! Hands the listening sockets of a running edge to the one that replaces it.
//!
//! ```text
//! new                              old
//!  |--- connect, by the same user -->|
//!  |--- GREETING and version ------->|
//!  |<-- version, doors, sockets -----|
//!  |    reads its pictures           |  serves on
//!  |--- SERVING -------------------->|  closes its own ends of the sockets
//!  |<-- LEFT ------------------------|  drains
//! ```
//!
//! The sockets stay open throughout, so nobody is refused, and a connection that waits in a queue is taken by whoever
//! is left. Until `SERVING` nothing has changed: a replacement that fails or hangs costs no request.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::Socket;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::timeout;

/// Why listening sockets did not change hands.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("cannot listen there for the edge that comes next")]
    Offer(#[source] io::Error),
    #[error("cannot speak with the other edge")]
    Conversation(#[source] io::Error),
    #[error("the other edge did not answer within {} s", ANSWER_MAX.as_secs())]
    Late,
    #[error("the other end runs as user {found}, this edge as user {own}")]
    Stranger { found: u32, own: u32 },
    #[error("the other edge speaks version {found} of the handover, this one version {VERSION}")]
    Version { found: u8 },
    #[error("what the other end said is no handover")]
    Malformed,
    #[error("this edge had nothing to serve from within {} s; the other goes on", READY_MAX.as_secs())]
    NotReady,
}

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Plain,
    Secure,
    Admin,
}

/// The listening sockets of this edge while it starts: taken over where a running one has them, else bound.
pub(crate) struct Doors {
    from: Option<(UnixStream, Vec<(Door, Socket)>)>,
    offer: Option<Offer>,
}

/// Where the edge that comes next finds this one.
pub(crate) struct Offer {
    path: PathBuf,
    /// Bound under a name of its own, until the one before has left.
    aside: Aside,
    listener: UnixListener,
    doors: Vec<(Door, OwnedFd)>,
}

/// A name that goes when nobody needs it any more: an edge that starts and fails would leave one behind each time.
struct Aside(Option<PathBuf>);

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(name) = &self.0 {
            let _ = std::fs::remove_file(name);
        }
    }
}

impl Door {
    const ALL: [Self; 3] = [Self::Plain, Self::Secure, Self::Admin];

    fn letter(self) -> u8 {
        match self {
            Self::Plain => b'p',
            Self::Secure => b's',
            Self::Admin => b'a',
        }
    }

    fn of(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|door| door.letter() == letter)
    }
}

impl Doors {
    /// Asks a running edge at `path` for its sockets. If nobody is there, there is nothing to take over.
    pub(crate) async fn knock(path: Option<&Path>) -> Result<Self, HandoverError> {
        let Some(path) = path else { return Ok(Self { from: None, offer: None }) };
        let from = match UnixStream::connect(path).await {
            Ok(stream) => {
                let asked = timeout(ANSWER_MAX, ask(&stream)).await.unwrap_or(Err(HandoverError::Late));
                Some((stream, asked?))
            }
            // The name of an edge that ended stays behind; its sockets were closed with it.
            Err(error) if is_nobody(&error) => None,
            Err(error) => return Err(HandoverError::Conversation(error)),
        };
        Ok(Self { from, offer: Some(Offer::aside(path).map_err(HandoverError::Offer)?) })
    }

    pub(crate) fn takes_over(&self) -> bool {
        self.from.is_some()
    }

    pub(crate) async fn open(&mut self, door: Door, address: SocketAddr) -> io::Result<TcpListener> {
        let listener = match self.taken(door, address) {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket.into())?
            }
            None => TcpListener::bind(address).await?,
        };
        if let Some(offer) = &mut self.offer {
            offer.doors.push((door, listener.as_fd().try_clone_to_owned()?));
        }
        Ok(listener)
    }

    /// One whose address was changed in the configuration is bound like any new one.
    fn taken(&mut self, door: Door, address: SocketAddr) -> Option<Socket> {
        let (_, sockets) = self.from.as_mut()?;
        let is_at =
            |socket: &Socket| socket.local_addr().ok().and_then(|local| local.as_socket()) == Some(address);
        let at = sockets.iter().position(|(of, socket)| *of == door && is_at(socket))?;
        Some(sockets.swap_remove(at).1)
    }

    /// This edge serves: the other one may leave, and the next one finds this one.
    pub(crate) async fn serving(self) -> Option<Offer> {
        if let Some((mut stream, _)) = self.from {
            let told = async {
                stream.write_all(&[SERVING]).await?;
                stream.read_u8().await
            };
            // If it died meanwhile it has left as well, and this edge serves in any case.
            let left = timeout(ANSWER_MAX, told).await;
            tracing::info!(agreed = matches!(left, Ok(Ok(LEFT))), "this edge has taken over from another");
        }
        let mut offer = self.offer?;
        let renamed = offer.aside.0.as_ref().map_or(Ok(()), |aside| std::fs::rename(aside, &offer.path));
        if let Err(error) = renamed {
            tracing::warn!(path = %offer.path.display(), %error, "no other edge can take over from this one");
            return None;
        }
        offer.aside.0 = None;
        Some(offer)
    }
}

impl Offer {
    fn aside(path: &Path) -> io::Result<Self> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        match std::fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&aside)?;
        Ok(Self { path: path.to_owned(), aside: Aside(Some(aside)), listener, doors: Vec::new() })
    }

    /// Returns once another edge serves with the sockets of this one.
    pub(crate) async fn until_taken(self) {
        loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            match timeout(TAKEOVER_MAX, give(&mut stream, &self.doors)).await {
                Ok(Ok(())) => {
                    // The name is the other one's from here on.
                    drop(self.listener);
                    let _ = stream.write_all(&[LEFT]).await;
                    return;
                }
                Ok(Err(error)) => tracing::warn!(?error, "another edge did not take over; this one goes on"),
                Err(_) => tracing::warn!("another edge hung while taking over; this one goes on"),
            }
        }
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Sockets are given to nobody, and taken from nobody, who could not open them alike.
fn same_user(stream: &UnixStream) -> Result<(), HandoverError> {
    let found = stream.peer_cred().map_err(HandoverError::Conversation)?.uid();
    let own = rustix::process::geteuid().as_raw();
    if found == own { Ok(()) } else { Err(HandoverError::Stranger { found, own }) }
}

async fn ask(stream: &UnixStream) -> Result<Vec<(Door, Socket)>, HandoverError> {
    same_user(stream)?;
    // Nine octets never wait in a connection that has carried nothing yet.
    stream.try_write(&greeting()).map_err(HandoverError::Conversation)?;
    let receive = || {
        let mut said = [0; 1 + Door::ALL.len()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(Door::ALL.len()))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut said)];
        let received = recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(handed) = message {
                sockets.extend(handed);
            }
        }
        Ok((said, received.bytes, sockets))
    };
    let received = stream.async_io(Interest::READABLE, receive).await;
    let (said, length, sockets) = received.map_err(HandoverError::Conversation)?;
    sockets_said(&said[..length], sockets)
}

fn sockets_said(said: &[u8], sockets: Vec<OwnedFd>) -> Result<Vec<(Door, Socket)>, HandoverError> {
    let (&version, letters) = said.split_first().ok_or(HandoverError::Malformed)?;
    if version != VERSION {
        return Err(HandoverError::Version { found: version });
    }
    if letters.len() != sockets.len() {
        return Err(HandoverError::Malformed);
    }
    let named = |(&letter, socket): (&u8, OwnedFd)| {
        let socket = Socket::from(socket);
        let door = Door::of(letter).filter(|_| socket.is_listener().unwrap_or(false));
        Some((door?, socket))
    };
    letters.iter().zip(sockets).map(named).collect::<Option<_>>().ok_or(HandoverError::Malformed)
}

/// Returns once the other edge serves.
async fn give(stream: &mut UnixStream, doors: &[(Door, OwnedFd)]) -> Result<(), HandoverError> {
    same_user(stream)?;
    let mut heard = [0; GREETING.len() + 1];
    stream.read_exact(&mut heard).await.map_err(HandoverError::Conversation)?;
    let version = heard[GREETING.len()];
    if !heard.starts_with(GREETING) {
        return Err(HandoverError::Malformed);
    }
    let mut said = vec![VERSION];
    if version != VERSION {
        let _ = stream.write_all(&said).await;
        return Err(HandoverError::Version { found: version });
    }
    said.extend(doors.iter().map(|(door, _)| door.letter()));
    let sockets: Vec<_> = doors.iter().map(|(_, socket)| socket.as_fd()).collect();
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(Door::ALL.len()))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(sendmsg(&*stream, &[IoSlice::new(&said)], &mut control, SendFlags::NOSIGNAL)?)
    };
    stream.async_io(Interest::WRITABLE, send).await.map_err(HandoverError::Conversation)?;
    match stream.read_u8().await.map_err(HandoverError::Conversation)? {
        SERVING => Ok(()),
        _ => Err(HandoverError::Malformed),
    }
}

fn greeting() -> [u8; GREETING.len() + 1] {
    let mut greeting = [VERSION; GREETING.len() + 1];
    greeting[..GREETING.len()].copy_from_slice(GREETING);
    greeting
}

const GREETING: &[u8; 8] = b"rhumb-ho";
const VERSION: u8 = 1;
const SERVING: u8 = b'S';
const LEFT: u8 = b'L';
/// A running edge has nothing to look up before it answers.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Pictures are on disk, or come from a member within seconds; an edge that still has none then will not soon.
pub(crate) const READY_MAX: Duration = Duration::from_secs(60);
/// As long as the other edge may take to be ready, and a little.
const TAKEOVER_MAX: Duration = Duration::from_secs(65);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What the kernel takes as the name of a Unix socket, less the name that is used aside.
pub(crate) const PATH_BYTES_MAX: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    async fn offered(dir: &Path) -> (PathBuf, tokio::task::JoinHandle<()>, SocketAddr) {
        let path = dir.join("handover");
        let mut doors = Doors::knock(Some(&path)).await.unwrap();
        assert!(!doors.takes_over());
        let socket = doors.open(Door::Plain, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = socket.local_addr().unwrap();
        let offer = doors.serving().await.unwrap();
        (path, tokio::spawn(offer.until_taken()), address)
    }

    #[tokio::test]
    async fn a_socket_changes_hands_and_nothing_else_is_believed() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, giving, address) = offered(dir.path()).await;
        for wrong in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"rhumb-ho\x02", b"rhumb", b""] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(wrong).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
            assert!(said.is_empty() || said == [VERSION], "{said:?}");
        }
        // One that hears and then dies changes nothing.
        drop(Doors::knock(Some(&path)).await.unwrap());
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["handover"], "nor does it leave anything behind");
        let mut doors = Doors::knock(Some(&path)).await.unwrap();
        assert!(doors.takes_over() && !giving.is_finished());
        let elsewhere = doors.open(Door::Admin, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_ne!(elsewhere.local_addr().unwrap(), address);
        let socket = doors.open(Door::Plain, address).await.expect("bound twice it would be in use");
        assert_eq!(socket.local_addr().unwrap(), address);
        let offer = doors.serving().await.unwrap();
        giving.await.unwrap();
        let again = tokio::spawn(offer.until_taken());
        let third = Doors::knock(Some(&path)).await.unwrap();
        assert!(third.takes_over() && !again.is_finished());
    }

    #[tokio::test]
    async fn the_name_of_a_dead_edge_means_nobody() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, giving, _) = offered(dir.path()).await;
        giving.abort();
        let _ = giving.await;
        assert!(path.exists() && !Doors::knock(Some(&path)).await.unwrap().takes_over());
    }

    #[test]
    fn sockets_without_names_are_refused() {
        let listening = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let other = || OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        assert_eq!(sockets_said(&[VERSION, b'p'], vec![listening()]).unwrap().len(), 1);
        let refused = |said: &[u8], sockets| sockets_said(said, sockets).unwrap_err();
        assert!(matches!(refused(&[], vec![]), HandoverError::Malformed));
        assert!(matches!(refused(&[9], vec![]), HandoverError::Version { found: 9 }));
        assert!(matches!(refused(&[VERSION], vec![listening()]), HandoverError::Malformed));
        assert!(matches!(refused(&[VERSION, b'x'], vec![listening()]), HandoverError::Malformed));
        assert!(matches!(refused(&[VERSION, b'p'], vec![other()]), HandoverError::Malformed));
    }
}
