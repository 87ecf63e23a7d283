//! Carries an answer that has begun to its client.

use crate::answer::Stop;
use crate::attempt::Answering;
use crate::attempts::Attempts;
use crate::keep_alive::KeepAlive;
use crate::network::client::{Client, ClientGone};
use crate::resume::{Delivery, Lost};
use crate::settle::{Ended, Record};
use openai::ErrorObject;
use std::pin::pin;

/// Answers the client, by as many attempts as it may take.
pub(crate) async fn relay(
    client: &mut Client,
    attempts: &mut Attempts<'_>,
    mut keep_alive: KeepAlive,
    record: &mut Record<'_>,
) -> Result<(), Stop> {
    loop {
        // On the heap, and only until it has begun: it is several times the size of what a stream needs then.
        let begun = keep_alive.during(client, Box::pin(attempts.begin())).await;
        record.attempted(attempts.count(), attempts.node());
        if client.has_begun() {
            record.kept_alive();
        }
        let answering = begun??;
        // Another than the last if that was a hedge which lost.
        record.attempted(attempts.count(), Some(&answering.turn.node));
        record.first_token(answering.prompt_tokens);
        if attempts.asked().stream {
            return relay_events(client, attempts, keep_alive, answering, record).await;
        }
        // Nothing has reached the client yet, so a whole answer that cannot go on is begun anew.
        // On the heap, so that streams need not hold room for it.
        match Box::pin(relay_whole(client, attempts, &mut keep_alive, answering, record)).await? {
            Ok(()) => return Ok(()),
            Err(lost) => attempts.begin_anew(&lost)?,
        }
    }
}

async fn relay_events<'a>(
    client: &mut Client,
    attempts: &mut Attempts<'a>,
    mut keep_alive: KeepAlive,
    answering: Box<Answering<'a>>,
    record: &mut Record<'_>,
) -> Result<(), Stop> {
    client.begin_events(record.request_id()).await?;
    let mut delivery = match Delivery::begin(attempts, answering) {
        Ok(delivery) => delivery,
        Err(lost) => return Box::pin(end_broken(client, Vec::new(), &lost, record)).await,
    };
    loop {
        let progress = delivery.progress();
        let (events, is_complete) = (progress.take_events(), progress.is_complete());
        client.write(events.into(), is_complete).await?;
        let ended = if is_complete { Ended::Complete } else { Ended::ClientGone };
        record.delivered(progress.delivered(), ended);
        if is_complete {
            let node = delivery.node().clone();
            Box::pin(delivery.served()).await;
            record.attempted(attempts.count(), Some(&node));
            return Ok(());
        }
        keep_alive.sent();
        let advanced = keep_alive.during(client, pin!(delivery.advance())).await?;
        if let Err(lost) = advanced {
            record.delivered(delivery.progress().delivered(), Ended::Broken);
            let events = delivery.progress().take_events();
            let node = delivery.node().clone();
            delivery.failed();
            record.attempted(attempts.count(), Some(&node));
            return Box::pin(end_broken(client, events, &lost, record)).await;
        }
    }
}

async fn end_broken(
    client: &mut Client,
    events: Vec<u8>,
    lost: &Lost,
    record: &mut Record<'_>,
) -> Result<(), Stop> {
    tracing::warn!(request = record.request_id(), reason = %lost, "stream broke");
    record.broken();
    client.end_events(events, &cut_off().to_json()).await?;
    Ok(())
}

/// Done once the client has its answer, or nothing of one that another attempt may bring.
async fn relay_whole<'a>(
    client: &mut Client,
    attempts: &mut Attempts<'a>,
    keep_alive: &mut KeepAlive,
    answering: Box<Answering<'a>>,
    record: &mut Record<'_>,
) -> Result<Result<(), Lost>, ClientGone> {
    let mut delivery = match Delivery::begin(attempts, answering) {
        Ok(delivery) => delivery,
        Err(lost) => return Ok(Err(lost)),
    };
    while !delivery.progress().is_complete() {
        let advanced = keep_alive.during(client, pin!(delivery.advance())).await?;
        if let Err(lost) = advanced {
            delivery.failed();
            return Ok(Err(lost));
        }
    }
    let node = delivery.node().clone();
    let progress = delivery.served().await;
    record.attempted(attempts.count(), Some(&node));
    let delivered = progress.delivered();
    let json = match progress.into_whole() {
        Ok(json) => json,
        Err(unfit) => return Ok(Err(unfit.into())),
    };
    let resumed = delivered.joins.exactness.map(|exactness| ("rhumb-resume", exactness.as_str()));
    client.answer_json_with(200, record.request_id(), resumed.as_slice(), json.into()).await?;
    record.delivered(delivered, Ended::Complete);
    Ok(Ok(()))
}

pub(crate) fn cut_off() -> ErrorObject {
    ErrorObject::new("the answer was cut off before its end", "server_error", "stream_interrupted")
}
