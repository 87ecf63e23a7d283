//! Reports of load: from region agents to a member, from members to edges.
//!
//! Nothing is kept and nothing is repeated: a report that did not arrive is replaced by the next, a second later.

use crate::dial::Dialer;
use crate::members::{MemberAddress, Tour, dice};
use proto::signal::NodeReport;
use proto::v1;
use proto::v1::signal_client::SignalClient;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Sends a report each second, to the first member that takes it.
pub async fn report(
    dialer: Dialer,
    members: Vec<MemberAddress>,
    mut make: impl Fn() -> NodeReport + Send,
    stop: CancellationToken,
) {
    let reporting = async {
        let mut tour = Tour::new(members);
        let mut is_heard = Heard::default();
        while let Some(member) = tour.member() {
            let began = Instant::now();
            let ended = report_to(&dialer, member, &mut make, &mut is_heard).await;
            is_heard.lost("reports of load", member, &ended);
            sleep(tour.ended(began.elapsed(), dice())).await;
        }
        std::future::pending::<()>().await;
    };
    stop.run_until_cancelled(reporting).await;
}

/// Receives the full picture each second.
pub async fn pictures(
    dialer: Dialer,
    members: Vec<MemberAddress>,
    mut take: impl FnMut(Vec<NodeReport>) + Send,
    stop: CancellationToken,
) {
    let receiving = async {
        let mut tour = Tour::new(members);
        let mut is_heard = Heard::default();
        while let Some(member) = tour.member() {
            let began = Instant::now();
            let mut has_come = false;
            let mut hear = |reports| {
                has_come = true;
                is_heard.now("pictures of load", member);
                take(reports);
            };
            let ended = match pictures_from(&dialer, member, &mut hear).await {
                Ok(()) => Status::unavailable("the member ended it"),
                Err(status) => status,
            };
            is_heard.lost("pictures of load", member, &ended);
            let lasted = if has_come { began.elapsed() } else { Duration::ZERO };
            sleep(tour.ended(lasted, dice())).await;
        }
        std::future::pending::<()>().await;
    };
    stop.run_until_cancelled(receiving).await;
}

async fn report_to(
    dialer: &Dialer,
    member: &MemberAddress,
    make: &mut (impl Fn() -> NodeReport + Send),
    is_heard: &mut Heard,
) -> Status {
    let (send, sent) = mpsc::channel(1);
    let mut client = SignalClient::new(dialer.channel(member));
    let mut call = std::pin::pin!(client.report(ReceiverStream::new(sent)));
    let mut second = interval(EACH);
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sent_any, mut stuck) = (false, 0);
    loop {
        tokio::select! {
            ended = &mut call => return match ended {
                Ok(_) => Status::unavailable("the member ended it"),
                Err(status) => status,
            },
            _ = second.tick() => {}
        }
        // The place is free again once the connection took the report before; one to nowhere takes none.
        match send.try_send((&make()).into()) {
            Ok(()) if sent_any => {
                stuck = 0;
                is_heard.now("reports of load", member);
            }
            Ok(()) => sent_any = true,
            Err(_) => stuck += 1,
        }
        if stuck >= STUCK_MAX {
            return Status::deadline_exceeded("the member takes no reports");
        }
    }
}

async fn pictures_from(
    dialer: &Dialer,
    member: &MemberAddress,
    take: &mut (impl FnMut(Vec<NodeReport>) + Send),
) -> Result<(), Status> {
    let silent = |_| Status::deadline_exceeded("the member is silent");
    let mut client = SignalClient::new(dialer.channel(member)).max_decoding_message_size(PICTURE_BYTES_MAX);
    let asked = timeout(SILENCE_MAX, client.pictures(v1::PicturesRequest {}));
    let mut pictures = asked.await.map_err(silent)??.into_inner();
    while let Some(picture) = timeout(SILENCE_MAX, pictures.message()).await.map_err(silent)?? {
        // One bad report must not blind us to all others.
        let reports = picture.reports.into_iter().filter_map(|report| NodeReport::try_from(report).ok());
        take(reports.collect());
    }
    Ok(())
}

/// Whether the last one went through, so that only changes are logged.
#[derive(Default)]
struct Heard(bool);

impl Heard {
    fn now(&mut self, what: &'static str, member: &MemberAddress) {
        if !std::mem::replace(&mut self.0, true) {
            tracing::info!(what, member = %member.address, "signals go through");
        }
    }

    fn lost(&mut self, what: &'static str, member: &MemberAddress, reason: &Status) {
        if std::mem::replace(&mut self.0, false) {
            tracing::info!(what, member = %member.address, %reason, "signals are lost");
        } else {
            tracing::debug!(what, member = %member.address, %reason, "a member takes no part in signals");
        }
    }
}

const EACH: Duration = Duration::from_secs(1);
/// A report is of no use after 5 s, so another member must hear before that.
const STUCK_MAX: u32 = 3;
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Thousands of nodes with several versions each; also the bound of what is handed on.
const PICTURE_BYTES_MAX: usize = 16 << 20;
