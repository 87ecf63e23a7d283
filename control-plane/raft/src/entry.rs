//! Commands as the log holds them.

use bytes::Bytes;
use prost::Message;
use proto::{BadMessage, v1};
use state::{Command, Stamped};
use types::UnixMs;
use types::intent::{Fault, Incarnation, Write};

/// A command that cannot be read. A voter that meets one halts: skipping it would make its state another one.
#[derive(Debug, thiserror::Error)]
pub enum BadCommand {
    #[error("it is no message")]
    NoMessage(#[source] prost::DecodeError),
    #[error("it is of a newer release, or damaged")]
    Unknown,
    #[error("a part of it has no meaning here")]
    Bad(#[source] BadMessage),
    #[error("its write has no meaning here: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    BadWrite(Vec<Fault>),
}

pub(crate) fn encode(stamped: &Stamped) -> Bytes {
    let command = match &stamped.command {
        Command::Found { cluster, incarnation } => {
            v1::command::Command::Found(v1::Found { cluster: cluster.clone(), incarnation: incarnation.0 })
        }
        Command::Write(write) => v1::command::Command::Write(write.into()),
    };
    v1::Command { unix_ms: stamped.at.0, command: Some(command) }.encode_to_vec().into()
}

pub(crate) fn decode(bytes: Bytes) -> Result<Stamped, BadCommand> {
    let wire = v1::Command::decode(bytes).map_err(BadCommand::NoMessage)?;
    let command = match wire.command.ok_or(BadCommand::Unknown)? {
        v1::command::Command::Found(found) => {
            if found.cluster.is_empty() {
                return Err(BadCommand::Bad(BadMessage::missing("found.cluster")));
            }
            Command::Found { cluster: found.cluster, incarnation: Incarnation(found.incarnation) }
        }
        v1::command::Command::Write(write) => {
            Command::Write(Write::try_from(write).map_err(BadCommand::BadWrite)?)
        }
    };
    Ok(Stamped { at: UnixMs(wire.unix_ms), command })
}
