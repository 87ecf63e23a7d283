//! A world of its own for one test: `rhumb up` on a free block of loopback addresses and a folder that goes
//! away with it. Nothing of it outlives the test, and the test fails if something would.

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct World {
    data: TempDir,
    /// What `rhumb up --json` printed.
    pub facts: Value,
}

/// What came back for one request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// The events of one stream, as far as it came.
#[derive(Debug, Default)]
pub struct Events {
    pub status: u16,
    /// The data of each event, `[DONE]` included.
    pub data: Vec<String>,
}

impl World {
    /// Two regions unless the options say otherwise: enough for all but the control plane, and lighter than three.
    pub fn start(options: &[&str]) -> Self {
        let two: &[&str] = &["--regions", "us-east,eu-west"];
        let regions = if options.contains(&"--regions") { &[] } else { two };
        Self::start_by(rhumb(&[]), TempDir::new().unwrap(), &[options, regions].concat())
    }

    /// As a user without any rights. Needs those of root.
    pub fn start_as_nobody(options: &[&str]) -> Self {
        let data = TempDir::new().unwrap();
        // Nobody may not even see where this was built.
        let program = data.path().join("rhumb");
        std::fs::copy(env!("CARGO_BIN_EXE_rhumb"), &program).unwrap();
        std::os::unix::fs::chown(data.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let mut command = Command::new(program);
        command.current_dir("/").uid(NOBODY).gid(NOBODY);
        Self::start_by(command, data, options)
    }

    fn start_by(program: Command, data: TempDir, options: &[&str]) -> Self {
        let facts = Self::up(program, data.path(), options);
        let world = Self { data, facts };
        world.until_known();
        world
    }

    /// Until every edge knows of every region: a sandbox is ready when each edge can serve, by whichever region.
    fn until_known(&self) {
        let regions = self.facts["regions"].as_array().unwrap().len();
        for region in 0..regions {
            eventually("the edge knows all regions", Duration::from_secs(10), || {
                self.edge_metric(region, "rhumb_edge_nodes_serving", "") == regions as f64
            });
        }
    }

    /// Starts a sandbox on a folder that may have held one before.
    fn up(mut program: Command, data: &std::path::Path, options: &[&str]) -> Value {
        let output = program
            .args(["up", "--detach", "--json", "--subnet", "auto"])
            .args(options)
            .arg("--data")
            .arg(data)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Down, and up again on the same data.
    pub fn restart(&mut self) {
        self.run(&["down"]);
        self.facts = Self::up(rhumb(&[]), self.data.path(), &[]);
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = rhumb(arguments);
        command.arg("--data").arg(self.data.path());
        command
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    pub fn data(&self) -> &std::path::Path {
        self.data.path()
    }

    pub fn key(&self) -> &str {
        self.facts["api_key"].as_str().unwrap()
    }

    pub fn model(&self) -> &str {
        self.facts["model"].as_str().unwrap()
    }

    /// The address of a region's edge.
    pub fn edge(&self, region: usize) -> SocketAddr {
        address(&self.facts["regions"][region]["edge"])
    }

    /// The one address, which leads to the nearest edge that is ready.
    pub fn front(&self) -> SocketAddr {
        address(&self.facts["endpoint"])
    }

    pub fn region(&self, region: usize) -> &str {
        self.facts["regions"][region]["name"].as_str().unwrap()
    }

    /// The processes of a role in a region, as `rhumb sandbox ps` sees them.
    pub fn pids(&self, role: &str, region: &str) -> Vec<i32> {
        let processes = self.json(&["sandbox", "ps", "--json"]);
        let processes = processes.as_array().unwrap().iter();
        processes
            .filter(|process| process["role"] == role && process["region"] == region)
            .map(|process| process["pid"].as_i64().unwrap() as i32)
            .collect()
    }

    pub fn kill(&self, role: &str, region: &str) {
        let pids = self.pids(role, region);
        assert!(!pids.is_empty(), "no {role} runs in {region}");
        for pid in &pids {
            kill(*pid);
        }
        // Until then its sockets are still there.
        let is_gone = || !pids.iter().any(|pid| is_alive(*pid));
        eventually("who is killed is gone", Duration::from_secs(5), is_gone);
    }

    /// Stops the processes of a role without ending them, as a host that hangs does.
    pub fn freeze(&self, role: &str, region: &str) -> Frozen {
        let pids = self.pids(role, region);
        assert!(!pids.is_empty(), "no {role} runs in {region}");
        for pid in &pids {
            signal::kill(Pid::from_raw(*pid), Signal::SIGSTOP).unwrap();
        }
        Frozen { pids }
    }

    /// Starts a role that died, and waits until it does its work again.
    pub fn revive(&self, role: &str, region: &str) {
        let output = self.run(&["sandbox", "start", role, region]);
        assert!(output.status.success(), "{role} {region}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// `rhumb sandbox link` with these words.
    pub fn link(&self, words: &[&str]) -> Value {
        self.json(&[&["sandbox", "link", "--json"], words].concat())
    }

    /// Until `rhumb status` finds nothing wrong.
    pub fn until_healthy(&self, deadline: Duration) {
        eventually("all is well", deadline, || self.run(&["status"]).status.success());
    }

    /// The region of the control plane's leader.
    pub fn leader(&self) -> Option<String> {
        self.json(&["status", "--json"])["leader"].as_str().map(str::to_owned)
    }

    /// A metric of an edge, summed over its labels that contain `part`.
    pub fn edge_metric(&self, region: usize, name: &str, part: &str) -> f64 {
        self.metric(&self.facts["regions"][region]["admin"], name, part)
    }

    /// The same of a region's agent.
    pub fn agent_metric(&self, region: usize, name: &str, part: &str) -> f64 {
        let mut admin = self.edge(region);
        admin.set_port(9102);
        self.metric(&Value::from(admin.to_string()), name, part)
    }

    fn metric(&self, admin: &Value, name: &str, part: &str) -> f64 {
        let admin = admin.as_str().unwrap().replace("http://", "");
        let text = send(admin.parse().unwrap(), "GET /metrics HTTP/1.1\r\nhost: a\r\n", "").body;
        text.lines()
            .filter(|line| line.starts_with(name) && line.contains(part))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }

    /// The head of a request with this world's key.
    fn head(&self, method_and_path: &str) -> String {
        format!("{method_and_path} HTTP/1.1\r\nhost: rhumb\r\nauthorization: Bearer {}\r\n", self.key())
    }

    pub fn get(&self, region: usize, path: &str) -> Answer {
        send(self.edge(region), &self.head(&format!("GET {path}")), "")
    }

    /// With another key than this world's own.
    pub fn post_as(&self, key: &str, region: usize, path: &str, body: &str) -> Answer {
        let head = format!("POST {path} HTTP/1.1\r\nhost: rhumb\r\nauthorization: Bearer {key}\r\n");
        send(self.edge(region), &head, body)
    }

    pub fn post(&self, region: usize, path: &str, body: &str) -> Answer {
        send(self.edge(region), &self.head(&format!("POST {path}")), body)
    }

    pub fn stream(&self, region: usize, path: &str, body: &str) -> Events {
        self.stream_with(region, path, body, |_| true)
    }

    /// Reads a stream for as long as `go_on` says after each event.
    pub fn stream_with(
        &self,
        region: usize,
        path: &str,
        body: &str,
        go_on: impl FnMut(&Events) -> bool,
    ) -> Events {
        self.stream_at(self.edge(region), path, body, go_on).unwrap()
    }

    /// The same at any address; `None` if the connection ended before there was a head.
    pub fn stream_at(
        &self,
        address: SocketAddr,
        path: &str,
        body: &str,
        mut go_on: impl FnMut(&Events) -> bool,
    ) -> Option<Events> {
        let mut reader = open(address, &self.head(&format!("POST {path}")), body)?;
        let (status, _) = read_head(&mut reader)?;
        let mut events = Events { status, data: Vec::new() };
        let mut lines = Chunked { reader, left: 0, ended: false };
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = lines.read(&mut bytes) {
            text.push_str(&String::from_utf8_lossy(&bytes[..length]));
            while let Some((event, rest)) = text.split_once("\n\n") {
                assert!(!event.contains("id:") || event.starts_with("data:"), "an id line got out: {event}");
                if let Some(data) = event.strip_prefix("data: ") {
                    events.data.push(data.to_owned());
                }
                text = rest.to_owned();
                if !go_on(&events) {
                    return Some(events);
                }
            }
        }
        Some(events)
    }

    /// A chat with one user message.
    pub fn chat(&self, content: &str, more: &str) -> String {
        let content = Value::from(content);
        format!(r#"{{"model":"{}","messages":[{{"role":"user","content":{content}}}]{more}}}"#, self.model())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.run(&["down"]);
        let left = processes_of(self.data.path());
        for pid in &left {
            kill(*pid);
        }
        if std::thread::panicking() {
            self.data.disable_cleanup(true);
            eprintln!("kept for a look: {}", self.data.path().display());
        } else {
            assert!(left.is_empty(), "outlived their world: {left:?}");
        }
    }
}

/// Processes that stand still until this is dropped.
pub struct Frozen {
    pids: Vec<i32>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.pids {
            // It may have been ended meanwhile.
            let _ = signal::kill(Pid::from_raw(*pid), Signal::SIGCONT);
        }
    }
}

/// Every process whose command line names something of this directory.
pub fn processes_of(data: &std::path::Path) -> Vec<i32> {
    let data = data.to_str().unwrap();
    let names_it = |pid: &i32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Also the test itself might name it.
        command.contains(data) && *pid != std::process::id() as i32
    };
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_string_lossy().parse().ok());
    pids.filter(names_it).collect()
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Status and error code, the way SDKs see a refusal.
    pub fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["error"]["code"].as_str().unwrap_or("none").to_owned())
    }
}

impl Events {
    pub fn is_complete(&self) -> bool {
        self.data.last().is_some_and(|data| data == "[DONE]")
    }

    pub fn chunks(&self) -> impl Iterator<Item = Value> {
        self.data.iter().filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap())
    }

    /// The text so far.
    pub fn text(&self) -> String {
        self.chunks()
            .filter_map(|chunk| {
                let choice = &chunk["choices"][0];
                let text = choice["delta"]["content"].as_str().or(choice["text"].as_str());
                text.map(str::to_owned)
            })
            .collect()
    }
}

pub fn rhumb(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rhumb"));
    command.args(arguments);
    command
}

pub fn kill(pid: i32) {
    signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

pub fn interrupt(pid: i32) {
    signal::kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
}

pub fn terminate(pid: i32) {
    signal::kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
}

pub fn is_alive(pid: i32) -> bool {
    signal::kill(Pid::from_raw(pid), None).is_ok()
}

/// Asks until the answer is yes; a test that waits for what never comes fails here.
pub fn eventually(what: &str, deadline: Duration, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One request on a connection of its own. The body's length and the end of the head are added.
pub fn send(to: SocketAddr, head: &str, body: &str) -> Answer {
    let mut reader = open(to, &format!("{head}connection: close\r\n"), body).unwrap();
    read_answer(&mut reader).unwrap()
}

fn address(base: &Value) -> SocketAddr {
    let base = base.as_str().unwrap();
    base.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap().parse().unwrap()
}

/// `None` if nobody takes the connection.
fn open(to: SocketAddr, head: &str, body: &str) -> Option<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let head = format!("{head}content-length: {}\r\n\r\n", body.len());
    // An early refusal may end the connection while the body is still being sent.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    Some(BufReader::new(stream))
}

pub fn read_answer(reader: &mut BufReader<TcpStream>) -> Option<Answer> {
    let (status, headers) = read_head(reader)?;
    let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value);
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length.parse().unwrap(), 0);
            reader.read_exact(&mut body).ok()?;
        }
        None => {
            reader.read_to_end(&mut body).ok()?;
        }
    }
    Some(Answer { status, headers, body: String::from_utf8(body).unwrap() })
}

/// The status alone, for an answer without a body.
pub fn read_answer_head(reader: &mut BufReader<TcpStream>) -> u16 {
    read_head(reader).unwrap().0
}

fn read_head(reader: &mut impl BufRead) -> Option<(u16, Vec<(String, String)>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => return Some((status, headers)),
        }
    }
}

/// A chunked body. Ends with an error when it is cut, as a client's library would.
struct Chunked<R> {
    reader: R,
    left: usize,
    ended: bool,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            self.left = usize::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
            if self.left == 0 {
                self.ended = true;
                return Ok(0);
            }
        }
        let room = into.len().min(self.left);
        let length = self.reader.read(&mut into[..room])?;
        self.left -= length;
        if self.left == 0 {
            self.reader.read_line(&mut String::new())?;
        }
        Ok(length)
    }
}

/// The user that every Unix has for those without rights.
const NOBODY: u32 = 65534;
