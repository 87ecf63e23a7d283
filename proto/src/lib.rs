//! The gRPC contracts between the control plane and everybody else, and the conversion between what travels and
//! what is meant.
//!
//! The contracts are `rhumb/v1/*.proto`. In reading order: [`bad`] what cannot be believed · [`resource`] resources
//! and changes · [`write`] writes and why they are refused · [`signal`] what is measured.
//!
//! Converting from the wire checks what a type promises (names, digests, ranges of closed sets) and that every field
//! that must be there is there. Whether a value makes sense among others is the control plane's to say.

pub mod bad;
pub mod resource;
pub mod signal;
pub mod write;

/// The messages and services as they travel.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("rhumb.v1");
}

pub use bad::BadMessage;
