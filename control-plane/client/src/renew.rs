//! Certificates that renew themselves.
//!
//! Connections that are open go on with the certificate they began with; every new one shows the new. A role that
//! cannot renew serves on until the last second, and says so ever louder.

use crate::dial::Dialer;
use crate::follow::chain;
use crate::members::{MemberAddress, dice, jittered};
use identity::{Authority, Identity, Live, Renewal, RenewalError, SignError};
use proto::v1;
use proto::v1::identity_client::IdentityClient;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// Who signs.
pub enum Signer {
    /// Any member of the control plane that answers, nearest first.
    Members { dialer: Dialer, members: Vec<MemberAddress> },
    /// This process itself.
    Own { authority: Arc<Authority>, life: time::Duration },
}

/// Where a certificate is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Nothing is to be done for so long.
    Young(Duration),
    Due,
    /// Renewal must have failed for long.
    Late,
    /// Renewal must have failed for longer, and soon every peer refuses this role.
    Last,
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Renewal(#[from] RenewalError),
    #[error("cannot sign")]
    Sign(#[from] SignError),
    #[error("no member of the control plane signs")]
    NoMember(#[source] tonic::Status),
}

/// Keeps what `live` shows fresh, here and in `dir`, by way of the control plane.
pub async fn keep_renewed(
    live: Arc<Live>,
    dir: PathBuf,
    dialer: Dialer,
    members: Vec<MemberAddress>,
    stop: CancellationToken,
) {
    keep_renewed_by(Signer::Members { dialer, members }, live, dir, stop).await;
}

/// Keeps what `live` shows fresh, here and in `dir`.
pub async fn keep_renewed_by(signer: Signer, live: Arc<Live>, dir: PathBuf, stop: CancellationToken) {
    stop.run_until_cancelled(keep(&signer, &live, &dir)).await;
}

async fn keep(signer: &Signer, live: &Live, dir: &Path) {
    let mut failures = 0;
    let mut dice_of_life = dice();
    let mut said = Stage::Due;
    let mut is_kept = true;
    loop {
        let current = live.current();
        if !is_kept {
            is_kept = is_stored(&current, dir).await;
        }
        let stage = stage(&current, OffsetDateTime::now_utc(), dice_of_life);
        if let Stage::Young(left) = stage {
            // A wall clock may jump, and a host may sleep; neither shows in a long wait.
            tokio::time::sleep(left.min(LOOK_EACH)).await;
            continue;
        }
        if stage > said {
            said = stage;
            complain(stage, &current);
        }
        match renew(signer, &current).await {
            Ok(identity) => {
                tracing::info!(expires = %identity.not_after(), "the certificate was renewed");
                // In use also where the disk does not take it: a start would begin with the one before, which is good
                // for days, while waiting for the disk would use them up.
                live.replace(identity);
                is_kept = is_stored(&live.current(), dir).await;
                (failures, said, dice_of_life) = (0, Stage::Due, dice());
                // Whatever is wrong with the clock or the new certificate, it is not asked for in a tight loop.
                tokio::time::sleep(WAIT_MIN).await;
            }
            Err(error) => {
                tracing::info!(error = chain(&error), "the certificate was not renewed; it is tried again");
                tokio::time::sleep(wait(failures, life(&current), dice())).await;
                failures += 1;
            }
        }
    }
}

async fn renew(signer: &Signer, current: &Identity) -> Result<Identity, RenewError> {
    let renewal = Renewal::begin()?;
    match signer {
        Signer::Members { dialer, members } => ask(dialer, members, &renewal, current).await,
        Signer::Own { authority, life } => {
            let now = OffsetDateTime::now_utc();
            let certificate = authority.sign_request(current.name(), renewal.request(), *life, now)?;
            Ok(renewal.finish(current, &certificate, OffsetDateTime::now_utc())?)
        }
    }
}

/// The first good answer. One that is no good, as of a member whose clock is ahead, is no reason to ask no other.
async fn ask(
    dialer: &Dialer,
    members: &[MemberAddress],
    renewal: &Renewal,
    current: &Identity,
) -> Result<Identity, RenewError> {
    let mut last = RenewError::NoMember(tonic::Status::unavailable("no members are known"));
    for member in members {
        let mut client = IdentityClient::new(dialer.channel(member));
        let asked = client.renew(v1::RenewRequest { request: renewal.request().to_owned() });
        let answered = tokio::time::timeout(ASK_MAX, asked).await;
        let certificate = match answered {
            Ok(Ok(reply)) => reply.into_inner().certificate,
            Ok(Err(status)) => {
                last = RenewError::NoMember(status);
                continue;
            }
            Err(_) => {
                last = RenewError::NoMember(tonic::Status::deadline_exceeded("no answer came in time"));
                continue;
            }
        };
        match renewal.finish(current, &certificate, OffsetDateTime::now_utc()) {
            Ok(identity) => return Ok(identity),
            Err(bad) => last = bad.into(),
        }
    }
    Err(last)
}

/// Whether the disk has it.
async fn is_stored(identity: &Arc<Identity>, dir: &Path) -> bool {
    let (identity, to) = (identity.clone(), dir.to_owned());
    let stored = tokio::task::spawn_blocking(move || identity.store(&to)).await;
    match stored.map_err(std::io::Error::other).and_then(|stored| stored) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(
                dir = %dir.display(), %error,
                "the renewed certificate is in use but cannot be kept on disk; it is tried again"
            );
            false
        }
    }
}

fn complain(stage: Stage, current: &Identity) {
    let expires = current.not_after();
    match stage {
        Stage::Young(_) | Stage::Due => {}
        Stage::Late => tracing::warn!(%expires, "the certificate is old and could not be renewed"),
        Stage::Last => {
            tracing::error!(%expires, "the certificate expires soon and cannot be renewed; then every peer refuses it");
        }
    }
}

fn stage(of: &Identity, now: OffsetDateTime, dice: u32) -> Stage {
    let age = Duration::try_from(now - of.not_before()).unwrap_or_default();
    stage_at(age, life(of), dice)
}

/// Day 2 of 7, a tenth earlier or later, so that roles that were made together do not renew together.
fn stage_at(age: Duration, life: Duration, dice: u32) -> Stage {
    let renew = (life * 2 / 7).mul_f64(0.9 + 0.2 * f64::from(dice) / f64::from(u32::MAX));
    match life.saturating_sub(age) {
        left if left <= life / 7 => Stage::Last,
        left if left <= life * 3 / 7 => Stage::Late,
        _ if age >= renew => Stage::Due,
        _ => Stage::Young(renew - age),
    }
}

fn life(of: &Identity) -> Duration {
    Duration::try_from(of.not_after() - of.not_before()).unwrap_or_default()
}

/// Between two tries: longer each time, and dozens still fit into what is left of the life.
fn wait(failures: u32, life: Duration, dice: u32) -> Duration {
    let most = (life / 100).clamp(WAIT_MIN, WAIT_MAX);
    jittered((WAIT_MIN * 2_u32.saturating_pow(failures.min(16))).min(most), dice)
}

const ASK_MAX: Duration = Duration::from_secs(5);
const LOOK_EACH: Duration = Duration::from_secs(60);
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_week_long_life_has_four_stages() {
        let stage = |age: f64, dice| stage_at(DAY.mul_f64(age), DAY * 7, dice);
        assert!(matches!(stage(1.79, 0), Stage::Young(_)));
        assert_eq!(stage(1.81, 0), Stage::Due);
        assert!(matches!(stage(2.19, u32::MAX), Stage::Young(_)));
        assert_eq!(stage(2.21, u32::MAX), Stage::Due);
        assert_eq!(stage(3.99, 0), Stage::Due);
        assert_eq!(stage(4.0, 0), Stage::Late);
        assert_eq!(stage(5.99, 0), Stage::Late);
        assert_eq!(stage(6.0, 0), Stage::Last);
        assert_eq!(stage(9.0, 0), Stage::Last, "an expired one may be renewed by an authority of our own");
    }

    #[test]
    fn tries_fit_into_any_life() {
        assert_eq!(wait(0, DAY * 7, u32::MAX), WAIT_MIN);
        assert_eq!(wait(9, DAY * 7, u32::MAX), WAIT_MIN * 512);
        assert_eq!(wait(99, DAY * 7, u32::MAX), WAIT_MAX);
        assert_eq!(wait(99, Duration::from_secs(3), u32::MAX), WAIT_MIN);
    }
}
