//! The internal headers of `docs/internal-protocol.md`. A client's own `rhumb-*` headers never travel.

/// What every internal header begins with.
pub const PREFIX: &str = "rhumb-";

/// The version that this build speaks; it also accepts the one before, once there is one.
pub const PROTOCOL_VERSION: &str = "1";

pub const PROTOCOL: &str = "rhumb-protocol";
pub const REQUEST_ID: &str = "rhumb-request-id";
pub const TENANT: &str = "rhumb-tenant";
pub const PRIORITY: &str = "rhumb-priority";
/// Milliseconds that remain, so that no two clocks need to agree.
pub const DEADLINE_MS: &str = "rhumb-deadline-ms";
pub const MODEL_VERSION: &str = "rhumb-model-version";
/// From 1.
pub const ATTEMPT: &str = "rhumb-attempt";
/// Replica ids that already failed this request, separated by commas.
pub const TRIED: &str = "rhumb-tried";
pub const SEED: &str = "rhumb-seed";
pub const CREATED_UNIX_MS: &str = "rhumb-created-unix-ms";
/// `annotated` asks for the internal stream whatever the body's `stream` says.
pub const STREAM: &str = "rhumb-stream";
pub const STREAM_ANNOTATED: &str = "annotated";

pub const FAILURE: &str = "rhumb-failure";
pub const REPLICA: &str = "rhumb-replica";
pub const PROMPT_TOKENS: &str = "rhumb-prompt-tokens";
/// h₀ of the prompt, see [`crate::PrefixHash`]; of a resumed stream hₙ, after the tokens that it continues.
pub const PREFIX_HASH: &str = "rhumb-prefix-hash";
pub const LOAD: &str = "rhumb-load";

/// An SSE comment that begins so carries the last load frame of a stream.
pub const LOAD_COMMENT: &str = "rhumb-load ";

/// Where a broken stream is asked to go on, see [`crate::ResumeLine`].
pub const RESUME_PATH: &str = "/rhumb/v1/resume";
