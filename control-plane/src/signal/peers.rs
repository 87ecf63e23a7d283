//! What other members have heard, of each by a task that asks again whenever it ends.

use super::Signal;
use client::{Dialer, MemberAddress};
use proto::signal::NodeReport;
use proto::v1;
use proto::v1::signal_client::SignalClient;
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::transport::Channel;
use tracing::debug;

/// Listens to one other member until told to stop.
pub(crate) async fn listen_to(member: MemberAddress, dialer: Dialer, signal: Signal) {
    let stop = signal.shared.stop.clone();
    let client = SignalClient::new(dialer.channel(&member)).max_decoding_message_size(PICTURE_BYTES_MAX);
    let listening = async {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let status = listen(client.clone(), &signal).await;
            debug!(member = member.server_name, %status, "another member's signals ended");
            failures = if began.elapsed() > SETTLED_AFTER { 0 } else { failures + 1 };
            tokio::time::sleep(pause(failures)).await;
        }
    };
    stop.run_until_cancelled(listening).await;
}

async fn listen(mut client: SignalClient<Channel>, signal: &Signal) -> Status {
    let silent = || Status::deadline_exceeded("the member is silent");
    let heard = tokio::time::timeout(SILENCE_MAX, client.heard(v1::PicturesRequest {})).await;
    let mut pictures = match heard {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return status,
        Err(_) => return silent(),
    };
    loop {
        match tokio::time::timeout(SILENCE_MAX, pictures.message()).await {
            Ok(Ok(Some(picture))) => {
                // A report that cannot be read is left out, as one that never came.
                let reports =
                    picture.reports.into_iter().filter_map(|report| NodeReport::try_from(report).ok());
                signal.shared.known.hear_from_member(reports.collect(), Instant::now());
            }
            Ok(Ok(None)) => return Status::unavailable("the member ended it"),
            Ok(Err(status)) => return status,
            Err(_) => return silent(),
        }
    }
}

/// Doubles up to a bound, with a draw, so that members do not ask in step.
fn pause(failures: u32) -> Duration {
    let most = PAUSE_MIN.saturating_mul(1 << failures.min(8)).min(PAUSE_MAX);
    // Without dice, everybody waits for as long as can be.
    let draw = getrandom::u32().unwrap_or(u32::MAX);
    most.mul_f64(0.5 + 0.5 * f64::from(draw) / f64::from(u32::MAX))
}

/// Pictures come each second.
const SILENCE_MAX: Duration = Duration::from_secs(5);
const SETTLED_AFTER: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// All nodes that there can be.
const PICTURE_BYTES_MAX: usize = 64 * 1024 * 1024;
