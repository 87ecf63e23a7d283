//! What a change of the intent does to replicas, and to those whom they serve.

use crate::house::{Gate, House, chunk, failure, open_gate, replica, rest, share};
use crate::world::{version, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use types::LoadState;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn changed_settings_fail_nobody() {
    let mut house = House::new(4, LONG).await;
    house.want(&[share(7, 8, 1)]);
    house.until_places(&[(0, "serving")]).await;
    let gate = Gate::new().await;
    let mut running = house.edge.ask(7, &gate.address).await;
    assert_eq!(replica(&running), "us-east/n1/0-0");
    assert_eq!(&chunk(&mut running).await[..], b"data: first\n\n");

    house.want(&[share(7, 4, 1)]);
    // Asked at every moment of the change, the node has an answer.
    let open = open_gate().await;
    loop {
        let answer = house.edge.ask(7, &open).await;
        assert_eq!(answer.status(), 200, "{}", failure(&answer));
        let by = replica(&answer).to_owned();
        rest(answer).await.unwrap();
        if by == "us-east/n1/1-0" {
            break;
        }
        assert_eq!(by, "us-east/n1/0-0");
    }
    let board = house.until_places(&[(0, "draining"), (1, "serving")]).await;
    assert_eq!(board.places[&1].place.recipe.slots, 4);
    assert_eq!(house.node.load(version(7)).unwrap().state, LoadState::Serving);

    within(gate.open()).await;
    assert_eq!(&rest(running).await.unwrap()[..], b"data: [DONE]\n\n");
    house.until_places(&[(1, "serving")]).await;
}

#[tokio::test]
async fn what_is_still_wanted_is_not_touched() {
    let mut house = House::new(4, LONG).await;
    house.want(&[share(7, 8, 1)]);
    let before = house.until_places(&[(0, "serving")]).await;
    house.want(&[share(7, 8, 3)]);
    house.until_places(&[(0, "serving"), (1, "serving"), (2, "serving")]).await;
    house.want(&[share(7, 8, 1)]);
    let after = house.until_places(&[(0, "serving")]).await;
    assert_eq!((after.places[&0].pid, after.places[&0].starts), (before.places[&0].pid, 1));
}

#[tokio::test]
async fn a_version_that_goes_finishes_and_comes_back_as_another_replica() {
    let mut house = House::new(4, LONG).await;
    house.want(&[share(7, 1, 1)]);
    house.until_places(&[(0, "serving")]).await;
    let gate = Gate::new().await;
    let mut running = house.edge.ask(7, &gate.address).await;
    chunk(&mut running).await;
    let waits = async {
        let waiting = house.edge.ask(7, &gate.address).await;
        (waiting.status().as_u16(), failure(&waiting).to_owned())
    };
    let goes = async {
        while house.node.load(version(7)).unwrap().queued == 0 {
            tokio::task::yield_now().await;
        }
        house.want(&[]);
    };
    let (waited, ()) = tokio::join!(waits, goes);
    assert_eq!(waited, (503, "no-replica".to_owned()));
    house.until_places(&[(0, "draining")]).await;
    assert_eq!(house.node.load(version(7)).unwrap().state, LoadState::Draining);
    assert_eq!(failure(&house.edge.ask(7, &gate.address).await), "no-replica");

    within(gate.open()).await;
    assert_eq!(&rest(running).await.unwrap()[..], b"data: [DONE]\n\n");
    house.until_places(&[]).await;
    assert_eq!(house.node.loads(), []);

    house.want(&[share(7, 1, 1)]);
    let back = house.until_places(&[(0, "serving")]).await;
    assert_eq!(back.places[&0].replica.as_ref().unwrap().to_string(), "us-east/n1/0-1");
}

#[tokio::test]
async fn without_a_free_place_the_new_one_waits_for_the_old_one_s_end() {
    let mut house = House::new(1, LONG).await;
    house.want(&[share(7, 8, 1)]);
    house.until_places(&[(0, "serving")]).await;
    let gate = Gate::new().await;
    let mut running = house.edge.ask(7, &gate.address).await;
    chunk(&mut running).await;
    house.want(&[share(8, 8, 1)]);
    house.until(|board| board.waiting == [share(8, 8, 1)]).await;
    house.until_places(&[(0, "draining")]).await;
    within(gate.open()).await;
    rest(running).await.unwrap();
    let board = house.until_places(&[(0, "serving")]).await;
    assert_eq!((board.waiting_count(), board.wanted), (0, 1));
    assert_eq!(board.places[&0].replica.as_ref().unwrap().to_string(), "us-east/n1/0-1");
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let mut house = House::new(4, Duration::from_millis(100)).await;
    house.want(&[share(7, 8, 1)]);
    house.until_places(&[(0, "serving")]).await;
    let gate = Gate::new().await;
    let mut running = house.edge.ask(7, &gate.address).await;
    chunk(&mut running).await;
    house.want(&[]);
    rest(running).await.unwrap_err();
    house.until_places(&[]).await;
}

#[tokio::test]
async fn an_engine_that_hangs_or_dies_breaks_its_streams_off_at_once() {
    // A hang is found by three probes in a row; a death by its connection.
    for (signal, bound) in [(Signal::SIGSTOP, 2500), (Signal::SIGKILL, 1000)] {
        let mut house = House::new(1, LONG).await;
        house.want(&[share(7, 8, 1)]);
        let board = house.until_places(&[(0, "serving")]).await;
        let gate = Gate::new().await;
        let mut running = house.edge.ask(7, &gate.address).await;
        chunk(&mut running).await;
        let engine = Pid::from_raw(board.places[&0].pid.unwrap().try_into().unwrap());
        let begun = Instant::now();
        kill(engine, signal).unwrap();
        rest(running).await.expect_err("a clean end would mean that all is well");
        assert!(begun.elapsed() < Duration::from_millis(bound), "{signal}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_agent_that_ends_lets_its_engines_finish() {
    let mut house = House::new(4, LONG).await;
    house.want(&[share(7, 8, 2)]);
    house.until_places(&[(0, "serving"), (1, "serving")]).await;
    let gate = Gate::new().await;
    let mut running = house.edge.ask(7, &gate.address).await;
    chunk(&mut running).await;
    house.drain.cancel();
    house.until_places(&[(0, "draining")]).await;
    within(gate.open()).await;
    assert_eq!(&rest(running).await.unwrap()[..], b"data: [DONE]\n\n");
    within(house.places).await.unwrap();
}
