//! What an operator writes for one node, and what can be run.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use types::{ModelName, ModelVersion, NodeName, RegionName, ZoneName};

/// The TOML as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub region: String,
    pub zone: String,
    /// The name of this node; its certificate carries the same.
    pub node: String,
    /// Where edges connect.
    pub ingress: String,
    /// Where health, metrics and replicas are shown. Plain HTTP, for this host only.
    pub admin: String,
    /// Directory of `ca.pem`, `cert.pem` and `key.pem`.
    pub identity: PathBuf,
    /// Directory for what engines write: `engine-<number>.log`.
    pub logs: PathBuf,
    /// Requests that may wait for each model version before edges are sent elsewhere. Who runs very short or very
    /// long requests turns it, when `rhumb_agent_queue_wait_seconds` nears the deadline. Since 0.1.
    #[serde(default = "queue_max")]
    pub queue_max: usize,
    /// How long a stopping agent lets running requests finish. Whoever sees streams resumed elsewhere at each
    /// restart (`rhumb_agent_requests_total{outcome="broken"}`) raises it. Since 0.1.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    /// The program that runs engines; this one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
    #[serde(default)]
    pub engines: Vec<EngineFile>,
}

/// Replicas of one model version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineFile {
    /// `sha256:` and 64 hexadecimal digits.
    pub version: String,
    pub model_dir: PathBuf,
    /// The model name in answers.
    pub served_name: String,
    /// How many replicas.
    pub count: u16,
    /// The address of the first; the others take the next ports.
    pub listen: String,
    /// Sequences that one replica runs at once. More gives more tokens per second and slower ones, see
    /// `rhumb_agent_running_requests` beside `rhumb_agent_waiting_requests`. Since 0.1.
    #[serde(default = "slots")]
    pub slots: u32,
    /// CPU threads of one replica. Since 0.1.
    #[serde(default = "threads")]
    pub threads: u32,
    /// Tokens of KV cache of one replica; absent, the engine decides. Since 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_tokens: Option<u64>,
    /// The least time of one decode step, for the sandbox; 0 = as fast as it goes. Since 0.1.
    #[serde(default)]
    pub step_time_ms: u64,
}

/// What can be run.
#[derive(Debug, Clone)]
pub struct Config {
    pub region: RegionName,
    pub zone: ZoneName,
    pub node: NodeName,
    pub ingress: SocketAddr,
    pub admin: SocketAddr,
    pub identity: PathBuf,
    pub logs: PathBuf,
    pub queue_max: usize,
    pub drain: Duration,
    pub program: PathBuf,
    pub places: Vec<Place>,
}

/// One place for a replica on this node.
#[derive(Debug, Clone)]
pub struct Place {
    /// From 0, over all engines of the node.
    pub number: u16,
    pub version: ModelVersion,
    pub model_dir: PathBuf,
    pub served_name: ModelName,
    pub address: SocketAddr,
    pub slots: u32,
    pub threads: u32,
    pub kv_tokens: Option<u64>,
    pub step_time: Duration,
}

/// Everything that is wrong with a configuration, so that an operator mends it at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Problem {
    pub field: String,
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration of this region agent cannot be used")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(file: File) -> Result<Self, ConfigError> {
        let mut check = Check::default();
        let region = check.parse("region", &file.region);
        let zone = check.parse("zone", &file.zone);
        let node = check.parse("node", &file.node);
        let ingress = check.parse("ingress", &file.ingress);
        let admin = check.parse("admin", &file.admin);
        check.range("queue_max", file.queue_max as u64, 1, QUEUE_MAX);
        check.range("drain_seconds", file.drain_seconds, 0, DRAIN_SECONDS_MAX);
        let program = check.program(file.program);
        let places = check.places(&file.engines);
        check.listeners(ingress, admin, &places);
        // Each is there unless a problem says why not.
        match (region, zone, node, ingress, admin, program) {
            (Some(region), Some(zone), Some(node), Some(ingress), Some(admin), Some(program))
                if check.problems.is_empty() =>
            {
                Ok(Self {
                    region,
                    zone,
                    node,
                    ingress,
                    admin,
                    identity: file.identity,
                    logs: file.logs,
                    queue_max: file.queue_max,
                    drain: Duration::from_secs(file.drain_seconds),
                    program,
                    places,
                })
            }
            _ => Err(ConfigError { problems: check.problems }),
        }
    }
}

/// Collects problems while it reads.
#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn problem(&mut self, field: impl Into<String>, reason: impl fmt::Display) {
        self.problems.push(Problem { field: field.into(), reason: reason.to_string() });
    }

    fn parse<T: std::str::FromStr<Err: fmt::Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        text.parse().map_err(|error| self.problem(field, format!("{text:?}: {error}"))).ok()
    }

    fn range(&mut self, field: &str, value: u64, least: u64, most: u64) {
        if !(least..=most).contains(&value) {
            self.problem(field, format!("{value} is not within {least} and {most}"));
        }
    }

    fn program(&mut self, program: Option<PathBuf>) -> Option<PathBuf> {
        match program {
            Some(program) => Some(program),
            None => match std::env::current_exe() {
                Ok(program) => Some(program),
                Err(error) => {
                    self.problem("program", format!("name it; this one cannot be found: {error}"));
                    None
                }
            },
        }
    }

    fn places(&mut self, engines: &[EngineFile]) -> Vec<Place> {
        if engines.is_empty() {
            self.problem("engines", "there is none; add [[engines]]");
        }
        let mut places = Vec::new();
        for (at, engine) in engines.iter().enumerate() {
            let field = |name: &str| format!("engines[{at}].{name}");
            let version = self.parse(&field("version"), &engine.version);
            let served_name = self.parse(&field("served_name"), &engine.served_name);
            let listen: Option<SocketAddr> = self.parse(&field("listen"), &engine.listen);
            self.range(&field("count"), engine.count.into(), 1, PLACES_MAX as u64);
            self.range(&field("slots"), engine.slots.into(), 1, SLOTS_MAX);
            self.range(&field("threads"), engine.threads.into(), 1, THREADS_MAX);
            self.range(&field("step_time_ms"), engine.step_time_ms, 0, STEP_TIME_MS_MAX);
            if engine.kv_tokens == Some(0) {
                self.problem(field("kv_tokens"), "leave it out to let the engine decide");
            }
            if listen.is_some_and(|listen| !listen.ip().is_loopback()) {
                self.problem(
                    field("listen"),
                    "engines ask nobody who he is, so they listen on loopback only",
                );
            }
            if listen.is_some_and(|listen| {
                listen.port() == 0 || listen.port().checked_add(engine.count.saturating_sub(1)).is_none()
            }) {
                self.problem(field("listen"), "the ports from this one on must lie within 1 and 65535");
                continue;
            }
            let (Some(version), Some(served_name), Some(listen)) = (version, served_name, listen) else {
                continue;
            };
            for offset in 0..engine.count.min(PLACES_MAX) {
                places.push(Place {
                    number: u16::try_from(places.len()).unwrap_or(u16::MAX),
                    version,
                    model_dir: engine.model_dir.clone(),
                    served_name: ModelName::clone(&served_name),
                    address: SocketAddr::new(listen.ip(), listen.port() + offset),
                    slots: engine.slots,
                    threads: engine.threads,
                    kv_tokens: engine.kv_tokens,
                    step_time: Duration::from_millis(engine.step_time_ms),
                });
            }
        }
        if places.len() > PLACES_MAX.into() {
            self.problem("engines", format!("{} replicas are more than {PLACES_MAX}", places.len()));
        }
        places
    }

    /// No two listeners may want the same address.
    fn listeners(&mut self, ingress: Option<SocketAddr>, admin: Option<SocketAddr>, places: &[Place]) {
        let mut taken: BTreeMap<SocketAddr, String> = BTreeMap::new();
        let engines = places.iter().map(|place| (format!("engine {}", place.number), Some(place.address)));
        for (name, address) in
            [("ingress".to_owned(), ingress), ("admin".to_owned(), admin)].into_iter().chain(engines)
        {
            // Port 0 is another port each time.
            let Some(address) = address.filter(|address| address.port() != 0) else { continue };
            if let Some(other) = taken.get(&address) {
                self.problem(name, format!("{address} is taken by {other}"));
            } else {
                taken.insert(address, name);
            }
        }
    }
}

fn queue_max() -> usize {
    256
}

fn drain_seconds() -> u64 {
    30
}

fn slots() -> u32 {
    8
}

fn threads() -> u32 {
    1
}

/// Beyond this a line is no help: its end waits longer than any deadline.
const QUEUE_MAX: u64 = 65_536;
const DRAIN_SECONDS_MAX: u64 = 24 * 3600;
/// More processes than any host has accelerators.
const PLACES_MAX: u16 = 256;
const SLOTS_MAX: u64 = 4096;
const THREADS_MAX: u64 = 1024;
const STEP_TIME_MS_MAX: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "sha256:0101010101010101010101010101010101010101010101010101010101010101";

    fn written(engines: &str) -> String {
        format!(
            "region = 'us-east'\nzone = 'a'\nnode = 'n1'\ningress = '127.0.1.1:7443'\nadmin = '127.0.1.1:9102'\n\
             identity = '/i'\nlogs = '/l'\n{engines}"
        )
    }

    fn engine(listen: &str, count: u16) -> String {
        format!(
            "[[engines]]\nversion = '{VERSION}'\nmodel_dir = '/m'\nserved_name = 'tiny'\ncount = {count}\n\
             listen = '{listen}'\n"
        )
    }

    fn config(toml: &str) -> Result<Config, ConfigError> {
        toml::from_str::<File>(toml).unwrap().try_into()
    }

    fn fields(toml: &str) -> Vec<String> {
        config(toml).unwrap_err().problems.into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn the_least_file_gets_its_defaults() {
        let config = config(&written(&engine("127.0.1.1:7500", 2))).unwrap();
        assert_eq!((config.queue_max, config.drain), (256, Duration::from_secs(30)));
        assert_eq!(config.program, std::env::current_exe().unwrap());
        let [first, second] = &config.places[..] else { panic!("{:?}", config.places) };
        assert_eq!((first.slots, first.threads, first.kv_tokens), (8, 1, None));
        assert_eq!((second.number, second.address.port()), (1, 7501));
    }

    #[test]
    fn a_file_goes_there_and_back() {
        let file: File = toml::from_str(&written(&engine("127.0.1.1:7500", 2))).unwrap();
        assert_eq!(toml::from_str::<File>(&toml::to_string(&file).unwrap()).unwrap(), file);
    }

    #[test]
    fn numbers_run_over_all_engines() {
        let engines = [engine("127.0.1.1:7500", 2), engine("127.0.1.1:7600", 1)].concat();
        let config = config(&written(&engines)).unwrap();
        let places: Vec<_> = config.places.iter().map(|place| (place.number, place.address.port())).collect();
        assert_eq!(places, [(0, 7500), (1, 7501), (2, 7600)]);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let toml = written(&engine("10.0.0.1:7500", 0))
            .replace("us-east", "US")
            .replace("7443", "x")
            .replace("sha256:01", "sha256:zz")
            .replace("'/l'", "'/l'\nqueue_max = 0");
        assert_eq!(
            fields(&toml),
            ["region", "ingress", "queue_max", "engines[0].version", "engines[0].count", "engines[0].listen"]
        );
        let text = config(&toml).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 7, "{text}");
    }

    #[test]
    fn no_two_listeners_share_an_address() {
        let overlapping = [engine("127.0.1.1:7500", 3), engine("127.0.1.1:7502", 1)].concat();
        assert_eq!(fields(&written(&overlapping)), ["engine 3"]);
        assert_eq!(fields(&written(&engine("127.0.1.1:9101", 2))), ["engine 1"]);
    }

    #[test]
    fn ports_must_exist() {
        assert_eq!(fields(&written(&engine("127.0.1.1:65535", 2))), ["engines[0].listen"]);
        assert_eq!(fields(&written(&engine("127.0.1.1:0", 1))), ["engines[0].listen"]);
        assert_eq!(fields(&written("")), ["engines"]);
        assert_eq!(fields(&written(&engine("127.0.1.1:7500", 257))), ["engines[0].count"]);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = toml::from_str::<File>(&written("queue = 3\n")).unwrap_err();
        assert!(error.to_string().contains("queue"), "{error}");
    }
}
