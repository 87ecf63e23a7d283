//! From headers and body to a task for the step loop. Everything about a request is checked here.

use super::Served;
use super::refuse::Refusal;
use crate::penalty::Penalties;
use crate::sample::Sampler;
use crate::sequence::{Sequence, Task};
use axum::http::HeaderMap;
use openai::{BadRequest, ChatRequest, CompletionRequest, Endpoint, Prompt, Sampling};
use std::time::{SystemTime, UNIX_EPOCH};
use types::{RequestId, ResumeLine, header};

/// What the internal headers say; for a plain OpenAI client, what they would have said.
#[derive(Debug, Clone)]
pub struct Head {
    pub request_id: RequestId,
    /// Unix seconds.
    pub created: u64,
    /// For requests that bring none of their own.
    pub seed: u64,
    pub annotated: bool,
}

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Begin(Endpoint),
    /// The body's first line says which endpoint, and how far it came.
    Resume,
}

#[derive(Debug)]
pub struct Asked {
    pub style: Style,
    pub sequence: Sequence,
}

/// How the answer is to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Style {
    pub endpoint: Endpoint,
    pub model: String,
    pub stream: bool,
    pub include_usage: bool,
    /// The answer begins with this.
    pub echo: String,
}

pub fn head(headers: &HeaderMap, target: Target) -> Result<Head, Refusal> {
    let text = |name: &'static str| match headers.get(name).map(|value| value.to_str()) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(Refusal::Protocol { header: name }),
    };
    if text(header::PROTOCOL)?.is_some_and(|version| version != header::PROTOCOL_VERSION) {
        return Err(Refusal::Protocol { header: header::PROTOCOL });
    }
    let annotated = match text(header::STREAM)? {
        // Nobody can go on with a stream whose events say no positions.
        None if target == Target::Resume => return Err(Refusal::Protocol { header: header::STREAM }),
        None => false,
        Some(header::STREAM_ANNOTATED) => true,
        Some(_) => return Err(Refusal::Protocol { header: header::STREAM }),
    };
    let request_id = parsed(header::REQUEST_ID, text(header::REQUEST_ID)?)?;
    let created_ms = parsed(header::CREATED_UNIX_MS, text(header::CREATED_UNIX_MS)?)?;
    let seed = parsed(header::SEED, text(header::SEED)?)?;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    Ok(Head {
        request_id: match request_id {
            Some(id) => id,
            None => RequestId::from_random(random()?),
        },
        created: created_ms.map_or_else(now, |ms: u64| ms / 1000),
        seed: match seed {
            Some(seed) => seed,
            None => u64::from_le_bytes(random()?),
        },
        annotated,
    })
}

pub fn body(served: &Served, target: Target, head: &Head, body: &[u8]) -> Result<Asked, Refusal> {
    let (endpoint, seed, token_ids, body) = match target {
        Target::Begin(endpoint) => (endpoint, head.seed, Vec::new(), body),
        Target::Resume => {
            let (line, body) = ResumeLine::split(body)?;
            let endpoint = Endpoint::of_path(&line.path).ok_or(Refusal::ResumePath)?;
            (endpoint, line.seed, line.token_ids, body)
        }
    };
    if token_ids.iter().any(|id| *id as usize >= served.vocabulary) {
        return Err(Refusal::ResumeToken);
    }
    let (style, task) = task(served, endpoint, seed, body)?;
    let sequence = Sequence::new(task, &served.tokenizer);
    Ok(Asked { style, sequence: sequence.resume(&token_ids, &served.end_tokens, &served.tokenizer)? })
}

fn task(served: &Served, endpoint: Endpoint, seed: u64, body: &[u8]) -> Result<(Style, Task), Refusal> {
    match endpoint {
        Endpoint::Chat => {
            let ChatRequest { model, messages, sampling } = ChatRequest::parse(body)?;
            let text = served.template.render(&messages, true)?;
            let prompt = encode(served, &text, &sampling, false)?;
            checked(served, Asks { endpoint, seed, model, prompt, echo: String::new(), sampling })
        }
        Endpoint::Completions => {
            let CompletionRequest { model, prompt, echo, sampling } = CompletionRequest::parse(body)?;
            let ids = match &prompt {
                Prompt::Text(text) => encode(served, text, &sampling, true)?,
                Prompt::TokenIds(ids) => ids.clone(),
            };
            let echo = match prompt {
                _ if !echo => String::new(),
                Prompt::Text(text) => text,
                Prompt::TokenIds(ids) => served.tokenizer.decode(&ids)?,
            };
            checked(served, Asks { endpoint, seed, model, prompt: ids, echo, sampling })
        }
    }
}

/// A request as both endpoints have it.
struct Asks {
    endpoint: Endpoint,
    seed: u64,
    model: String,
    prompt: Vec<u32>,
    echo: String,
    sampling: Sampling,
}

fn checked(served: &Served, asks: Asks) -> Result<(Style, Task), Refusal> {
    let Asks { endpoint, seed, model, prompt, echo, sampling } = asks;
    let is_token = |id: &u32| (*id as usize) < served.vocabulary;
    if prompt.is_empty() || !prompt.iter().all(is_token) {
        let expected = "one or more of this model's tokens";
        return Err(BadRequest::OutOfRange { param: "prompt", expected }.into());
    }
    if !sampling.logit_bias.keys().all(is_token) {
        return Err(BadRequest::OutOfRange { param: "logit_bias", expected: "of this model's tokens" }.into());
    }
    let room = room(served, prompt.len(), &sampling).ok_or_else(|| BadRequest::ContextLengthExceeded {
        prompt_tokens: prompt.len() as u64,
        max_tokens: sampling.max_tokens.unwrap_or(1),
        context_length: served.context_length as u64,
    })?;
    // Plain OpenAI has usage in streams only when asked; whole answers always have it.
    let include_usage = sampling.stream && sampling.include_usage;
    let style = Style { endpoint, model, stream: sampling.stream, include_usage, echo };
    let Sampling { frequency_penalty, presence_penalty, logit_bias, .. } = sampling;
    let task = Task {
        max_tokens: sampling.max_tokens.map_or(room, |max_tokens| max_tokens as usize),
        prompt,
        sampler: Sampler {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k as usize,
            // The client's own seed wins, so that the same body gives the same answer through any edge.
            seed: sampling.seed.map_or(seed, i64::cast_unsigned),
        },
        penalties: Penalties::new(frequency_penalty, presence_penalty, logit_bias),
        stops: sampling.stop,
        min_tokens: usize::try_from(sampling.min_tokens).unwrap_or(usize::MAX),
        ignore_eos: sampling.ignore_eos,
        logprobs: sampling.logprobs.map(|top| top as usize),
    };
    Ok((style, task))
}

fn encode(served: &Served, text: &str, sampling: &Sampling, special: bool) -> Result<Vec<u32>, Refusal> {
    // A text that is hopelessly long is refused before anybody spends seconds on tokenising it.
    let tokens_min = served.tokenizer.tokens_min(text);
    room(served, tokens_min, sampling).ok_or_else(|| BadRequest::ContextLengthExceededByFar {
        prompt_tokens_min: tokens_min as u64,
        max_tokens: sampling.max_tokens.unwrap_or(1),
        context_length: served.context_length as u64,
    })?;
    Ok(served.tokenizer.encode(text, special)?)
}

/// Tokens that may follow a prompt of so many.
fn room(served: &Served, prompt_tokens: usize, sampling: &Sampling) -> Option<usize> {
    let max_tokens = sampling.max_tokens.unwrap_or(1);
    let left = served.context_length.checked_sub(prompt_tokens)?;
    (max_tokens <= left as u64).then_some(left)
}

fn parsed<T: std::str::FromStr>(header: &'static str, text: Option<&str>) -> Result<Option<T>, Refusal> {
    text.map(str::parse).transpose().map_err(|_| Refusal::Protocol { header })
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Refusal::Lost)?;
    Ok(bytes)
}
