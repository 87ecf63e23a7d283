//! Who may call what, and who may not come in at all.

use crate::subscriber::{Subscriber, Wish};
use crate::world::{CLUSTER, World, edge, name, operator};
use identity::{Name, Role};
use proto::v1;
use proto::v1::identity_client::IdentityClient;
use proto::v1::intent_client::IntentClient;
use proto::v1::raft_client::RaftClient;
use proto::v1::signal_client::SignalClient;
use tonic::{Code, Request, Status};

/// One call of each service, as far as whether it is allowed.
async fn calls(world: &World, name: &Name) -> Vec<(&'static str, Code)> {
    let channel = || world.channel(0, name);
    let code = |result: Result<(), Status>| result.err().map_or(Code::Ok, |status| status.code());
    let wish = Wish { kinds: vec!["node"], region: Some("us-east"), ..Wish::default() };
    let keys = Wish { kinds: vec!["key"], ..wish.clone() };
    let read = v1::ReadRequest { what: vec!["tenant".to_owned()] };
    let report = tokio_stream::iter([v1::NodeReport {
        region: name.region.to_string(),
        node: name.name.to_string(),
        ..Default::default()
    }]);
    let nothing = v1::PicturesRequest {};
    let mut vote = Request::new(v1::VoteRequest::default());
    let mut propose = Request::new(v1::ProposeRequest::default());
    for metadata in [vote.metadata_mut(), propose.metadata_mut()] {
        for (key, value) in [("rhumb-cluster", CLUSTER), ("rhumb-to", "1"), ("rhumb-member", "9")] {
            metadata.insert(key, value.parse().unwrap());
        }
    }
    vec![
        ("vote", code(RaftClient::new(channel()).vote(vote).await.map(drop))),
        ("propose", code(RaftClient::new(channel()).propose(propose).await.map(drop))),
        ("write", code(IntentClient::new(channel()).write(v1::WriteRequest::default()).await.map(drop))),
        ("read", code(IntentClient::new(channel()).read(read).await.map(drop))),
        ("status", code(IntentClient::new(channel()).status(v1::StatusRequest {}).await.map(drop))),
        ("subscribe", code(Subscriber::new(world, 0, name, wish).await.map(drop))),
        ("subscribe to keys", code(Subscriber::new(world, 0, name, keys).await.map(drop))),
        ("report", code(SignalClient::new(channel()).report(report).await.map(drop))),
        ("pictures", code(SignalClient::new(channel()).pictures(nothing).await.map(drop))),
        ("heard", code(SignalClient::new(channel()).heard(nothing).await.map(drop))),
        ("renew", code(IdentityClient::new(channel()).renew(v1::RenewRequest::default()).await.map(drop))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_role_is_refused_by_each_service() {
    let world = World::start().await;
    for (name, allowed) in [
        (operator(), &["write", "read", "status", "subscribe", "subscribe to keys", "pictures", "renew"][..]),
        (edge(1), &["subscribe", "subscribe to keys", "pictures", "renew"]),
        (name(Role::RegionAgent, "us-east", "n1"), &["subscribe", "report", "renew"]),
        // A member of the cluster's control plane that is no voter may not speak as one.
        (name(Role::ControlPlane, "us-east", "cp9"), &["write", "read", "status", "heard", "renew"]),
    ] {
        for (call, code) in calls(&world, &name).await {
            let is_allowed = code != Code::PermissionDenied;
            assert_eq!(is_allowed, allowed.contains(&call), "{name} {call}: {code:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_cluster_does_not_come_in() {
    let world = World::start().await;
    let stranger = Name { cluster: "c2".to_owned(), ..operator() };
    let answer = IntentClient::new(world.channel(0, &stranger)).status(v1::StatusRequest {}).await;
    assert!(answer.is_err(), "the connection is closed");
    let line = "rhumb_control_plane_connections_refused_total{reason=\"not-of-this-cluster\"}";
    assert!(world.metric(0, line).await >= 1.0);
}
