//! `rhumb route explain` and `rhumb request explain`: why a request goes where it goes, and what became of one.
//!
//! Edges decide, so they are who is asked: those of the sandbox, or any by their admin address.

use crate::cli::Output;
use crate::sandbox::{existing, kept_layout, known_region, probe};
use crate::stdout;
use crate::table::table;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::Value;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use types::{ModelName, Priority, RegionName, TenantName};

#[derive(Debug, Subcommand)]
pub enum Route {
    /// Show where a request would go now, what it would wait for there, and what speaks against every other node
    Explain {
        /// What is asked for
        #[arg(long)]
        model: ModelName,
        /// Whose edge decides
        #[arg(long, value_name = "REGION", required_unless_present = "edge")]
        from: Option<RegionName>,
        /// Whose request it is: where it may go, and its class [default: a tenant without a policy]
        #[arg(long)]
        tenant: Option<TenantName>,
        /// The class, if not the tenant's
        #[arg(long)]
        priority: Option<Priority>,
        /// The prompt's length [default: 256]
        #[arg(long, value_name = "N")]
        prompt_tokens: Option<u64>,
        #[command(flatten)]
        edges: Edges,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub enum Request {
    /// Tell what was decided for a request, and what came of it
    ///
    /// Each edge remembers its latest ten thousand, and asks the others that its configuration lists.
    Explain {
        /// The `id` of an answer, or its `x-request-id`
        id: String,
        #[command(flatten)]
        edges: Edges,
        #[command(flatten)]
        output: Output,
    },
}

/// Who is asked.
#[derive(Debug, Args)]
pub struct Edges {
    /// The admin address of an edge outside of a sandbox; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    edge: Vec<SocketAddr>,
    /// Where the sandbox keeps its state and logs
    #[arg(long = "data", value_name = "DIR", default_value = crate::cli::DATA_DEFAULT)]
    dir: PathBuf,
}

impl Edges {
    /// Those of one region of the sandbox, or of all.
    fn addresses(&self, from: Option<&RegionName>) -> anyhow::Result<Vec<SocketAddr>> {
        if !self.edge.is_empty() {
            return Ok(self.edge.clone());
        }
        let paths = existing(&self.dir)?;
        if let Some(from) = from {
            known_region(&paths, from.clone())?;
        }
        let layout = kept_layout(&paths)?;
        let of_region = layout.seats().filter(|seat| from.is_none_or(|from| seat.region == *from));
        Ok(of_region.map(|seat| seat.edge_admin()).collect())
    }
}

impl Route {
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Explain { model, from, tenant, priority, prompt_tokens, edges, output } = self;
        let mut path = format!("/route?model={model}");
        if let Some(tenant) = tenant {
            write!(path, "&tenant={tenant}")?;
        }
        if let Some(priority) = priority {
            write!(path, "&priority={priority}")?;
        }
        if let Some(tokens) = prompt_tokens {
            write!(path, "&prompt_tokens={tokens}")?;
        }
        let page = ask(&edges.addresses(from.as_ref())?, &path)?;
        match output.json {
            true => stdout::print_json(&page)?,
            false => stdout::print(&route_shown(&page))?,
        };
        Ok(())
    }
}

impl Request {
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Explain { id, edges, output } = self;
        if id.is_empty()
            || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        {
            bail!("{id:?} is no request's id; it looks like chatcmpl-0123456789abcdef0123456789abcdef");
        }
        let page = ask(&edges.addresses(None)?, &format!("/requests/{id}"))?;
        match output.json {
            true => stdout::print_json(&page)?,
            false => stdout::print(&request_shown(&page))?,
        };
        Ok(())
    }
}

/// The first page that any of them has; if none, what they say.
#[tokio::main(flavor = "current_thread")]
async fn ask(edges: &[SocketAddr], path: &str) -> anyhow::Result<Value> {
    let answers = join_all(edges.iter().map(|edge| probe::get(*edge, path, None))).await;
    let mut said = Vec::new();
    for (edge, answer) in edges.iter().zip(answers) {
        match answer {
            Ok((StatusCode::OK, body)) => {
                return serde_json::from_slice(&body)
                    .with_context(|| format!("{edge} speaks another version"));
            }
            Ok((_, body)) => {
                let error: Value = serde_json::from_slice(&body).unwrap_or_default();
                said.push(
                    error["error"]["message"].as_str().unwrap_or("it does not know such a page").to_owned(),
                );
            }
            Err(error) => said.push(error.to_string()),
        }
    }
    said.sort_unstable();
    said.dedup();
    bail!("no edge can tell: {}", said.join("; "))
}

fn route_shown(page: &Value) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text += &words;
        text.push('\n');
    };
    let of = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    line(format!(
        "{} of {} from {}, {} prompt tokens, {}",
        of(&page["model"]),
        page["tenant"].as_str().unwrap_or("a tenant without a policy"),
        of(&page["from"]),
        page["prompt_tokens"],
        of(&page["priority"]),
    ));
    match &page["choice"] {
        Value::Null => line(format!("goes nowhere: {}", of(&page["refusal"]))),
        choice => line(format!(
            "goes to {} ({}{}), first token in {}",
            of(&choice["node"]),
            of(&choice["reason"]),
            if choice["spilled"] == true { ", because what is nearer has too much to do" } else { "" },
            millis(&choice["predicted"]["total_us"]),
        )),
    }
    if page["panic"] == true {
        line("less than half of the capacity looks healthy: how nodes look is not trusted".to_owned());
    }
    let rows = |name: &str| page[name].as_array().cloned().unwrap_or_default();
    let head = ["REGION", "GOOD", "LOAD", "WEIGHT", "NEAR", "WAIT", "STATE"].map(str::to_owned);
    let region = |row: Value| {
        [
            of(&row["region"]),
            format!("{}/{}", row["nodes_good"], row["nodes"]),
            format!("{} %", row["load_percent"]),
            format!("{} %", row["weight_percent"]),
            millis(&row["near_us"]),
            millis(&row["wait_us"]),
            of(&row["state"]),
        ]
    };
    line(format!("\n{}", table(head, rows("regions").into_iter().map(region))));
    let head = ["NODE", "TOTAL", "RTT", "QUEUE", "SLOT", "PREFILL", "MEMORY", "IN FLIGHT", "STATE"];
    let candidate = |row: Value| {
        let part = |name: &str| millis(&row["predicted"][name]);
        [
            of(&row["node"]),
            part("total_us"),
            part("rtt_us"),
            part("queue_us"),
            part("slot_us"),
            part("prefill_us"),
            part("memory_us"),
            row["in_flight"].to_string(),
            of(&row["state"]),
        ]
    };
    text += &table(head.map(str::to_owned), rows("candidates").into_iter().map(candidate));
    let vetoes = rows("vetoes");
    if !vetoes.is_empty() {
        let veto = |row: Value| [of(&row["node"]), of(&row["why"])];
        text.push('\n');
        text += &table(["VETOED", "WHY"].map(str::to_owned), vetoes.into_iter().map(veto));
    }
    text
}

fn request_shown(page: &Value) -> String {
    let of = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let mut text = format!(
        "request {} of {}, told by edge {}\n",
        of(&page["id"]),
        of(&page["tenant"]),
        of(&page["edge"])
    );
    if page["version"].is_string() {
        text += &format!("version {}\n", of(&page["version"]));
    }
    text.push('\n');
    let steps = page["steps"].as_array().cloned().unwrap_or_default();
    let step = |step: Value| {
        let what = of(&step["what"]);
        let facts = match what.as_str() {
            "sent" => format!(
                "attempt {} to {} ({}, {}), first token expected in {}",
                step["attempt"],
                of(&step["node"]),
                of(&step["purpose"]),
                of(&step["reason"]),
                millis(&step["predicted"]["total_us"]),
            ),
            "resumed" => {
                format!(
                    "{}, after token {}, {} ms without one",
                    of(&step["exactness"]),
                    step["position"],
                    step["gap_ms"]
                )
            }
            _ => {
                let fields = step.as_object().into_iter().flatten();
                let fields = fields.filter(|(name, _)| !matches!(name.as_str(), "at_us" | "what"));
                fields.map(|(name, value)| format!("{name} {}", of(value))).collect::<Vec<_>>().join(", ")
            }
        };
        [format!("{} after", millis(&step["at_us"])), what, facts]
    };
    text += &table(["WHEN", "WHAT", ""].map(str::to_owned), steps.into_iter().map(step));
    if page["steps_left_out"].as_u64().unwrap_or(0) > 0 {
        text += &format!("and {} more steps\n", page["steps_left_out"]);
    }
    match &page["ended"] {
        Value::Null => text += "\nit still runs\n",
        ended => {
            text += &format!(
                "\n{} with status {} after {} ms: {} attempts, {} + {} tokens, first token after {} ms\n",
                of(&ended["ended"]),
                of(&ended["status"]),
                ended["duration_ms"],
                ended["attempts"],
                ended["prompt_tokens"],
                ended["completion_tokens"],
                of(&ended["first_token_ms"]),
            );
        }
    }
    text
}

/// Microseconds, as people read them.
fn millis(us: &Value) -> String {
    us.as_u64().map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_s_way_is_told_step_by_step() {
        let page = json!({
            "id": "0f", "edge": "us-east/e1", "tenant": "acme", "version": null, "steps_left_out": 0,
            "steps": [
                {"at_us": 150, "what": "sent", "attempt": 1, "node": "us-east/n1", "purpose": "first",
                 "reason": "balanced", "predicted": {"total_us": 12_300}},
                {"at_us": 900_000, "what": "broke", "position": 7, "why": "the stream broke"},
                {"at_us": 1_200_000, "what": "resumed", "position": 7, "exactness": "exact", "gap_ms": 320},
            ],
            "ended": {"ended": "complete", "status": 200, "attempts": 2, "prompt_tokens": 5,
                      "completion_tokens": 20, "first_token_ms": 31, "duration_ms": 2_000},
        });
        insta::assert_snapshot!(request_shown(&page));
    }

    #[test]
    fn a_route_is_told_with_all_that_speaks_for_and_against() {
        let predicted = json!({"rtt_us": 400, "queue_us": 0, "slot_us": 0, "prefill_us": 6_000, "memory_us": 0,
                               "total_us": 6_400});
        let page = json!({
            "from": "us-east", "model": "house", "tenant": null, "priority": "standard", "prompt_tokens": 256,
            "choice": {"node": "us-east/n1", "reason": "balanced", "spilled": false, "predicted": predicted},
            "refusal": null, "panic": false,
            "regions": [{"region": "us-east", "state": "has room", "near_us": 6_400, "wait_us": 0,
                         "load_percent": 12, "weight_percent": 100, "nodes_good": 1, "nodes": 1}],
            "candidates": [{"node": "us-east/n1", "state": "could take it", "in_flight": 2,
                            "predicted": predicted}],
            "vetoes": [{"node": "eu-west/n1", "why": "drained"}],
        });
        insta::assert_snapshot!(route_shown(&page));
    }
}
