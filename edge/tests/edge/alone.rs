//! An edge without a control plane: what it serves from its disk, and what it says without one.

use crate::intent::{MODEL_CREATED, ROUTING, TENANTS, key_of};
use crate::member::Change;
use crate::world::{Scene, World};
use tokio_util::sync::CancellationToken;
use types::UnixMs;
use types::intent::{Key, Resource};

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_without_any_picture_says_what_it_waits_for() {
    let scene = Scene::set().await;
    let world = scene.start(None).await;
    assert_eq!(world.admin("/livez").await.status, 200);
    let ready = world.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("routing table") && ready.body.contains("tenant table"), "{}", ready.body);
    let got = world.ask("").await;
    assert_eq!(got.status, 503);
    assert!(got.body.contains("not_ready") && got.body.contains("no tenant table yet"), "{}", got.body);
    assert!(got.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_pictures_are_independent() {
    let scene = Scene::set().await;
    let resources = scene.resources();
    scene.store_interest("tenants", &TENANTS, &resources);
    // An edge cannot stand in a region that its picture does not have.
    let elsewhere: Vec<Resource> =
        resources.into_iter().filter(|resource| resource.id().to_string() != "region/us-east").collect();
    scene.store_interest("routing", &ROUTING, &elsewhere);
    let world = scene.start(None).await;
    let ready = world.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(!ready.body.contains("tenant table"), "{}", ready.body);
    assert!(ready.body.contains("region us-east, where this edge stands"), "{}", ready.body);
    let got = world.ask("").await;
    assert!(got.status == 503 && got.body.contains("no routing table yet"), "{}", got.body);
}

/// As when it is started again while the one before still drains.
#[tokio::test]
async fn a_start_that_finds_its_port_taken_is_held_against_no_picture() {
    let scene = Scene::set().await;
    scene.store(&scene.resources());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = edge::File { admin: taken.local_addr().unwrap(), ..scene.file(None) };
    let prepared = edge::prepare(edge::Config::try_from(file).unwrap()).unwrap_or_else(|_| panic!());
    let ended = edge::run(prepared, CancellationToken::new()).await;
    assert!(matches!(ended, Err(edge::StartError::Listen { .. })), "{ended:?}");
    for interest in ["routing", "tenants"] {
        let kept = std::fs::read_dir(scene.dir.path().join("data").join(interest)).unwrap();
        let kept: Vec<_> = kept.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_live_is_served_from_disk_when_everything_else_is_dead() {
    let (world, member) = World::live().await;
    let late = Key { tenant: "anyone".parse().unwrap(), ..key_of("late") };
    member.change(vec![Change::Put(Resource::Key(late))]).await.unwrap();
    let scene = world.stop().await;
    drop(member);
    let began = std::time::Instant::now();
    let world = scene.start(None).await;
    assert_eq!(world.admin("/readyz").await.status, 200, "ready as soon as it listens");
    assert_eq!(world.ask_as("late", "").await.status, 200);
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_expire_and_keep_to_their_scope_without_a_control_plane() {
    let scene = Scene::set().await;
    let mut resources = scene.resources();
    let of_anyone = |name: &str| Key { tenant: "anyone".parse().unwrap(), ..key_of(name) };
    let expired = Key { expires_unix_ms: Some(UnixMs(1_000)), ..of_anyone("short") };
    let scoped = Key { models: Some(vec!["another".parse().unwrap()]), ..of_anyone("scoped-key") };
    resources.extend([expired, scoped].map(Resource::Key));
    scene.store(&resources);
    let world = scene.start(None).await;

    let got = world.ask_as("short", "").await;
    assert_eq!(got.status, 401);
    assert!(got.body.contains("invalid_api_key") && got.body.contains("expired"), "{}", got.body);

    for got in [world.ask_as("scoped-key", "").await, world.get("scoped-key", "/v1/models/m").await] {
        assert_eq!(got.status, 403);
        assert!(got.body.contains(r#""type":"invalid_request_error""#), "{}", got.body);
        assert!(got.body.contains(r#""code":"model_not_allowed""#), "{}", got.body);
    }
    assert!(world.near.seen().is_empty() && world.far.seen().is_empty());
    let names = |body: &str| {
        let list: serde_json::Value = serde_json::from_str(body).unwrap();
        let models = list["data"].as_array().unwrap().clone();
        assert!(models.iter().all(|model| model["created"] == MODEL_CREATED), "{body}");
        models.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&world.get("scoped-key", "/v1/models").await.body), ["another"]);
    assert_eq!(names(&world.get("anyone", "/v1/models").await.body), ["another", "m"]);
}
