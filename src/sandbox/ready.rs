//! Waits until every part of a sandbox does its work: first the voters, which are then told what is wanted; then
//! the agents, whose engines follow from that; then the edges, which must answer.

use crate::failure;
use crate::operator::{cluster, context};
use crate::sandbox::house_model;
use crate::sandbox::layout::{Layout, Member, Role, Seat};
use crate::sandbox::paths::Paths;
use crate::sandbox::probe::{self, ProbeError};
use crate::sandbox::progress::{Step, StepState};
use crate::sandbox::replicas;
use crate::sandbox::seed::{Answers, Current, Goal, Seed};
use bytes::Bytes;
use client::Operator;
use http::StatusCode;
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::intent::Kind;
use types::{ApiKey, RegionName};

/// Who could not be made ready.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct NotReady {
    pub member: Member,
    pub problem: String,
}

/// A sandbox whose processes have been started.
pub struct Begun {
    pub layout: Layout,
    pub paths: Paths,
    pub key: ApiKey,
    pub seed: Seed,
}

/// What a part is measured by.
#[derive(Clone)]
pub struct Trial {
    pub key: ApiKey,
    /// None while the intent is not written yet.
    pub goal: watch::Receiver<Option<Goal>>,
    /// There are engines to answer what an edge is asked.
    pub engines: CancellationToken,
    /// Enough voters run to have a leader; else one that lives is as well as it can be.
    pub has_quorum: bool,
}

impl Trial {
    /// For a part of a sandbox that was ready before.
    pub fn of_one(key: ApiKey, goal: Goal, has_quorum: bool) -> Self {
        let engines = CancellationToken::new();
        // Engines of any region will do, and the others are there already.
        engines.cancel();
        Self { key, goal: watch::channel(Some(goal)).1, engines, has_quorum }
    }
}

/// When patience with a start that begins now ends.
pub fn deadline() -> Instant {
    Instant::now() + START_MAX
}

/// Waits for all of them at once and tells each change.
pub async fn everything(begun: Begun, steps: mpsc::Sender<Step>) -> Result<(), NotReady> {
    let Begun { layout, paths, key, seed } = begun;
    let deadline = deadline();
    let (goal, goals) = watch::channel(None);
    let trial = Trial { key: key.clone(), goal: goals, engines: CancellationToken::new(), has_quorum: true };
    let wait = |role| {
        let mut waits = JoinSet::new();
        for member in layout.members().filter(|member| member.role == role) {
            let seat = layout.seat(&member.region).expect("members come from the layout");
            waits.spawn(one(member, seat, trial.clone(), steps.clone(), deadline));
        }
        waits
    };
    let (voters, agents, edges) = (wait(Role::ControlPlane), wait(Role::RegionAgent), wait(Role::Edge));
    joined(voters).await?;
    let known = write_intent(&paths, &seed).await.map_err(|error| NotReady {
        member: Member { region: first(&layout.voters), role: Role::ControlPlane },
        problem: format!("the intent cannot be written: {}", failure::chain(&error).join(": ")),
    })?;
    goal.send_replace(Some(Goal::of(&known, &layout, &key)));
    joined(agents).await?;
    trial.engines.cancel();
    joined(edges).await?;
    endpoint(&layout, deadline).await
}

/// The address that people are told leads to an edge only once the network has found one that is ready.
pub async fn endpoint(layout: &Layout, deadline: Instant) -> Result<(), NotReady> {
    let [address, _] = layout.anycast();
    // Whatever it says, an edge said it.
    while let Err(error) = probe::get(address, "/v1/models", None).await {
        if Instant::now() > deadline {
            let member = Member { region: first(layout.regions.names()), role: Role::Edge };
            return Err(NotReady { member, problem: format!("no edge is reached: {error}") });
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// Makes the intent what it must be for this start; returns all of it.
async fn write_intent(paths: &Paths, seed: &Seed) -> anyhow::Result<Current> {
    let (dialer, members) = context::dial(&paths.context())?;
    let operator = Operator::new(dialer, members);
    let kinds = Kind::ALL.map(Kind::as_str);
    let known = cluster::read(&operator, &kinds).await?;
    let batches = seed.plan(&known);
    if batches.is_empty() {
        return Ok(known);
    }
    for batch in batches {
        // Regions that are left out may be most of them, and whoever left them out meant it.
        cluster::write(&operator, batch, true).await?;
    }
    cluster::read(&operator, &kinds).await
}

fn first(regions: &[RegionName]) -> RegionName {
    regions.first().expect("a sandbox has a region, and a voter in it").clone()
}

async fn joined(mut waits: JoinSet<Result<(), NotReady>>) -> Result<(), NotReady> {
    while let Some(waited) = waits.join_next().await {
        waited.expect("waiting neither panics nor is cancelled")?;
    }
    Ok(())
}

/// Waits for one part. An edge is asked for an answer once there are engines to give it.
pub async fn one(
    member: Member,
    seat: Seat,
    trial: Trial,
    steps: mpsc::Sender<Step>,
    deadline: Instant,
) -> Result<(), NotReady> {
    let mut told = None;
    loop {
        let state =
            tried(member.role, &seat, &trial).await.map_or_else(StepState::Waits, |()| StepState::Ready);
        if told.as_ref() != Some(&state) {
            // Who no longer listens has stopped waiting too.
            let _ = steps.send(Step { member: member.clone(), state: state.clone() }).await;
            told = Some(state.clone());
        }
        match state {
            StepState::Ready => return Ok(()),
            StepState::Waits(waits_for) if Instant::now() > deadline => {
                let problem = format!("{member} is not ready after {} s: {waits_for}", START_MAX.as_secs());
                return Err(NotReady { member, problem });
            }
            StepState::Waits(_) => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

async fn tried(role: Role, seat: &Seat, trial: &Trial) -> Result<(), String> {
    if role == Role::ControlPlane && !trial.has_quorum {
        return expect_ok("/livez", probe::get(seat.admin(role), "/livez", None).await);
    }
    now(role, seat, &trial.key).await?;
    if role == Role::ControlPlane {
        return Ok(());
    }
    let goal = trial.goal.borrow().clone().ok_or("waits for the control plane to be told what to run")?;
    match role {
        Role::ControlPlane => Ok(()),
        Role::RegionAgent => {
            let report = replicas::of(seat).await.map_err(|error| error.to_string())?;
            report.serves(goal.replicas.get(&seat.region).copied().unwrap_or(0))
        }
        Role::Edge if !trial.engines.is_cancelled() => Err("waits for the engines to serve".to_owned()),
        Role::Edge => answers(seat, &trial.key, goal.answers).await,
    }
}

/// Whether a part is well, without work for anybody. The error says what it waits for.
pub async fn now(role: Role, seat: &Seat, key: &ApiKey) -> Result<(), String> {
    match role {
        Role::RegionAgent => {
            let mut report = replicas::of(seat).await.map_err(|error| error.to_string())?;
            if report.is_idle() {
                // An agent that has just read its intent may not have counted yet what that wants.
                tokio::time::sleep(ASK_EVERY).await;
                report = replicas::of(seat).await.map_err(|error| error.to_string())?;
                if report.is_idle() {
                    return Ok(());
                }
            }
            expect_ok("/readyz", probe::get(seat.admin(role), "/readyz", None).await)?;
            report.serves(report.wanted)
        }
        Role::ControlPlane => expect_ok("/readyz", probe::get(seat.admin(role), "/readyz", None).await),
        Role::Edge => {
            expect_ok("/readyz", probe::get(seat.admin(role), "/readyz", None).await)?;
            match probe::get(seat.edge_plain(), "/v1/models", Some(key)).await {
                // The sandbox's own key may have been revoked; that the edge knows it is an answer too.
                Ok((StatusCode::UNAUTHORIZED, _)) => Ok(()),
                answer => expect_ok("/v1/models", answer),
            }
        }
    }
}

/// Asks for a token as a client would. An edge may be well and yet not have heard of any engine; whoever is told
/// that all is ready must not be the one to find out.
async fn answers(seat: &Seat, key: &ApiKey, wanted: Answers) -> Result<(), String> {
    if wanted == Answers::Unasked {
        return Ok(());
    }
    let model = house_model::NAME;
    let body =
        format!(r#"{{"model":"{model}","max_tokens":1,"messages":[{{"role":"user","content":"Hello"}}]}}"#);
    let path = "/v1/chat/completions";
    match probe::post(seat.edge_plain(), path, key, body).await {
        Ok((status, _)) if wanted == Answers::Decided && status.is_client_error() => Ok(()),
        answer => expect_ok(path, answer),
    }
}

fn expect_ok(path: &str, answer: Result<(StatusCode, Bytes), ProbeError>) -> Result<(), String> {
    match answer {
        Ok((StatusCode::OK, _)) => Ok(()),
        // A role says in a sentence what it waits for.
        Ok((StatusCode::SERVICE_UNAVAILABLE, body)) if path == "/readyz" && !body.is_empty() => {
            Err(first_line(&body))
        }
        Ok((status, body)) => Err(format!("{path} says {}", spoken(status, &body))),
        Err(error) => Err(error.to_string()),
    }
}

/// The status and what the body says about it, in one line.
fn spoken(status: StatusCode, body: &[u8]) -> String {
    let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
    let text = refusal.map_or_else(|| String::from_utf8_lossy(body).into_owned(), |body| body.error.message);
    format!("{} {}", status.as_u16(), first_line(text.as_bytes())).trim_end().to_owned()
}

fn first_line(body: &[u8]) -> String {
    String::from_utf8_lossy(body).lines().next().unwrap_or_default().chars().take(LINE_SHOWN_MAX).collect()
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
