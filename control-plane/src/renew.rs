//! Renews certificates for every role that asks, where this member holds the authority.

use crate::authorise::caller;
use identity::{Authority, SignError};
use proto::v1;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

pub(crate) struct Renew {
    /// None: another member holds it.
    authority: Option<Arc<Authority>>,
    life: time::Duration,
    signing: Semaphore,
}

impl Renew {
    pub(crate) fn new(authority: Option<Arc<Authority>>, life: time::Duration) -> Self {
        Self { authority, life, signing: Semaphore::new(SIGNING_MAX) }
    }

    pub(crate) fn service(self) -> v1::identity_server::IdentityServer<Self> {
        v1::identity_server::IdentityServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl v1::identity_server::Identity for Renew {
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewReply>, Status> {
        let name = caller(&request)?;
        let Some(authority) = &self.authority else {
            return Err(Status::failed_precondition("this member holds no authority; ask another"));
        };
        let waited = tokio::time::timeout(LINE_MAX, self.signing.acquire()).await;
        let _permit = waited.map_err(|_| Status::resource_exhausted("many renew at once; wait a little"))?;
        let request = request.into_inner().request;
        let signed = authority.sign_request(&name, &request, self.life, OffsetDateTime::now_utc());
        let certificate = signed.map_err(|error| match error {
            SignError::TooLong | SignError::BadRequest(_) => {
                Status::invalid_argument(format!("request: {error}"))
            }
            SignError::Make(error) => {
                warn!(%name, error = &error as &dyn std::error::Error, "certificate not signed");
                Status::internal("the certificate could not be made")
            }
        })?;
        info!(%name, "certificate renewed");
        Ok(Response::new(v1::RenewReply { certificate, authority: authority.certificate().to_owned() }))
    }
}

/// Each takes a core for about a millisecond.
const SIGNING_MAX: usize = 2;
const LINE_MAX: Duration = Duration::from_secs(5);
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
