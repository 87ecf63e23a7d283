//! Waits until every part of a sandbox does its work.

use crate::sandbox::house_model;
use crate::sandbox::layout::{ENGINES_PER_REGION, Layout, Member, Role, Seat};
use crate::sandbox::probe::{self, ProbeError};
use crate::sandbox::progress::{Step, StepState};
use crate::sandbox::replicas::{self, ReplicaState};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::ApiKey;

/// Who was still not ready at the deadline.
#[derive(Debug, thiserror::Error)]
#[error("{member} is not ready after {} s: {waits_for}", START_MAX.as_secs())]
pub struct NotReady {
    pub member: Member,
    pub waits_for: String,
}

/// When patience with a start that begins now ends.
pub fn deadline() -> Instant {
    Instant::now() + START_MAX
}

/// Waits for all of them at once and tells each change.
pub async fn everything(layout: &Layout, key: &ApiKey, steps: mpsc::Sender<Step>) -> Result<(), NotReady> {
    let deadline = deadline();
    let engines = CancellationToken::new();
    let wait = |role| {
        let mut waits = JoinSet::new();
        for member in layout.members().filter(|member| member.role == role) {
            let seat = layout.seat(&member.region).expect("members come from the layout");
            waits.spawn(one(member, seat, key.clone(), engines.clone(), steps.clone(), deadline));
        }
        waits
    };
    let (agents, edges) = (wait(Role::RegionAgent), wait(Role::Edge));
    joined(agents).await?;
    engines.cancel();
    joined(edges).await
}

async fn joined(mut waits: JoinSet<Result<(), NotReady>>) -> Result<(), NotReady> {
    while let Some(waited) = waits.join_next().await {
        waited.expect("waiting neither panics nor is cancelled")?;
    }
    Ok(())
}

/// Waits for one part. An edge is asked for an answer once there are `engines` to give it.
pub async fn one(
    member: Member,
    seat: Seat,
    key: ApiKey,
    engines: CancellationToken,
    steps: mpsc::Sender<Step>,
    deadline: Instant,
) -> Result<(), NotReady> {
    let mut told = None;
    loop {
        let ready = match (now(member.role, &seat, &key).await, member.role) {
            (Ok(()), Role::Edge) if engines.is_cancelled() => answers(&seat, &key).await,
            (Ok(()), Role::Edge) => Err("no engine serves".to_owned()),
            (ready, _) => ready,
        };
        let state = ready.map_or_else(StepState::Waits, |()| StepState::Ready);
        if told.as_ref() != Some(&state) {
            // Who no longer listens has stopped waiting too.
            let _ = steps.send(Step { member: member.clone(), state: state.clone() }).await;
            told = Some(state.clone());
        }
        match state {
            StepState::Ready => return Ok(()),
            StepState::Waits(waits_for) if Instant::now() > deadline => {
                return Err(NotReady { member, waits_for });
            }
            StepState::Waits(_) => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

/// Whether a part is well, without work for anybody. The error says what it waits for.
pub async fn now(role: Role, seat: &Seat, key: &ApiKey) -> Result<(), String> {
    let page = probe::get(seat.admin(role), "/readyz", None).await;
    expect_ok("/readyz", page)?;
    match role {
        Role::RegionAgent => {
            let report = replicas::of(seat).await.map_err(|error| error.to_string())?;
            let serving = report.replicas.iter().filter(|one| one.state == ReplicaState::Serving).count();
            if serving < usize::from(ENGINES_PER_REGION) {
                return Err(format!("{serving} of {ENGINES_PER_REGION} engines serve"));
            }
            Ok(())
        }
        Role::Edge => expect_ok("/v1/models", probe::get(seat.edge_plain(), "/v1/models", Some(key)).await),
    }
}

/// Asks for a token as a client would. An edge may be well and yet not have heard of any engine; whoever is told
/// that all is ready must not be the one to find out.
async fn answers(seat: &Seat, key: &ApiKey) -> Result<(), String> {
    let model = house_model::NAME;
    let body =
        format!(r#"{{"model":"{model}","max_tokens":1,"messages":[{{"role":"user","content":"Hello"}}]}}"#);
    let path = "/v1/chat/completions";
    expect_ok(path, probe::post(seat.edge_plain(), path, key, body).await)
}

fn expect_ok(path: &str, answer: Result<(StatusCode, Bytes), ProbeError>) -> Result<(), String> {
    match answer {
        Ok((StatusCode::OK, _)) => Ok(()),
        Ok((status, body)) => Err(format!("{path} says {}", spoken(status, &body))),
        Err(error) => Err(error.to_string()),
    }
}

/// The status and what the body says about it, in one line.
fn spoken(status: StatusCode, body: &[u8]) -> String {
    let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
    let text = refusal.map_or_else(|| String::from_utf8_lossy(body).into_owned(), |body| body.error.message);
    let line: String = text.lines().next().unwrap_or_default().chars().take(LINE_SHOWN_MAX).collect();
    format!("{} {line}", status.as_u16()).trim_end().to_owned()
}

/// An error as OpenAI clients expect it.
#[derive(Deserialize)]
struct Refusal {
    error: RefusalError,
}

#[derive(Deserialize)]
struct RefusalError {
    message: String,
}

/// A start takes about a second; a cold disk and a busy host many more.
const START_MAX: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(100);
const LINE_SHOWN_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_by_its_message() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(spoken(status, b"draining\n"), "503 draining");
        assert_eq!(spoken(status, br#"{"error":{"message":"no region","code":"x"}}"#), "503 no region");
        assert_eq!(spoken(status, b""), "503");
        assert_eq!(spoken(status, &[b'x'; 999]).len(), 4 + LINE_SHOWN_MAX);
    }
}
