//! Lets a request in: counts it and the bytes it holds, reads what it asks for. Quotas will stand here.

use crate::network::client::Client;
use crate::refusal::Refusal;
use crate::responses::Translation;
use crate::tenants::{Known, TenantEntry};
use bytes::Bytes;
use openai::responses::ResponsesRequest;
use policy::{Model, RoutingTable};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What one request holds of its tenant's share of the edge: itself, and the bytes of its body.
pub(crate) struct BodyBytes {
    tenant: Arc<TenantEntry>,
    held: usize,
}

impl BodyBytes {
    /// Of a request whose body has not come yet.
    pub(crate) fn none(tenant: Arc<TenantEntry>) -> Result<Self, Refusal> {
        let before = tenant.requests.fetch_add(1, Relaxed);
        // Counted until the drop in either case, as below.
        let held = Self { tenant, held: 0 };
        if before >= TENANT_REQUESTS_MAX { Err(Refusal::TooManyRequests) } else { Ok(held) }
    }

    /// Holds `total` bytes in all, if the tenant's share has room.
    pub(crate) fn grow(&mut self, total: usize) -> Result<(), Refusal> {
        let more = total.saturating_sub(self.held);
        let before = self.tenant.body_bytes.fetch_add(more, Relaxed);
        self.held += more;
        // What was added stays counted until the drop, so the count is right in either case.
        if before + more > TENANT_BODY_BYTES_MAX { Err(Refusal::TooManyBytes) } else { Ok(()) }
    }
}

impl Drop for BodyBytes {
    fn drop(&mut self) {
        self.tenant.body_bytes.fetch_sub(self.held, Relaxed);
        self.tenant.requests.fetch_sub(1, Relaxed);
    }
}

/// What a client of the Responses API asks for, as the body of a chat: the one body that is the edge's own, since no
/// engine knows the client's. From here on the client is answered by that API.
pub(crate) fn response(
    client: &mut Client,
    asked: ResponsesRequest,
    held: &mut BodyBytes,
) -> Result<Bytes, Refusal> {
    let ResponsesRequest { chat, echo } = asked;
    if chat.len() > crate::receive::BODY_BYTES_MAX {
        return Err(Refusal::BodyTooLarge);
    }
    held.grow(chat.len())?;
    client.translate(Translation::new(echo));
    Ok(chat.into())
}

/// What a model's name stands for now, if the key may ask it.
pub(crate) fn model(table: &RoutingTable, known: &Known, name: &str) -> Result<Model, Refusal> {
    let shown = || name.chars().take(MODEL_SHOWN_MAX).collect();
    if !known.may_ask(name) {
        return Err(Refusal::ModelNotAllowed { model: shown() });
    }
    table.models.get(name).copied().ok_or_else(|| Refusal::UnknownModel { model: shown() })
}

/// As many as one address may have connections: enough for a large service, too few for one to take all.
const TENANT_REQUESTS_MAX: usize = 12_000;
/// Eight of the largest requests at once.
const TENANT_BODY_BYTES_MAX: usize = 8 * crate::receive::BODY_BYTES_MAX;
const MODEL_SHOWN_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_holds_no_more_than_its_share_and_gives_it_back() {
        let tenant = Arc::new(TenantEntry::default());
        let largest = crate::receive::BODY_BYTES_MAX;
        let mut held: Vec<BodyBytes> = (0..8).map(|_| BodyBytes::none(tenant.clone()).unwrap()).collect();
        for body in &mut held {
            body.grow(largest / 2).unwrap();
            body.grow(largest).unwrap();
        }
        assert_eq!(BodyBytes::none(tenant.clone()).unwrap().grow(1), Err(Refusal::TooManyBytes));
        held.pop();
        assert_eq!(BodyBytes::none(tenant.clone()).unwrap().grow(largest), Ok(()));
        held.clear();
        assert_eq!((tenant.body_bytes.load(Relaxed), tenant.requests.load(Relaxed)), (0, 0));
    }

    #[test]
    fn a_tenant_has_no_more_requests_in_flight_than_its_share() {
        let tenant = Arc::new(TenantEntry::default());
        let begin = || BodyBytes::none(tenant.clone());
        let mut begun: Vec<_> = std::iter::repeat_with(begin).map_while(Result::ok).collect();
        assert_eq!(begun.len(), TENANT_REQUESTS_MAX);
        begun.pop();
        assert!(begin().is_ok());
    }
}
