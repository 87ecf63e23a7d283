//! Who a process is, proven by certificates: names, the authority that signs them, TLS configurations.
//!
//! In reading order: [`name`] what a certificate says · [`authority`] who signs it · [`files`] how a role
//! keeps it · [`tls`] what follows for connections.

pub mod authority;
pub mod files;
pub mod name;
pub mod tls;

pub use authority::{Authority, AuthorityError};
pub use files::{Identity, LoadError};
pub use name::{BadIdentityName, Name, Role};
pub use tls::{PeerError, peer_name};
