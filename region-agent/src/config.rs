//! What an operator writes for one node, and what can be run.

use client::MemberAddress;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use types::{DialMap, NodeKey, NodeName, RegionName, ZoneName};

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
    /// Directory of what outlives this process: the last good picture of the intent, in `deployments`.
    pub data: PathBuf,
    /// Address of the first engine, on loopback: place n of this node listens on its port + n.
    pub engines_listen: String,
    /// Requests that may wait for each model version before edges are sent elsewhere. Who runs very short or very
    /// long requests turns it, when `rhumb_agent_queue_wait_seconds` nears the deadline. Since 0.1.
    #[serde(default = "queue_max")]
    pub queue_max: usize,
    /// How long running requests may go on where an engine or the agent is to end. Whoever sees streams resumed elsewhere at each
    /// restart (`rhumb_agent_requests_total{outcome="broken"}`) raises it. Since 0.1.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    /// The program that runs engines; this one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
    /// Members of the control plane, nearest first. The agent serves without them, as they last said.
    pub control_plane: Vec<MemberAddress>,
    /// Addresses of members that are dialled elsewhere.
    #[serde(default, skip_serializing_if = "DialMap::is_empty")]
    pub dial_map: DialMap,
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
    pub data: PathBuf,
    pub control_plane: Vec<MemberAddress>,
    pub dial_map: DialMap,
    /// Where the engine of place 0 listens.
    pub engines_first: SocketAddr,
    /// How many places there are.
    pub places: u16,
    pub queue_max: usize,
    pub drain: Duration,
    pub program: PathBuf,
}

impl Config {
    pub fn node_key(&self) -> NodeKey {
        NodeKey { region: self.region.clone(), node: self.node.clone() }
    }
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
        let engines = check.engines(&file.engines_listen);
        check.listeners(ingress, admin, engines);
        check.members(&file.control_plane);
        // Each is there unless a problem says why not.
        match (region, zone, node, ingress, admin, engines, program) {
            (
                Some(region),
                Some(zone),
                Some(node),
                Some(ingress),
                Some(admin),
                Some(engines_first),
                Some(program),
            ) if check.problems.is_empty() => Ok(Self {
                region,
                zone,
                node,
                ingress,
                admin,
                identity: file.identity,
                logs: file.logs,
                data: file.data,
                control_plane: file.control_plane,
                dial_map: file.dial_map,
                engines_first,
                places: places_from(engines_first),
                queue_max: file.queue_max,
                drain: Duration::from_secs(file.drain_seconds),
                program,
            }),
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

    fn engines(&mut self, listen: &str) -> Option<SocketAddr> {
        let first: SocketAddr = self.parse(ENGINES_LISTEN, listen)?;
        if !first.ip().is_loopback() {
            self.problem(ENGINES_LISTEN, "engines ask nobody who he is, so they listen on loopback only");
        }
        if first.port() == 0 {
            self.problem(ENGINES_LISTEN, "needs a port, from which those of the places are counted");
        }
        Some(first)
    }

    fn members(&mut self, members: &[MemberAddress]) {
        self.range("control_plane", members.len() as u64, 1, MEMBERS_MAX);
        for (at, member) in members.iter().enumerate() {
            if members[..at].iter().any(|other| other.address == member.address) {
                self.problem(format!("control_plane[{at}].address"), "is named twice");
            }
        }
    }

    /// No two listeners may want the same address.
    fn listeners(
        &mut self,
        ingress: Option<SocketAddr>,
        admin: Option<SocketAddr>,
        engines: Option<SocketAddr>,
    ) {
        // Port 0 is another port each time.
        let named = |address: Option<SocketAddr>| address.filter(|address| address.port() != 0);
        let (ingress, admin, engines) = (named(ingress), named(admin), named(engines));
        if admin.is_some() && admin == ingress {
            self.problem("admin", "is the address of ingress, too");
        }
        let Some(first) = engines else { return };
        let last = first.port() + (places_from(first) - 1);
        for (field, address) in [("ingress", ingress), ("admin", admin)] {
            let is_place = |address: SocketAddr| {
                address.ip() == first.ip() && (first.port()..=last).contains(&address.port())
            };
            if address.is_some_and(is_place) {
                self.problem(
                    field,
                    format!("engines use the ports from {} to {last} of this address", first.port()),
                );
            }
        }
    }
}

/// A node has as many places as there are ports for, up to a bound.
fn places_from(first: SocketAddr) -> u16 {
    PLACES_MAX.min((u16::MAX - first.port()).saturating_add(1))
}

fn queue_max() -> usize {
    256
}

fn drain_seconds() -> u64 {
    30
}

/// Beyond this a line is no help: its end waits longer than any deadline.
const QUEUE_MAX: u64 = 65_536;
const DRAIN_SECONDS_MAX: u64 = 24 * 3600;
/// More processes than any host has accelerators.
const PLACES_MAX: u16 = 256;
/// More members than a control plane has voters and learners near one node.
const MEMBERS_MAX: u64 = 16;
const ENGINES_LISTEN: &str = "engines_listen";

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "region = 'us-east'\nzone = 'a'\nnode = 'n1'\ningress = '127.0.1.1:7443'\n\
        admin = '127.0.1.1:9102'\nidentity = '/i'\nlogs = '/l'\ndata = '/d'\nengines_listen = '127.0.1.1:7500'\n\
        [[control_plane]]\naddress = '127.0.1.1:7001'\nserver_name = 'c1.control-plane.us-east.rhumb.internal'\n";

    fn config(toml: &str) -> Result<Config, ConfigError> {
        toml::from_str::<File>(toml).unwrap().try_into()
    }

    fn fields(toml: &str) -> Vec<String> {
        config(toml).unwrap_err().problems.into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn the_least_file_gets_its_defaults() {
        let config = config(WRITTEN).unwrap();
        assert_eq!((config.queue_max, config.drain), (256, Duration::from_secs(30)));
        assert_eq!(config.program, std::env::current_exe().unwrap());
        assert_eq!((config.engines_first.port(), config.places), (7500, 256));
        assert_eq!(config.control_plane[0].address.port(), 7001);
        assert_eq!(config.node_key().to_string(), "us-east/n1");
    }

    #[test]
    fn a_file_goes_there_and_back() {
        let file: File = toml::from_str(WRITTEN).unwrap();
        assert_eq!(toml::from_str::<File>(&toml::to_string(&file).unwrap()).unwrap(), file);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let toml = WRITTEN
            .replace("us-east'\nzone", "US'\nzone")
            .replace("7443", "x")
            .replace("127.0.1.1:7500", "10.0.0.1:0")
            .replace("logs = '/l'", "logs = '/l'\nqueue_max = 0");
        let toml = &toml[..toml.find("[[").unwrap()];
        let toml = format!("{toml}control_plane = []\n");
        assert_eq!(
            fields(&toml),
            ["region", "ingress", "queue_max", "engines_listen", "engines_listen", "control_plane"]
        );
        let text = config(&toml).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 7, "{text}");
    }

    #[test]
    fn no_two_listeners_share_an_address() {
        assert_eq!(fields(&WRITTEN.replace("7443", "9102")), ["admin"]);
        assert_eq!(fields(&WRITTEN.replace("9102", "7500")), ["admin"]);
        assert_eq!(fields(&WRITTEN.replace("7443", "7755")), ["ingress"]);
        assert!(config(&WRITTEN.replace("7443", "7756")).is_ok());
        assert!(config(&WRITTEN.replace("127.0.1.1:7443", "127.0.1.2:7500")).is_ok());
    }

    #[test]
    fn there_are_as_many_places_as_ports() {
        let places = |first: &str| config(&WRITTEN.replace("7500", first)).unwrap().places;
        assert_eq!([places("65535"), places("65281"), places("65280"), places("1")], [1, 255, 256, 256]);
    }

    #[test]
    fn members_are_bounded_and_differ() {
        let member =
            |port: usize| format!("[[control_plane]]\naddress = '127.0.2.1:{port}'\nserver_name = 'x'\n");
        let with = |count: usize| [WRITTEN.to_owned(), (1..=count).map(member).collect()].concat();
        assert!(config(&with(15)).is_ok());
        assert_eq!(fields(&with(16)), ["control_plane"]);
        let twice = [with(1), member(1)].concat();
        assert_eq!(fields(&twice), ["control_plane[2].address"]);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = toml::from_str::<File>(&format!("queue = 3\n{WRITTEN}")).unwrap_err();
        assert!(error.to_string().contains("queue"), "{error}");
    }
}
