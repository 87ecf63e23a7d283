//! Finds out who asks, before a byte of the body is read.

use crate::network::client::Client;
use crate::refusal::Refusal;
use crate::tenants::{TenantEntry, TenantTable};
use std::sync::Arc;
use types::ApiKey;

pub(crate) fn authenticate(tenants: &TenantTable, client: &Client) -> Result<Arc<TenantEntry>, Refusal> {
    let shown = client.header("authorization").ok_or(Refusal::NoKey)?;
    let shown = std::str::from_utf8(shown).map_err(|_| Refusal::BadKey)?;
    let (scheme, key) = shown.split_once(' ').ok_or(Refusal::NoKey)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::NoKey);
    }
    let key = ApiKey::parse(key.trim()).map_err(|_| Refusal::BadKey)?;
    tenants.owner(&key).ok_or(Refusal::BadKey)
}
