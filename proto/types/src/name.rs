//! Names that operators choose. Each kind is a type, so that a region cannot be passed where a node is meant.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A name that does not fit its pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name {name:?} must match {pattern}")]
pub struct BadName {
    pub kind: &'static str,
    pub name: String,
    pub pattern: &'static str,
}

macro_rules! names {
    ($($(#[$doc:meta])* $type:ident, $kind:literal, $pattern:literal, $fits:path;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadName;

            fn from_str(name: &str) -> Result<Self, BadName> {
                if $fits(name) {
                    Ok(Self(name.into()))
                } else {
                    let name = name.chars().take(NAME_SHOWN_MAX).collect();
                    Err(BadName { kind: $kind, name, pattern: $pattern })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = BadName;

            fn try_from(name: String) -> Result<Self, BadName> {
                name.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// A failure domain with a place on the map.
    RegionName, "region", "[a-z][a-z0-9-]{0,31}", is_label;
    /// A part of a region that can fail by itself.
    ZoneName, "zone", "[a-z][a-z0-9-]{0,31}", is_label;
    /// One host run by one region agent.
    NodeName, "node", "[a-z][a-z0-9-]{0,31}", is_label;
    /// How some tenants are treated.
    PolicyName, "policy", "[a-z][a-z0-9-]{0,31}", is_label;
    /// Who pays.
    TenantName, "tenant", "[a-z][a-z0-9-]{0,31}", is_label;
    /// What a client asks for; a deployment maps it to a model version.
    ModelName, "model", "[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", is_model;
    /// An environment variable of an edge. The prefix keeps intent from sending any other of them to a stranger.
    SecretName, "secret", "RHUMB_SECRET_[A-Z0-9_]{1,64}", is_secret;
}

fn is_label(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_model(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte))
}

fn is_secret(name: &str) -> bool {
    name.strip_prefix("RHUMB_SECRET_").is_some_and(|rest| {
        let fits = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        (1..=64).contains(&rest.len()) && rest.bytes().all(fits)
    })
}

/// An error message repeats at most this much of a stranger's name.
const NAME_SHOWN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_to_their_pattern() {
        for good in ["us-east", "a", "ap-south-1"] {
            assert!(good.parse::<RegionName>().is_ok(), "{good}");
        }
        let long = "a".repeat(33);
        for bad in ["", "1a", "-a", "US", "a_b", "a b", "a\n", long.as_str()] {
            assert!(bad.parse::<RegionName>().is_err(), "{bad:?}");
        }
        assert!("meta/Llama-3.1:8b".parse::<ModelName>().is_ok());
        assert!("model\r\nx: y".parse::<ModelName>().is_err());
        assert!("RHUMB_SECRET_VLLM_2".parse::<SecretName>().is_ok());
        for bad in ["RHUMB_SECRET_", "RHUMB_TOKEN", "PATH", "RHUMB_SECRET_a", "RHUMB_SECRET_A=B"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }
}
