//! Carries an answer that has begun to its client.

use crate::answer::Stop;
use crate::attempt::{Answering, Asked, Attempts, NodeFailed};
use crate::keep_alive::KeepAlive;
use crate::network::client::Client;
use crate::settle::{Ended, Record};
use crate::stream::Form;
use openai::sse::{DONE, write_event};
use openai::{ErrorObject, Usage};
use policy::Outcome;
use std::time::Duration;

/// Answers the client, by as many attempts as it may take.
pub(crate) async fn relay(
    client: &mut Client,
    attempts: &mut Attempts<'_>,
    mut keep_alive: KeepAlive,
    asked: &Asked,
    record: &mut Record<'_>,
) -> Result<(), Stop> {
    loop {
        let begun = attempts.next(client, &mut keep_alive).await;
        record.attempted(attempts.count(), attempts.node());
        if client.has_begun() {
            record.kept_alive();
        }
        let answering = begun?;
        record.first_token(answering.stream.prompt_tokens());
        if asked.stream {
            return relay_events(client, keep_alive, answering, record).await;
        }
        // Nothing has reached the client yet, so a whole answer that breaks is simply asked for again.
        if relay_whole(client, attempts, &mut keep_alive, answering, record).await? {
            return Ok(());
        }
    }
}

async fn relay_events(
    client: &mut Client,
    mut keep_alive: KeepAlive,
    answering: Answering<'_>,
    record: &mut Record<'_>,
) -> Result<(), Stop> {
    let Answering { turn, mut stream, .. } = answering;
    let mut sent = client.begin_events(record.request_id()).await;
    while sent.is_ok() {
        let mut events = stream.take_events();
        let tokens = stream.completion_tokens();
        if stream.is_done() {
            write_event(&mut events, None, DONE);
            sent = client.write(events.into(), true).await;
            if sent.is_ok() {
                record.counted(stream.prompt_tokens());
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
        keep_alive.sent();
        match keep_alive.during(client, stream.advance(STALL_MAX)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(node = %turn.node, request = record.request_id(), %error, "stream broke");
                turn.end(Outcome::Failed);
                record.delivered(stream.completion_tokens(), Ended::Broken);
                client.end_events(stream.take_events(), &cut_off().to_json()).await?;
                return Ok(());
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
    keep_alive: &mut KeepAlive,
    answering: Answering<'_>,
    record: &mut Record<'_>,
) -> Result<bool, Stop> {
    let Answering { turn, mut stream, replica } = answering;
    while !stream.is_done() {
        let lost = attempts.until_lost(&turn);
        let advanced = async {
            tokio::select! {
                biased;
                advanced = stream.advance(STALL_MAX) => {
                    advanced.map_err(|error| NodeFailed::broken(&error, replica.clone()))
                }
                // A new attempt is free here, and sooner done than a stall is certain.
                () = lost => Err(NodeFailed::silent(replica.clone())),
            }
        };
        if let Err(failed) = keep_alive.during(client, advanced).await? {
            attempts.failed(turn, failed)?;
            return Ok(false);
        }
    }
    let tokens = stream.completion_tokens();
    let usage = Usage::new(stream.prompt_tokens(), tokens);
    let load = stream.last_load();
    let (upstream, form) = stream.into_parts();
    let json = match form {
        Form::Whole(assembler) => assembler.finish(usage).map(String::into_bytes),
        Form::Json(json) => Ok(json),
        Form::Events(_) => unreachable!("a stream is relayed by events"),
    };
    let json = match json {
        Ok(json) => json,
        Err(error) => {
            attempts.failed(turn, NodeFailed::broken(&error.into(), replica))?;
            return Ok(false);
        }
    };
    record.counted(usage.prompt_tokens);
    turn.served(upstream, load).await;
    client.answer_json(200, record.request_id(), json.into()).await?;
    record.delivered(tokens, Ended::Complete);
    Ok(true)
}

pub(crate) fn cut_off() -> ErrorObject {
    ErrorObject::new("the answer was cut off before its end", "server_error", "stream_interrupted")
}

/// Far above the slowest step of a loaded engine.
const STALL_MAX: Duration = Duration::from_secs(30);
