//! What became of a request can be asked of any edge.

use crate::world::{Running, SOON, Scene, World, free_addresses, page, run};
use edge::File;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Two edges that know each other, and whom else the second one knows; and the second one's admin address.
async fn two_edges(more: Vec<SocketAddr>) -> (World, Running, SocketAddr) {
    let scene = Scene::set().await;
    scene.store(&scene.resources());
    let mut file = scene.file(None);
    let [listen, admin] = free_addresses();
    let second = File {
        name: "e2".parse().unwrap(),
        listen: Some(listen),
        admin,
        data: scene.dir.path().join("second"),
        other_edges: [vec![file.admin], more].concat(),
        ..file.clone()
    };
    file.other_edges = vec![admin];
    let second = run(second);
    let world = scene.start_as(file).await;
    while tokio::net::TcpStream::connect(admin).await.is_err() {
        assert!(!second.run.is_finished(), "{:?}", second.run.await);
        tokio::task::yield_now().await;
    }
    (world, second, admin)
}

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_edge_tells_of_a_request_that_another_had() {
    let (world, _second, second) = two_edges(Vec::new()).await;
    let got = world.ask(r#", "stream":true"#).await;
    let path = format!("/requests/{}", got.headers["x-request-id"].to_str().unwrap());
    let ended = async {
        loop {
            let told = page(second, &path).await;
            // The client has its answer a moment before the edge has written down that it does.
            if told.status != 200 || !json(&told.body)["ended"].is_null() {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(SOON, ended).await.expect("written down soon");
    assert_eq!((told.status, &json(&told.body)["edge"]), (200, &"us-east/e1".into()), "{}", told.body);
    assert_eq!(json(&told.body)["ended"]["ended"], "complete");
    assert_eq!(told.headers["content-type"], "application/json");

    let only_here = page(second, &format!("{path}?only_here=true")).await;
    assert_eq!(
        (only_here.status, &json(&only_here.body)["error"]["code"]),
        (404, &"request_not_found".into())
    );
    assert_eq!(page(second, &format!("{path}?only-here=true")).await.status, 400);

    // Each lists the other: a question that were asked on for ever would find neither an end nor an answer.
    let unknown = page(second, "/requests/chatcmpl-00000000000000000000000000000000").await;
    assert_eq!((unknown.status, &json(&unknown.body)["error"]["code"]), (404, &"request_not_found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_not_be_asked_is_named() {
    let [gone] = free_addresses();
    // Takes connections, and says nothing.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = hanging.local_addr().unwrap();
    let (world, _second, second) = two_edges(vec![gone, hangs]).await;
    let unknown = page(second, "/requests/chatcmpl-00000000000000000000000000000000").await;
    let error = &json(&unknown.body)["error"];
    assert_eq!((unknown.status, &error["code"]), (502, &"edges_silent".into()), "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&gone.to_string()) && message.contains(&hangs.to_string()), "{message}");
    assert!(!message.contains(&world.file().admin.to_string()), "it answered: {message}");

    // Nor does anybody wait for them who asks for what others know.
    let got = world.ask("").await;
    let path = format!("/requests/{}", got.headers["x-request-id"].to_str().unwrap());
    let asked = std::time::Instant::now();
    assert_eq!(page(second, &path).await.status, 200);
    assert!(asked.elapsed().as_millis() < 1_000, "{:?}", asked.elapsed());
}
