//! An edge's configuration.

use crate::generate::annotated::Field;
use crate::generate::voter::Voter;
use crate::generate::{DIAL_MAP, MEMBER_ADDRESS, Site};
use ::edge::config::{BadConfig, Config, File, KEEP_ALIVE_SECONDS, TlsFile};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use types::NodeName;

/// One edge.
#[derive(Debug, Clone)]
pub struct Edge {
    pub site: Site,
    pub name: NodeName,
    /// Where it serves plain HTTP.
    pub plain: Option<SocketAddr>,
    pub https: Option<Https>,
    /// Nearest first.
    pub voters: Vec<Voter>,
    pub notice_seconds: u64,
    pub drain_seconds: u64,
    pub proxy_v2_from: Vec<IpAddr>,
    pub handover: Option<PathBuf>,
    /// Admin addresses.
    pub other_edges: Vec<SocketAddr>,
}

#[derive(Debug, Clone)]
pub struct Https {
    pub listen: SocketAddr,
    /// Directory of the certificate that clients see.
    pub certificate: PathBuf,
}

impl Edge {
    pub fn file(self) -> File {
        let Site { region, admin, identity, data, dial_map } = self.site;
        File {
            region,
            name: self.name,
            listen: self.plain,
            tls: self.https.map(|Https { listen, certificate }| {
                let public = ::identity::files::Paths::in_dir(&certificate);
                TlsFile { listen, certificate: public.certificate, key: public.key }
            }),
            admin,
            identity,
            control_plane: self.voters.iter().map(Voter::listed).collect(),
            data,
            notice_seconds: self.notice_seconds,
            drain_seconds: self.drain_seconds,
            keep_alive_seconds: KEEP_ALIVE_SECONDS,
            proxy_v2_from: self.proxy_v2_from,
            handover: self.handover,
            other_edges: self.other_edges,
            dial_map,
        }
    }
}

/// What an edge would refuse of a file, apart from paths: those can only be looked at on its host.
pub fn refused(file: File) -> Vec<String> {
    let there = || PathBuf::from("/");
    let tls = file.tls.map(|tls| TlsFile { certificate: there(), key: there(), ..tls });
    let handover = file.handover.map(|_| PathBuf::from("/handover"));
    let file = File { identity: there(), data: there(), tls, handover, ..file };
    Config::try_from(file).err().map_or_else(Vec::new, |BadConfig(problems)| problems)
}

pub const FIELDS: &[Field] = &[
    Field::new("region", "Where this edge stands; a region that the control plane knows."),
    Field::new("name", "Unique among the edges of its region."),
    Field::new("listen", "Plain HTTP for clients, for networks that end TLS in front of the edge.")
        .such_as("\"[::]:8080\""),
    Field::new("tls", "HTTPS for clients.")
        .such_as(
            "{ listen = \"[::]:8443\", certificate = \"/etc/rhumb/edge/public/cert.pem\", \
             key = \"/etc/rhumb/edge/public/key.pem\" }",
        )
        .holding(&[
            Field::new("listen", "[::] is every address of this host, of IPv4 too."),
            Field::new(
                "certificate",
                "PEM, the chain with the leaf first, valid for the names that clients dial.",
            ),
            Field::new("key", "PEM; to be read by this edge alone."),
        ]),
    Field::new("admin", "Health and metrics in plain HTTP; never reachable by clients."),
    Field::new(
        "identity",
        "Directory with ca.pem, cert.pem and key.pem: who this edge is to agents and to the control plane.\n\
         The edge renews its certificate here, so it must be able to write.",
    ),
    Field::new("control_plane", "The members of the control plane, nearest first.").holding(MEMBER_ADDRESS),
    Field::new(
        "data",
        "Directory for the last good pictures of the intent, to serve from when no member can be reached.",
    ),
    Field::new(
        "notice_seconds",
        "How long the edge goes on taking connections once it is told to stop, up to 300: until load balancers and\n\
         DNS have seen that /readyz says so.",
    ),
    Field::new("drain_seconds", "How long streams may go on after that, from 1 to 3600."),
    Field::new(
        "keep_alive_seconds",
        "After how long without an event the client of a stream is sent a comment, from 1 to 60: sooner than\n\
         anything on the way cuts a silent connection.",
    ),
    Field::new(
        "proxy_v2_from",
        "Load balancers in front of this edge that say who the client is: each connection from one of these\n\
         addresses must begin with a PROXY protocol header, version 2.",
    )
    .such_as("[\"10.0.0.9\"]"),
    Field::new(
        "handover",
        "Unix socket over which an edge that starts takes the listening sockets over from the one that runs, which\n\
         then drains: for upgrades in place, without a refused connection.",
    )
    .such_as("\"/run/rhumb/edge.sock\""),
    Field::new(
        "other_edges",
        "Admin addresses of the other edges, as they are dialled from here: each is asked what became of a request\n\
         that this edge knows nothing of, in plain HTTP, so only over a network of yours.",
    )
    .such_as("[\"10.1.0.5:9101\"]"),
    DIAL_MAP,
];
