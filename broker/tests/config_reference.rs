//! docs/config-keys.md: every key that the configuration takes, its type, its default and what it is for. `cargo xtask docs --write` writes
//! the page, which is this test with `SEAWALL_WRITE_CONFIG_KEYS=1`.
//!
//! Keys and types are those that the config structs take, asked of serde: what is refused names what would be taken. Defaults, examples and
//! words are those of docs/broker.example.toml, which must have the very same keys. `[kafka]` has a page of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use seawall::config::{Config, EXAMPLE_TOML};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config-keys.md");

const HEAD: &str = "# Every key

Written by `cargo xtask docs --write`: keys and types are those that the broker takes, defaults and words those of [broker.example.toml](broker.example.toml);
a test keeps all three equal. [configuration.md](configuration.md) explains. A key without a default is not set unless the file has it; what
stands there is an example. A size is bytes or a text such as `\"64MiB\"`, a duration milliseconds or a text such as `\"10s\"`.
The configs of the section `[kafka]` are Kafka's: [kafka-configs.md](kafka-configs.md) lists them.
";

/// Its default depends on the data folder, so the example only says what it may be.
const DEFAULT_ELSEWHERE: (&str, &str) = ("wal", "path");

#[test]
fn the_page_of_keys_has_every_key_that_the_broker_takes_and_no_other() {
    let wanted = page(&sections(EXAMPLE_TOML), &taken());
    if std::env::var_os("SEAWALL_WRITE_CONFIG_KEYS").is_some() {
        std::fs::write(Path::new(PAGE), wanted).unwrap();
        return;
    }
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    for (line, (has, wants)) in page.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(has, wants, "line {} of docs/config-keys.md; `cargo xtask docs --write` writes it anew", line + 1);
    }
    assert_eq!(page, wanted, "docs/config-keys.md; `cargo xtask docs --write` writes it anew");
}

#[test]
fn the_example_file_has_every_key_that_the_broker_takes_and_no_other() {
    assert_eq!(differences(EXAMPLE_TOML), Vec::<String>::new());
}

#[test]
fn a_key_that_is_missing_or_too_many_or_has_another_default_is_found() {
    for (there, instead, said) in [
        ("delete_grace = \"10min\"\n", "", "[objects] delete_grace is missing"),
        ("# sse = \"kms\"\n", "", "[backend] sse is missing"),
        ("# stuck_drop_after = \"30s\"\n", "", "[[wal]] stuck_drop_after is missing"),
        ("[cache]\n", "[cache]\n# disk_bytes = \"1GiB\"\n", "[cache] disk_bytes is no key"),
        ("[cache]\n", "[cash]\n", "[cash] is no section"),
        ("in_flight = 2\n", "# in_flight = 2\n", "[upload] in_flight has a default"),
        ("# region = ", "region = ", "[backend] region has no default"),
        ("# sse = \"kms\"\n", "# sse = \"kmz\"\n", "[backend] sse = \"kmz\" is not taken"),
    ] {
        assert!(EXAMPLE_TOML.contains(there), "{there}");
        let found = differences(&EXAMPLE_TOML.replacen(there, instead, 1));
        assert!(found.iter().any(|found| found.contains(said)), "{said}: {found:?}");
    }
}

#[test]
fn a_key_has_its_type_its_default_or_its_example_and_what_is_said_above_it() {
    let example =
        "# A file.\n\n# Of a.\n[[a]]\n# One,\n# two.\nx = 1\n# Not set.\n# y_z = \"b\"\nw = 3\n[kafka]\n# No.\nz = 1\n";
    let taken = [("x", "integer"), ("y_z", "text"), ("w", "integer")].map(|(name, kind)| (name.into(), kind.into()));
    let page = page(&sections(example), &[Taken { header: "[[a]]".into(), keys: taken.to_vec() }]);
    assert!(page.contains("## `[[a]]`\nOf a.\n"), "{page}");
    assert!(
        page.contains("| `x` | integer | `1` | One, two. |\n| `y_z` | text | none (`\"b\"`) | Not set. |\n"),
        "{page}"
    );
    assert!(page.contains("| `w` | integer | `3` | as above |\n") && !page.contains("No."), "{page}");
}

/// A section as the example has it.
#[derive(Debug, Default)]
struct Section {
    header: String,
    said: String,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    name: String,
    value: String,
    /// Not commented out: the value is the default.
    set: bool,
    said: String,
}

/// Sections and keys of the example up to `[kafka]`.
fn sections(example: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut said = String::new();
    for line in example.lines().take_while(|line| *line != "[kafka]") {
        let (text, set) = line.strip_prefix("# ").map_or((line, true), |text| (text, false));
        let key = text.split_once(" = ").filter(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        if line.starts_with('[') {
            sections.push(Section { header: line.to_owned(), said: std::mem::take(&mut said), keys: Vec::new() });
        } else if let (Some((name, value)), Some(section)) = (key, sections.last_mut()) {
            let key = Key { name: name.to_owned(), value: value.to_owned(), set, said: std::mem::take(&mut said) };
            section.keys.push(key);
        } else if line.is_empty() {
            said.clear();
        } else if !set {
            said += if said.is_empty() { "" } else { " " };
            said += text;
        }
    }
    sections
}

/// A section as the config structs have it: its keys in their order, each with its type.
struct Taken {
    header: String,
    keys: Vec<(String, String)>,
}

fn taken() -> Vec<Taken> {
    let names = names_taken("");
    let sections = names.into_iter().filter(|name| name != "kafka").map(|name| {
        let header = if name == "wal" { "[[wal]]".to_owned() } else { format!("[{name}]") };
        let keys = names_taken(&header);
        let keys = keys.into_iter().map(|key| {
            let kind = kind(&|value| format!("{header}\n{key} = {value}\n"));
            (key, kind)
        });
        Taken { keys: keys.collect(), header: header.clone() }
    });
    sections.collect()
}

/// What may stand below a header: the refusal of a name that is none of them lists them.
fn names_taken(header: &str) -> Vec<String> {
    let said = refusal(&format!("{header}\n_ = 1\n")).expect("no struct has a field `_`");
    assert!(said.starts_with("unknown field `_`"), "{said}");
    between_backticks(&said).skip(1).collect()
}

/// Why a value is not taken; none if it is, whatever else the section lacks.
fn refusal(text: &str) -> Option<String> {
    let message = toml::from_str::<Config>(text).err()?.message().to_owned();
    (!message.starts_with("missing field")).then_some(message)
}

/// The type of a key, by what it takes and what it says to what it does not take.
fn kind(with: &dyn Fn(&str) -> String) -> String {
    match refusal(&with("\"_\"")) {
        None => match refusal(&with("[]")) {
            Some(said) if said.contains("path") => "path".to_owned(),
            _ => "text".to_owned(),
        },
        Some(said) if said.starts_with("unknown variant") => {
            let choices: Vec<String> = between_backticks(&said).skip(1).map(|choice| format!("`{choice}`")).collect();
            choices.join(", ")
        }
        Some(said) if said.contains("is not a size") => "size".to_owned(),
        Some(said) if said.contains("is not a duration") => "duration".to_owned(),
        Some(said) if said.contains("expected a boolean") => "boolean".to_owned(),
        Some(said) if said.contains("expected a sequence") => {
            format!("list of {}", kind(&|value| with(&format!("[{value}]"))))
        }
        Some(said) if ["i32", "u8", "u64", "usize"].iter().any(|kind| said.ends_with(&format!("expected {kind}"))) => {
            "integer".to_owned()
        }
        Some(said) => panic!("a type that this test does not know: {said}\n{}", with("\"_\"")),
    }
}

fn between_backticks(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// What an example says otherwise than the config structs.
fn differences(example: &str) -> Vec<String> {
    let (sections, taken) = (sections(example), taken());
    let mut found = Vec::new();
    let unknown = sections.iter().filter(|section| taken.iter().all(|taken| taken.header != section.header));
    found.extend(unknown.map(|section| format!("{} is no section", section.header)));
    for Taken { header, keys } in &taken {
        let Some(section) = sections.iter().find(|section| section.header == *header) else {
            found.push(format!("{header} is missing"));
            continue;
        };
        let here: BTreeSet<&str> = section.keys.iter().map(|key| key.name.as_str()).collect();
        let names: BTreeSet<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
        found.extend(names.difference(&here).map(|name| format!("{header} {name} is missing")));
        found.extend(here.difference(&names).map(|name| format!("{header} {name} is no key")));
        let name = header.trim_matches(['[', ']']);
        let defaults = defaults(name);
        for key in section.keys.iter().filter(|key| names.contains(key.name.as_str())) {
            let Key { name: key, value, set, .. } = key;
            match (set, defaults.contains_key(key)) {
                _ if (name, key.as_str()) == DEFAULT_ELSEWHERE => {}
                (true, false) => found.push(format!("{header} {key} has no default: it stands behind `# `")),
                (false, true) => found.push(format!("{header} {key} has a default: it does not stand behind `# `")),
                (true, true) | (false, false) => {}
            }
            if let Some(said) = refusal(&format!("{header}\n{key} = {value}\n")) {
                found.push(format!("{header} {key} = {value} is not taken: {said}"));
            }
        }
    }
    found
}

/// Of the keys that have one.
fn defaults(section: &str) -> toml::Table {
    let config = Config { wal: Config::default().wals(), ..Config::default() };
    let all: toml::Table = toml::from_str(&config.to_toml()).unwrap();
    match &all[section] {
        toml::Value::Table(table) => table.clone(),
        toml::Value::Array(tables) => tables[0].as_table().cloned().unwrap(),
        other => panic!("[{section}] is {other}"),
    }
}

fn page(sections: &[Section], taken: &[Taken]) -> String {
    let mut page = HEAD.to_owned();
    for section in sections {
        let kinds = taken.iter().find(|taken| taken.header == section.header).map_or(&[][..], |taken| &taken.keys);
        page += &format!("\n## `{}`\n", section.header);
        if !section.said.is_empty() {
            page += &format!("{}\n", section.said);
        }
        page += "\n| key | type | default | what |\n|---|---|---|---|\n";
        for key in &section.keys {
            let kind = kinds.iter().find(|(name, _)| *name == key.name).map_or("", |(_, kind)| kind);
            let value = key.value.replace('|', "\\|");
            let default = if key.set { format!("`{value}`") } else { format!("none (`{value}`)") };
            // Keys that belong together stand below one comment.
            let what = if key.said.is_empty() { "as above".to_owned() } else { key.said.replace('|', "\\|") };
            page += &format!("| `{}` | {kind} | {default} | {what} |\n", key.name);
        }
    }
    page
}
