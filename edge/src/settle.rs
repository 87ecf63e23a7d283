//! What is kept of a request when it is over, whatever way it ended.

use crate::Edge;
use std::net::SocketAddr;
use types::{ModelVersion, Monotonic, NodeKey, RequestId, TenantName};

/// The access record of one request. It is written when dropped, so that no way out forgets it.
pub(crate) struct Record<'a> {
    edge: &'a Edge,
    request_id: String,
    client: Option<SocketAddr>,
    began: Monotonic,
    tenant: Option<TenantName>,
    version: Option<ModelVersion>,
    attempts: u32,
    node: Option<NodeKey>,
    first_token: Option<Monotonic>,
    prompt_tokens: u64,
    completion_tokens: u64,
    status: Option<u16>,
    ended: Ended,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Complete,
    Refused,
    ClientGone,
    /// The stream broke and could not be saved.
    Broken,
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Refused => "refused",
            Self::ClientGone => "client-gone",
            Self::Broken => "broken",
        }
    }
}

impl<'a> Record<'a> {
    /// Until something else is known, the client has left.
    pub(crate) fn begin(edge: &'a Edge, request_id: RequestId, client: Option<SocketAddr>) -> Self {
        Self {
            edge,
            request_id: request_id.to_string(),
            client,
            began: edge.clock.now(),
            tenant: None,
            version: None,
            attempts: 0,
            node: None,
            first_token: None,
            prompt_tokens: 0,
            completion_tokens: 0,
            status: None,
            ended: Ended::ClientGone,
        }
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    pub(crate) fn known(&mut self, tenant: TenantName) {
        self.tenant = Some(tenant);
    }

    pub(crate) fn asked_for(&mut self, version: ModelVersion) {
        self.version = Some(version);
    }

    pub(crate) fn attempted(&mut self, attempts: u32, node: Option<&NodeKey>) {
        self.attempts = attempts;
        self.node = node.cloned();
    }

    pub(crate) fn first_token(&mut self, prompt_tokens: u64) {
        self.first_token = Some(self.edge.clock.now());
        self.prompt_tokens = prompt_tokens;
    }

    /// What the prompt has cost, as far as it is known at the end.
    pub(crate) fn counted(&mut self, prompt_tokens: u64) {
        self.prompt_tokens = prompt_tokens;
    }

    /// The client has the head of an answer that may never come.
    pub(crate) fn kept_alive(&mut self) {
        self.status = Some(200);
    }

    /// Tokens that were written to the client, and how it would have ended if that was all.
    pub(crate) fn delivered(&mut self, completion_tokens: u64, ended: Ended) {
        self.completion_tokens = completion_tokens;
        self.ended = ended;
        self.status = Some(200);
    }

    /// `status` is what the client was told, unless a head was out before.
    pub(crate) fn refused(&mut self, status: u16) {
        self.status.get_or_insert(status);
        self.ended = Ended::Refused;
    }

    /// An answer without tokens, such as the list of models.
    pub(crate) fn complete(&mut self) {
        self.delivered(0, Ended::Complete);
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let metrics = &self.edge.metrics;
        metrics.requests.with_label_values(&[self.ended.as_str()]).inc();
        metrics.prompt_tokens.inc_by(self.prompt_tokens);
        metrics.completion_tokens.inc_by(self.completion_tokens);
        if self.ended == Ended::Broken {
            metrics.streams_broken.inc();
        }
        let first_token = self.first_token.map(|at| at.since(self.began));
        if let Some(wait) = first_token {
            metrics.first_token_seconds.observe(wait.as_secs_f64());
        }
        tracing::debug!(
            target: ACCESS_LOG,
            request = self.request_id,
            client = self.client.as_ref().map(tracing::field::display),
            tenant = self.tenant.as_ref().map(tracing::field::display),
            node = self.node.as_ref().map(tracing::field::display),
            version = self.version.as_ref().map(tracing::field::display),
            status = self.status,
            ended = self.ended.as_str(),
            attempts = self.attempts,
            prompt_tokens = self.prompt_tokens,
            completion_tokens = self.completion_tokens,
            first_token_ms = first_token.map(|wait| wait.as_millis() as u64),
            duration_ms = self.edge.clock.now().since(self.began).as_millis() as u64,
            "request"
        );
    }
}

/// The target to switch on for a line per request: `RHUMB_LOG=info,rhumb::access=debug`.
const ACCESS_LOG: &str = "rhumb::access";
