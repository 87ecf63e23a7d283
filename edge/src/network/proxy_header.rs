//! What a load balancer says of the client behind a connection: the PROXY protocol, version 2.
//!
//! A header is read to its last byte and no further, so that what follows it is there for whoever reads next: a
//! TLS handshake or a request.

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX, ParseError, Protocol};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a connection does not begin with a header that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// How a balancer finds out that somebody listens here.
    #[error("the connection ended before its first byte")]
    Empty,
    #[error("the connection does not begin with a PROXY header of version 2")]
    Absent,
    #[error("the header is longer than {HEADER_BYTES_MAX} bytes")]
    TooLong,
    #[error("the connection ended within its header")]
    CutShort(#[source] io::Error),
    #[error("the header did not arrive within {} s", HEADER_DEADLINE.as_secs())]
    Late,
    #[error("the header cannot be read")]
    Malformed(#[source] ParseError),
}

impl HeaderError {
    /// The label under which it is counted; `None` = nobody was refused anything.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Empty => None,
            Self::Absent => Some("absent"),
            Self::TooLong => Some("too-long"),
            Self::CutShort(_) => Some("cut-short"),
            Self::Late => Some("late"),
            Self::Malformed(_) => Some("malformed"),
        }
    }
}

/// Reads the header that a connection begins with. `None` = it names no client: the balancer speaks for itself, to
/// see whether this edge lives, or the client has no address.
pub(super) async fn read(stream: impl AsyncRead + Unpin) -> Result<Option<SocketAddr>, HeaderError> {
    tokio::time::timeout(HEADER_DEADLINE, read_in_time(stream)).await.unwrap_or(Err(HeaderError::Late))
}

async fn read_in_time(mut stream: impl AsyncRead + Unpin) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = [0; HEADER_BYTES_MAX];
    let (first, rest) = header.split_at_mut(1);
    stream.read_exact(first).await.map_err(|_| HeaderError::Empty)?;
    stream.read_exact(&mut rest[..FIXED_BYTES - 1]).await.map_err(HeaderError::CutShort)?;
    if !header.starts_with(PROTOCOL_PREFIX) {
        return Err(HeaderError::Absent);
    }
    let end = FIXED_BYTES + usize::from(u16::from_be_bytes([header[14], header[15]]));
    let rest = header.get_mut(FIXED_BYTES..end).ok_or(HeaderError::TooLong)?;
    stream.read_exact(rest).await.map_err(HeaderError::CutShort)?;
    let header = Header::try_from(&header[..end]).map_err(HeaderError::Malformed)?;
    Ok(client(&header))
}

fn client(header: &Header<'_>) -> Option<SocketAddr> {
    if header.command == Command::Local || header.protocol != Protocol::Stream {
        return None;
    }
    let (address, port): (IpAddr, u16) = match header.addresses {
        Addresses::IPv4(addresses) => (addresses.source_address.into(), addresses.source_port),
        Addresses::IPv6(addresses) => (addresses.source_address.into(), addresses.source_port),
        Addresses::Unspecified | Addresses::Unix(_) => return None,
    };
    Some(SocketAddr::new(address.to_canonical(), port))
}

/// Signature, version and command, family and protocol, length.
const FIXED_BYTES: usize = 16;
/// What the specification asks every receiver to take; the extensions that come last in a header are skipped.
const HEADER_BYTES_MAX: usize = 536;
/// A balancer sends it as soon as it is connected; one lost packet is made up for by then.
const HEADER_DEADLINE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_now(stream: impl AsyncRead + Unpin) -> Result<Option<SocketAddr>, HeaderError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(read(stream))
    }

    /// Version and command, family and protocol, and what comes after the length.
    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [PROTOCOL_PREFIX, &[command, family], &length, rest].concat()
    }

    const OVER_IPV4: &[u8] = &[203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x34, 0x01, 0xbb];

    fn over_ipv6(source: &str) -> Vec<u8> {
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        [&source.octets()[..], &[0; 16], &[0x12, 0x34, 0x01, 0xbb]].concat()
    }

    #[test]
    fn a_header_names_the_client_whatever_extensions_follow() {
        let extended = [OVER_IPV4, &[4, 0, 2, 9, 9]].concat();
        let longest = [OVER_IPV4, &[0; HEADER_BYTES_MAX - FIXED_BYTES - 12]].concat();
        for (family, rest, client) in [
            (0x11, OVER_IPV4, "203.0.113.7:4660"),
            (0x11, &extended, "203.0.113.7:4660"),
            (0x11, &longest, "203.0.113.7:4660"),
            (0x21, &over_ipv6("2001:db8::7"), "[2001:db8::7]:4660"),
            (0x21, &over_ipv6("::ffff:203.0.113.7"), "203.0.113.7:4660"),
        ] {
            assert_eq!(read_now(&header(0x21, family, rest)[..]).unwrap(), Some(client.parse().unwrap()));
        }
    }

    #[test]
    fn a_balancer_may_speak_for_itself() {
        let unix = [0; 216];
        for (command, family, rest) in [
            (0x20, 0x00, &[][..]),
            (0x20, 0x11, OVER_IPV4),
            (0x21, 0x00, &[]),
            (0x21, 0x00, &[4, 0, 0]),
            (0x21, 0x31, &unix),
            (0x21, 0x12, OVER_IPV4),
        ] {
            let read = read_now(&header(command, family, rest)[..]);
            assert_eq!(read.unwrap(), None, "{command:x} {family:x}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_with_a_reason() {
        let whole = header(0x21, 0x11, OVER_IPV4);
        for (bytes, reason) in [
            (&b""[..], None),
            (b"PROXY TCP4 203.0.113.7 192.0.2.1 4660 443\r\n", Some("absent")),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", Some("absent")),
            (&whole[..1], Some("cut-short")),
            (&whole[..15], Some("cut-short")),
            (&whole[..27], Some("cut-short")),
            (&header(0x11, 0x11, OVER_IPV4), Some("malformed")),
            (&header(0x22, 0x11, OVER_IPV4), Some("malformed")),
            (&header(0x21, 0x41, OVER_IPV4), Some("malformed")),
            (&header(0x21, 0x13, OVER_IPV4), Some("malformed")),
            (&header(0x21, 0x21, OVER_IPV4), Some("malformed")),
            (&header(0x21, 0x11, &[0; HEADER_BYTES_MAX - FIXED_BYTES + 1]), Some("too-long")),
            (&header(0x21, 0x11, &[0; 65_535]), Some("too-long")),
        ] {
            let refused = read_now(bytes).unwrap_err();
            assert_eq!(refused.reason(), reason, "{refused}");
        }
    }

    proptest! {
        /// However a header is cut into packets, and whatever follows it, which stays where it is.
        #[test]
        fn pieces_make_the_same_header(at in 0..=28_usize, after in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = [&header(0x21, 0x11, OVER_IPV4)[..], &after].concat();
            let (one, mut other) = bytes.split_at(at);
            let mut one = one;
            let pieces = (&mut one).chain(&mut other);
            prop_assert_eq!(read_now(pieces).unwrap(), Some("203.0.113.7:4660".parse().unwrap()));
            prop_assert_eq!([one, other].concat(), after);
        }

        #[test]
        fn no_bytes_make_it_panic(
            honest in 0..=FIXED_BYTES,
            bytes in prop::collection::vec(any::<u8>(), 0..700),
        ) {
            let mut bytes = bytes;
            let begins = header(0x21, 0x11, OVER_IPV4);
            let honest = honest.min(bytes.len());
            bytes[..honest].copy_from_slice(&begins[..honest]);
            let _ = read_now(&bytes[..]);
        }
    }
}
