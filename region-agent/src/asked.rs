//! What an edge asks for, read from the internal headers.

use http::HeaderMap;
use std::str::FromStr;
use std::time::Duration;
use types::{ModelVersion, Priority, ReplicaId, RequestId, TenantName, header};

/// The internal headers of one request, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub request_id: RequestId,
    pub version: ModelVersion,
    /// What remains of the request's time, from now.
    pub remains: Duration,
    pub tried: Vec<ReplicaId>,
    pub priority: Priority,
}

/// Headers that no edge of this protocol version sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeaders {
    #[error("this node speaks version {} of the internal protocol and no other", header::PROTOCOL_VERSION)]
    OtherProtocol,
    #[error("the header {0} is missing")]
    Missing(&'static str),
    #[error("the header {0} cannot be read")]
    Unreadable(&'static str),
    #[error("the header {0} is there twice")]
    Twice(&'static str),
}

impl Asked {
    pub fn read(headers: &HeaderMap) -> Result<Self, BadHeaders> {
        if text(headers, header::PROTOCOL)? != Some(header::PROTOCOL_VERSION) {
            return Err(BadHeaders::OtherProtocol);
        }
        // The engine reads these three; a value it could not read is the edge's fault and is said here.
        value::<u64>(headers, header::SEED)?;
        value::<u64>(headers, header::CREATED_UNIX_MS)?;
        value::<u32>(headers, header::ATTEMPT)?;
        value::<TenantName>(headers, header::TENANT)?;
        let remains = Duration::from_millis(required(headers, header::DEADLINE_MS)?).min(REMAINS_MAX);
        Ok(Self {
            request_id: required(headers, header::REQUEST_ID)?,
            version: required(headers, header::MODEL_VERSION)?,
            remains,
            tried: tried(headers)?,
            priority: value(headers, header::PRIORITY)?.unwrap_or_default(),
        })
    }
}

fn required<T: FromStr>(headers: &HeaderMap, name: &'static str) -> Result<T, BadHeaders> {
    value(headers, name)?.ok_or(BadHeaders::Missing(name))
}

fn value<T: FromStr>(headers: &HeaderMap, name: &'static str) -> Result<Option<T>, BadHeaders> {
    let Some(text) = text(headers, name)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| BadHeaders::Unreadable(name))
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, BadHeaders> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BadHeaders::Twice(name));
    }
    value.to_str().map(Some).map_err(|_| BadHeaders::Unreadable(name))
}

fn tried(headers: &HeaderMap) -> Result<Vec<ReplicaId>, BadHeaders> {
    let unreadable = BadHeaders::Unreadable(header::TRIED);
    let Some(text) = text(headers, header::TRIED)? else { return Ok(Vec::new()) };
    let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
    let tried: Vec<ReplicaId> =
        ids.take(TRIED_MAX + 1).map(str::parse).collect::<Result<_, _>>().map_err(|_| unreadable)?;
    if tried.len() > TRIED_MAX { Err(unreadable) } else { Ok(tried) }
}

/// Three attempts and some resumes; each id is compared with each replica.
const TRIED_MAX: usize = 32;
/// Longer than any request runs, short enough to be added to any clock.
const REMAINS_MAX: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::PROTOCOL, "1".parse().unwrap());
        headers.insert(header::REQUEST_ID, "0f".repeat(16).parse().unwrap());
        headers.insert(header::MODEL_VERSION, format!("sha256:{}", "0f".repeat(32)).parse().unwrap());
        headers.insert(header::DEADLINE_MS, "1500".parse().unwrap());
        headers
    }

    #[test]
    fn a_request_is_read() {
        let mut headers = headers();
        headers.insert(header::TRIED, "us-east/n1/0-0, us-east/n1/1-7".parse().unwrap());
        let asked = Asked::read(&headers).unwrap();
        assert_eq!(asked.remains, Duration::from_millis(1500));
        assert_eq!(
            asked.tried,
            ["us-east/n1/0-0".parse().unwrap(), "us-east/n1/1-7".parse::<ReplicaId>().unwrap()]
        );
    }

    #[test]
    fn another_protocol_is_refused_before_anything_else_is_read() {
        let mut headers = headers();
        headers.insert(header::PROTOCOL, "2".parse().unwrap());
        headers.remove(header::REQUEST_ID);
        assert_eq!(Asked::read(&headers), Err(BadHeaders::OtherProtocol));
        assert_eq!(Asked::read(&HeaderMap::new()), Err(BadHeaders::OtherProtocol));
    }

    #[test]
    fn unusable_headers_are_named() {
        for name in [header::REQUEST_ID, header::MODEL_VERSION, header::DEADLINE_MS] {
            let mut without = headers();
            without.remove(name);
            assert_eq!(Asked::read(&without), Err(BadHeaders::Missing(name)));
        }
        for (name, bad) in [
            (header::DEADLINE_MS, "-1"),
            (header::MODEL_VERSION, "latest"),
            (header::TRIED, "n1"),
            (header::SEED, "x"),
            (header::PRIORITY, "urgent"),
            (header::ATTEMPT, "first"),
        ] {
            let mut headers = headers();
            headers.insert(name, bad.parse().unwrap());
            assert_eq!(Asked::read(&headers), Err(BadHeaders::Unreadable(name)), "{name}: {bad}");
        }
        let mut twice = headers();
        twice.append(header::DEADLINE_MS, "9".parse().unwrap());
        assert_eq!(Asked::read(&twice), Err(BadHeaders::Twice(header::DEADLINE_MS)));
    }

    #[test]
    fn strange_numbers_are_bounded() {
        let mut headers = headers();
        headers.insert(header::DEADLINE_MS, u64::MAX.to_string().parse().unwrap());
        assert_eq!(Asked::read(&headers).unwrap().remains, REMAINS_MAX);
        let many = vec!["us-east/n1/0-0"; TRIED_MAX + 1].join(",");
        headers.insert(header::TRIED, many.parse().unwrap());
        assert_eq!(Asked::read(&headers), Err(BadHeaders::Unreadable(header::TRIED)));
    }

    proptest! {
        #[test]
        fn any_value_is_read_or_refused(value in "[ -~]{0,40}", which in 0..5usize) {
            let mut headers = headers();
            let name = [header::TRIED, header::DEADLINE_MS, header::PROTOCOL, header::REQUEST_ID, header::SEED][which];
            headers.insert(name, value.parse().unwrap());
            let _ = Asked::read(&headers);
        }
    }
}
