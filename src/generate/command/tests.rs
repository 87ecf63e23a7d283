use super::*;
use crate::sandbox::layout::{Layout, Role};
use clap::Parser;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    config: Config,
}

const MEMBERS: &str = "--member 1:us-east/c1=10.0.0.4:7001 --member 2:eu-west/c1=10.1.0.4:7001 \
    --member 3:ap-south/c1=10.2.0.4:7001";
const EDGE: &str = "edge --region eu-west --name e1";
const AGENT: &str = "region-agent --region ap-south --zone a --node n1";
const MEMBER: &str = "control-plane --region us-east --name c1";

fn typed(line: &str) -> Result<Config, clap::Error> {
    Line::try_parse_from(["config"].into_iter().chain(line.split_whitespace())).map(|line| line.config)
}

fn text(line: &str) -> String {
    typed(line).unwrap_or_else(|error| panic!("{line}: {error}")).text().unwrap()
}

/// What is said of a line that clap takes.
fn refused(line: &str) -> String {
    let error = typed(line).unwrap_or_else(|error| panic!("{line}: {error}")).text().unwrap_err();
    let WrongUsage(words) = error.downcast_ref().expect("wrong usage, which ends with 2");
    words.clone()
}

/// Changed on purpose: print them anew with the commands below.
#[test]
fn operators_get_what_they_got() {
    assert_eq!(text(&format!("{EDGE} {MEMBERS}")), include_str!("../golden/edge.toml"));
    assert_eq!(text(&format!("{AGENT} {MEMBERS}")), include_str!("../golden/region-agent.toml"));
    assert_eq!(text(&format!("{MEMBER} {MEMBERS}")), include_str!("../golden/control-plane.toml"));
}

#[test]
fn what_was_typed_is_in_the_file() {
    let common = format!("{MEMBERS} --dial 10.0.0.4=192.168.0.4 --identity /i --data /d --admin 10.0.0.5:1");
    let edge: ::edge::File = toml::from_str(&text(&format!(
        "{EDGE} {common} --listen 10.0.0.5:80 --tls-listen 10.0.0.5:443 --public /p --proxy-v2-from 10.0.0.9 \
         --other-edge 10.1.0.5:9101"
    )))
    .unwrap();
    let order = edge.control_plane.iter().map(|member| member.address.to_string());
    assert_eq!(order.collect::<Vec<_>>(), ["10.1.0.4:7001", "10.0.0.4:7001", "10.2.0.4:7001"]);
    assert_eq!(edge.dial_map.dialled("10.0.0.4:7001".parse().unwrap()).to_string(), "192.168.0.4:7001");
    assert_eq!((edge.identity, edge.data), ("/i".into(), "/d".into()));
    assert_eq!((edge.admin.port(), edge.listen.unwrap().port()), (1, 80));
    let tls = edge.tls.unwrap();
    assert_eq!(
        (tls.listen.port(), tls.certificate, tls.key),
        (443, "/p/cert.pem".into(), "/p/key.pem".into())
    );
    assert_eq!(edge.other_edges, ["10.1.0.5:9101".parse::<SocketAddr>().unwrap()]);
    assert_eq!(edge.proxy_v2_from, ["10.0.0.9".parse::<IpAddr>().unwrap()]);

    let agent: ::region_agent::File = toml::from_str(&text(&format!(
        "{AGENT} {common} --ingress 10.0.0.5:2 --engines-listen 127.0.0.1:3 --logs /l"
    )))
    .unwrap();
    assert_eq!(
        [&*agent.ingress, &*agent.engines_listen, &*agent.admin],
        ["10.0.0.5:2", "127.0.0.1:3", "10.0.0.5:1"]
    );
    assert_eq!([agent.identity, agent.data, agent.logs], ["/i", "/d", "/l"].map(PathBuf::from));

    let member: ::control_plane::File =
        toml::from_str(&text(&format!("{MEMBER} {common} --authority /a --listen 10.0.0.4:7001"))).unwrap();
    assert_eq!(
        (member.id, member.authority, member.listen.to_string()),
        (1, Some("/a".into()), "10.0.0.4:7001".to_owned())
    );
    assert_eq!(member.members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_door_can_be_left_out() {
    let edge: ::edge::File =
        toml::from_str(&text(&format!("{EDGE} {MEMBERS} --without-tls --listen [::]:8080"))).unwrap();
    assert!(edge.tls.is_none() && edge.listen.is_some());
    let member: ::control_plane::File =
        toml::from_str(&text(&format!("{MEMBER} {MEMBERS} --without-authority"))).unwrap();
    assert_eq!(member.authority, None);
}

#[test]
fn a_sandbox_has_the_ports_of_production() {
    let seat = Layout::new(0, "us-east".parse().unwrap()).seats().next().unwrap();
    let edge: ::edge::File = toml::from_str(&text(&format!("{EDGE} {MEMBERS}"))).unwrap();
    let agent: ::region_agent::File = toml::from_str(&text(&format!("{AGENT} {MEMBERS}"))).unwrap();
    let member: ::control_plane::File = toml::from_str(&text(&format!("{MEMBER} {MEMBERS}"))).unwrap();
    let port = |text: &str| text.parse::<SocketAddr>().unwrap().port();
    assert_eq!(edge.tls.unwrap().listen.port(), seat.edge_tls().port());
    assert_eq!(edge.admin.port(), seat.admin(Role::Edge).port());
    assert_eq!(port(&agent.ingress), seat.agent_ingress().port());
    assert_eq!(port(&agent.engines_listen), seat.engines().port());
    assert_eq!(port(&agent.admin), seat.admin(Role::RegionAgent).port());
    assert_eq!(member.admin.port(), seat.admin(Role::ControlPlane).port());
}

#[test]
fn every_role_takes_members_without_ids_but_the_control_plane() {
    let members = MEMBERS.replace("1:us", "us").replace("2:eu", "eu").replace("3:ap", "ap");
    assert_eq!(text(&format!("{EDGE} {members}")), text(&format!("{EDGE} {MEMBERS}")));
    assert_eq!(text(&format!("{AGENT} {members}")), text(&format!("{AGENT} {MEMBERS}")));
    let said = refused(&format!("{MEMBER} {members}"));
    assert!(
        said.contains("us-east/c1 needs the id") && said.contains("1:us-east/c1=10.0.0.4:7001"),
        "{said}"
    );
}

#[test]
fn what_no_role_could_use_is_wrong_usage() {
    let clap_refuses = |line: &str| {
        let error = typed(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        error.to_string()
    };
    assert!(clap_refuses(EDGE).contains("--member"));
    assert!(clap_refuses(&format!("edge --region EU --name e1 {MEMBERS}")).contains("must match"));
    assert!(clap_refuses(&format!("{EDGE} --member us-east")).contains("[ID:]REGION/NAME=IP:PORT"));
    assert!(clap_refuses(&format!("{EDGE} {MEMBERS} --without-tls")).contains("--listen"));
    assert!(clap_refuses(&format!("{EDGE} {MEMBERS} --dial 10.0.0.4")).contains("two IP addresses"));

    let says = |line: &str, words: &str| {
        let said = refused(line);
        assert!(said.contains(words), "{line}: {said}");
    };
    for role in [EDGE, AGENT, MEMBER] {
        let two = "--member 1:us-east/c1=10.0.0.4:7001 --member 2:eu-west/c1=10.1.0.4:7001";
        says(&format!("{role} {two}"), "1, 3 or 5 members, not 2");
        says(&format!("{role} {two} --member 3:eu-west/c1=10.2.0.4:7001"), "eu-west/c1 is given twice");
        says(&format!("{role} {MEMBERS} --dial ::1=::2 --dial ::1=::3"), "--dial: ::1 is given twice");
    }
    says(
        &format!("control-plane --region us-east --name c2 {MEMBERS}"),
        "us-east/c2 is not among the members",
    );
    says(
        &format!("{MEMBER} {MEMBERS} --listen [::]:7002"),
        "listen: [::]:7002, but member 1 is at 10.0.0.4:7001",
    );
    says(&format!("{MEMBER} {MEMBERS} --listen [::]:7001 --admin [::]:7001"), "listen and admin");
    says(&format!("{EDGE} {MEMBERS} --listen [::]:8443"), "listen and tls.listen");
    says(&format!("{AGENT} {MEMBERS} --engines-listen 10.0.0.5:7500"), "engines_listen");
    says(&format!("{AGENT} {MEMBERS} --ingress 127.0.0.1:9102"), "admin: is the address of ingress");
}
