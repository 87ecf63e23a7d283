//! Endpoints that the edge hands on without understanding them: it finds the model, and that is all.

use crate::error::{BadRequest, parse};
use crate::multipart;
use serde::Deserialize;
use std::borrow::Cow;

/// Their paths. What a model does not serve, its engine refuses.
pub const PATHS: [&str; 9] = [
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/moderations",
    "/v1/rerank",
];

/// The path as one of [`PATHS`].
pub fn path(asked: &str) -> Option<&'static str> {
    PATHS.into_iter().find(|path| *path == asked)
}

/// The model that a body names, as JSON or as a form, whichever its type says.
pub fn model<'a>(content_type: &str, body: &'a [u8]) -> Result<Cow<'a, str>, BadRequest> {
    #[derive(Deserialize)]
    #[serde(expecting = "an object")]
    struct View<'a> {
        #[serde(borrow)]
        model: Cow<'a, str>,
    }
    if multipart::is_form(content_type) {
        let model = multipart::field(content_type, body, "model")?;
        return model.map(Cow::Borrowed).ok_or_else(|| BadRequest::Missing { param: "model".to_owned() });
    }
    parse::<View<'_>>(body).map(|view| view.model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_whatever_else_a_body_says() {
        let json = br#"{"input":["a"],"encoding_format":"base64","model":"m","n":{"odd":1}}"#;
        assert_eq!(model("application/json", json).unwrap(), "m");
        let error = model("application/json", br#"{"input":"a"}"#).unwrap_err().to_error();
        assert_eq!(error.param.as_deref(), Some("model"));
        assert!(model("application/json", br#"{"model":"a","model":"b"}"#).is_err());
    }

    #[test]
    fn a_path_is_known_as_it_is_or_not_at_all() {
        assert_eq!(path("/v1/embeddings"), Some("/v1/embeddings"));
        assert_eq!(path("/v1/embeddings/"), None);
        assert_eq!(path("/v1/audio"), None);
    }
}
