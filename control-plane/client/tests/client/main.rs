//! Everything that others do by way of the control plane, against members that play their part and others that do not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ask;
mod disk;
mod follow;
mod member;
mod renew;
mod warm;
