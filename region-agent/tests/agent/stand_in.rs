//! What runs as an engine: this very test program, started through a script.

use axum::Router;
use axum::body::Body;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const ARGUMENTS: &str = "STAND_IN_ARGUMENTS";

/// The engine. Run by an agent's launcher through a script; run as a test, it has nothing to do.
///
/// The body of a request is the address of a gate: the first event comes at once, the last when the gate opens,
/// which is when it closes the connection.
#[test]
#[ignore = "this is no test but the program that the other tests start"]
fn stand_in() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let listen = argument(&arguments, "--listen");
    assert_eq!(std::env::var("RHUMB_LIFELINE").unwrap(), "stdin");
    std::thread::spawn(|| {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
        std::process::exit(0);
    });
    let replica = argument(&arguments, "--replica");
    eprintln!("arguments: {arguments}");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let load = "boot=1 seq=1 state=serving kv_free=5";
        let pages = Router::new()
            .route(
                "/readyz",
                get(async move || ([(HeaderName::from_static("rhumb-replica"), replica)], "ok")),
            )
            .route("/livez", get(async || "ok"))
            .route("/rhumb/v1/load", get(async move || load))
            .route("/v1/chat/completions", post(answer));
        axum::serve(tokio::net::TcpListener::bind(listen).await.unwrap(), pages).await.unwrap();
    });
}

async fn answer(gate: String) -> ([(HeaderName, &'static str); 1], Body) {
    let first = stream::once(async { Ok::<_, std::io::Error>("data: first\n\n") });
    let last = stream::once(async move {
        TcpStream::connect(gate).await?.read_to_end(&mut Vec::new()).await?;
        Ok("data: [DONE]\n\n")
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(first.chain(last)))
}

fn argument(arguments: &str, flag: &str) -> String {
    arguments.split(' ').skip_while(|word| *word != flag).nth(1).unwrap().to_owned()
}

/// A program that runs as [`stand_in`].
pub fn program(dir: &Path) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let run = format!(
        "{ARGUMENTS}=\"$*\" exec {} --exact stand_in::stand_in --ignored --nocapture",
        this.display()
    );
    script(dir, "engine.sh", &run)
}

pub fn script(dir: &Path, name: &str, run: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{run}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}
