//! The line that the edge writes of each request.

use crate::world::SOON;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, OnceLock};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// By the request's id, its other fields.
static LINES: OnceLock<Mutex<HashMap<String, Fields>>> = OnceLock::new();

type Fields = HashMap<&'static str, String>;

/// From now on, for all tests of this process.
pub fn keep() {
    LINES.get_or_init(|| {
        let of_access = filter_fn(|line| line.target() == "rhumb::access");
        tracing_subscriber::registry().with(Kept.with_filter(of_access)).init();
        Mutex::default()
    });
}

/// Whom a request was from.
pub async fn client_of(request_id: &str) -> String {
    line_of(request_id).await["client"].clone()
}

/// May be written a little after the answer.
pub async fn line_of(request_id: &str) -> Fields {
    let written = async {
        loop {
            if let Some(line) = LINES.get().unwrap().lock().unwrap().get(request_id) {
                return line.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, written).await.expect("written soon")
}

struct Kept;

struct Visit(Fields);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Kept {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut visit = Visit(Fields::new());
        event.record(&mut visit);
        if let Some(request) = visit.0.get("request") {
            LINES.get().unwrap().lock().unwrap().insert(request.clone(), visit.0);
        }
    }
}

impl tracing::field::Visit for Visit {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}
