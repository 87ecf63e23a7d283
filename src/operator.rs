//! What operators type: reads and writes of intent, one noun a file.
//!
//! In reading order: [`context`] which cluster is meant and who asks · [`cluster`] reads and writes of it ·
//! [`tenant`], [`key`], [`model`], [`deployment`], [`region`] the nouns · [`drain`] of regions and nodes ·
//! [`document`] intent as a file · [`difference`] what a file would change · [`get`] and [`apply`] intent from and
//! to a file · [`confirm`] the last word before a change.

pub mod apply;
pub mod cluster;
pub mod confirm;
pub mod context;
pub mod deployment;
pub mod difference;
pub mod document;
pub mod drain;
pub mod get;
pub mod key;
pub mod model;
pub mod region;
pub mod tenant;

pub use context::At;
