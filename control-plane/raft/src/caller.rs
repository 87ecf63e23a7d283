//! Who calls whom: what every call between members carries, and what is refused for it.

use crate::Member;
use crate::standing::{Boot, Boots, Failure, Heard, superseded};
use identity::{Name, Role};
use std::sync::Arc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tracing::warn;

/// This process among the members.
pub(crate) struct Ourselves {
    pub cluster: String,
    pub id: u64,
    pub members: Vec<Member>,
    pub boot: Boot,
    pub boots: Boots,
    pub failure: Failure,
    pub heard: Heard,
}

impl Ourselves {
    pub(crate) fn member(&self, id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Whether a certificate is that of a member: of this cluster, of its role, and with its host name.
    pub(crate) fn is_named(&self, member: &Member, name: &Name) -> bool {
        name.cluster == self.cluster
            && name.role == Role::ControlPlane
            && name.host_name() == member.server_name
    }

    /// Lets a call in, or says why not. Returns the caller.
    pub(crate) fn admit<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        let metadata = request.metadata();
        let cluster = text(metadata, CLUSTER)?;
        if cluster != self.cluster {
            let text = format!("this is a member of cluster {}, not {cluster}", self.cluster);
            return Err(Status::failed_precondition(text));
        }
        let to: u64 = number(metadata, TO)?;
        if to != self.id {
            return Err(Status::failed_precondition(format!("this is member {}, not {to}", self.id)));
        }
        let caller: u64 = number(metadata, MEMBER)?;
        let member = self.member(caller).filter(|member| member.id != self.id);
        let member = member.ok_or_else(|| {
            Status::permission_denied(format!("{caller} is no other member that this one knows"))
        })?;
        let name = request.extensions().get::<Name>();
        if !name.is_some_and(|name| self.is_named(member, name)) {
            return Err(Status::permission_denied(format!("the certificate is not that of member {caller}")));
        }
        let boot = text(metadata, BOOT)?.parse::<Boot>();
        let boot = boot.map_err(|()| Status::invalid_argument(format!("{BOOT} is malformed")))?;
        if !self.boots.hear(caller, boot) {
            return Err(superseded_status(caller));
        }
        // The caller has heard of a process that runs as us and is newer.
        let known: Option<Boot> = metadata.get(TO_BOOT).and_then(|known| known.to_str().ok()?.parse().ok());
        if known.is_some_and(|known| known > self.boot) {
            self.failure.set(superseded(self.id));
            return Err(Status::unavailable("another process runs as this member"));
        }
        Ok(caller)
    }

    /// Hears from a peer's refusal whether this process may go on.
    pub(crate) fn hear_refusal(&self, from: u64, status: &Status) {
        if status.metadata().get(REFUSED).is_some_and(|refused| refused == SUPERSEDED) {
            self.failure.set(superseded(self.id));
        } else if matches!(
            status.code(),
            tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied | tonic::Code::InvalidArgument
        ) {
            warn!(member = from, error = status.message(), "a member refused us");
        }
    }
}

/// Writes on each call who makes it and whom it means.
#[derive(Clone)]
pub(crate) struct Seal {
    pub ourselves: Arc<Ourselves>,
    pub to: u64,
}

impl Interceptor for Seal {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Self { ourselves, to } = self;
        let metadata = request.metadata_mut();
        let mut put = |key: &'static str, value: String| {
            let value = AsciiMetadataValue::try_from(value);
            let value = value.map_err(|_| Status::internal("the cluster's name cannot travel"))?;
            metadata.insert(key, value);
            Ok::<_, Status>(())
        };
        put(CLUSTER, ourselves.cluster.clone())?;
        put(MEMBER, ourselves.id.to_string())?;
        put(TO, to.to_string())?;
        put(BOOT, ourselves.boot.to_string())?;
        if let Some(known) = ourselves.boots.newest(*to) {
            put(TO_BOOT, known.to_string())?;
        }
        Ok(request)
    }
}

fn superseded_status(member: u64) -> Status {
    let mut status = Status::failed_precondition(format!("another process runs as member {member}"));
    status.metadata_mut().insert(REFUSED, AsciiMetadataValue::from_static(SUPERSEDED));
    status
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Result<&'a str, Status> {
    let value = metadata.get(key).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| Status::invalid_argument(format!("{key} is missing")))
}

fn number(metadata: &MetadataMap, key: &str) -> Result<u64, Status> {
    text(metadata, key)?.parse().map_err(|_| Status::invalid_argument(format!("{key} is no number")))
}

const CLUSTER: &str = "rhumb-cluster";
const MEMBER: &str = "rhumb-member";
const TO: &str = "rhumb-to";
const BOOT: &str = "rhumb-boot";
/// The newest start of the called member that the caller has heard of, if any.
const TO_BOOT: &str = "rhumb-to-boot";
const REFUSED: &str = "rhumb-refused";
const SUPERSEDED: &str = "superseded";

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn member(id: u64) -> Member {
        let server_name = format!("m{id}.control-plane.us-east.rhumb.internal");
        let address = "127.0.0.1:1".parse().unwrap();
        Member { id, region: "us-east".parse().unwrap(), address, server_name }
    }

    fn ourselves(id: u64, unix_ms: u64) -> Arc<Ourselves> {
        Arc::new(Ourselves {
            cluster: "c1".to_owned(),
            id,
            members: (1..=3).map(member).collect(),
            boot: Boot { unix_ms, random: 0 },
            boots: Boots::default(),
            failure: Failure::new(),
            heard: Heard::now(),
        })
    }

    /// A call from `from` to member `to`, under the certificate with this URI.
    fn call(from: &Arc<Ourselves>, to: u64, uri: &str) -> Request<()> {
        let mut request = Seal { ourselves: from.clone(), to }.call(Request::new(())).unwrap();
        request.extensions_mut().insert(uri.parse::<Name>().unwrap());
        request
    }

    const M1: &str = "spiffe://c1/us-east/control-plane/m1";

    #[test]
    fn only_the_member_itself_is_let_in() {
        let (us, them) = (ourselves(2, 10), ourselves(1, 10));
        assert_eq!(us.admit(&call(&them, 2, M1)).unwrap(), 1);
        let refused = |request: Request<()>| us.admit(&request).unwrap_err().code();
        for other in [
            "spiffe://c1/us-east/control-plane/m3",
            "spiffe://c1/us-east/edge/m1",
            "spiffe://c2/us-east/control-plane/m1",
        ] {
            assert_eq!(refused(call(&them, 2, other)), Code::PermissionDenied, "{other}");
        }
        let mut nameless = call(&them, 2, M1);
        nameless.extensions_mut().remove::<Name>();
        assert_eq!(refused(nameless), Code::PermissionDenied);
        assert_eq!(refused(call(&them, 3, M1)), Code::FailedPrecondition, "it means another");
        let stranger = ourselves(4, 10);
        assert_eq!(refused(call(&stranger, 2, M1)), Code::PermissionDenied);
        assert_eq!(refused(call(&ourselves(2, 10), 2, M1)), Code::PermissionDenied, "it is our own id");
        let mut elsewhere = call(&them, 2, M1);
        elsewhere.metadata_mut().insert(CLUSTER, AsciiMetadataValue::from_static("c2"));
        assert_eq!(refused(elsewhere), Code::FailedPrecondition);
        for key in [CLUSTER, MEMBER, TO, BOOT] {
            let mut without = call(&them, 2, M1);
            without.metadata_mut().remove(key);
            assert_eq!(refused(without), Code::InvalidArgument, "{key}");
        }
    }

    #[tokio::test]
    async fn of_two_processes_of_one_member_the_older_hears_that_it_must_stop() {
        let (us, old, new) = (ourselves(2, 10), ourselves(1, 10), ourselves(1, 11));
        us.admit(&call(&old, 2, M1)).unwrap();
        us.admit(&call(&new, 2, M1)).unwrap();
        let refusal = us.admit(&call(&old, 2, M1)).unwrap_err();
        assert_eq!(
            (refusal.code(), refusal.message()),
            (Code::FailedPrecondition, "another process runs as member 1")
        );
        old.hear_refusal(2, &refusal);
        assert!(old.failure.wait().await.contains("another process runs as member 1"));
        us.admit(&call(&new, 2, M1)).unwrap();
    }

    #[tokio::test]
    async fn an_older_process_that_is_called_hears_it_too() {
        let (us, old, new) = (ourselves(2, 10), ourselves(1, 10), ourselves(1, 11));
        us.admit(&call(&new, 2, M1)).unwrap();
        let request = call(&us, 1, "spiffe://c1/us-east/control-plane/m2");
        assert_eq!(new.admit(&request).unwrap(), 2);
        assert_eq!(old.admit(&request).unwrap_err().code(), Code::Unavailable);
        assert!(old.failure.wait().await.contains("another process runs as member 1"));
    }
}
