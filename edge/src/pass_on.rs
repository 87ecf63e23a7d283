//! Hands an answer on to its client unread, as it comes.

use crate::Edge;
use crate::answer::Stop;
use crate::attempt::Asked;
use crate::attempt::opaque::{ANSWER_MAX, Opaque, Unread};
use crate::attempts::Attempts;
use crate::decision_log::Decision;
use crate::keep_alive::KeepAlive;
use crate::network::client::Client;
use crate::network::upstream::UpstreamError;
use crate::progress::Delivered;
use crate::relay::cut_off;
use crate::settle::{Ended, Record};
use bytes::Bytes;
use policy::Outcome;
use std::pin::pin;
use std::time::Duration;

pub(crate) async fn pass_on(
    edge: &Edge,
    client: &mut Client,
    asked: &Asked,
    opaque: &Opaque,
    decision: &Decision,
    body: Bytes,
    record: &mut Record<'_>,
) -> Result<(), Stop> {
    let mut attempts = Attempts::new(edge, asked, decision, body).within(ANSWER_MAX);
    // Nothing can be sent ahead of an answer that is not understood.
    let mut keep_alive = KeepAlive::of_whole(record.request_id());
    let begun = keep_alive.during(client, Box::pin(attempts.begin_unread(opaque))).await?;
    record.attempted(attempts.count(), attempts.node());
    let Unread { turn, mut upstream, first } = begun?;
    let content_type = upstream.header("content-type").map(str::to_owned);
    let length = upstream.header("content-length").and_then(|length| length.parse().ok());
    client.begin(upstream.status(), content_type.as_deref(), length, record.request_id()).await?;
    let is_refusal = upstream.status() >= 400;
    if is_refusal {
        record.refused(upstream.status());
    }
    let mut part = first;
    while let Some(bytes) = part {
        client.write(bytes, false).await?;
        if !is_refusal {
            record.delivered(Delivered::default(), Ended::ClientGone);
        }
        let next = pin!(tokio::time::timeout(STALL_MAX, upstream.read_part()));
        let next = keep_alive.during(client, next).await?;
        part = match next.unwrap_or(Err(UpstreamError::Stalled(STALL_MAX))) {
            Ok(part) => part,
            Err(error) => {
                tracing::warn!(node = %turn.node, request = record.request_id(), %error, "answer broke");
                turn.end(Outcome::Failed);
                record.delivered(Delivered::default(), Ended::Broken);
                if content_type.as_deref().is_some_and(is_event_stream) {
                    // The blank line ends an event that was cut in half.
                    client.end_events(b"\n\n".to_vec(), &cut_off().to_json()).await?;
                }
                // Anything else has no place for an error. It is left without its end, which its framing shows.
                return Ok(());
            }
        };
    }
    client.write(Bytes::new(), true).await?;
    if !is_refusal {
        record.delivered(Delivered::default(), Ended::Complete);
    }
    turn.served(upstream, None).await;
    Ok(())
}

fn is_event_stream(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Between two parts of an answer. Audio and images come in one piece or steadily.
const STALL_MAX: Duration = Duration::from_secs(60);
