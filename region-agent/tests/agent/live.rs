//! An agent with its control plane: it does what it hears, says so, and remembers it.

use crate::member::Member;
use crate::restart::run;
use crate::world::{World, ended, free_addresses, issue_in, one_replica, this_node, tiny, version, within};
use proto::v1::subscriber_message::Message;
use types::LoadState;

#[tokio::test]
async fn an_agent_follows_its_intent_and_reports_its_load() {
    let mut world = World::without_intent();
    let authority = issue_in(&world.file.identity, "n1");
    let all = [this_node(), tiny(), one_replica()];
    let mut member = Member::new(&authority, world.dir.path(), &all).await;
    world.file.control_plane = vec![member.address.clone()];
    let (shutdown, agent) = run(&world);

    let subscribe = within(member.subscriptions.recv()).await.unwrap();
    assert_eq!((&*subscribe.cluster, subscribe.region.as_deref()), ("c1", Some("us-east")));
    assert_eq!(subscribe.kinds, ["node", "model", "version", "deployment"]);
    let page = world.until("us-east/n1/0-0", "serving").await;
    assert_eq!((&page["revision"], &page["live"]), (&1.into(), &true.into()));
    within(async {
        loop {
            let report = member.reports.recv().await.unwrap();
            assert_eq!(report.node.to_string(), "us-east/n1");
            if report.loads.iter().any(|(of, load)| *of == version(7) && load.state == LoadState::Serving) {
                break;
            }
        }
    })
    .await;

    assert_eq!(member.said().await, Message::Ack(1));
    member.send(2, &[this_node(), tiny()]);
    assert_eq!(member.said().await, Message::Ack(2));
    world.until_page(|page| page["replicas"].as_array().is_some_and(Vec::is_empty)).await;
    // What cannot be run is refused, and changes nothing.
    member.send(3, &[this_node(), one_replica()]);
    let Message::Nack(nack) = member.said().await else { panic!("it is accepted") };
    assert!(nack.error.contains("there is no version/"), "{}", nack.error);
    assert_eq!(world.replicas().await.unwrap()["revision"], 2);
    shutdown.cancel();
    ended(agent).await;

    // Without the member it is as it was.
    drop(member);
    let [nobody] = free_addresses();
    world.file.control_plane[0].address = nobody.parse().unwrap();
    let (shutdown, agent) = run(&world);
    world.until_page(|page| page["revision"] == 2 && page["live"] == false).await;
    shutdown.cancel();
    ended(agent).await;
}
