//! How everybody else lives from the control plane, and without it.
//!
//! In reading order: [`members`] where the members are · [`dial`] connections to them under mutual TLS, [`warm`] those
//! that are held ready · [`picture`] what intent looks like from outside · `believe` what is believed of it ·
//! [`last_good`] kept on disk · `keep` when it is written there · [`follow`] all of it together, for one consumer ·
//! [`signal`] reports of load, both ways · [`operator`] reads and writes · [`renew`] certificates that renew themselves.

mod believe;
pub mod dial;
pub mod follow;
mod keep;
pub mod last_good;
pub mod members;
pub mod operator;
pub mod picture;
pub mod renew;
pub mod signal;
pub mod warm;

pub use dial::Dialer;
pub use follow::{Follower, Interest, OpenError, Patience, Standing};
pub use members::MemberAddress;
pub use operator::{Operator, OperatorError};
pub use picture::{Changed, Event, Picture};
pub use warm::WarmChannel;
