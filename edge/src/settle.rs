//! What is kept of a request when it is over, whatever way it ended.

use crate::Edge;
use crate::decision_log::{Decision, Ending};
use crate::progress::{Delivered, Exactness};
use std::net::SocketAddr;
use std::sync::Arc;
use types::{ModelVersion, Monotonic, NodeKey, RequestId, TenantName};

/// The access record of one request. It is written when dropped, so that no way out forgets it.
pub(crate) struct Record<'a> {
    edge: &'a Edge,
    id: RequestId,
    request_id: String,
    client: Option<SocketAddr>,
    began: Monotonic,
    tenant: Option<TenantName>,
    /// From when it is known who asks.
    decision: Option<Arc<Decision>>,
    version: Option<ModelVersion>,
    /// How often the client's own library had asked the same before, as it says.
    client_retries: u32,
    attempts: u32,
    node: Option<NodeKey>,
    first_token: Option<Monotonic>,
    prompt_tokens: u64,
    delivered: Delivered,
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
    pub(crate) fn begin(edge: &'a Edge, id: RequestId, client: Option<SocketAddr>) -> Self {
        Self {
            edge,
            id,
            request_id: id.to_string(),
            client,
            began: edge.clock.now(),
            tenant: None,
            decision: None,
            version: None,
            client_retries: 0,
            attempts: 0,
            node: None,
            first_token: None,
            prompt_tokens: 0,
            delivered: Delivered::default(),
            status: None,
            ended: Ended::ClientGone,
        }
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// What is decided for the request is kept from here on.
    pub(crate) fn known(&mut self, tenant: TenantName) -> Arc<Decision> {
        let decision = self.edge.decisions.begin(self.id, tenant.clone(), self.edge.clock.wall());
        self.tenant = Some(tenant);
        self.decision.insert(decision).clone()
    }

    pub(crate) fn asked_before(&mut self, client_retries: u32) {
        self.client_retries = client_retries;
    }

    pub(crate) fn asked_for(&mut self, version: ModelVersion) {
        self.version = Some(version);
        if let Some(decision) = &self.decision {
            decision.asked_for(version);
        }
    }

    pub(crate) fn attempted(&mut self, attempts: u32, node: Option<&NodeKey>) {
        self.attempts = attempts;
        self.node = node.cloned();
    }

    pub(crate) fn first_token(&mut self, prompt_tokens: u64) {
        self.first_token = Some(self.edge.clock.now());
        self.prompt_tokens = prompt_tokens;
    }

    /// The client has the head of an answer that may never come.
    pub(crate) fn kept_alive(&mut self) {
        self.status = Some(200);
    }

    /// What was written to the client, and how it would have ended if that was all.
    pub(crate) fn delivered(&mut self, delivered: Delivered, ended: Ended) {
        self.delivered = delivered;
        // Some servers say at the end what the prompt has cost.
        self.prompt_tokens = delivered.prompt_tokens;
        self.ended = ended;
        self.status = Some(200);
    }

    /// The client is about to be told that no more will come.
    pub(crate) fn broken(&mut self) {
        self.ended = Ended::Broken;
        self.status = Some(200);
    }

    /// `status` is what the client was told, unless a head was out before.
    pub(crate) fn refused(&mut self, status: u16) {
        self.status.get_or_insert(status);
        self.ended = Ended::Refused;
    }

    /// An answer without tokens, such as the list of models.
    pub(crate) fn complete(&mut self) {
        self.delivered(Delivered::default(), Ended::Complete);
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let metrics = &self.edge.metrics;
        let Delivered { completion_tokens, joins, .. } = self.delivered;
        metrics.requests.with_label_values(&[self.ended.as_str()]).inc();
        metrics.prompt_tokens.inc_by(self.prompt_tokens);
        metrics.completion_tokens.inc_by(completion_tokens);
        if self.client_retries > 0 {
            metrics.client_retries.inc();
        }
        if self.ended == Ended::Broken {
            metrics.streams_broken.inc();
        }
        let first_token = self.first_token.map(|at| at.since(self.began));
        if let Some(wait) = first_token {
            metrics.first_token_seconds.observe(wait.as_secs_f64());
        }
        let duration = self.edge.clock.now().since(self.began);
        if let Some(decision) = &self.decision {
            decision.ended(Ending {
                ended: self.ended.as_str(),
                status: self.status,
                attempts: self.attempts,
                prompt_tokens: self.prompt_tokens,
                completion_tokens,
                first_token_ms: first_token.map(|wait| wait.as_millis() as u64),
                duration_ms: duration.as_millis() as u64,
            });
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
            client_retries = self.client_retries,
            attempts = self.attempts,
            resumes = joins.count,
            resume = joins.exactness.map(Exactness::as_str),
            longest_gap_ms = joins.longest_gap.as_millis() as u64,
            expected_gap_ms = joins.expected_gap.as_millis() as u64,
            prompt_tokens = self.prompt_tokens,
            completion_tokens,
            first_token_ms = first_token.map(|wait| wait.as_millis() as u64),
            duration_ms = duration.as_millis() as u64,
            "request"
        );
    }
}

/// The target to switch on for a line per request: `RHUMB_LOG=info,rhumb::access=debug`.
const ACCESS_LOG: &str = "rhumb::access";
