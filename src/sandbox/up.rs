//! `rhumb up`: brings a sandbox up, holds it, and takes it down again.

use crate::failure::WrongUsage;
use crate::role::{self, lifeline};
use crate::sandbox::claim::{self, Claim, Subnet};
use crate::sandbox::control::{self, Answer, Asked, Question};
use crate::sandbox::layout::{Layout, Member, Regions};
use crate::sandbox::paths::Paths;
use crate::sandbox::progress::{Progress, Step, Told, tell};
use crate::sandbox::ready::{self, Begun, NotReady};
use crate::sandbox::report::{Invocation, Report};
use crate::sandbox::seed::Seed;
use crate::sandbox::supervise::{Exit, Supervisor};
use crate::sandbox::view::View;
use crate::sandbox::write::{self, Written};
use crate::sandbox::{kept_layout_if_any, link, logs, places};
use crate::say::say;
use crate::{failure, stdout};
use anyhow::{Context, bail};
use chaos::network::{Faults, Network};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Interval;
use types::{Place, RegionName};

/// What was asked for.
#[derive(Debug)]
pub struct Wish {
    pub data: PathBuf,
    /// None = those that it had, or the usual ones.
    pub regions: Option<Regions>,
    pub subnet: Subnet,
    /// None = as it was, or the usual one.
    pub step_time: Option<Duration>,
    /// None = as in production.
    pub certificate_life: Option<Duration>,
    /// Between any two regions; none = by the distance between them.
    pub round_trip: Option<Duration>,
}

/// Who hears of it.
#[derive(Debug, Clone, Copy)]
pub enum Audience {
    /// Somebody at a terminal, or a script that reads `--json`.
    Caller { json: bool },
    /// The `rhumb up --detach` that started this process and waits at the other end of standard output.
    Detacher,
}

pub fn run(wish: &Wish, audience: Audience) -> anyhow::Result<ExitCode> {
    match audience {
        // A test holds its sandboxes by this, so that they do not outlive it either.
        Audience::Caller { .. } => lifeline::watch().context("cannot watch the lifeline")?,
        // A session of its own, so that neither Ctrl-C nor the end of the caller's terminal reaches it.
        Audience::Detacher => {
            nix::unistd::setsid().context("cannot leave the caller's session")?;
        }
    }
    // The network holds two for each connection between regions.
    role::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(up(wish, audience));
    match (audience, done) {
        (_, Ok(())) => Ok(ExitCode::SUCCESS),
        (Audience::Caller { .. }, Err(error)) => Err(error),
        (Audience::Detacher, Err(error)) => {
            tell(&Told::Failed(failure::chain(&error)));
            // The caller may be gone by now; the log is not.
            Err(error)
        }
    }
}

async fn up(wish: &Wish, audience: Audience) -> anyhow::Result<()> {
    let rhumb = Invocation::of_this_process(&wish.data);
    let mut sandbox = Sandbox::prepare(wish)?;
    let mut progress = match audience {
        Audience::Caller { .. } => Progress::to_people(),
        Audience::Detacher => Progress::Pipe,
    };
    progress.begin(&sandbox.layout);
    let lived = sandbox.live(&mut progress, audience, &rhumb).await;
    progress.end();
    sandbox.view.end();
    aside(format!("stopping {}", sandbox.layout.regions));
    sandbox.stop().await;
    lived
}

fn present(report: &Report, audience: Audience, rhumb: &Invocation) -> anyhow::Result<()> {
    match audience {
        Audience::Detacher => tell(&Told::Ready(Box::new(report.clone()))),
        Audience::Caller { json: true } => {
            stdout::print_json(report)?;
        }
        Audience::Caller { json: false } => {
            stdout::print(&report.summary(rhumb))?;
            say!("\nCtrl-C stops everything.");
        }
    }
    Ok(())
}

/// A sandbox's own processes, and everything that can happen to them.
struct Sandbox {
    layout: Layout,
    paths: Paths,
    certificate_life: Option<Duration>,
    report: Report,
    network: Network,
    /// Hidden until everything is ready.
    view: View,
    supervisor: Supervisor,
    exited: mpsc::Receiver<Exit>,
    asked: mpsc::Receiver<Asked>,
    steps: mpsc::Receiver<Step>,
    /// None once everything is ready.
    waiting: Option<JoinHandle<Result<(), NotReady>>>,
    signals: Signals,
    data: Claim,
    _subnet: Claim,
    looks: Interval,
}

enum Event {
    Step(Step),
    Ready(Result<(), NotReady>),
    Exited(Exit),
    Asked(Asked),
    Signal,
    DataRemoved,
}

impl Sandbox {
    /// Claims, writes, listens for other commands, and starts every process.
    fn prepare(wish: &Wish) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot tell which program this is")?;
        let paths = make_data(&wish.data)?;
        let data = claim::data(&paths)?;
        let kept = kept_layout_if_any(&paths)?;
        let wanted = wanted_layout(kept.as_ref(), wish.regions.as_ref(), &paths)?;
        let at = |subnet| Layout { subnet, ..wanted.clone() };
        let (subnet, _subnet) = claim::subnet(wish.subnet, kept.as_ref().map(|kept| kept.subnet), at)?;
        let layout = at(subnet);
        for region in layout.regions.names().iter().filter(|region| places::known(region).is_none()) {
            let Place { latitude, longitude } = places::of(region);
            say!("{region} is the name of no known place; it is put at {latitude}, {longitude}");
        }
        let written = write::everything(&layout, &paths, &program, wish.certificate_life, kept.is_none())?;
        let step_time_ms = wish.step_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let Written { cluster, key, key_is_new, house } = written;
        let intent = Seed::new(&layout, &cluster, (&key, key_is_new), &house, step_time_ms);
        logs::put_aside(&paths, &layout).context("cannot put the last start's logs aside")?;

        let signals = Signals::new().context("cannot listen for signals")?;
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let listener = control::listen(&paths)
            .with_context(|| format!("cannot listen for other commands in {}", paths.data().display()))?;
        tokio::spawn(control::serve(listener, questions));
        let seed = getrandom::u64().context("the operating system gives no randomness")?;
        let network = Network::start(layout.network(wish.round_trip), seed)?;
        let (mut supervisor, exited) = Supervisor::new(program, layout.clone(), paths.clone());
        for member in layout.members() {
            supervisor.start(&member)?;
        }
        let report = Report::new(&layout, &paths, &key);
        let (step, steps) = mpsc::channel(STEPS_MAX);
        let waiting = {
            let begun = Begun { layout: layout.clone(), paths: paths.clone(), key, seed: intent };
            tokio::spawn(ready::everything(begun, step))
        };
        let waiting = Some(waiting);
        let looks = tokio::time::interval(LOOK_EVERY);
        Ok(Self {
            layout,
            paths,
            certificate_life: wish.certificate_life,
            report,
            network,
            view: View::Hidden,
            supervisor,
            exited,
            asked,
            steps,
            waiting,
            signals,
            data,
            _subnet,
            looks,
        })
    }

    /// Holds the processes until somebody wants them stopped, or one fails before all are ready.
    async fn live(
        &mut self,
        progress: &mut Progress,
        audience: Audience,
        rhumb: &Invocation,
    ) -> anyhow::Result<()> {
        loop {
            match self.next().await {
                Event::Step(step) => progress.step(&step),
                Event::Ready(Ok(())) => {
                    progress.end();
                    present(&self.report, audience, rhumb)?;
                    if matches!(audience, Audience::Caller { json: false }) {
                        self.view = View::of_this_process(&self.layout, &self.paths, &self.network)
                            .context("cannot show what runs")?;
                    }
                }
                Event::Ready(Err(not_ready)) => {
                    progress.end();
                    return Err(self.blame(&not_ready.member, &not_ready.to_string(), rhumb));
                }
                Event::Exited(exit) => {
                    self.supervisor.remove(&exit);
                    let Exit { member, pid, status } = exit;
                    if self.waiting.is_some() {
                        progress.end();
                        let problem = format!("{member} (process {pid}) ended while it started: {status}");
                        return Err(self.blame(&member, &problem, rhumb));
                    }
                    let again = rhumb.command(&format!("sandbox start {member}"));
                    let ended =
                        format!("{member} (process {pid}) ended: {status}; start it again with `{again}`");
                    self.view.tell(ended);
                }
                Event::Asked(Asked { question, answer }) => {
                    let is_last = question == Question::Stop;
                    // Whoever asked may have gone.
                    let _ = answer.send(self.answer(question));
                    if is_last {
                        return Ok(());
                    }
                }
                Event::Signal if self.waiting.is_some() => {
                    progress.end();
                    anyhow::bail!("interrupted before everything was ready");
                }
                Event::Signal => return Ok(()),
                // No command could find it any more, not even the one that stops it.
                Event::DataRemoved => bail!("{} was removed", self.paths.data().display()),
            }
        }
    }

    async fn next(&mut self) -> Event {
        let ready = async {
            match &mut self.waiting {
                Some(waiting) => waiting.await.expect("waiting neither panics nor is cancelled"),
                None => std::future::pending().await,
            }
        };
        let removed = async {
            while self.data.is_visible() {
                self.looks.tick().await;
            }
        };
        let event = tokio::select! {
            // In this order, so that the last steps are told before the end of waiting is.
            biased;
            () = self.signals.next() => Event::Signal,
            Some(step) = self.steps.recv() => Event::Step(step),
            Some(exit) = self.exited.recv() => Event::Exited(exit),
            Some(asked) = self.asked.recv() => Event::Asked(asked),
            result = ready => Event::Ready(result),
            () = removed => Event::DataRemoved,
        };
        if matches!(event, Event::Ready(_)) {
            self.waiting = None;
        }
        event
    }

    fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Processes => Answer::Processes { processes: self.supervisor.processes() },
            Question::Stop => Answer::Stopping,
            Question::Links => Answer::Links { links: self.network.report() },
            Question::Fault { links, faults } => self.fault(&links, faults),
            Question::Start(member) => {
                if !self.layout.has(&member) {
                    let members = self.layout.members().filter(|known| known.role == member.role);
                    let regions: Vec<String> = members.map(|known| known.region.to_string()).collect();
                    let (role, regions) = (member.role, regions.join(", "));
                    return Answer::Refused {
                        problem: format!("there is no {member}; regions with a {role} are {regions}"),
                    };
                }
                if let Some(pid) = self.supervisor.pid(&member) {
                    return Answer::AlreadyRuns { pid };
                }
                match self.start(&member) {
                    Ok(pid) => {
                        self.view.tell(format!("started {member} (process {pid})"));
                        Answer::Started { pid }
                    }
                    Err(error) => Answer::Refused { problem: failure::chain(&error).join(": ") },
                }
            }
        }
    }

    fn fault(&self, links: &[(RegionName, RegionName)], faults: Faults) -> Answer {
        if let Err(error) = self.network.set(links, faults) {
            return Answer::Refused { problem: error.to_string() };
        }
        let named: Vec<String> = links.iter().map(|(from, to)| format!("{from} -> {to}")).collect();
        let which =
            if named.len() > NAMED_MAX { format!("{} directions", named.len()) } else { named.join(", ") };
        self.view.tell(format!("link {which}: {}", link::state(&faults)));
        Answer::Links { links: self.network.report() }
    }

    fn start(&mut self, member: &Member) -> anyhow::Result<u32> {
        write::identity(&self.layout, &self.paths, member, self.certificate_life)?;
        Ok(self.supervisor.start(member)?)
    }

    /// Everything that helps to find out why a part does not come up.
    fn blame(&self, member: &Member, problem: &str, rhumb: &Invocation) -> anyhow::Error {
        let told = logs::explain(&self.paths, member, problem);
        let (role, region) = (member.role, &member.region);
        let next = rhumb.command(&format!("logs {role} {region}"));
        anyhow::anyhow!("{told}\n  next: read all of it with `{next}`")
    }

    /// In order; a second signal ends it at once, and the lifelines do the rest.
    async fn stop(&mut self) {
        tokio::select! {
            () = self.supervisor.stop(&mut self.exited) => {}
            () = self.signals.next() => aside("not waiting for them".to_owned()),
        }
    }
}

/// What is to run: what is wished for, on what is there. Voters stay where they are.
fn wanted_layout(kept: Option<&Layout>, wished: Option<&Regions>, paths: &Paths) -> anyhow::Result<Layout> {
    let regions =
        || wished.cloned().unwrap_or_else(|| REGIONS_DEFAULT.parse().expect("the default is well formed"));
    let Some(kept) = kept else { return Ok(Layout::new(0, regions())) };
    let data = paths.data().display();
    if kept.voters.is_empty() {
        bail!(
            "{data} holds a sandbox of an earlier Rhumb, without a control plane; remove it (its API key goes with \
             it), or give this one another `--data`"
        );
    }
    let layout = Layout { regions: wished.unwrap_or(&kept.regions).clone(), ..kept.clone() };
    let missing: Vec<&str> =
        kept.voters.iter().filter(|voter| layout.seat(voter).is_none()).map(RegionName::as_str).collect();
    if missing.is_empty() {
        return Ok(layout);
    }
    Err(WrongUsage(format!(
        "the control plane in {data} has voters in {}, and they cannot be left out; add {} to --regions, or give \
         this sandbox another `--data`",
        kept.voters.iter().map(RegionName::as_str).collect::<Vec<_>>().join(", "),
        missing.join(", ")
    ))
    .into())
}

/// Says something while processes wait to be stopped: a terminal that was stopped by Ctrl-S must not hold that up.
fn aside(words: String) {
    std::thread::spawn(move || say!("{words}"));
}

/// The directory, for its owner alone: it holds keys.
pub fn make_data(data: &Path) -> anyhow::Result<Paths> {
    let cannot = || format!("cannot use {} as a data directory", data.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data).with_context(cannot)?;
    let paths = Paths::below(data.canonicalize().with_context(cannot)?);
    // Keys do not belong into anybody's repository.
    std::fs::write(paths.data().join(".gitignore"), "*\n").with_context(cannot)?;
    Ok(paths)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    /// Its default would leave the terminal without echo.
    quit: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// What a new sandbox has unless other regions are named.
pub const REGIONS_DEFAULT: &str = "us-east,eu-west,ap-south";
/// How long a sandbox may live on after `rm -r .rhumb`.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const QUESTIONS_MAX: usize = 32;
/// Two links, each way.
const NAMED_MAX: usize = 4;
const STEPS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(kept: Option<&str>, wished: Option<&str>) -> anyhow::Result<Layout> {
        let kept = kept.map(|regions| Layout::new(3, regions.parse().unwrap()));
        let wished = wished.map(|regions| regions.parse().unwrap());
        wanted_layout(kept.as_ref(), wished.as_ref(), &Paths::below("/tmp/x".into()))
    }

    #[test]
    fn a_sandbox_keeps_its_regions_and_its_voters() {
        assert_eq!(wanted(None, None).unwrap().voters.len(), 3);
        assert_eq!(wanted(Some("a"), None).unwrap().regions.names().len(), 1);
        let grown = wanted(Some("a"), Some("a,b,c")).unwrap();
        assert_eq!((grown.voters.len(), grown.regions.names().len()), (1, 3));
        let refused = wanted(Some("a,b,c"), Some("a,b")).unwrap_err().to_string();
        assert!(refused.contains("add c to --regions"), "{refused}");
    }

    #[test]
    fn an_older_sandbox_is_named_as_what_it_is() {
        let older: Layout = serde_json::from_str(r#"{"subnet":0,"regions":["a"]}"#).unwrap();
        let refused = wanted_layout(Some(&older), None, &Paths::below("/tmp/x".into())).unwrap_err();
        assert!(refused.to_string().contains("`--data`"), "{refused}");
    }
}
