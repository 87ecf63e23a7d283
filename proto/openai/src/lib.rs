//! Request, answer, error and stream shapes of the OpenAI API, as far as Rhumb speaks it. Pure.
//!
//! In reading order: [`view`] what the edge reads of a request · [`request`] what an engine reads of it ·
//! [`chunk`] streamed answers · [`logprobs`] how probable their tokens were · [`answer`] whole answers, assembled from
//! chunks · [`responses`] the Responses API over chats · [`opaque`] what is handed on unread, [`multipart`] forms with
//! files · [`error`] refusals · [`models`] the model list · [`sse`] events on the wire · [`depth`] how deep a JSON
//! text nests.

pub mod answer;
pub mod chunk;
pub mod depth;
pub mod error;
pub mod logprobs;
pub mod models;
pub mod multipart;
pub mod opaque;
pub mod request;
pub mod responses;
pub mod sse;
pub mod view;

pub use answer::{Assembler, BrokenAnswer};
pub use chunk::{ChatChunk, CompletionChunk, FinishReason, Usage};
pub use error::{BadRequest, ErrorObject};
pub use logprobs::{ChatLogprobs, CompletionLogprobs};
pub use request::{ChatRequest, CompletionRequest, Message, Prompt, Sampling};
pub use view::RequestView;

/// The endpoints that generate text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Chat,
    Completions,
}

impl Endpoint {
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }

    pub fn of_path(path: &str) -> Option<Self> {
        [Self::Chat, Self::Completions].into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// What the ids of its answers begin with.
    pub fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
            Self::Completions => "cmpl-",
        }
    }
}
