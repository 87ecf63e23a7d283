//! Writes on the wire, and why they are refused.

use crate::bad::{BadMessage, parse};
use crate::v1;
use types::intent::{Change, ClientId, Expect, Fault, Reason, ResourceId, Revision, What, Write};

impl From<&Write> for v1::WriteRequest {
    fn from(write: &Write) -> Self {
        Self {
            client: write.client.0.to_vec().into(),
            sequence: write.sequence,
            changes: write.changes.iter().map(Into::into).collect(),
            expects_shrink: write.expects_shrink,
        }
    }
}

impl From<&Change> for v1::Change {
    fn from(change: &Change) -> Self {
        let what = match &change.what {
            What::Put(resource) => v1::change::What::Put(resource.into()),
            What::Delete(id) => v1::change::What::Delete(id.to_string()),
        };
        let expect = match change.expect {
            Expect::Anything => None,
            Expect::Absent => Some(v1::change::Expect::Absent(true)),
            Expect::Revision(revision) => Some(v1::change::Expect::Revision(revision.0)),
        };
        Self { what: Some(what), expect }
    }
}

/// Everything that is wrong with the form of a write, so that a client mends it at once.
impl TryFrom<v1::WriteRequest> for Write {
    type Error = Vec<Fault>;

    fn try_from(wire: v1::WriteRequest) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let client = match <[u8; 16]>::try_from(wire.client.as_ref()) {
            Ok(client) => ClientId(client),
            Err(_) => {
                let text = format!("has {} bytes, not 16", wire.client.len());
                faults.push(fault("write", "client", Reason::Malformed { text }));
                ClientId([0; 16])
            }
        };
        let mut changes = Vec::new();
        for (at, change) in wire.changes.into_iter().enumerate() {
            match Change::try_from(change) {
                Ok(change) => changes.push(change),
                Err(bad) => faults.push(bad_change(at, bad)),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self { client, sequence: wire.sequence, changes, expects_shrink: wire.expects_shrink })
    }
}

impl TryFrom<v1::Change> for Change {
    type Error = BadMessage;

    fn try_from(wire: v1::Change) -> Result<Self, BadMessage> {
        let expect = match wire.expect {
            None => Expect::Anything,
            Some(v1::change::Expect::Absent(true)) => Expect::Absent,
            Some(v1::change::Expect::Absent(false)) => {
                return Err(BadMessage::malformed("expect", "absent is true or left out"));
            }
            Some(v1::change::Expect::Revision(revision)) => Expect::Revision(Revision(revision)),
        };
        let what = match wire.what {
            Some(v1::change::What::Put(resource)) => What::Put(resource.try_into()?),
            Some(v1::change::What::Delete(id)) => What::Delete(parse::<ResourceId>("delete", &id)?),
            None => return Err(BadMessage::missing("put or delete")),
        };
        Ok(Self { expect, what })
    }
}

impl From<&Fault> for v1::Fault {
    fn from(fault: &Fault) -> Self {
        Self {
            subject: fault.subject.clone(),
            field: fault.field.clone(),
            reason: serde_json::to_string(&fault.reason).expect("plain data serialises"),
        }
    }
}

impl From<v1::Fault> for Fault {
    /// A reason of a newer control plane is kept as its text.
    fn from(wire: v1::Fault) -> Self {
        let reason = serde_json::from_str(&wire.reason).unwrap_or(Reason::Malformed { text: wire.reason });
        Self { subject: wire.subject, field: wire.field, reason }
    }
}

fn bad_change(at: usize, bad: BadMessage) -> Fault {
    let reason = if bad.is_missing { Reason::Missing } else { Reason::Malformed { text: bad.reason } };
    fault(&format!("changes[{at}]"), &bad.field, reason)
}

fn fault(subject: &str, field: &str, reason: Reason) -> Fault {
    Fault { subject: subject.to_owned(), field: field.to_owned(), reason }
}
