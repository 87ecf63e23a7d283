//! One request's way through the edge, from head to settlement.

use crate::Edge;
use crate::admit::{self, BodyBytes};
use crate::attempt::Asked;
use crate::attempt::opaque::Opaque;
use crate::attempts::Attempts;
use crate::authenticate::authenticate;
use crate::decision_log::Decision;
use crate::keep_alive::KeepAlive;
use crate::network::client::{BodyError, Client, ClientGone};
use crate::network::listen::Answer;
use crate::pass_on::pass_on;
use crate::prefix;
use crate::receive::{self, Target};
use crate::refusal::{self, Refusal};
use crate::relay::relay;
use crate::settle::Record;
use crate::tenants::Known;
use bytes::Bytes;
use openai::models::{Model, ModelList};
use openai::responses::ResponsesRequest;
use openai::{Endpoint, RequestView, opaque};
use serde::Serialize;
use std::cell::RefCell;
use std::sync::Arc;
use types::{RequestId, UnixMs, header};

/// What a body says that it wants, as far as that matters here.
struct Wanted<'a> {
    model: &'a str,
    stream: bool,
    include_usage: bool,
    answers: u64,
}

/// Why a request's way ended early.
pub(crate) enum Stop {
    Refused(Refusal),
    /// The engine refused the request; its words travel as they are.
    Engine {
        status: u16,
        body: Bytes,
    },
    ClientGone,
}

impl<R: Into<Refusal>> From<R> for Stop {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<BodyError> for Stop {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Gone => Self::ClientGone,
            BodyError::Stalled => Self::Refused(Refusal::BodyStalled),
            BodyError::Malformed => Self::Refused(Refusal::BodyMalformed),
        }
    }
}

impl From<ClientGone> for Stop {
    fn from(ClientGone: ClientGone) -> Self {
        Self::ClientGone
    }
}

impl Answer for Arc<Edge> {
    async fn answer(&self, client: &mut Client) {
        let mut record = Record::begin(self, RequestId::from_random(random()), client.address());
        let told = match self.steps(client, &mut record).await {
            Ok(()) | Err(Stop::ClientGone) => Ok(()),
            Err(Stop::Refused(refusal)) => {
                let (status, error) = refusal.to_client();
                record.refused(status);
                match client.has_begun() {
                    true => client.end_events(Vec::new(), &error.to_json()).await,
                    false => client.refuse(&refusal, record.request_id()).await,
                }
            }
            Err(Stop::Engine { status, body }) => {
                record.refused(status);
                match client.has_begun() {
                    true => client.end_events(Vec::new(), &refusal::in_band(&body)).await,
                    false => client.answer_json(status, record.request_id(), body).await,
                }
            }
        };
        // A client that left while it was being told has no use for more words.
        let (Ok(()) | Err(ClientGone)) = told;
    }
}

impl Edge {
    async fn steps(&self, client: &mut Client, record: &mut Record<'_>) -> Result<(), Stop> {
        let target = receive::head(client)?;
        let known = authenticate(&self.tenants, client, self.clock.wall())?;
        let decision = record.known(known.tenant.clone());
        let endpoint = match &target {
            Target::Generate(endpoint) => *endpoint,
            Target::Respond => Endpoint::Chat,
            Target::PassOn(path) => {
                return Box::pin(self.pass_on(client, &known, path, &decision, record)).await;
            }
            Target::ListModels => return Box::pin(self.list_models(client, &known, record)).await,
            Target::ShowModel(model) => {
                return Box::pin(self.show_model(client, &known, record, model)).await;
            }
        };
        let (mut body, mut held) = receive::body(client, BodyBytes::none(known.entry.clone())?).await?;
        if target == Target::Respond {
            let response = receive::read(&body, ResponsesRequest::parse).await?;
            body = admit::response(client, response, &mut held)?;
        }
        record.asked_before(retries_of(client));
        client.forget_headers();
        let view = receive::read(&body, RequestView::parse).await?;
        let RequestView { stream, include_usage, n: answers, .. } = view;
        let wanted = Wanted { model: &view.model, stream, include_usage, answers };
        let asked = self.admit(&known, endpoint, wanted, &body, record)?;
        drop(view);
        let mut attempts = Attempts::new(self, &asked, &decision, body);
        let keep_alive = match asked.stream {
            true => KeepAlive::of_stream(self.keep_alive, record.request_id()),
            false => KeepAlive::of_whole(record.request_id()),
        };
        let relayed = relay(client, &mut attempts, keep_alive, record).await;
        drop(held);
        relayed
    }

    /// Reads what the request asks for, and mints what identifies it from here on.
    fn admit(
        &self,
        known: &Known,
        endpoint: Endpoint,
        wanted: Wanted<'_>,
        body: &[u8],
        record: &mut Record<'_>,
    ) -> Result<Asked, Refusal> {
        let table = self.routing_table()?;
        let model = admit::model(&table, known, wanted.model)?;
        let version = policy::version(&mut self.health(), model, known.regions(), self.clock.now());
        record.asked_for(version);
        let seed = u64::from_le_bytes(random());
        let headers = vec![
            (header::PROTOCOL, header::PROTOCOL_VERSION.to_owned()),
            (header::STREAM, header::STREAM_ANNOTATED.to_owned()),
            (header::REQUEST_ID, record.request_id().to_owned()),
            (header::CREATED_UNIX_MS, self.clock.wall().0.to_string()),
            (header::TENANT, known.tenant.to_string()),
            (header::PRIORITY, known.priority().to_string()),
            (header::MODEL_VERSION, version.to_string()),
            (header::SEED, seed.to_string()),
        ];
        Ok(Asked {
            endpoint,
            version,
            waits: model.waits,
            regions: known.regions().map(<[_]>::to_vec),
            priority: known.priority(),
            resume: known.resume(),
            prompt_tokens: (body.len() / BYTES_PER_TOKEN) as u64,
            prefix: prefix::keys(&known.tenant, endpoint, body),
            stream: wanted.stream,
            include_usage: wanted.include_usage,
            answers: wanted.answers,
            seed,
            headers,
        })
    }

    /// Requests that only name a model: nothing else of them is read, and nothing of their answers.
    async fn pass_on(
        &self,
        client: &mut Client,
        known: &Known,
        path: &'static str,
        decision: &Decision,
        record: &mut Record<'_>,
    ) -> Result<(), Stop> {
        let content_type = receive::content_type(client)?;
        let (body, held) = receive::body(client, BodyBytes::none(known.entry.clone())?).await?;
        let model = opaque::model(&content_type, &body)?.into_owned();
        // Its chunks are never looked at, so it is no matter whose they would be.
        let wanted = Wanted { model: &model, stream: false, include_usage: false, answers: 1 };
        let mut asked = self.admit(known, Endpoint::Chat, wanted, &body, record)?;
        asked.headers.retain(|(name, _)| *name != header::STREAM);
        let opaque = Opaque { path, content_type, model };
        let passed_on = pass_on(self, client, &asked, &opaque, decision, body, record).await;
        drop(held);
        passed_on
    }

    /// What the key may ask.
    async fn list_models(
        &self,
        client: &mut Client,
        known: &Known,
        record: &mut Record<'_>,
    ) -> Result<(), Stop> {
        let table = self.routing_table()?;
        let models = table.models.iter().filter(|(name, _)| known.may_ask(name.as_str()));
        let models = models.map(|(name, model)| Model::new(name.as_str(), seconds(model.created))).collect();
        self.answer_json(client, record, &ModelList::new(models)).await
    }

    async fn show_model(
        &self,
        client: &mut Client,
        known: &Known,
        record: &mut Record<'_>,
        name: &str,
    ) -> Result<(), Stop> {
        let model = admit::model(&*self.routing_table()?, known, name)?;
        self.answer_json(client, record, &Model::new(name, seconds(model.created))).await
    }

    async fn answer_json(
        &self,
        client: &mut Client,
        record: &mut Record<'_>,
        body: &impl Serialize,
    ) -> Result<(), Stop> {
        let json = serde_json::to_vec(body).expect("strings and numbers always serialise");
        client.answer_json(200, record.request_id(), json.into()).await?;
        record.complete();
        Ok(())
    }
}

/// What SDKs say of a request that they have asked before.
fn retries_of(client: &Client) -> u32 {
    let said = client.header("x-stainless-retry-count").and_then(|said| std::str::from_utf8(said).ok());
    said.and_then(|said| said.parse().ok()).unwrap_or(0)
}

/// From the operating system: ids must not collide between edges, seeds must not repeat. Asked for many at once, since
/// each call costs as much as a small write.
fn random<const N: usize>() -> [u8; N] {
    const DRAWN_BYTES: usize = 512;
    const { assert!(N <= DRAWN_BYTES) }
    thread_local! {
        static DRAWN: RefCell<([u8; DRAWN_BYTES], usize)> = const { RefCell::new(([0; DRAWN_BYTES], 0)) };
    }
    DRAWN.with_borrow_mut(|(bytes, left)| {
        if *left < N {
            getrandom::fill(bytes).expect("the operating system has random bytes");
            *left = DRAWN_BYTES;
        }
        *left -= N;
        let mut taken = [0; N];
        taken.copy_from_slice(&bytes[*left..*left + N]);
        taken
    })
}

/// Of most languages; what stands around the prompt weighs little.
const BYTES_PER_TOKEN: usize = 4;

/// The API counts in seconds.
fn seconds(time: UnixMs) -> u64 {
    time.0 / 1000
}
