//! Carries an answer that has begun to its client.

use crate::answer::Stop;
use crate::attempt::{Answering, Asked, Attempts, NodeFailed};
use crate::network::client::{Client, ClientGone};
use crate::settle::{Ended, Record};
use crate::stream::{Form, Stream, StreamError};
use openai::sse::{DONE, write_event};
use openai::{ErrorObject, Usage};
use policy::Outcome;
use std::time::Duration;

/// Answers the client, by as many attempts as it may take.
pub(crate) async fn relay(
    client: &mut Client,
    attempts: &mut Attempts<'_>,
    asked: &Asked,
    record: &mut Record<'_>,
) -> Result<(), Stop> {
    loop {
        let begun = attempts.next(client).await;
        record.attempted(attempts.count(), attempts.node());
        let answering = begun?;
        record.first_token(answering.stream.prompt_tokens());
        if asked.stream {
            return relay_events(client, answering, record).await;
        }
        // Nothing has reached the client yet, so a whole answer that breaks is simply asked for again.
        if relay_whole(client, attempts, answering, record).await? {
            return Ok(());
        }
    }
}

async fn relay_events(
    client: &mut Client,
    answering: Answering<'_>,
    record: &mut Record<'_>,
) -> Result<(), Stop> {
    let Answering { turn, mut stream, .. } = answering;
    let headers = [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-request-id", record.request_id()),
    ];
    let mut sent = client.begin_stream(&headers).await;
    while sent.is_ok() {
        let mut events = stream.take_events();
        let tokens = stream.completion_tokens();
        if stream.is_done() {
            write_event(&mut events, None, DONE);
            sent = client.write(events.into(), true).await;
            if sent.is_ok() {
                record.delivered(tokens, Ended::Complete);
                let load = stream.last_load();
                turn.served(stream.into_parts().0, load).await;
                return Ok(());
            }
            break;
        }
        sent = client.write(events.into(), false).await;
        if sent.is_err() {
            break;
        }
        record.delivered(tokens, Ended::ClientGone);
        match advance(client, &mut stream).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(node = %turn.node, request = record.request_id(), %error, "stream broke");
                turn.end(Outcome::Failed);
                record.delivered(stream.completion_tokens(), Ended::Broken);
                return end_broken(client, stream.take_events()).await;
            }
            Err(gone) => sent = Err(gone),
        }
    }
    Err(Stop::ClientGone)
}

/// True once the client has its answer, false when another attempt may be made.
async fn relay_whole(
    client: &mut Client,
    attempts: &mut Attempts<'_>,
    answering: Answering<'_>,
    record: &mut Record<'_>,
) -> Result<bool, Stop> {
    let Answering { turn, mut stream, replica } = answering;
    while !stream.is_done() {
        match advance(client, &mut stream).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                attempts.failed(turn, NodeFailed::broken(&error, replica))?;
                return Ok(false);
            }
            Err(ClientGone) => return Err(Stop::ClientGone),
        }
    }
    let tokens = stream.completion_tokens();
    let usage = Usage::new(stream.prompt_tokens(), tokens);
    let load = stream.last_load();
    let (upstream, form) = stream.into_parts();
    let Form::Whole(assembler) = form else { unreachable!("a stream is relayed by events") };
    let json = match assembler.finish(usage) {
        Ok(json) => json,
        Err(error) => {
            attempts.failed(turn, NodeFailed::broken(&error.into(), replica))?;
            return Ok(false);
        }
    };
    turn.served(upstream, load).await;
    client.answer_json(200, record.request_id(), json.into()).await?;
    record.delivered(tokens, Ended::Complete);
    Ok(true)
}

/// The next events, unless the client leaves first.
async fn advance(client: &mut Client, stream: &mut Stream) -> Result<Result<(), StreamError>, ClientGone> {
    tokio::select! {
        biased;
        advanced = stream.advance(STALL_MAX) => Ok(advanced),
        gone = client.gone() => Err(gone),
    }
}

/// SDKs take a clean end for success, so the error goes in-band, after the events that still came, and `[DONE]`
/// is withheld.
async fn end_broken(client: &mut Client, mut events: Vec<u8>) -> Result<(), Stop> {
    let error =
        ErrorObject::new("the answer was cut off before its end", "server_error", "stream_interrupted");
    write_event(&mut events, None, error.to_json().as_bytes());
    client.write(events.into(), true).await?;
    Ok(())
}

/// Far above the slowest step of a loaded engine.
const STALL_MAX: Duration = Duration::from_secs(30);
