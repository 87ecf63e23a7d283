//! `POST /v1/responses`, said in terms of a chat: what engines know is chats, and everything that saves a chat from
//! a failure then saves a response too.
//!
//! Stateless: whatever would need an earlier response to be kept is refused by name. In reading order: [`request`]
//! what a client asks, as the body of a chat · [`answer`] the chat's answer, as a response or its events.

pub mod answer;
pub mod request;

pub use answer::ResponseStream;
pub use request::{Echo, ResponsesRequest};
