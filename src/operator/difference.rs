//! What a file would change: pure, from what is there and what is wanted to changes that a writer meanwhile
//! makes stale.

use crate::operator::cluster::Known;
use crate::operator::document::Document;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use types::intent::{Change, Expect, Resource, ResourceId, Revision, What};

/// One resource that would not be as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub id: ResourceId,
    pub action: Action,
    /// Of a change: the fields that differ.
    pub fields: Vec<Field>,
    #[serde(skip)]
    change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Add,
    Change,
    Remove,
}

/// Null = absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    pub field: String,
    pub before: Value,
    pub after: Value,
}

/// Everything that differs; with `prune` also what the file leaves out of the kinds that it speaks of.
pub fn between(known: &Known, wanted: &Document, prune: bool) -> Vec<Difference> {
    let mut differences: Vec<Difference> =
        wanted.resources.values().filter_map(|resource| of_one(known, resource)).collect();
    if prune {
        let left_out = known
            .iter()
            .filter(|(id, _)| wanted.kinds.contains(&id.kind()) && !wanted.resources.contains_key(*id));
        differences.extend(left_out.map(|(id, stored)| removal(id.clone(), stored.revision)));
    }
    differences
}

/// What these would change although somebody else has changed it since a revision, one line each.
pub fn overtaken(known: &Known, differences: &[Difference], since: Revision) -> Vec<String> {
    let newer = |difference: &Difference| {
        let changed = known.get(&difference.id)?.revision;
        let id = &difference.id;
        (changed > since)
            .then(|| format!("{id}: was changed at revision {changed}, and the file is of {since}"))
    };
    differences.iter().filter_map(newer).collect()
}

/// What putting one resource would change; none if it is so already.
pub fn of_one(known: &Known, wanted: &Resource) -> Option<Difference> {
    let id = wanted.id();
    let what = What::Put(wanted.clone());
    match known.get(&id) {
        None => Some(Difference {
            id,
            action: Action::Add,
            fields: Vec::new(),
            change: Change { expect: Expect::Absent, what },
        }),
        Some(kept) if kept.resource == *wanted => None,
        Some(kept) => Some(Difference {
            id,
            action: Action::Change,
            fields: fields(&kept.resource, wanted),
            change: Change { expect: Expect::Revision(kept.revision), what },
        }),
    }
}

fn removal(id: ResourceId, revision: Revision) -> Difference {
    let change = Change { expect: Expect::Revision(revision), what: What::Delete(id.clone()) };
    Difference { id, action: Action::Remove, fields: Vec::new(), change }
}

impl Difference {
    pub fn into_change(self) -> Change {
        self.change
    }
}

impl fmt::Display for Difference {
    /// A line each: `~ tenant/acme  requests_per_minute: 10 -> 20`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, action, fields, .. } = self;
        match action {
            Action::Add => write!(f, "+ {id}"),
            Action::Remove => write!(f, "- {id}"),
            Action::Change => {
                for (at, Field { field, before, after }) in fields.iter().enumerate() {
                    let shown = |value: &Value| match value {
                        Value::Null => "(none)".to_owned(),
                        value => value.to_string(),
                    };
                    let line = format!("~ {id}  {field}: {} -> {}", shown(before), shown(after));
                    write!(f, "{}{line}", if at > 0 { "\n" } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

fn fields(before: &Resource, after: &Resource) -> Vec<Field> {
    let (before, after) = (flat(before), flat(after));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let value = |of: &BTreeMap<String, Value>, name: &str| of.get(name).cloned().unwrap_or(Value::Null);
    names
        .into_iter()
        .map(|name| Field { field: name.clone(), before: value(&before, name), after: value(&after, name) })
        .filter(|field| field.before != field.after)
        .collect()
}

/// Fields by their path, as faults name them: `engine.slots`, `placements[0].region`.
fn flat(resource: &Resource) -> BTreeMap<String, Value> {
    fn add(path: String, value: Value, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                    add(path, value, into);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (at, item) in items.into_iter().enumerate() {
                    add(format!("{path}[{at}]"), item, into);
                }
            }
            plain => {
                into.insert(path, plain);
            }
        }
    }
    let mut fields = BTreeMap::new();
    add(String::new(), inner(resource), &mut fields);
    fields
}

/// A resource's own fields, without its kind.
pub fn inner(resource: &Resource) -> Value {
    match serde_json::to_value(resource).expect("plain data serialises") {
        Value::Object(kinds) => kinds.into_iter().next().map_or(Value::Null, |(_, fields)| fields),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::UnixMs;
    use types::intent::Stored;

    fn known(text: &str) -> Known {
        let document = Document::parse(text).unwrap();
        let stored = |resource| Stored { resource, revision: Revision(7), created_unix_ms: UnixMs(1) };
        document.resources.into_iter().map(|(id, resource)| (id, stored(resource))).collect()
    }

    fn lines(before: &str, after: &str, prune: bool) -> Vec<String> {
        let differences = between(&known(before), &Document::parse(after).unwrap(), prune);
        differences.iter().map(ToString::to_string).collect()
    }

    const TWO: &str = "[[model]]\nname = 'm'\n[[tenant]]\nname = 'acme'\nrequests_per_minute = 10\n[[tenant]]\nname = 'beta'\n";

    #[test]
    fn what_is_so_already_is_no_difference() {
        assert_eq!(lines(TWO, TWO, true), Vec::<String>::new());
    }

    #[test]
    fn a_change_names_its_fields_and_prune_keeps_to_the_kinds_of_the_file() {
        let after = "[[tenant]]\nname = 'acme'\nrequests_per_minute = 20\npolicy = 'gold'\n[[tenant]]\nname = 'new'\n";
        let changed =
            "~ tenant/acme  policy: (none) -> \"gold\"\n~ tenant/acme  requests_per_minute: 10 -> 20";
        assert_eq!(lines(TWO, after, false), [changed, "+ tenant/new"]);
        assert_eq!(lines(TWO, after, true), [changed, "+ tenant/new", "- tenant/beta"]);
    }

    #[test]
    fn nested_fields_are_named_as_faults_name_them() {
        let deployment = |replicas: u32, slots: u32| {
            let version = format!("sha256:{}", "07".repeat(32));
            format!(
                "[[deployment]]\nmodel = 'm'\nversion = '{version}'\nplacements = [{{ region = 'a', replicas_per_node = \
                 {replicas} }}]\n[deployment.engine]\nslots = {slots}\n"
            )
        };
        assert_eq!(
            lines(&deployment(2, 8), &deployment(3, 4), false),
            ["~ deployment/m  engine.slots: 8 -> 4\n~ deployment/m  placements[0].replicas_per_node: 2 -> 3"]
        );
    }

    #[test]
    fn a_change_made_meanwhile_makes_every_difference_stale() {
        let known = known(TWO);
        let wanted = Document::parse("[[tenant]]\nname = 'acme'\n[[tenant]]\nname = 'new'\n").unwrap();
        let expects: Vec<Expect> = between(&known, &wanted, true)
            .into_iter()
            .map(|difference| difference.into_change().expect)
            .collect();
        let kept = Expect::Revision(Revision(7));
        assert_eq!(expects, [kept, Expect::Absent, kept]);
    }
}
