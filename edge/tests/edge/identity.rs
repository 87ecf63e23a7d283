//! Certificates that renew themselves under a running edge.

use crate::node::Act;
use crate::world::{EDGE, Scene, got, issue};
use time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_shown_the_renewed_certificate_and_streams_go_on() {
    let scene = Scene::set().await;
    issue(&scene.authority, EDGE, &scene.dir.path().join("edge"), Duration::seconds(10));
    let member = scene.member(scene.resources()).await;
    let world = scene.start(Some(&member)).await;
    world.until_ready().await;
    world.near.will([Act::WaitAfter(1)]);
    let running = world.begin("anyone", r#", "stream":true"#).await;
    assert_eq!((running.0, world.near.certificates()), (200, 1));
    let renewed = async {
        while world.near.certificates() < 2 {
            world.near.until_probed().await;
        }
    };
    let before_it_expires = std::time::Duration::from_secs(8);
    tokio::time::timeout(before_it_expires, renewed).await.expect("renewed in time");
    assert_eq!(world.ask("").await.status, 200);
    world.near.go_on();
    let got = got(running, || {}).await;
    assert!(got.whole && got.body.ends_with("data: [DONE]\n\n"), "{}", got.body);
}
