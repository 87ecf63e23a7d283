//! How long clients wait for an answer, as the operators of its model say.

use crate::node::{Act, TEXTS};
use crate::world::{Scene, World};
use std::time::{Duration, Instant};
use types::intent::{Model, Resource};

const STREAM: &str = r#", "stream":true"#;

async fn world(change: impl Fn(&mut Model)) -> World {
    let scene = Scene::set().await;
    let mut resources = scene.resources();
    for resource in &mut resources {
        if let Resource::Model(model) = resource {
            change(model);
        }
    }
    scene.store(&resources);
    scene.start(None).await
}

fn hangs() -> impl Iterator<Item = Act> {
    std::iter::repeat_n(Act::HangAfter(0), 6)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_token_is_waited_for_as_long_as_its_model_says() {
    let world = world(|model| model.first_token_seconds = Some(2)).await;
    world.near.will(hangs());
    world.far.will(hangs());
    let began = Instant::now();
    let got = world.ask(STREAM).await;
    let took = began.elapsed();
    assert!(got.status == 503 && got.body.contains("upstream_failed"), "{got:?}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(world.near.seen()[0].headers[types::header::DEADLINE_MS].len(), 4, "the node is told");
    assert_eq!(world.far.seen().len(), 1, "a third of it is late enough for a second attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stands_still_is_waited_for_as_long_as_its_model_says() {
    let world = world(|model| model.stall_seconds = Some(1)).await;
    world.near.will([Act::HangAfter(1)].into_iter().chain(hangs()));
    world.far.will(hangs());
    let began = Instant::now();
    let got = world.ask(STREAM).await;
    let took = began.elapsed();
    assert!(got.whole && got.body.contains(TEXTS[0]) && !got.body.contains("[DONE]"), "{got:?}");
    assert!(got.body.contains(r#""code":"stream_interrupted""#), "{got:?}");
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
}
