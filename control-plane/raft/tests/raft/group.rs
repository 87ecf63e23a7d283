//! A group of voters.

use crate::links::Links;
use identity::{Authority, Identity, Live, Name, Role};
use raft::{Decided, Member, Options, Raft, StartError, Unavailable};
use state::State;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use types::intent::{Change, ClientId, Expect, Resource, Tenant, What, Write};

pub struct Group {
    dir: TempDir,
    authority: Authority,
    pub members: Vec<Member>,
    snapshot_every: u64,
    voters: Vec<Option<Voter>>,
    /// By which they dial each other; none = without a detour.
    pub links: Option<Links>,
}

pub struct Voter {
    pub raft: Raft,
    /// Who connected to it, once for each time.
    guests: Arc<Mutex<Vec<Name>>>,
    runtime: Option<Runtime>,
}

impl Group {
    /// Three voters, running.
    pub fn start(snapshot_every: u64) -> Self {
        let mut group = Self::stopped(snapshot_every);
        (1..=3).for_each(|id| group.restart(id));
        group
    }

    /// Three voters, running, whose ways to each other can be cut.
    pub fn start_linked(snapshot_every: u64) -> Self {
        let mut group = Self::stopped(snapshot_every);
        let voters = group.members.iter().map(|member| (member.id, member.address)).collect();
        group.links = Some(Links::between(&voters));
        (1..=3).for_each(|id| group.restart(id));
        group
    }

    fn stopped(snapshot_every: u64) -> Self {
        // `RUST_LOG=raft=debug` shows what a failing test does.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(CLUSTER, time::OffsetDateTime::now_utc()).unwrap();
        // Freed again; each voter binds its own.
        let held: Vec<_> = (1..=3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let member = |(id, listener): (u64, &std::net::TcpListener)| Member {
            id,
            region: "us-east".parse().unwrap(),
            address: listener.local_addr().unwrap(),
            server_name: name(id).host_name(),
        };
        let members = (1..=3).zip(&held).map(member).collect();
        let group =
            Self { dir, authority, members, snapshot_every, voters: vec![None, None, None], links: None };
        for id in 1..=3 {
            raft::create(&group.data(id), CLUSTER, id).unwrap();
        }
        group
    }

    pub fn data(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("data-{id}"))
    }

    pub fn identity(&self, name: &Name) -> Arc<Live> {
        let dir = self.dir.path().join(name.host_name());
        std::fs::create_dir_all(&dir).unwrap();
        self.authority.issue(name, &dir, time::Duration::days(1), time::OffsetDateTime::now_utc()).unwrap();
        Live::new(Identity::load(&dir).unwrap())
    }

    pub fn options(&self, id: u64) -> Options {
        let mut members = self.members.clone();
        if let Some(links) = &self.links {
            let others = members.iter_mut().filter(|member| member.id != id);
            others.for_each(|member| member.address = links.address(id, member.id));
        }
        Options {
            cluster: CLUSTER.to_owned(),
            id,
            members,
            data: self.data(id),
            snapshot_every: self.snapshot_every,
            dialer: client::Dialer::new(self.identity(&name(id))),
        }
    }

    pub fn restart(&mut self, id: u64) {
        self.try_restart(id).unwrap();
    }

    pub fn try_restart(&mut self, id: u64) -> Result<(), StartError> {
        let address = self.members[id as usize - 1].address;
        let voter = Voter::start(self.options(id), address, &self.identity(&name(id)))?;
        self.voters[id as usize - 1] = Some(voter);
        Ok(())
    }

    pub fn voter(&self, id: u64) -> &Voter {
        self.voters[id as usize - 1].as_ref().unwrap()
    }

    pub fn take(&mut self, id: u64) -> Voter {
        self.voters[id as usize - 1].take().unwrap()
    }

    /// All at once, with all it was doing.
    pub fn kill(&mut self, id: u64) {
        self.take(id).kill();
    }

    pub fn running(&self) -> Vec<u64> {
        (1..=3).filter(|id| self.voters[*id as usize - 1].is_some()).collect()
    }

    /// The voter that all running ones follow.
    pub fn leader(&self) -> u64 {
        eventually("one leader", || {
            let standings =
                self.running().into_iter().map(|id| self.voter(id).raft.standing().borrow().leader);
            let leaders: Vec<_> = standings.collect();
            let first = (*leaders.first()?)?;
            (leaders.iter().all(|leader| *leader == Some(first)) && self.running().contains(&first))
                .then_some(first)
        })
    }

    pub fn follower(&self) -> u64 {
        let leader = self.leader();
        self.running().into_iter().find(|id| *id != leader).unwrap()
    }

    /// All running voters have the same state, which is returned.
    pub fn same_state(&self) -> State {
        eventually("the same state everywhere", || {
            let states: Vec<State> =
                self.running().into_iter().map(|id| self.voter(id).raft.state().clone()).collect();
            states.windows(2).all(|pair| pair[0] == pair[1]).then(|| states[0].clone())
        })
    }
}

impl Voter {
    pub fn start(options: Options, address: SocketAddr, identity: &Arc<Live>) -> Result<Self, StartError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let acceptor = TlsAcceptor::from(identity.server_config());
        let raft = runtime.block_on(runtime.spawn(Raft::start(options))).unwrap();
        let raft = raft.inspect_err(|error| eprintln!("not started: {error}"))?;
        let guests = Arc::default();
        runtime.spawn(serve(listener, acceptor, raft.clone(), Arc::clone(&guests)));
        Ok(Self { raft, guests, runtime: Some(runtime) })
    }

    /// How often a member connected to this one.
    pub fn connections_of(&self, id: u64) -> usize {
        self.guests.lock().unwrap().iter().filter(|guest| **guest == name(id)).count()
    }

    pub fn run<T>(&self, ask: impl AsyncFnOnce(Raft) -> T) -> T {
        // Calls come from anywhere in the process; here they come from a thread of the test.
        self.runtime.as_ref().unwrap().block_on(ask(self.raft.clone()))
    }

    pub fn write(&self, write: Write) -> Result<Decided, Unavailable> {
        self.run(async move |raft: Raft| raft.write(write).await)
    }

    /// Asks again under the same sequence for as long as there is no answer.
    pub fn write_surely(&self, write: Write) -> Decided {
        eventually("a decision", || match self.write(write.clone()) {
            Ok(decided) => Some(decided),
            Err(error) => {
                eprintln!("not decided yet: {error}");
                None
            }
        })
    }

    pub fn catch_up(&self) {
        eventually("a read", || self.run(async |raft: Raft| raft.catch_up().await).ok());
    }

    pub fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        drop(self);
        runtime.shutdown_timeout(PATIENCE);
    }
}

impl Drop for Voter {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, raft: Raft, guests: Arc<Mutex<Vec<Name>>>) {
    let (connections, accepted) = tokio::sync::mpsc::channel::<io::Result<Connection>>(16);
    let accept = async {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, connections, guests) = (acceptor.clone(), connections.clone(), guests.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let peer = identity::peer_name(tls.get_ref().1.peer_certificates().unwrap()).unwrap();
                guests.lock().unwrap().push(peer.clone());
                let _ = connections.send(Ok(Connection { tls, peer })).await;
            });
        }
    };
    let server = tonic::transport::Server::builder()
        .add_service(raft.service())
        .serve_with_incoming(ReceiverStream::new(accepted));
    let (served, ()) = tokio::join!(server, accept);
    served.unwrap();
}

/// A connection whose requests carry the peer's name.
struct Connection {
    tls: TlsStream<TcpStream>,
    peer: Name,
}

impl Connected for Connection {
    type ConnectInfo = Name;

    fn connect_info(&self) -> Name {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

pub fn name(id: u64) -> Name {
    Name {
        cluster: CLUSTER.to_owned(),
        region: "us-east".parse().unwrap(),
        role: Role::ControlPlane,
        name: format!("m{id}").parse().unwrap(),
    }
}

/// A write that makes one tenant.
pub fn tenant(client: u8, sequence: u64, name: &str) -> Write {
    let tenant = Tenant {
        name: name.parse().unwrap(),
        policy: None,
        requests_per_minute: None,
        tokens_per_minute: None,
    };
    Write {
        client: ClientId([client; 16]),
        sequence,
        changes: vec![Change { expect: Expect::Absent, what: What::Put(Resource::Tenant(tenant)) }],
        expects_shrink: false,
    }
}

pub fn has_tenant(state: &State, name: &str) -> bool {
    state.get(&format!("tenant/{name}").parse().unwrap()).is_some()
}

/// Asks until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
pub fn within<T>(voter: &Voter, what: &str, ask: impl Future<Output = T>) -> T {
    let runtime = voter.runtime.as_ref().unwrap();
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask).await });
    answer.unwrap_or_else(|_| panic!("{what} did not come"))
}

pub const CLUSTER: &str = "c1";
/// Several elections on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(30);
