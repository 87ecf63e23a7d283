//! Intent as a file: TOML with one array of tables for each kind, whose fields are those of the resources.

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use types::intent::{
    Deployment, Drain, Key, Kind, Model, Node, Policy, Region, Resource, ResourceId, Revision, Tenant,
    Version, Zone,
};

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Of the state that it was made from. What has changed since was somebody else's doing.
    pub revision: Option<Revision>,
    /// The kinds that it speaks of, also without a single resource: `tenant = []`.
    pub kinds: BTreeSet<Kind>,
    pub resources: BTreeMap<ResourceId, Resource>,
}

impl Document {
    /// Everything that is wrong is named at once, each with its line.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (table, mut errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.span().map(|span| span.start));
            return Err(errors.iter().map(|error| at(text, error.span(), None, error.message())).collect());
        }
        let mut document = Self::default();
        let mut problems = Vec::new();
        for (name, value) in table.into_inner() {
            if name.get_ref() == "revision" {
                let (span, number) = (value.span(), u64::deserialize(ValueDeserializer::from(value)));
                match number {
                    Ok(number) => document.revision = Some(Revision(number)),
                    Err(error) => {
                        problems.push((span.start, at(text, Some(span), None, &plain(error.message()))));
                    }
                }
                continue;
            }
            let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == name.get_ref()) else {
                let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
                let words =
                    format!("there is no kind {}; the kinds are {}", name.get_ref(), kinds.join(", "));
                problems.push((name.span().start, at(text, Some(name.span()), None, &words)));
                continue;
            };
            document.kinds.insert(kind);
            let span = value.span();
            let DeValue::Array(tables) = value.into_inner() else {
                problems.push((
                    span.start,
                    at(text, Some(span), None, &format!("write [[{kind}]], with two brackets")),
                ));
                continue;
            };
            for table in tables {
                let span = table.span();
                match resource(kind, table) {
                    Ok(resource) => {
                        let id = resource.id();
                        if document.resources.insert(id.clone(), resource).is_some() {
                            let words = format!("{id} is there twice");
                            problems.push((span.start, at(text, Some(span), None, &words)));
                        }
                    }
                    Err(error) => {
                        let found = error.span().unwrap_or(span);
                        let words = plain(error.message());
                        problems.push((found.start, at(text, Some(found), Some(kind), &words)));
                    }
                }
            }
        }
        if problems.is_empty() {
            return Ok(document);
        }
        problems.sort();
        Err(problems.into_iter().map(|(_, problem)| problem).collect())
    }
}

/// The same as text, to be edited and applied again.
pub fn write<'a>(
    revision: Revision,
    resources: impl IntoIterator<Item = &'a Resource>,
) -> Result<String, toml::ser::Error> {
    let mut text = format!("{ABOUT_REVISION}revision = {revision}\n");
    for resource in resources {
        let one = match resource {
            Resource::Region(region) => entry("region", region),
            Resource::Zone(zone) => entry("zone", zone),
            Resource::Node(node) => entry("node", node),
            Resource::Policy(policy) => entry("policy", policy),
            Resource::Tenant(tenant) => entry("tenant", tenant),
            Resource::Key(key) => entry("key", key),
            Resource::Model(model) => entry("model", model),
            Resource::Version(version) => entry("version", version),
            Resource::Deployment(deployment) => entry("deployment", deployment),
            Resource::Drain(drain) => entry("drain", drain),
        }?;
        text.push('\n');
        text += &one;
    }
    Ok(text)
}

const ABOUT_REVISION: &str = "\
# `rhumb apply` changes nothing here that somebody else has changed since this revision; without it, it does.
";

fn entry(kind: &str, resource: &impl Serialize) -> Result<String, toml::ser::Error> {
    toml::to_string(&BTreeMap::from([(kind, [resource])]))
}

fn resource(kind: Kind, table: Spanned<DeValue<'_>>) -> Result<Resource, toml::de::Error> {
    fn of<T: DeserializeOwned>(table: Spanned<DeValue<'_>>) -> Result<T, toml::de::Error> {
        T::deserialize(ValueDeserializer::from(table))
    }
    match kind {
        Kind::Region => of::<Region>(table).map(Resource::Region),
        Kind::Zone => of::<Zone>(table).map(Resource::Zone),
        Kind::Node => of::<Node>(table).map(Resource::Node),
        Kind::Policy => of::<Policy>(table).map(Resource::Policy),
        Kind::Tenant => of::<Tenant>(table).map(Resource::Tenant),
        Kind::Key => of::<Key>(table).map(Resource::Key),
        Kind::Model => of::<Model>(table).map(Resource::Model),
        Kind::Version => of::<Version>(table).map(Resource::Version),
        Kind::Deployment => of::<Deployment>(table).map(Resource::Deployment),
        Kind::Drain => of::<Drain>(table).map(Resource::Drain),
    }
}

/// `line 4: [[tenant]] requests_per_minute: …`, with the field where the line begins with one.
fn at(text: &str, span: Option<Range<usize>>, kind: Option<Kind>, words: &str) -> String {
    let Some(span) = span else { return words.to_owned() };
    let start = span.start.min(text.len());
    let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
    let field = text.lines().nth(line - 1).and_then(|line| line.split_once('='));
    let field = field.map(|(field, _)| field.trim()).filter(|field| !words.contains(&format!("`{field}`")));
    match (kind, field) {
        (Some(kind), Some(field)) => format!("line {line}: [[{kind}]] {field}: {words}"),
        (Some(kind), None) => format!("line {line}: [[{kind}]]: {words}"),
        (None, Some(field)) => format!("line {line}: {field}: {words}"),
        (None, None) => format!("line {line}: {words}"),
    }
}

/// Whoever writes a file knows numbers, and not the names of Rust's types.
fn plain(words: &str) -> String {
    let bounds = [
        ("u16", i128::from(u16::MIN), i128::from(u16::MAX)),
        ("u32", i128::from(u32::MIN), i128::from(u32::MAX)),
        ("u64", i128::from(u64::MIN), i128::from(u64::MAX)),
        ("i32", i128::from(i32::MIN), i128::from(i32::MAX)),
    ];
    let words = words.replace("` as i128", "`");
    bounds.into_iter().fold(words, |words, (name, least, most)| {
        words.replace(&format!("expected {name}"), &format!("expected a whole number from {least} to {most}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
[[region]]
name = "us-east"
latitude_e6 = 39040000
longitude_e6 = -77490000

[[zone]]
region = "us-east"
name = "a"

[[node]]
node = "us-east/n1"
zone = "a"
ingress = "127.0.1.1:7443"
server_name = "n1.region-agent.us-east.rhumb.internal"

[[node]]
node = "us-east/vllm"
zone = "a"
kind = "openai"
base_url = "http://10.0.0.7:8000/v1"
models = ["m"]
slots = 64
secret = "RHUMB_SECRET_VLLM"

[[policy]]
name = "gold"
regions = ["us-east"]
priority = "interactive"
resume = "off"

[[tenant]]
name = "acme"
policy = "gold"
requests_per_minute = 10

[[tenant]]
name = "beta"

[[key]]
id = "aaaaaaaaaaaaaaaa"
tenant = "acme"
hash = "0101010101010101010101010101010101010101010101010101010101010101"
expires_unix_ms = 1800000000000
models = ["m"]

[[model]]
name = "m"

[[version]]
version = "sha256:0707070707070707070707070707070707070707070707070707070707070707"
model = "m"
source = "file:///models/m"

[[deployment]]
model = "m"
version = "sha256:0707070707070707070707070707070707070707070707070707070707070707"

[[deployment.placements]]
region = "us-east"
replicas_per_node = 2

[deployment.engine]
slots = 8
threads = 1
kv_tokens = 4096
step_time_ms = 20

[[drain]]
scope = "us-east/n1"
reason = "a \"new\" disk"
until_unix_ms = 1800000000000
"#;

    #[test]
    fn every_kind_goes_there_and_back() {
        let document = Document::parse(WHOLE).unwrap();
        assert_eq!(document.kinds.len(), Kind::ALL.len());
        assert_eq!(document.resources.len(), 12);
        let text = write(Revision(7), document.resources.values()).unwrap();
        let document = Document { revision: Some(Revision(7)), ..document };
        assert_eq!(Document::parse(&text).unwrap(), document, "{text}");
        let problems = Document::parse("revision = \"seven\"\n").unwrap_err();
        assert!(problems[0].starts_with("line 1: revision: "), "{problems:?}");
    }

    #[test]
    fn every_problem_is_named_with_its_line() {
        let text = "[[tenant]]\nname = \"acme\"\nrpm = 5\n\n[[tenant]]\nname = \"beta\"\nrequests_per_minute = \"many\"\n\n\
                    [[key]]\ntenant = \"acme\"\n\n[[tenants]]\nname = \"x\"\n\n[[tenant]]\nname = \"ACME\"\n\n\
                    [model]\nname = \"m\"\n\n[[drain]]\nscope = \"a\"\n[[drain]]\nscope = \"a\"\n";
        let problems = Document::parse(text).unwrap_err();
        let expected = [
            ("line 3: ", "unknown field `rpm`"),
            ("line 7: [[tenant]] requests_per_minute: ", "string \"many\", expected a whole number from 0"),
            ("line 9: ", "missing field `id`"),
            ("line 12: ", "there is no kind tenants"),
            ("line 16: [[tenant]] name: ", "must match"),
            ("line 18: ", "[[model]]"),
            ("line 23: ", "drain/a is there twice"),
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, (begins, has)) in problems.iter().zip(expected) {
            assert!(problem.starts_with(begins) && problem.contains(has), "{problem}");
        }
    }

    #[test]
    fn a_nodes_fields_fit_its_kind() {
        let problem = |fields: &str| {
            Document::parse(&format!("[[node]]\nnode = \"us-east/n1\"\nzone = \"a\"\n{fields}")).unwrap_err()
        };
        let server = "kind = \"openai\"\nbase_url = \"http://vllm:8000/v1\"\nmodels = [\"m\"]\n";
        assert!(Document::parse(&format!("[[node]]\nnode = \"r/n\"\nzone = \"a\"\n{server}")).is_ok());
        for (fields, says) in [
            ("server_name = \"n1\"\n", "missing field `ingress`"),
            ("kind = \"openai\"\nmodels = [\"m\"]\n", "missing field `base_url`"),
            ("kind = \"vllm\"\n", "unknown variant `vllm`"),
            (&format!("{server}ingress = \"127.0.0.1:1\"\n"), "kind openai has no field `ingress`"),
            (
                "ingress = \"127.0.0.1:1\"\nserver_name = \"n\"\nslots = 1\n",
                "kind agent has no field `slots`",
            ),
            ("kind = \"openai\"\nbase_url = \"vllm:8000\"\n", "begins with http:// or https://"),
        ] {
            let problems = problem(fields);
            assert!(problems.iter().any(|problem| problem.contains(says)), "{fields}: {problems:?}");
        }
    }

    #[test]
    fn several_syntax_errors_are_named_at_once() {
        let problems = Document::parse("[[tenant]]\nname = \n\n[[key]\nid = 1\n").unwrap_err();
        assert!(problems.len() >= 2, "{problems:?}");
        assert!(problems[0].starts_with("line 2"), "{problems:?}");
    }

    #[test]
    fn a_kind_may_be_there_without_resources() {
        let document = Document::parse("tenant = []\n").unwrap();
        assert_eq!(document.kinds, BTreeSet::from([Kind::Tenant]));
        assert!(document.resources.is_empty());
    }
}
