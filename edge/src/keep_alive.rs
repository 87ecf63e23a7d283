//! Shows the client of a stream that it is not forgotten, before something on the way cuts it off for silence.
//!
//! The head of an answer is held back for its first event, so that what fails before costs the client nothing. One
//! that waits for longer than the interval gets the head and a comment, and a comment after each further interval
//! without an event. Attempts go on underneath; but what ends them without an answer has no status of its own any
//! more, and goes in-band.

use crate::alarm::Alarm;
use crate::network::client::{Client, ClientGone};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::Instant;

pub(crate) struct KeepAlive {
    /// `None` where nothing can be sent ahead of the answer.
    interval: Option<Duration>,
    request_id: String,
    /// When something was sent last; at first, when the wait began.
    since: Instant,
    alarm: Alarm,
}

impl KeepAlive {
    pub(crate) fn of_stream(interval: Duration, request_id: &str) -> Self {
        Self { interval: Some(interval), ..Self::of_whole(request_id) }
    }

    /// A whole answer has nothing that could be sent before it.
    pub(crate) fn of_whole(request_id: &str) -> Self {
        let (request_id, since, alarm) = (request_id.to_owned(), Instant::now(), Alarm::default());
        Self { interval: None, request_id, since, alarm }
    }

    /// The client was sent something else.
    pub(crate) fn sent(&mut self) {
        self.since = Instant::now();
    }

    /// Does what the client waits for, unless it leaves first. Pinned by the caller: here it would be held twice.
    pub(crate) async fn during<T>(
        &mut self,
        client: &mut Client,
        mut work: impl Future<Output = T> + Unpin,
    ) -> Result<T, ClientGone> {
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                ClientGone = client.gone() => return Err(ClientGone),
                () = self.due() => {}
            }
            // Out of the choice, in which it could be cut in half. On the heap, since it is rare.
            Box::pin(self.show(client)).await?;
        }
    }

    /// Shows the client that there is somebody.
    async fn show(&mut self, client: &mut Client) -> Result<(), ClientGone> {
        client.begin_events(&self.request_id).await?;
        client.write(Bytes::from_static(COMMENT), false).await?;
        self.sent();
        Ok(())
    }

    async fn due(&mut self) {
        match self.interval {
            Some(interval) => self.alarm.at(self.since + interval).await,
            None => std::future::pending().await,
        }
    }
}

const COMMENT: &[u8] = b": keep-alive\n\n";
