//! The table as Rust and as a page of the documentation.

use std::fmt::Write;

use super::table::{Config, Effect, Valid};
use crate::clients::install::KAFKA_VERSION;

/// Kafka's scopes, the name of each table, and its heading.
const SCOPES: [(&str, &str, &str); 5] = [
    ("broker", "BROKER_CONFIGS", "Brokers"),
    ("broker-quota", "BROKER_QUOTA_CONFIGS", "Brokers, by dynamic change only"),
    ("topic", "TOPIC_CONFIGS", "Topics"),
    ("group", "GROUP_CONFIGS", "Groups"),
    ("client-metrics", "CLIENT_METRICS_CONFIGS", "Client metrics"),
];

pub fn rust(configs: &[Config]) -> String {
    let mut out = format!(
        "//! Every config of Apache Kafka {KAFKA_VERSION}, and Seawall's own; each table sorted by name.\n\
         //! Written by `cargo xtask configs`. Words that xtask/configs/effects.txt does not give are the first sentences of\n\
         //! Kafka's documentation (Apache License 2.0).\n\n\
         use crate::config_def::{{\n    ConfigDef,\n    ConfigType::{{Boolean, Class, Double, Int, List, Long, Password, Short, String as Text}},\n    \
         Effect::{{Effective, Fixed, Stored}},\n    Update::{{ClusterWide, PerBroker, ReadOnly}},\n    \
         Valid::{{\n        Any, AtLeast, Between, BetweenOr, EachOf, HostCounts, NotEmpty, NotEmptyEachOf, OffsetReset, OneOf,\n        OneOfAnyCase, ThrottledReplicas,\n    }},\n    config,\n}};\n"
    );
    for (scope, table, heading) in SCOPES {
        let _ = write!(out, "\n/// {heading}.\n#[rustfmt::skip]\npub static {table}: &[ConfigDef] = &[\n");
        for config in configs.iter().filter(|config| config.scope == scope) {
            let _ = writeln!(
                out,
                "    config({:?}, {}, {:?}, {}, {}, {}, &{}, {:?}),",
                config.name,
                kind(&config.kind),
                config.default,
                valid_rust(&config.valid),
                update_rust(&config.update),
                effect_rust(config.effect),
                synonyms_rust(config),
                config.words
            );
        }
        out += "];\n";
    }
    out
}

fn kind(java: &str) -> &'static str {
    match java {
        "BOOLEAN" => "Boolean",
        "SHORT" => "Short",
        "INT" => "Int",
        "LONG" => "Long",
        "DOUBLE" => "Double",
        "LIST" => "List",
        "CLASS" => "Class",
        "PASSWORD" => "Password",
        _ => "Text",
    }
}

fn valid_rust(valid: &Valid) -> String {
    match valid {
        Valid::Any => "Any".to_owned(),
        Valid::AtLeast(min) => format!("AtLeast({})", float(min)),
        Valid::Between(min, max) => format!("Between({}, {})", float(min), float(max)),
        Valid::BetweenOr(min, max, other) => format!("BetweenOr({}, {}, {})", float(min), float(max), float(other)),
        Valid::OneOf(words) => format!("OneOf(&{words:?})"),
        Valid::OneOfAnyCase(words) => format!("OneOfAnyCase(&{words:?})"),
        Valid::List(words) => format!("EachOf(&{words:?})"),
        Valid::ListNotEmpty(words) => format!("NotEmptyEachOf(&{words:?})"),
        Valid::NotEmpty => "NotEmpty".to_owned(),
        Valid::OffsetReset => "OffsetReset".to_owned(),
        Valid::ThrottledReplicas => "ThrottledReplicas".to_owned(),
        Valid::HostCounts => "HostCounts".to_owned(),
    }
}

fn float(number: &str) -> String {
    if number.contains('.') { number.to_owned() } else { format!("{number}.0") }
}

fn update_rust(update: &str) -> &'static str {
    match update {
        "per-broker" => "PerBroker",
        "cluster-wide" => "ClusterWide",
        _ => "ReadOnly",
    }
}

fn effect_rust(effect: Effect) -> &'static str {
    match effect {
        Effect::Effective => "Effective",
        Effect::Stored => "Stored",
        Effect::Fixed => "Fixed",
    }
}

/// A broker config that is its own only synonym needs no list.
fn synonyms_rust(config: &Config) -> String {
    match &config.synonyms[..] {
        [(name, _)] if config.scope == "broker" && *name == config.name => "[]".to_owned(),
        synonyms => format!("{synonyms:?}"),
    }
}

pub fn markdown(configs: &[Config]) -> String {
    let count = |effect| configs.iter().filter(|config| config.effect == effect).count();
    let mut out = format!(
        "# Every config of Apache Kafka {KAFKA_VERSION}, and what it does here\n\n\
         Written by `cargo xtask configs`; what is said here of a config stands in `xtask/configs/effects.txt`. Where it says\n\
         nothing, the words are the first sentence of Kafka's own documentation (Apache License 2.0). What begins with `seawall.` is not\n\
         Kafka's; its tools show and change it all the same.\n\n\
         - **effective** ({}): does what it says.\n\
         - stored ({}): accepted, checked, stored and described, without an effect.\n\
         - fixed ({}): decided elsewhere; shown, not set.\n\n\
         *Changes*: `cluster-wide` at once, for one broker or for all; `per-broker` at once, for one broker; `read-only` at the\n\
         next start, in `[kafka]` of the configuration file. Configs of topics, groups and client metrics change at once.\n",
        count(Effect::Effective),
        count(Effect::Stored),
        count(Effect::Fixed)
    );
    for (scope, _, heading) in SCOPES {
        let _ = write!(
            out,
            "\n## {heading}\n\n| config | type | default | valid | changes | here | |\n|---|---|---|---|---|---|---|\n"
        );
        for config in configs.iter().filter(|config| config.scope == scope) {
            let default = match config.default.as_deref() {
                None => "null".to_owned(),
                Some("") => "\"\"".to_owned(),
                Some(value) => format!("`{value}`"),
            };
            let here = match config.effect {
                Effect::Effective => "**effective**",
                Effect::Stored => "stored",
                Effect::Fixed => "fixed",
            };
            let _ = writeln!(
                out,
                "| `{}` | {} | {default} | {} | {} | {here} | {} |",
                config.name,
                config.kind.to_lowercase(),
                valid_words(&config.valid),
                config.update,
                config.words.replace('|', "\\|")
            );
        }
    }
    out
}

fn valid_words(valid: &Valid) -> String {
    match valid {
        Valid::Any => String::new(),
        Valid::AtLeast(min) => format!("{min} or more"),
        Valid::Between(min, max) => format!("{min} to {max}"),
        Valid::BetweenOr(min, max, other) => format!("{min} to {max}, or {other}"),
        Valid::OneOf(words) | Valid::OneOfAnyCase(words) => words.join(", "),
        Valid::List(words) if words.is_empty() => "a list".to_owned(),
        Valid::List(words) => format!("a list of {}", words.join(", ")),
        Valid::ListNotEmpty(words) if words.is_empty() => "a list, not empty".to_owned(),
        Valid::ListNotEmpty(words) => format!("a list of {}, not empty", words.join(", ")),
        Valid::NotEmpty => "not empty".to_owned(),
        Valid::OffsetReset => "latest, earliest, by_duration:...".to_owned(),
        Valid::ThrottledReplicas => "`*`, or partition:broker, ...".to_owned(),
        Valid::HostCounts => "address:count, ...".to_owned(),
    }
}
