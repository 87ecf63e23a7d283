use super::annotated::{self, Field};
use super::voter::{TypedMember, Voter};
use super::*;
use client::MemberAddress;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor, value::Error};
use serde::{Serialize, forward_to_deserialize_any};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;

/// Asks a type for its fields instead of giving it any.
struct Ask<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Ask<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("only a struct is asked for its fields"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(fields);
        Err(Error::custom("there is nothing more to ask"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn told_of<T: DeserializeOwned>(told: &[Field]) {
    let mut fields = Vec::new();
    assert!(T::deserialize(Ask(&mut fields)).is_err());
    let names = told.iter().map(|field| field.name);
    assert_eq!(
        names.collect::<BTreeSet<_>>(),
        fields.into_iter().collect(),
        "{}",
        std::any::type_name::<T>()
    );
}

fn inside(fields: &'static [Field], name: &str) -> &'static [Field] {
    fields.iter().find(|field| field.name == name).unwrap().inside
}

#[test]
fn every_field_has_a_comment_and_every_comment_a_field() {
    told_of::<::edge::File>(edge::FIELDS);
    told_of::<::edge::config::TlsFile>(inside(edge::FIELDS, "tls"));
    told_of::<MemberAddress>(inside(edge::FIELDS, "control_plane"));
    told_of::<::region_agent::File>(region_agent::FIELDS);
    told_of::<MemberAddress>(inside(region_agent::FIELDS, "control_plane"));
    told_of::<::control_plane::File>(control_plane::FIELDS);
    told_of::<::control_plane::MemberEntry>(inside(control_plane::FIELDS, "members"));
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn site(dial_map: DialMap) -> Site {
    Site {
        region: "us-east".parse().unwrap(),
        admin: at("127.0.0.1:9100"),
        identity: "/etc/\"odd\"\n[x]\n# '''".into(),
        data: "/d".into(),
        dial_map,
    }
}

fn voters() -> Vec<Voter> {
    let typed = |text: &str| text.parse::<TypedMember>().unwrap().voter;
    ["us-east/c1=10.0.0.4:7001", "eu-west/c1=[fd00::4]:7001", "ap-south/c1=10.2.0.4:7001"].map(typed).to_vec()
}

fn dial_map() -> DialMap {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    DialMap::new([(ip("10.0.0.4"), ip("192.168.0.4")), (ip("fd00::4"), ip("::1"))])
}

fn edges() -> [::edge::File; 2] {
    let least = edge::Edge {
        site: site(DialMap::default()),
        name: "e1".parse().unwrap(),
        plain: None,
        https: None,
        voters: voters(),
        notice_seconds: 5,
        drain_seconds: 30,
        proxy_v2_from: Vec::new(),
        handover: None,
        other_edges: Vec::new(),
    };
    let most = edge::Edge {
        site: site(dial_map()),
        plain: Some(at("[::]:8080")),
        https: Some(edge::Https { listen: at("[::]:8443"), certificate: "/p".into() }),
        proxy_v2_from: vec!["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
        handover: Some("/handover".into()),
        other_edges: vec![at("10.1.0.5:9101"), at("[fd00::5]:9101")],
        ..least.clone()
    };
    [least.file(), most.file()]
}

fn agents() -> [::region_agent::File; 2] {
    let least = region_agent::RegionAgent {
        site: site(DialMap::default()),
        zone: "a".parse().unwrap(),
        node: "n1".parse().unwrap(),
        ingress: at("[::]:7443"),
        engines: at("127.0.0.1:7500"),
        logs: "/l".into(),
        voters: voters(),
        drain_seconds: 30,
        program: None,
    };
    let most = region_agent::RegionAgent {
        site: site(dial_map()),
        program: Some("/usr/bin/rhumb".into()),
        ..least.clone()
    };
    [least.file(), most.file()]
}

fn members() -> [::control_plane::File; 2] {
    let least = control_plane::ControlPlane {
        site: site(DialMap::default()),
        name: "c1".parse().unwrap(),
        id: 4,
        listen: at("[::]:7001"),
        authority: None,
        certificate_life_seconds: 7 * 24 * 3600,
        voters: [4, 2, 9].into_iter().zip(voters()).collect(),
    };
    let most =
        control_plane::ControlPlane { site: site(dial_map()), authority: Some("/a".into()), ..least.clone() };
    [least.file(), most.file()]
}

fn read_back<F: Serialize + DeserializeOwned + Debug>(files: [F; 2], fields: &[Field]) {
    for file in files {
        let text = annotated::toml("Head.", &file, fields).unwrap();
        let read: F = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(format!("{read:?}"), format!("{file:?}"), "{text}");
    }
}

#[test]
fn what_is_written_is_read_back_as_it_was() {
    read_back(edges(), edge::FIELDS);
    read_back(agents(), region_agent::FIELDS);
    read_back(members(), control_plane::FIELDS);
}

/// How many fields were off.
fn switched_on<F: Serialize + DeserializeOwned>(file: &F, fields: &[Field]) -> usize {
    let text = annotated::toml("Head.", file, fields).unwrap();
    let is_off = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let on = text.lines().map(|line| if is_off(line) { &line[1..] } else { line });
    let on = on.collect::<Vec<_>>().join("\n");
    toml::from_str::<F>(&on).unwrap_or_else(|error| panic!("{error}\n{on}"));
    text.lines().filter(|line| is_off(line)).count()
}

#[test]
fn each_field_that_is_off_can_be_switched_on() {
    let (edges, agents, members) = (edges(), agents(), members());
    let off = |at: usize| {
        [
            switched_on(&edges[at], edge::FIELDS),
            switched_on(&agents[at], region_agent::FIELDS),
            switched_on(&members[at], control_plane::FIELDS),
        ]
    };
    assert_eq!(off(0), [6, 2, 2]);
    assert_eq!(off(1), [0, 0, 0]);
}

#[test]
fn what_is_written_are_the_defaults() {
    fn without<F: Serialize + DeserializeOwned>(file: &F, fields: &[&str]) -> F {
        let mut table = toml::Table::try_from(file).unwrap();
        fields.iter().for_each(|field| assert!(table.remove(*field).is_some(), "{field}"));
        table.try_into().unwrap()
    }
    let [edge, _] = edges();
    let read = without(&edge, &["notice_seconds", "drain_seconds", "keep_alive_seconds"]);
    assert_eq!((read.drain_seconds, read.keep_alive_seconds), (edge.drain_seconds, edge.keep_alive_seconds));
    assert_eq!(read.notice_seconds, edge.notice_seconds);
    let [agent, _] = agents();
    assert_eq!(without(&agent, &["drain_seconds", "queue_max"]), agent);
    let [member, _] = members();
    let read = without(&member, &["certificate_life_seconds", "snapshot_every"]);
    assert_eq!(read.certificate_life_seconds, member.certificate_life_seconds);
    assert_eq!(read.snapshot_every, member.snapshot_every);
}
