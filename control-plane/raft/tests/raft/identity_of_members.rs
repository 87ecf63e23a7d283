//! Who may call a member, and which of two processes goes on.

use crate::group::{Group, Voter, name, tenant, within};
use client::{Dialer, MemberAddress};
use identity::Role;
use proto::v1::raft_client::RaftClient;
use tonic::{Code, Request};

#[test]
fn only_members_are_members() {
    let group = Group::start(10_000);
    let raft = &group.voter(1).raft;
    assert!(raft.is_member(&name(2)));
    for stranger in [
        identity::Name { role: Role::Edge, ..name(2) },
        identity::Name { cluster: "c2".to_owned(), ..name(2) },
        name(4),
    ] {
        assert!(!raft.is_member(&stranger), "{stranger}");
    }
    assert_eq!(raft.members().len(), 3);
}

#[test]
fn a_stranger_with_a_certificate_of_the_cluster_is_refused() {
    let group = Group::start(10_000);
    let (voter, member) = (group.voter(1), &group.members[0]);
    let dialer = Dialer::new(group.identity(&identity::Name { role: Role::Edge, ..name(2) }));
    let to = MemberAddress { address: member.address, server_name: member.server_name.clone() };
    let call = |headers: &'static [(&'static str, &'static str)]| {
        let channel = |dialer: &Dialer| RaftClient::new(dialer.channel(&to));
        let ask = async {
            let mut request = Request::new(proto::v1::VoteRequest::default());
            for (key, value) in headers {
                request.metadata_mut().insert(*key, value.parse().unwrap());
            }
            channel(&dialer).vote(request).await
        };
        within(voter, "an answer", ask).unwrap_err().code()
    };
    let as_member = &[
        ("rhumb-cluster", "c1"),
        ("rhumb-member", "2"),
        ("rhumb-to", "1"),
        ("rhumb-boot", "1-0000000000000001"),
    ];
    assert_eq!(call(as_member), Code::PermissionDenied);
    assert_eq!(call(&[]), Code::InvalidArgument);
}

#[test]
fn of_two_processes_of_one_voter_the_older_stops() {
    let mut group = Group::start(10_000);
    group.voter(1).write_surely(tenant(1, 1, "first"));
    // Somebody copies the directory of a voter that stands still, and starts both.
    let twin = group.follower();
    group.kill(twin);
    let copy = group.data(9);
    copy_dir(&group.data(twin), &copy);
    group.restart(twin);
    group.voter(twin).catch_up();
    let mut options = group.options(twin);
    options.data = copy;
    let second = Voter::start(options, "127.0.0.1:0".parse().unwrap(), &group.identity(&name(twin))).unwrap();
    let first = group.take(twin);
    let why = within(&first, "the end of the older one", first.raft.failed());
    assert!(why.contains(&format!("another process runs as member {twin}")), "{why}");
    let other = group.running()[0];
    group.voter(other).write_surely(tenant(1, 2, "second"));
    drop(second);
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let (path, to) = {
            let file = file.unwrap();
            (file.path(), to.join(file.file_name()))
        };
        if path.is_dir() {
            copy_dir(&path, &to);
        } else {
            std::fs::copy(path, to).unwrap();
        }
    }
}
