//! What can be typed.

use crate::operator;
use crate::sandbox::claim::Subnet;
use crate::sandbox::layout::{self, Member, Regions};
use crate::sandbox::link::Links;
use crate::sandbox::logs::Writer;
use crate::sandbox::paths::Paths;
use crate::sandbox::up::{Audience, Wish};
use crate::sandbox::{self, existing, known_region};
use crate::say::say;
use crate::{check, duration, explain, generate, load, role, stdout};
use anyhow::Context;
use clap::builder::RangedU64ValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use engine::start::{PREFILL_CHUNK_MAX, QUEUE_MAX, SLOTS_MAX, THREADS_MAX};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use types::{ModelName, ModelVersion, RegionName, ReplicaId};

/// One OpenAI-compatible endpoint in front of LLM engines in many regions.
///
/// Begin with `rhumb up`: it starts a whole system on this machine and prints a request to paste.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a sandbox: regions with a control plane, edges, agents and engines on this machine
    Up(Up),
    /// Stop the sandbox
    Down(Data),
    /// Show how each region of the sandbox is; exit status 1 unless all is well
    Status {
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        output: Output,
    },
    /// Print what a role of the sandbox wrote
    Logs {
        /// Whose log; `engine` is all engines of the region
        role: RoleName,
        region: RegionName,
        /// Go on with what is written from now on, until Ctrl-C
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        data: Data,
    },
    /// Look at the sandbox's processes and links, start what died, cut what holds
    #[command(subcommand)]
    Sandbox(Sandbox),
    Load(Box<load::Load>),
    /// Make, look at and remove tenants: who pays
    #[command(subcommand)]
    Tenant(operator::tenant::Tenant),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Key(operator::key::Key),
    /// Make models and their versions known
    #[command(subcommand)]
    Model(operator::model::Model),
    /// Say which version of a model runs where
    #[command(subcommand)]
    Deployment(operator::deployment::Deployment),
    /// List regions, and keep requests away from one for a while
    #[command(subcommand)]
    Region(operator::region::Region),
    /// Keep requests away from a node for a while
    #[command(subcommand)]
    Node(operator::region::Node),
    /// Make the intent what a file says, after showing what that changes
    Apply(operator::apply::Apply),
    /// Print the intent, or a part of it, as a file for `apply`
    Get(operator::get::Get),
    /// Ask an edge where requests go, and why
    #[command(subcommand)]
    Route(explain::Route),
    /// Ask the edges what became of a request
    #[command(subcommand)]
    Request(explain::Request),
    /// Run a member of the control plane
    ControlPlane(Config),
    /// Run an edge: the proxy that clients speak to
    Edge(Config),
    /// Run a region agent: it supervises the engines of one node
    RegionAgent(Config),
    /// Run an engine: one model behind an OpenAI-compatible API
    Engine(Engine),
    /// Print a role's configuration for a production host, with a comment at each field
    ///
    /// rhumb config edge --region eu-west --name e1 \
    ///   --member 1:us-east/c1=10.0.0.4:7001 --member 2:eu-west/c1=10.1.0.4:7001 \
    ///   --member 3:ap-south/c1=10.2.0.4:7001 > edge.toml
    #[command(subcommand, verbatim_doc_comment)]
    Config(generate::command::Config),
    /// Find everything that would keep a role from starting
    Check {
        #[command(flatten)]
        config: Config,
        /// What the configuration is for
        #[arg(long, value_name = "ROLE")]
        role: ConfiguredRole,
    },
    /// Print a completion script for a shell
    ///
    /// For bash: `source <(rhumb completion bash)`
    Completion {
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct Up {
    /// Return as soon as everything is ready, and leave it running until `rhumb down`
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    output: Output,
    /// The regions, separated by commas, or how many; clients stand in the first one [default: those that it
    /// had, or us-east,eu-west,ap-south]
    #[arg(long, value_name = "NAMES|N")]
    regions: Option<Regions>,
    #[command(flatten)]
    data: Data,
    /// The least time of one decode step of an engine, so that a small model streams like a large one; 0 is as
    /// fast as it goes [default: as it was, or 20ms]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    step_time: Option<Duration>,
    /// How long certificates live, for drills of their renewal [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    certificate_life: Option<Duration>,
    /// The round trip between any two regions, however far they are apart; 0 for none [default: by their distance]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    rtt: Option<Duration>,
    /// Live on 127.N.*.*; `auto` takes a free number, so that several sandboxes run side by side
    #[arg(long, value_name = "N|auto", default_value = "0")]
    subnet: Subnet,
    /// Given by `--detach` to the process that it starts
    #[arg(long, hide = true)]
    detached: bool,
}

#[derive(Debug, Subcommand)]
enum Sandbox {
    /// List every process: voters, edges, region agents and their engines
    Ps {
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        output: Output,
    },
    /// Start a role that died, and wait until it does its work again
    Start {
        role: RoleName,
        region: RegionName,
        #[command(flatten)]
        data: Data,
    },
    /// Show how the sandbox is as it changes, until Ctrl-C
    ///
    /// On a terminal a picture that changes in place, elsewhere a line for each thing and look. FAILED counts
    /// requests that were refused or broke off since the first look.
    Watch {
        /// The time between two looks
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = sandbox::view::watch::interval)]
        interval: Duration,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        output: Output,
    },
    /// Show the links between regions, or break and mend them
    ///
    /// Without a fault it shows them. With one it gives the links that are named exactly these faults, in both
    /// directions: what is not named goes back to none.
    Link {
        #[command(flatten)]
        link: Links,
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
struct Data {
    /// Where the sandbox keeps its state and logs
    #[arg(long = "data", value_name = "DIR", default_value = DATA_DEFAULT)]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct Output {
    /// Print JSON, whose fields stay as they are
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
struct Config {
    /// The role's TOML file
    #[arg(long = "config", value_name = "FILE")]
    path: PathBuf,
}

#[derive(Debug, Args)]
struct Engine {
    /// The folder with the model's manifest.json and its files
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Where to serve
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Refuse the folder if it holds another version
    #[arg(long, value_name = "sha256:HEX")]
    version: Option<ModelVersion>,
    /// Who this engine is to its agent
    #[arg(long, value_name = "ID")]
    replica: Option<ReplicaId>,
    /// The model's name in the API [default: the name in its manifest]
    #[arg(long, value_name = "NAME")]
    served_name: Option<ModelName>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = number(1, THREADS_MAX))]
    threads: Option<usize>,
    /// Sequences that run at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = number(1, SLOTS_MAX))]
    slots: usize,
    /// Requests that wait while all slots are taken
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = number(0, QUEUE_MAX))]
    queue_max: usize,
    /// Tokens that the KV cache holds [default: a full context for each slot]
    #[arg(long, value_name = "N")]
    kv_tokens: Option<usize>,
    /// Prompt tokens computed in one step
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = number(1, PREFILL_CHUNK_MAX))]
    prefill_chunk: usize,
    /// The least time of one step, such as 20ms; 0 is as fast as it goes
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse)]
    step_time: Duration,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    ControlPlane,
    Edge,
    RegionAgent,
    Engine,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConfiguredRole {
    ControlPlane,
    Edge,
    RegionAgent,
}

impl Cli {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Up(up) => return up.run(),
            Command::Down(data) => sandbox::down::run(&data.paths()?)?,
            Command::Status { data, output } => return sandbox::status::run(&data.paths()?, output.json),
            Command::Logs { role, region, follow, data } => {
                let paths = data.paths()?;
                let region = known_region(&paths, region)?;
                sandbox::logs::show(&paths, role.writer(), &region, follow)?;
            }
            Command::Sandbox(Sandbox::Ps { data, output }) => sandbox::ps::run(&data.paths()?, output.json)?,
            Command::Sandbox(Sandbox::Start { role, region, data }) => start(role, region, &data)?,
            Command::Sandbox(Sandbox::Watch { interval, data, output }) => {
                sandbox::view::watch::run(&data.paths()?, interval, output.json)?;
            }
            Command::Sandbox(Sandbox::Link { link, data, output }) => {
                link.run(&data.paths()?, output.json)?;
            }
            Command::Load(load) => return load.run(),
            Command::Tenant(tenant) => tenant.run()?,
            Command::Key(key) => key.run()?,
            Command::Model(model) => model.run()?,
            Command::Deployment(deployment) => deployment.run()?,
            Command::Region(region) => region.run()?,
            Command::Route(route) => route.run()?,
            Command::Request(request) => request.run()?,
            Command::Node(node) => node.run()?,
            Command::Apply(apply) => apply.run()?,
            Command::Get(get) => get.run()?,
            Command::ControlPlane(config) => role::control_plane(&config.path)?,
            Command::Edge(config) => role::edge(&config.path)?,
            Command::RegionAgent(config) => role::region_agent(&config.path)?,
            Command::Engine(engine) => role::engine(engine.config()?)?,
            Command::Config(config) => config.run()?,
            Command::Check { config, role } => return check(&config, role),
            Command::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "rhumb", &mut script);
                stdout::print(&String::from_utf8_lossy(&script))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Up {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.detach && !self.detached {
            return sandbox::detach::run(&self.data.dir, self.output.json);
        }
        let audience = match self.detached {
            true => Audience::Detacher,
            false => Audience::Caller { json: self.output.json },
        };
        let Self { regions, subnet, step_time, certificate_life, rtt, .. } = self;
        sandbox::up::run(
            &Wish { data: self.data.dir, regions, subnet, step_time, certificate_life, round_trip: rtt },
            audience,
        )
    }
}

fn start(role: RoleName, region: RegionName, data: &Data) -> anyhow::Result<()> {
    let paths = data.paths()?;
    let region = known_region(&paths, region)?;
    match role.started_by_up() {
        Some(role) => sandbox::start::run(&paths, &Member { region, role }),
        None => {
            say!("engines are started again by their region agent, by themselves; see `rhumb sandbox ps`");
            Ok(())
        }
    }
}

fn check(config: &Config, role: ConfiguredRole) -> anyhow::Result<ExitCode> {
    let problems = match role {
        ConfiguredRole::ControlPlane => check::control_plane(&config.path),
        ConfiguredRole::Edge => check::edge(&config.path),
        ConfiguredRole::RegionAgent => check::region_agent(&config.path),
    };
    let file = config.path.display();
    if problems.is_empty() {
        stdout::print(&format!("{file}: nothing is wrong\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    for problem in problems {
        say!("error: {problem}");
    }
    Ok(ExitCode::FAILURE)
}

impl Data {
    fn paths(&self) -> anyhow::Result<Paths> {
        existing(&self.dir)
    }
}

impl Engine {
    fn config(self) -> anyhow::Result<engine::Config> {
        let manifest = engine::manifest::read(&self.model)?;
        let served_name = match self.served_name {
            Some(name) => name,
            None => {
                manifest.name.parse().context("the manifest's name cannot be served; give --served-name")?
            }
        };
        let cores = || {
            let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            cores.min(THREADS_MAX)
        };
        let threads = NonZeroUsize::new(self.threads.unwrap_or_else(cores));
        Ok(engine::Config {
            listen: self.listen,
            model_dir: self.model,
            version: self.version,
            replica: self.replica,
            served_name,
            threads: threads.unwrap_or(NonZeroUsize::MIN),
            slots: self.slots,
            queue_max: self.queue_max,
            kv_tokens: self.kv_tokens.unwrap_or_else(|| self.slots.saturating_mul(manifest.context_length)),
            prefill_chunk: self.prefill_chunk,
            step_time: self.step_time,
        })
    }
}

fn number(min: usize, max: usize) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(min as u64..=max as u64)
}

impl RoleName {
    fn started_by_up(self) -> Option<layout::Role> {
        match self {
            Self::ControlPlane => Some(layout::Role::ControlPlane),
            Self::Edge => Some(layout::Role::Edge),
            Self::RegionAgent => Some(layout::Role::RegionAgent),
            Self::Engine => None,
        }
    }

    fn writer(self) -> Writer {
        self.started_by_up().map_or(Writer::Engines, Writer::Role)
    }
}

pub const DATA_DEFAULT: &str = ".rhumb";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_agent_s_engine_command_is_understood() {
        let version = format!("sha256:{}", "01".repeat(32));
        let line = format!(
            "rhumb engine --model /m --listen 127.0.1.1:7500 --version {version} --replica us-east/n1/0-3 \
             --served-name tiny --slots 8 --threads 1 --kv-tokens 4096 --step-time 20ms"
        );
        let Command::Engine(engine) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("not an engine");
        };
        assert_eq!(engine.step_time, Duration::from_millis(20));
        assert_eq!(engine.replica.unwrap().to_string(), "us-east/n1/0-3");
    }

    #[test]
    fn impossible_numbers_are_wrong_usage() {
        for flag in [
            "--slots 0",
            "--slots 4097",
            "--slots 18446744073709551615",
            "--threads 0",
            "--threads 100000",
            "--queue-max 65537",
            "--prefill-chunk 0",
            "--prefill-chunk 65537",
        ] {
            let line = format!("rhumb engine --model /m --listen 127.0.0.1:7500 {flag}");
            assert_eq!(Cli::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{flag}");
        }
    }

    #[test]
    fn bad_regions_are_wrong_usage() {
        let refused = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err();
        let error = refused("rhumb up --regions us-east,US");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("must match"), "{error}");
        assert_eq!(refused("rhumb logs edge us_east").exit_code(), 2);
        assert_eq!(refused("rhumb up --subnet 256").exit_code(), 2);
    }
}
