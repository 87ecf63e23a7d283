//! What this edge would decide now for a request that nobody made, as a page for operators.

use crate::Edge;
use openai::ErrorObject;
use policy::{Ask, Candidate, Choice, Explanation, Prediction, Purpose, RegionSeen, explain};
use serde::{Deserialize, Serialize};
use types::{ModelName, Priority, RegionName, TenantName};

/// What the imagined request is like. What is absent is as for a tenant without a policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Imagined {
    model: ModelName,
    tenant: Option<TenantName>,
    priority: Option<Priority>,
    prompt_tokens: Option<u64>,
}

/// Why there is nothing to explain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unexplained {
    #[error("this edge has no routing table yet")]
    NoTable,
    #[error("there is no model {0} that runs anywhere")]
    UnknownModel(ModelName),
    #[error("there is no tenant {0}")]
    UnknownTenant(TenantName),
}

#[derive(Serialize)]
struct Page<'a> {
    from: &'a RegionName,
    model: &'a ModelName,
    version: String,
    tenant: Option<&'a TenantName>,
    priority: Priority,
    prompt_tokens: u64,
    /// Null where nothing would be chosen.
    choice: Option<Chosen>,
    /// Null where something would be.
    refusal: Option<String>,
    panic: bool,
    regions: Vec<Seen>,
    candidates: Vec<Candidacy>,
    vetoes: Vec<Vetoed>,
}

#[derive(Serialize)]
struct Chosen {
    node: String,
    reason: &'static str,
    spilled: bool,
    predicted: Predicted,
}

#[derive(Serialize)]
struct Seen {
    region: String,
    state: &'static str,
    near_us: u64,
    wait_us: u64,
    load_percent: u64,
    weight_percent: u64,
    nodes_good: u64,
    nodes: u64,
}

#[derive(Serialize)]
struct Candidacy {
    node: String,
    state: &'static str,
    in_flight: u32,
    predicted: Predicted,
}

#[derive(Serialize)]
struct Vetoed {
    node: String,
    why: &'static str,
}

/// A predicted time to the first token, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Predicted {
    rtt_us: u64,
    queue_us: u64,
    slot_us: u64,
    prefill_us: u64,
    memory_us: u64,
    total_us: u64,
}

/// JSON of the decision and of all that it rests on.
pub(crate) fn explained(edge: &Edge, imagined: &Imagined) -> Result<String, Unexplained> {
    let table = edge.routing_table.load_full().ok_or(Unexplained::NoTable)?;
    let model = table.models.get(&imagined.model).copied();
    let model = model.ok_or_else(|| Unexplained::UnknownModel(imagined.model.clone()))?;
    let (regions, usual) = match &imagined.tenant {
        Some(name) => {
            let policy = edge.tenants.policy_of(name);
            policy.ok_or_else(|| Unexplained::UnknownTenant(name.clone()))?
        }
        None => (None, Priority::default()),
    };
    let priority = imagined.priority.unwrap_or(usual);
    let prompt_tokens = imagined.prompt_tokens.unwrap_or(PROMPT_TOKENS_USUAL);
    let now = edge.clock.now();
    let (version, explanation) = {
        let mut health = edge.health();
        let version = policy::version(&mut health, model, regions.as_deref(), now);
        let ask = Ask {
            version,
            regions: regions.as_deref(),
            priority,
            prompt_tokens,
            prefix: &[],
            tried: &[],
            purpose: Purpose::First,
        };
        (version, explain(&table, &mut health, &edge.region, ask, now, fastrand::u64(..)))
    };
    let Explanation { outcome, is_panic, regions, candidates, vetoes } = explanation;
    let page = Page {
        from: &edge.region,
        model: &imagined.model,
        version: version.to_string(),
        tenant: imagined.tenant.as_ref(),
        priority,
        prompt_tokens,
        refusal: outcome.as_ref().err().map(ToString::to_string),
        choice: outcome.ok().map(chosen),
        panic: is_panic,
        regions: regions.into_iter().map(seen).collect(),
        candidates: candidates.into_iter().take(CANDIDATES_SHOWN_MAX).map(candidacy).collect(),
        vetoes: vetoes
            .into_iter()
            .take(CANDIDATES_SHOWN_MAX)
            .map(|(node, veto)| Vetoed { node: node.to_string(), why: veto.as_str() })
            .collect(),
    };
    Ok(serde_json::to_string(&page).expect("strings and numbers always serialise"))
}

fn chosen(choice: Choice) -> Chosen {
    let (node, reason) = (choice.node.to_string(), choice.reason.as_str());
    Chosen { node, reason, spilled: choice.spilled, predicted: choice.predicted.into() }
}

fn seen(seen: RegionSeen) -> Seen {
    let RegionSeen { region, near_us, wait_us, load_percent, weight_percent, nodes_good, nodes, state } =
        seen;
    let region = region.to_string();
    Seen { region, state, near_us, wait_us, load_percent, weight_percent, nodes_good, nodes }
}

fn candidacy(candidate: Candidate) -> Candidacy {
    let Candidate { node, predicted, in_flight, state, .. } = candidate;
    Candidacy { node: node.to_string(), state, in_flight, predicted: predicted.into() }
}

impl From<Prediction> for Predicted {
    fn from(predicted: Prediction) -> Self {
        let total_us = predicted.total_us();
        let Prediction { rtt_us, queue_us, slot_us, prefill_us, memory_us } = predicted;
        Self { rtt_us, queue_us, slot_us, prefill_us, memory_us, total_us }
    }
}

impl Unexplained {
    pub(crate) fn to_json(&self) -> String {
        ErrorObject::new(self.to_string(), "invalid_request_error", "not_explained").to_json()
    }
}

/// A chat of some turns.
const PROMPT_TOKENS_USUAL: u64 = 256;
/// More than anybody reads, on a fleet of thousands.
const CANDIDATES_SHOWN_MAX: usize = 500;
