//! A configuration as TOML that explains itself: each field below its comment, in the order of the comments.

use serde::Serialize;
use std::fmt::Write;
use toml::{Table, Value};

/// What is said of one field of a configuration.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    comment: &'static str,
    /// TOML for a value, shown switched off where the configuration has none.
    example: Option<&'static str>,
    /// Where the value is a table or a list of them; empty for a map, whose keys are data.
    pub inside: &'static [Field],
}

impl Field {
    pub const fn new(name: &'static str, comment: &'static str) -> Self {
        Self { name, comment, example: None, inside: &[] }
    }

    pub const fn such_as(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }

    pub const fn holding(self, inside: &'static [Self]) -> Self {
        Self { inside, ..self }
    }
}

pub fn toml(header: &str, file: &impl Serialize, fields: &[Field]) -> Result<String, toml::ser::Error> {
    let table = Table::try_from(file)?;
    let (mut values, mut sections) = (comment(header), String::new());
    for field in fields {
        let (name, said) = (field.name, comment(field.comment));
        match (table.get(name), field.example) {
            (None, None) => {}
            (None, Some(example)) => values += &format!("\n{said}#{name} = {example}\n"),
            // To TOML all that follows a section's head belongs to it, so sections come last.
            (Some(Value::Table(section)), _) => {
                sections += &format!("\n{said}[{name}]\n{}", lines(section, field.inside));
            }
            (Some(Value::Array(rows)), _) if rows.iter().any(Value::is_table) => {
                values += &format!("\n{said}{}{name} = [\n", legend(field.inside));
                rows.iter().for_each(|row| values += &format!("    {},\n", inline(row, field.inside)));
                values += "]\n";
            }
            (Some(value), _) => values += &format!("\n{said}{name} = {value}\n"),
        }
    }
    for (name, value) in rest(&table, fields) {
        values += &format!("\n{} = {value}\n", quoted(name));
    }
    Ok(values + &sections)
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

/// What the fields of each row mean, said once above all rows.
fn legend(fields: &[Field]) -> String {
    fields.iter().map(|field| comment(&format!("{}: {}", field.name, field.comment))).collect()
}

fn lines(table: &Table, fields: &[Field]) -> String {
    let mut text = String::new();
    for field in fields {
        if let Some(value) = table.get(field.name) {
            text += &format!("{}{} = {value}\n", comment(field.comment), field.name);
        }
    }
    for (name, value) in rest(table, fields) {
        text += &format!("{} = {value}\n", quoted(name));
    }
    text
}

fn inline(row: &Value, fields: &[Field]) -> String {
    let Value::Table(table) = row else { return row.to_string() };
    let known = fields.iter().filter_map(|field| Some((field.name.to_owned(), table.get(field.name)?)));
    let unknown = rest(table, fields).map(|(name, value)| (quoted(name), value));
    let mut text = String::from("{");
    for (at, (name, value)) in known.chain(unknown).enumerate() {
        let comma = if at > 0 { "," } else { "" };
        write!(text, "{comma} {name} = {value}").expect("a string takes all that is written");
    }
    text + " }"
}

/// What nobody has said anything of: keys of maps. A field would be one that was forgotten, yet it is not lost.
fn rest<'a>(table: &'a Table, fields: &'a [Field]) -> impl Iterator<Item = (&'a String, &'a Value)> {
    table.iter().filter(|(name, _)| fields.iter().all(|field| field.name != name.as_str()))
}

fn quoted(name: &str) -> String {
    Value::from(name).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field::new("slots", "How many."),
        Field::new("door", "Where.").such_as("\"[::]:1\"").holding(&[Field::new("ip", "Its address.")]),
        Field::new("peers", "Others.").holding(&[Field::new("name", "who"), Field::new("at", "where")]),
        Field::new("zone", "One or\ntwo lines.").such_as("\"a\""),
    ];

    fn written(text: &str) -> String {
        toml("Head.", &toml::from_str::<Table>(text).unwrap(), FIELDS).unwrap()
    }

    #[test]
    fn each_field_follows_its_comment_in_their_order() {
        let text = "new = 1\nslots = 2\npeers = [{ at = 1, name = 'x' }, { more = 3 }]\n\
            [door]\nip = '::1'\n'a.b' = 2\n";
        let expected = "# Head.\n\n# How many.\nslots = 2\n\n# Others.\n# name: who\n# at: where\npeers = [\n    \
            { name = \"x\", at = 1 },\n    { \"more\" = 3 },\n]\n\n# One or\n# two lines.\n#zone = \"a\"\n\n\
            \"new\" = 1\n\n# Where.\n[door]\n# Its address.\nip = \"::1\"\n\"a.b\" = 2\n";
        assert_eq!(written(text), expected);
        assert_eq!(toml::from_str::<Table>(expected), toml::from_str(text));
    }

    #[test]
    fn no_value_leaves_its_place() {
        for text in [r#"zone = "a\"\n[door]\n# \\ '''""#, "peers = []", "slots = '''\n\n[[x]]'''"] {
            assert_eq!(toml::from_str::<Table>(&written(text)), toml::from_str(text), "{}", written(text));
        }
    }
}
