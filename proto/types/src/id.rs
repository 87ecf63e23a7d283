//! Ids that Rhumb mints: requests, keys, replicas.

use crate::name::{BadName, NodeName, RegionName};
use std::fmt;
use std::str::FromStr;

/// One request, from the edge's head to the ledger. Minted by the edge from 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId([u8; 16]);

impl RequestId {
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RequestId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        from_hex(text)
            .map(Self)
            .ok_or(BadId { kind: "request id", shape: "32 lower-case hexadecimal digits" })
    }
}

/// The public half of an API key: 16 characters of base32 (`a-z2-7`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// Ten random bytes are exactly sixteen base32 characters.
    pub fn from_random(bytes: [u8; 10]) -> Self {
        let bits = bytes.iter().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        Self(std::array::from_fn(|at| BASE32[(bits >> (75 - 5 * at) & 31) as usize]))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bytes: [u8; 16] = text.as_bytes().try_into().map_err(|_| BAD_KEY_ID)?;
        if bytes.iter().all(|byte| BASE32.contains(byte)) { Ok(Self(bytes)) } else { Err(BAD_KEY_ID) }
    }
}

impl TryFrom<String> for KeyId {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// One serving unit: `<region>/<node>/<number>-<start>`. A restart is another replica.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    pub region: RegionName,
    pub node: NodeName,
    /// The place on its node, from 0.
    pub number: u16,
    /// How often this place was started before.
    pub start: u32,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}-{}", self.region, self.node, self.number, self.start)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ReplicaId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = BadId { kind: "replica id", shape: "<region>/<node>/<number>-<start>" };
        let mut parts = text.split('/');
        let (Some(region), Some(node), Some(last), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad);
        };
        let (number, start) = last.split_once('-').ok_or(bad)?;
        Ok(Self {
            region: region.parse().map_err(|_: BadName| bad)?,
            node: node.parse().map_err(|_: BadName| bad)?,
            number: number.parse().map_err(|_| bad)?,
            start: start.parse().map_err(|_| bad)?,
        })
    }
}

/// A text that is not the id it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} is {shape}")]
pub struct BadId {
    pub kind: &'static str,
    pub shape: &'static str,
}

/// In one go: ids are written for every request.
pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
    let text: Vec<u8> = bytes.iter().flat_map(digits).collect();
    f.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
}

/// Exactly `N` bytes in lower-case hexadecimal.
pub(crate) fn from_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let hex = hex.as_bytes();
    if hex.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BAD_KEY_ID: BadId = BadId { kind: "key id", shape: "16 characters of a-z and 2-7" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_use_every_bit_of_their_randomness() {
        assert_eq!(KeyId::from_random([0; 10]).to_string(), "aaaaaaaaaaaaaaaa");
        assert_eq!(KeyId::from_random([255; 10]).to_string(), "7777777777777777");
        assert_eq!(KeyId::from_random([1, 0, 0, 0, 0, 0, 0, 0, 0, 1]).to_string(), "aeaaaaaaaaaaaaab");
    }

    #[test]
    fn ids_go_there_and_back() {
        let replica = "us-east/n1/0-12";
        assert_eq!(replica.parse::<ReplicaId>().unwrap().to_string(), replica);
        for bad in ["", "us-east/n1/0", "us-east/n1/0-1/2", "US/n1/0-1", "us-east/n1/-1"] {
            assert!(bad.parse::<ReplicaId>().is_err(), "{bad}");
        }
        let request = RequestId::from_random([7; 16]);
        assert_eq!(request.to_string().parse(), Ok(request));
    }
}
