//! Reports on their way from agents to edges, through members.

use crate::world::{World, edge, eventually, name};
use identity::Role;
use proto::v1;
use proto::v1::signal_client::SignalClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

fn report(region: &str, node: &str) -> v1::NodeReport {
    v1::NodeReport { region: region.to_owned(), node: node.to_owned(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_to_one_member_every_member_tells() {
    let world = World::of(3, |_| {}).await;
    let agent = name(Role::RegionAgent, "us-east", "n1");
    let (say, said) = mpsc::channel(4);
    let mut to_first = SignalClient::new(world.channel(0, &agent));
    let reporting = tokio::spawn(async move { to_first.report(ReceiverStream::new(said)).await });
    let mut edge = SignalClient::new(world.channel(2, &edge(1)));
    let mut pictures = edge.pictures(v1::PicturesRequest {}).await.unwrap().into_inner();
    eventually("the report comes through another member", async || {
        say.send(report("us-east", "n1")).await.unwrap();
        let picture = pictures.message().await.unwrap().unwrap();
        picture.reports.iter().any(|report| report.node == "n1" && report.age_ms <= 5_000)
    })
    .await;
    drop(say);
    reporting.await.unwrap().unwrap();
    eventually("who is silent becomes unknown", async || {
        pictures.message().await.unwrap().unwrap().reports.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_speaks_for_its_own_node_alone() {
    let world = World::start().await;
    let agent = name(Role::RegionAgent, "us-east", "n1");
    for wrong in [report("us-east", "n2"), report("eu-west", "n1")] {
        let reports = tokio_stream::iter([report("us-east", "n1"), wrong]);
        let refused = SignalClient::new(world.channel(0, &agent)).report(reports).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    let nameless = tokio_stream::iter([report("", "n1")]);
    let refused = SignalClient::new(world.channel(0, &agent)).report(nameless).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(world.metric(0, "rhumb_control_plane_reports_total").await, 2.0);
}
