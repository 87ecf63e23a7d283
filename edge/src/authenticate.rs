//! Finds out who asks, before a byte of the body is read.

use crate::network::client::Client;
use crate::refusal::Refusal;
use crate::tenants::{KeyRefused, Known, TenantTable};
use types::{ApiKey, UnixMs};

pub(crate) fn authenticate(tenants: &TenantTable, client: &Client, now: UnixMs) -> Result<Known, Refusal> {
    let shown = client.header("authorization").ok_or(Refusal::NoKey)?;
    let shown = std::str::from_utf8(shown).map_err(|_| Refusal::BadKey)?;
    let (scheme, key) = shown.split_once(' ').ok_or(Refusal::NoKey)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::NoKey);
    }
    let key = ApiKey::parse(key.trim()).map_err(|_| Refusal::BadKey)?;
    tenants.owner(&key, now).map_err(|refused| match refused {
        KeyRefused::Unknown => Refusal::BadKey,
        KeyRefused::Expired => Refusal::ExpiredKey,
        KeyRefused::NoTable => Refusal::NoPicture { of: "tenant table" },
    })
}
