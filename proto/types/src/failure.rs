//! Why an attempt failed, as an agent says it in the `rhumb-failure` header.

use std::fmt;
use std::str::FromStr;

/// An answer that carries one of these is the node's own word, never the model's: the edge tries elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The node's queue is at its bound.
    QueueFull,
    /// The node finishes what it has and takes nothing new.
    Draining,
    /// No untried replica of this version serves here now.
    NoReplica,
    /// The replica went away before it answered.
    ReplicaLost,
    /// The replica answered with a server error.
    ReplicaFailed,
    /// The request's deadline passed while it waited.
    DeadlinePassed,
    /// The request is not of a protocol version that this node speaks.
    Protocol,
}

impl Failure {
    pub const ALL: [Self; 7] = [
        Self::QueueFull,
        Self::Draining,
        Self::NoReplica,
        Self::ReplicaLost,
        Self::ReplicaFailed,
        Self::DeadlinePassed,
        Self::Protocol,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Draining => "draining",
            Self::NoReplica => "no-replica",
            Self::ReplicaLost => "replica-lost",
            Self::ReplicaFailed => "replica-failed",
            Self::DeadlinePassed => "deadline-passed",
            Self::Protocol => "protocol",
        }
    }

    /// The HTTP status that an agent answers with.
    pub fn status(self) -> u16 {
        match self {
            Self::QueueFull | Self::Draining | Self::NoReplica => 503,
            Self::ReplicaLost | Self::ReplicaFailed => 502,
            Self::DeadlinePassed => 504,
            Self::Protocol => 400,
        }
    }

    /// False where the node works as it should and merely has no room, no replica or no time left: no
    /// reason to think less of it. What it lacks shows in its load.
    pub fn is_fault(self) -> bool {
        match self {
            Self::QueueFull | Self::Draining | Self::NoReplica | Self::DeadlinePassed => false,
            Self::ReplicaLost | Self::ReplicaFailed | Self::Protocol => true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Failure {
    type Err = UnknownFailure;

    fn from_str(text: &str) -> Result<Self, UnknownFailure> {
        Self::ALL.into_iter().find(|failure| failure.as_str() == text).ok_or(UnknownFailure)
    }
}

/// A word of a newer agent; treat it as a fault of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an unknown failure")]
pub struct UnknownFailure;
