//! What the leader does by itself: each second it carries out the plans of the state.

use raft::Raft;
use state::plan;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use types::UnixMs;
use types::intent::{ClientId, Kind, Write, is_large_loss};

/// Leads whenever this member is the leader, until told to stop.
pub(crate) async fn lead(raft: Raft, stop: CancellationToken) {
    let mut standing = raft.standing();
    let leading = async {
        while standing.wait_for(|standing| standing.is_leader).await.is_ok() {
            let term = standing.borrow().term;
            info!(term, "leader: won");
            tokio::select! {
                () = carry_out(&raft) => {}
                () = lost(&mut standing) => info!(term, "leader: lost"),
            }
        }
    };
    stop.run_until_cancelled(leading).await;
}

async fn lost(standing: &mut watch::Receiver<raft::Standing>) {
    // An error is the end of raft, and of leading.
    let _ = standing.wait_for(|standing| !standing.is_leader).await;
}

async fn carry_out(raft: &Raft) {
    // Another one each time: whoever led before may have a write under way.
    let mut client = [0; 16];
    if let Err(error) = getrandom::fill(&mut client) {
        warn!(%error, "no random numbers; nothing is planned");
        return std::future::pending().await;
    }
    let client = ClientId(client);
    let mut second = tokio::time::interval(PLAN_EVERY);
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for sequence in 1.. {
        let write = loop {
            second.tick().await;
            if let Some(write) = planned(raft, client, sequence) {
                break write;
            }
        };
        let drains = write.changes.len();
        match raft.write(write).await {
            Ok(decided) if decided.faults.is_empty() => info!(drains, "drains lifted: their time is over"),
            // Somebody changed one of them in between; the next plan knows.
            Ok(decided) => info!(drains, fault = %decided.faults[0], "drains not lifted yet"),
            Err(error) => warn!(drains, error = &error as &dyn std::error::Error, "drains not lifted yet"),
        }
    }
}

fn planned(raft: &Raft, client: ClientId, sequence: u64) -> Option<Write> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let now = UnixMs(u64::try_from(now.as_millis()).ok()?);
    let state = raft.state();
    let changes = plan::lift_drains(&state, now);
    // Whoever set the ends of these drains expects them.
    let expects_shrink = is_large_loss(changes.len(), state.count(Kind::Drain));
    (!changes.is_empty()).then_some(Write { client, sequence, changes, expects_shrink })
}

const PLAN_EVERY: Duration = Duration::from_secs(1);
