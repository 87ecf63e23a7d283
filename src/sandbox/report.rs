//! What a ready sandbox is, for scripts and for people.

use crate::sandbox::house_model;
use crate::sandbox::layout::{Layout, Seat};
use crate::sandbox::paths::Paths;
use crate::sandbox::seed::TENANT;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use types::{ApiKey, RegionName};

/// What `rhumb up --json` prints. Parts that are not built yet are null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Base URL for clients: leads to the nearest edge that is ready.
    pub endpoint: String,
    pub api_key: String,
    pub tenant: String,
    pub model: String,
    pub dns: Option<String>,
    pub console: Option<String>,
    pub data_dir: PathBuf,
    pub regions: Vec<RegionReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionReport {
    pub name: RegionName,
    /// Base URL for clients.
    pub edge: String,
    pub admin: String,
    pub agent: String,
    /// Null where there is no voter.
    pub control_plane: Option<String>,
}

impl Report {
    pub fn new(layout: &Layout, paths: &Paths, key: &ApiKey) -> Self {
        let regions: Vec<RegionReport> = layout.seats().map(|seat| RegionReport::new(&seat)).collect();
        Self {
            endpoint: format!("{}/v1", url(layout.anycast()[0])),
            api_key: key.reveal(),
            tenant: TENANT.to_owned(),
            model: house_model::NAME.to_owned(),
            dns: None,
            console: None,
            data_dir: paths.data().to_owned(),
            regions,
        }
    }

    /// For people: what is there, a request to paste, and what to type next.
    pub fn summary(&self, rhumb: &Invocation) -> String {
        let mut text =
            format!("\nRhumb is up: {} in {}.\n\n", self.model, counted(self.regions.len(), "region"));
        let width = self.regions.iter().map(|region| region.name.as_str().len()).max().unwrap_or(0);
        let Self { endpoint, api_key, model, .. } = self;
        let width = width.max(ANYWHERE.len());
        writeln!(text, "  {ANYWHERE:width$}  {endpoint}  (leads to the nearest edge)")
            .expect("a string takes any text");
        for RegionReport { name, edge, .. } in &self.regions {
            writeln!(text, "  {:width$}  {edge}", name.as_str()).expect("a string takes any text");
        }
        write!(
            text,
            "\nAsk it something:\n\n  \
             curl {endpoint}/chat/completions \\\n    \
             -H 'authorization: Bearer {api_key}' \\\n    \
             -H 'content-type: application/json' \\\n    \
             -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"{QUESTION}\"}}]}}'\n\n"
        )
        .expect("a string takes any text");
        for (title, words) in self.next_steps() {
            writeln!(text, "{title:13} {}", rhumb.command(&words)).expect("a string takes any text");
        }
        text
    }

    /// What one may want to type next.
    fn next_steps(&self) -> Vec<(&'static str, String)> {
        let first = &self.regions[0].name;
        let mut steps = vec![
            ("Look around:", "status".to_owned()),
            ("", "sandbox ps".to_owned()),
            ("", format!("logs edge {first} --follow")),
            ("Load it:", "load --rate 20".to_owned()),
        ];
        // One region has no links.
        if let [_, .., last] = &self.regions[..] {
            steps.push(("Break it:", format!("sandbox link {} --partition", last.name)));
        }
        steps.extend([
            ("Change it:", "tenant create acme".to_owned()),
            ("", format!("region drain {first}")),
            ("Stop it:", "down".to_owned()),
        ]);
        steps
    }
}

impl RegionReport {
    fn new(seat: &Seat) -> Self {
        Self {
            name: seat.region.clone(),
            edge: format!("{}/v1", url(seat.edge_plain())),
            admin: url(seat.edge_admin()),
            agent: url(seat.agent_admin()),
            control_plane: seat.voter.map(|_| format!("https://{}", seat.control_plane())),
        }
    }
}

/// How this program was called and for which sandbox, so that a hint can be pasted.
#[derive(Debug, Clone)]
pub struct Invocation {
    program: String,
    data: Option<PathBuf>,
}

impl Invocation {
    /// The default directory goes without saying.
    pub fn of_this_process(data: &Path) -> Self {
        let program = std::env::args().next().unwrap_or_else(|| "rhumb".to_owned());
        let data = (data != Path::new(crate::cli::DATA_DEFAULT)).then(|| data.to_owned());
        Self { program, data }
    }

    pub fn command(&self, words: &str) -> String {
        match &self.data {
            Some(data) => format!("{} {words} --data {}", self.program, quoted(&data.to_string_lossy())),
            None => format!("{} {words}", self.program),
        }
    }
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    match text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte)) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// `1 region`, `2 regions`.
fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Beside the names of regions.
const ANYWHERE: &str = "anywhere";
/// The house model knows the answer.
const QUESTION: &str = "What is Rhumb?";

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let layout = Layout::new(0, "us-east,eu-west".parse().unwrap());
        let key = ApiKey::from_random([0; 10], [0; 32]);
        Report::new(&layout, &Paths::below("/tmp/x".into()), &key)
    }

    #[test]
    fn json_is_the_contract() {
        let expected = serde_json::json!({
            "endpoint": "http://127.0.0.1:8080/v1",
            "api_key": ApiKey::from_random([0; 10], [0; 32]).reveal(),
            "tenant": "default",
            "model": "rhumb-house",
            "dns": null,
            "console": null,
            "data_dir": "/tmp/x",
            "regions": [
                {
                    "name": "us-east",
                    "edge": "http://127.0.1.1:8080/v1",
                    "admin": "http://127.0.1.1:9101",
                    "agent": "http://127.0.1.1:9102",
                    "control_plane": "https://127.0.1.1:7001",
                },
                {
                    "name": "eu-west",
                    "edge": "http://127.0.2.1:8080/v1",
                    "admin": "http://127.0.2.1:9101",
                    "agent": "http://127.0.2.1:9102",
                    "control_plane": null,
                },
            ],
        });
        assert_eq!(serde_json::to_value(report()).unwrap(), expected);
    }

    #[test]
    fn hints_name_the_sandbox_unless_it_is_the_usual_one() {
        let rhumb =
            |data: Option<&str>| Invocation { program: "./rhumb".to_owned(), data: data.map(PathBuf::from) };
        assert_eq!(rhumb(None).command("down"), "./rhumb down");
        assert_eq!(rhumb(Some("/tmp/x")).command("down"), "./rhumb down --data /tmp/x");
        assert_eq!(rhumb(Some("/a b/it's")).command("down"), r"./rhumb down --data '/a b/it'\''s'");
        let summary = report().summary(&rhumb(Some("/tmp/x")));
        assert!(summary.contains("./rhumb logs edge us-east --follow --data /tmp/x\n"), "{summary}");
        assert!(summary.contains("curl http://127.0.0.1:8080/v1/chat/completions \\\n"), "{summary}");
    }
}
