//! `docs/configuration.md`, written from the types of the configuration.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Config;

const HEAD: &str = "# Configuration

Of `atoll node`: one TOML file for each process. Written by `atoll config reference` from the types of the
configuration; a test compares. `atoll config check FILE` says whether a file can be used.

A variable `ATOLL__SECTION__KEY` overrides a key of the file, and `--set section.key=value` overrides both. What is no
number, boolean, list or table is text. An unknown key is an error, which names the nearest known one.

Keys of the file itself stand before its first section. `required` means that the section, if it is given, has to have
the key.
";

/// Defaults that depend on the machine.
const CORES: [&str; 2] = ["recovery_threads", "execution_threads"];

/// The page.
pub fn reference() -> String {
    let root = schemars::schema_for!(Config).to_value();
    let mut page = HEAD.to_owned();
    section(&mut page, &root, "", &root);
    page
}

/// A table of the keys of a section, then those of the sections in it.
fn section(page: &mut String, root: &Value, path: &str, schema: &Value) {
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut inner = Vec::new();
    let mut rows = String::new();
    for (key, value) in properties {
        let kind = Kind::of(root, value);
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let many = matches!(kind, Kind::Sections(_));
        let name = kind.name().to_owned();
        if let Kind::Section(schema) | Kind::Sections(schema) = kind {
            let brackets = if many { format!("[[{path}]]") } else { format!("[{path}]") };
            inner.push((path, brackets, meaning(value), required.contains(&key.as_str()), schema));
            continue;
        }
        let default = match &value["default"] {
            _ if CORES.contains(&key.as_str()) => "number of cores".to_owned(),
            _ if required.contains(&key.as_str()) => "required".to_owned(),
            Value::Null => "none".to_owned(),
            Value::Array(all) if all.is_empty() => "none".to_owned(),
            Value::Object(all) if all.is_empty() => "none".to_owned(),
            given => format!("`{given}`"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(rows, "| `{key}` | {name} | {default} | {} |", meaning(value));
    }
    if !rows.is_empty() {
        let _ = writeln!(page, "\n| key | type | default | meaning |\n| --- | --- | --- | --- |");
        page.push_str(&rows);
    }
    for (path, brackets, meaning, required, schema) in inner {
        let depth = "#".repeat(path.matches('.').count() + 2);
        let required = if required { " Required." } else { "" };
        let _ = writeln!(page, "\n{depth} `{brackets}`\n\n{meaning}{required}");
        section(page, root, &path, &schema);
    }
}

/// The comment beside a key, in one line.
fn meaning(value: &Value) -> String {
    let text = value["description"].as_str().unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let ended = text.ends_with(['.', '?', '!']) || text.is_empty();
    if ended { text } else { format!("{text}.") }
}

enum Kind {
    Plain(String),
    Section(Value),
    /// As many as one likes.
    Sections(Value),
}

impl Kind {
    fn name(&self) -> &str {
        match self {
            Self::Plain(name) => name,
            Self::Section(_) | Self::Sections(_) => "section",
        }
    }

    fn of(root: &Value, value: &Value) -> Self {
        let value = resolved(root, value);
        if value["properties"].is_object() {
            return Self::Section(value.clone());
        }
        if value["type"] == "array" {
            return match Self::of(root, &value["items"]) {
                Self::Plain(name) => Self::Plain(format!("list of {name}")),
                Self::Section(schema) | Self::Sections(schema) => Self::Sections(schema),
            };
        }
        if let more @ Value::Object(_) = &value["additionalProperties"] {
            return match Self::of(root, more) {
                Self::Plain(name) => Self::Plain(format!("table of {name}")),
                // The name of such a section is up to whoever writes it.
                Self::Section(_) | Self::Sections(_) => Self::Plain("table of sections".to_owned()),
            };
        }
        let words = value["enum"].as_array().into_iter().flatten().cloned();
        let consts = value["oneOf"].as_array().into_iter().flatten();
        let words: Vec<String> =
            words.chain(consts.map(|one| one["const"].clone())).map(|w| format!("`{w}`")).collect();
        if !words.is_empty() {
            return Self::Plain(words.join(" or "));
        }
        let types = match &value["type"] {
            Value::Array(types) => types.iter().find(|kind| **kind != "null"),
            kind => Some(kind),
        };
        let name = match types.and_then(Value::as_str) {
            Some("integer" | "number") => "number",
            Some("boolean") => "boolean",
            Some("object") => "table",
            _ => "text",
        };
        Self::Plain(name.to_owned())
    }
}

/// What a reference, or something that may be left out, stands for.
fn resolved<'a>(root: &'a Value, value: &'a Value) -> &'a Value {
    if let Some(any) = value["anyOf"].as_array()
        && let Some(one) = any.iter().find(|one| one["type"] != "null")
    {
        return resolved(root, one);
    }
    match value["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
        Some(name) => resolved(root, &root["$defs"][name]),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_current() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let there = std::fs::read_to_string(page).unwrap_or_default();
        let now = reference();
        if let Some((line, (a, b))) =
            there.lines().zip(now.lines()).enumerate().find(|(_, (a, b))| a != b)
        {
            panic!("line {}: `atoll config reference` now says\n{b}\nnot\n{a}", line + 1);
        }
        assert!(there == now, "write `atoll config reference` to docs/configuration.md");
    }

    #[test]
    fn every_key_says_what_it_means() {
        let page = reference();
        let empty: Vec<&str> = page.lines().filter(|line| line.ends_with("|  |")).collect();
        assert!(empty.is_empty(), "{empty:#?}");
        for row in ["| `shards` | number | required |", "| `plain_text` | boolean | `false` |"] {
            assert!(page.contains(row), "{row} is not in\n{page}");
        }
    }
}
