//! Ways between voters that can be cut without a word, in one direction or both.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// One address for each pair of voters, by which the first dials the second.
pub struct Links {
    addresses: BTreeMap<(u64, u64), SocketAddr>,
    /// Whether anything goes from one voter to another, whoever dialled.
    is_open: BTreeMap<(u64, u64), watch::Sender<bool>>,
    _runtime: Runtime,
}

impl Links {
    pub fn between(voters: &BTreeMap<u64, SocketAddr>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let pairs = voters.keys().flat_map(|from| voters.keys().map(move |to| (*from, *to)));
        let pairs: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
        let is_open: BTreeMap<_, _> = pairs.iter().map(|pair| (*pair, watch::Sender::new(true))).collect();
        let addresses = pairs.iter().map(|(from, to)| {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let address = listener.local_addr().unwrap();
            let ways = [(*from, *to), (*to, *from)].map(|way| is_open[&way].subscribe());
            runtime.spawn(carry(listener, voters[to], ways));
            ((*from, *to), address)
        });
        Self { addresses: addresses.collect(), is_open, _runtime: runtime }
    }

    pub fn address(&self, from: u64, to: u64) -> SocketAddr {
        self.addresses[&(from, to)]
    }

    pub fn set_open(&self, from: u64, to: u64, is_open: bool) {
        self.is_open[&(from, to)].send_replace(is_open);
    }
}

async fn carry(listener: TcpListener, to: SocketAddr, [there, back]: [watch::Receiver<bool>; 2]) {
    while let Ok((caller, _)) = listener.accept().await {
        let (there, back) = (there.clone(), back.clone());
        tokio::spawn(async move {
            let Ok(called) = TcpStream::connect(to).await else { return };
            let ((from_caller, to_caller), (from_called, to_called)) =
                (caller.into_split(), called.into_split());
            tokio::join!(pass(from_caller, to_called, there), pass(from_called, to_caller, back));
        });
    }
}

/// What is sent while the way is cut arrives when it is open again, the end included.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut is_open: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut bytes).await.unwrap_or(0);
        if is_open.wait_for(|is_open| *is_open).await.is_err() || count == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
