//! Where an OpenAI-compatible server answers, as SDKs write it: `http://10.0.0.7:8000/v1`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A base URL in the one form that is kept: scheme, host, port where it is not the scheme's own, path without a
/// slash at its end. It holds no user, query or fragment, and every byte of it is safe in a request's head.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BaseUrl {
    text: Arc<str>,
    is_tls: bool,
    port: u16,
    /// Where host and path end; all but the host's brackets lies between.
    authority_end: u16,
}

/// A text that is no base URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBaseUrl {
    #[error("a base URL begins with http:// or https://")]
    Scheme,
    #[error("a base URL has at most {BASE_URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("the host is no name, IPv4 address or IPv6 address in brackets")]
    Host,
    #[error("the port is not from 1 to 65535")]
    Port,
    #[error("the path has empty or dotted steps, or bytes other than letters, digits and -._~")]
    Path,
}

impl BaseUrl {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Host and port as a `host` header has them.
    pub fn authority(&self) -> &str {
        &self.text[self.scheme().len()..usize::from(self.authority_end)]
    }

    /// A name or an address, without brackets.
    pub fn host(&self) -> &str {
        let authority = self.authority();
        match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => authority.split_once(':').map_or(authority, |(host, _)| host),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What stands before an endpoint's own path, such as `/v1`; may be empty.
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.authority_end)..]
    }

    fn scheme(&self) -> &'static str {
        if self.is_tls { HTTPS } else { HTTP }
    }
}

impl FromStr for BaseUrl {
    type Err = BadBaseUrl;

    fn from_str(text: &str) -> Result<Self, BadBaseUrl> {
        let (is_tls, rest) = match (text.strip_prefix(HTTP), text.strip_prefix(HTTPS)) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(BadBaseUrl::Scheme),
        };
        if text.len() > BASE_URL_BYTES_MAX {
            return Err(BadBaseUrl::TooLong);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() && !path[1..].split('/').all(is_step) {
            return Err(BadBaseUrl::Path);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (address, port) = bracketed.split_once(']').ok_or(BadBaseUrl::Host)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| BadBaseUrl::Host)?;
                (&authority[..address.len() + 2], port)
            }
            None => {
                let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
                if !is_host_name(host) {
                    return Err(BadBaseUrl::Host);
                }
                (host, port)
            }
        };
        let own = if is_tls { 443 } else { 80 };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port > 0).ok_or(BadBaseUrl::Port)?
            }
            Some(_) => return Err(BadBaseUrl::Port),
            None if port.is_empty() => own,
            None => return Err(BadBaseUrl::Host),
        };
        let mut text = format!("{}{}", if is_tls { HTTPS } else { HTTP }, host.to_ascii_lowercase());
        if port != own {
            text += &format!(":{port}");
        }
        let authority_end = text.len() as u16;
        text += path;
        Ok(Self { text: text.into(), is_tls, port, authority_end })
    }
}

/// A host name of DNS, or an IPv4 address, which looks like one.
pub fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // RFC 1035.
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Steps that every server reads in the same way.
fn is_step(step: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !step.is_empty() && step != "." && step != ".." && step.bytes().all(fits)
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl TryFrom<String> for BaseUrl {
    type Error = BadBaseUrl;

    fn try_from(text: String) -> Result<Self, BadBaseUrl> {
        text.parse()
    }
}

impl From<BaseUrl> for String {
    fn from(url: BaseUrl) -> Self {
        url.text.as_ref().to_owned()
    }
}

const HTTP: &str = "http://";
const HTTPS: &str = "https://";
/// A host name and a few steps.
const BASE_URL_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_comes_apart_and_has_one_form() {
        let parts = |text: &str| {
            let url: BaseUrl = text.parse().unwrap();
            let again: BaseUrl = url.to_string().parse().unwrap();
            assert_eq!(again, url);
            let (authority, host, path) = (url.authority(), url.host(), url.path());
            format!("{} {authority} {host} {} {path}", url.is_tls(), url.port())
        };
        assert_eq!(parts("http://10.0.0.7:8000/v1"), "false 10.0.0.7:8000 10.0.0.7 8000 /v1");
        assert_eq!(parts("https://API.example.com/a/v1/"), "true api.example.com api.example.com 443 /a/v1");
        assert_eq!(parts("http://vllm:80"), "false vllm vllm 80 ");
        assert_eq!(parts("http://[::1]:81/v1"), "false [::1]:81 ::1 81 /v1");
        assert_eq!(parts("https://[::1]"), "true [::1] ::1 443 ");
    }

    #[test]
    fn what_could_mean_two_things_is_no_url() {
        for (text, why) in [
            ("ftp://a/v1", BadBaseUrl::Scheme),
            ("HTTP://a/v1", BadBaseUrl::Scheme),
            ("a:80", BadBaseUrl::Scheme),
            ("http://", BadBaseUrl::Host),
            ("http://user@a/v1", BadBaseUrl::Host),
            ("http://a b/v1", BadBaseUrl::Host),
            ("http://a\r\nx: y/v1", BadBaseUrl::Host),
            ("http://[::1/v1", BadBaseUrl::Host),
            ("http://[::1]x/v1", BadBaseUrl::Host),
            ("http://[a]/v1", BadBaseUrl::Host),
            ("http://a?x", BadBaseUrl::Host),
            ("http://a:/v1", BadBaseUrl::Port),
            ("http://a:0/v1", BadBaseUrl::Port),
            ("http://a:65536/v1", BadBaseUrl::Port),
            ("http://a:+1/v1", BadBaseUrl::Port),
            ("http://a/v1?x=1", BadBaseUrl::Path),
            ("http://a/v1#x", BadBaseUrl::Path),
            ("http://a//v1", BadBaseUrl::Path),
            ("http://a/../v1", BadBaseUrl::Path),
            ("http://a/%76", BadBaseUrl::Path),
            ("http://a/v1\r\nx: y", BadBaseUrl::Path),
        ] {
            assert_eq!(text.parse::<BaseUrl>(), Err(why), "{text:?}");
        }
        let long = format!("http://a/{}", "x".repeat(512));
        assert_eq!(long.parse::<BaseUrl>(), Err(BadBaseUrl::TooLong));
    }
}
