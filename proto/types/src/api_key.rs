//! API keys: `rk_<16 base32 id>_<43 base62 secret>`.
//!
//! The id finds the key in a table, the hash of the secret proves it; the secret itself is kept nowhere.

use crate::id::KeyId;
use std::fmt;

/// A whole key, as a client holds it. Its `Debug` shows the id alone, so that no log ever holds a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: KeyId,
    secret: [u8; SECRET_CHARS],
}

/// BLAKE3 of the secret's 43 characters. 256 random bits need no slow hash.
#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHash([u8; 32]);

/// A text that is not an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an API key is rk_<16 characters of a-z, 2-7>_<43 letters and digits>")]
pub struct BadApiKey;

/// A text that is not a hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key hash is 64 lower-case hexadecimal digits")]
pub struct BadKeyHash;

impl ApiKey {
    pub fn from_random(id: [u8; 10], secret: [u8; 32]) -> Self {
        Self { id: KeyId::from_random(id), secret: base62(secret) }
    }

    pub fn parse(text: &str) -> Result<Self, BadApiKey> {
        let (id, secret) = text.strip_prefix("rk_").and_then(|rest| rest.split_once('_')).ok_or(BadApiKey)?;
        let secret: [u8; SECRET_CHARS] = secret.as_bytes().try_into().map_err(|_| BadApiKey)?;
        if !secret.iter().all(u8::is_ascii_alphanumeric) {
            return Err(BadApiKey);
        }
        Ok(Self { id: id.parse().map_err(|_| BadApiKey)?, secret })
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash(*blake3::hash(&self.secret).as_bytes())
    }

    /// The whole key, to be shown once to whom it belongs.
    pub fn reveal(&self) -> String {
        format!("rk_{}_{}", self.id, String::from_utf8_lossy(&self.secret))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rk_{}_…", self.id)
    }
}

impl KeyHash {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For a comparison in constant time.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for KeyHash {
    type Error = BadKeyHash;

    fn try_from(hex: String) -> Result<Self, BadKeyHash> {
        crate::id::from_hex(&hex).map(Self).ok_or(BadKeyHash)
    }
}

impl From<KeyHash> for String {
    fn from(hash: KeyHash) -> Self {
        hash.to_string()
    }
}

/// The number that `bytes` write in base 256, in base 62. 62⁴³ is just above 2²⁵⁶, so no bit is lost.
fn base62(mut bytes: [u8; 32]) -> [u8; SECRET_CHARS] {
    let mut digits = [0; SECRET_CHARS];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0;
        for byte in &mut bytes {
            let value = remainder << 8 | usize::from(*byte);
            *byte = (value / 62) as u8;
            remainder = value % 62;
        }
        *digit = BASE62[remainder];
    }
    digits
}

const SECRET_CHARS: usize = 43;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_there_and_back() {
        let key = ApiKey::from_random([3; 10], [255; 32]);
        let text = key.reveal();
        assert_eq!(text.len(), 3 + 16 + 1 + 43);
        assert_eq!(ApiKey::parse(&text), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), format!("rk_{}_…", key.id()));
        assert_ne!(key.hash(), ApiKey::from_random([3; 10], [254; 32]).hash());
    }

    #[test]
    fn other_texts_are_no_keys() {
        let text = ApiKey::from_random([3; 10], [9; 32]).reveal();
        let longer = format!("{text}0");
        for bad in ["", "rk_", "sk-abc", &text[1..], &text[..text.len() - 1], &longer, "rk__"] {
            assert_eq!(ApiKey::parse(bad), Err(BadApiKey), "{bad}");
        }
        assert_eq!(ApiKey::parse(&text.replacen("rk_", "rk_A", 1)), Err(BadApiKey));
        assert_eq!(base62([0; 32]), [b'0'; 43]);
    }
}
