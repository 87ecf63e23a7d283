//! What is measured now: agents report, members tell each other, edges get the full picture each second.
//!
//! The same work each second, however much changes; what is older than a few seconds is left out.

mod known;
mod peers;

pub(crate) use peers::listen_to;

use crate::authorise::caller;
use crate::metrics::Metrics;
use futures_util::stream::{self, BoxStream, StreamExt};
use known::Known;
use proto::signal::NodeReport;
use proto::v1;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use types::NodeKey;

/// What this member hears and tells. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Signal {
    shared: Arc<Shared>,
}

struct Shared {
    known: Known,
    /// What this member has heard itself.
    heard: watch::Sender<Arc<v1::Picture>>,
    /// And all others.
    pictures: watch::Sender<Arc<v1::Picture>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Signal {
    pub(crate) fn new(metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        let (heard, pictures) = (watch::Sender::default(), watch::Sender::default());
        Self { shared: Arc::new(Shared { known: Known::default(), heard, pictures, metrics, stop }) }
    }

    pub(crate) fn service(&self) -> v1::signal_server::SignalServer<Self> {
        v1::signal_server::SignalServer::new(self.clone()).max_decoding_message_size(REPORT_BYTES_MAX)
    }

    /// Draws the pictures, each second, until told to stop.
    pub(crate) async fn draw(self) {
        let Shared { known, heard, pictures, metrics, stop } = &*self.shared;
        let mut second = tokio::time::interval(PICTURE_EVERY);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(second.tick()).await.is_some() {
            let now = Instant::now();
            known.forget(now);
            metrics.nodes_heard.set(i64::try_from(known.count()).unwrap_or(i64::MAX));
            if heard.receiver_count() > 0 {
                heard.send_replace(Arc::new(v1::Picture { reports: known.own(now) }));
            }
            if pictures.receiver_count() > 0 {
                pictures.send_replace(Arc::new(v1::Picture { reports: known.all(now) }));
            }
        }
    }

    /// The newest picture each second; one that was not taken in time is replaced.
    fn follow(
        &self,
        source: &watch::Sender<Arc<v1::Picture>>,
    ) -> BoxStream<'static, Result<v1::Picture, Status>> {
        let state = Some((source.subscribe(), self.shared.stop.clone()));
        stream::unfold(state, async |state| {
            let (mut pictures, stop) = state?;
            let changed = tokio::select! {
                () = stop.cancelled() => false,
                changed = pictures.changed() => changed.is_ok(),
            };
            if !changed {
                return Some((Err(Status::unavailable("this member stops; ask another")), None));
            }
            let picture = pictures.borrow_and_update().as_ref().clone();
            Some((Ok(picture), Some((pictures, stop))))
        })
        .boxed()
    }
}

#[tonic::async_trait]
impl v1::signal_server::Signal for Signal {
    type PicturesStream = BoxStream<'static, Result<v1::Picture, Status>>;
    type HeardStream = BoxStream<'static, Result<v1::Picture, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::NodeReport>>,
    ) -> Result<Response<v1::ReportReply>, Status> {
        let name = caller(&request)?;
        let node = NodeKey { region: name.region, node: name.name };
        let mut reports = request.into_inner();
        loop {
            let next = tokio::select! {
                () = self.shared.stop.cancelled() => {
                    return Err(Status::unavailable("this member stops; report to another"));
                }
                next = tokio::time::timeout(SILENCE_MAX, reports.message()) => next,
            };
            let Ok(next) = next else {
                let text = format!("no report came for {} s", SILENCE_MAX.as_secs());
                return Err(Status::deadline_exceeded(text));
            };
            let Some(report) = next? else { return Ok(Response::new(v1::ReportReply {})) };
            let report =
                NodeReport::try_from(report).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
            if report.node != node {
                let text = format!("a report of {} by the agent of {node}", report.node);
                return Err(Status::permission_denied(text));
            }
            if !self.shared.known.hear(report, Instant::now()) {
                return Err(Status::resource_exhausted("more nodes report than can be"));
            }
            self.shared.metrics.reports.inc();
        }
    }

    async fn pictures(
        &self,
        _request: Request<v1::PicturesRequest>,
    ) -> Result<Response<Self::PicturesStream>, Status> {
        Ok(Response::new(self.follow(&self.shared.pictures)))
    }

    async fn heard(
        &self,
        _request: Request<v1::PicturesRequest>,
    ) -> Result<Response<Self::HeardStream>, Status> {
        Ok(Response::new(self.follow(&self.shared.heard)))
    }
}

const PICTURE_EVERY: Duration = Duration::from_secs(1);
/// Agents report each second; one that is silent for so long is gone, or its host is.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A node with the most versions that it can have.
const REPORT_BYTES_MAX: usize = 1024 * 1024;
