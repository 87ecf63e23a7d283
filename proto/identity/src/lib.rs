//! Who a process is, proven by certificates: names, the authority that signs them, TLS configurations.
//!
//! In reading order: [`name`] what a certificate says · [`authority`] who signs it · [`files`] how a role
//! keeps it · [`renewal`] how it gets another · [`tls`] what follows for connections · [`live`] connections that
//! follow each renewal · [`lobby`] where connections are before any of it is proven.

pub mod authority;
pub mod files;
pub mod live;
pub mod lobby;
pub mod name;
pub mod renewal;
pub mod tls;

pub use authority::{Authority, AuthorityError, CERTIFICATE_LIFE, SignError};
pub use files::{Identity, LoadError};
pub use live::Live;
pub use lobby::{Guest, Lobby};
pub use name::{BadIdentityName, Name, Role};
pub use renewal::{Renewal, RenewalError};
pub use tls::{PeerError, peer_name};
