//! The facts of Kafka and the effects here, joined.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};

pub struct Config {
    pub scope: String,
    pub name: String,
    pub kind: String,
    pub default: Option<String>,
    pub valid: Valid,
    pub update: String,
    /// Strongest first, with the factor to this config's unit.
    pub synonyms: Vec<(String, i64)>,
    pub effect: Effect,
    pub words: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Effective,
    Stored,
    Fixed,
}

pub enum Valid {
    Any,
    AtLeast(String),
    Between(String, String),
    BetweenOr(String, String, String),
    OneOf(Vec<String>),
    OneOfAnyCase(Vec<String>),
    List(Vec<String>),
    ListNotEmpty(Vec<String>),
    NotEmpty,
    OffsetReset,
    ThrottledReplicas,
    HostCounts,
}

struct Row {
    effect: Effect,
    default: Option<String>,
    valid: Option<String>,
    words: String,
}

pub fn read(facts: &[&str], effects: &str) -> anyhow::Result<Vec<Config>> {
    let mut effects = effects_by_config(effects)?;
    let mut configs = Vec::new();
    for line in facts.iter().flat_map(|facts| facts.lines()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [scope, name, kind, default, valid, update, synonyms, sentence] = fields[..] else {
            bail!("not eight fields: {line}");
        };
        let row = effects.remove(&(scope.to_owned(), name.to_owned()));
        let row = row.unwrap_or(Row { effect: Effect::Stored, default: None, valid: None, words: String::new() });
        configs.push(Config {
            scope: scope.to_owned(),
            name: name.to_owned(),
            kind: kind.to_owned(),
            default: row.default.or_else(|| default.strip_prefix('=').map(str::to_owned)),
            valid: valid_of(row.valid.as_deref().unwrap_or(valid))?,
            update: if row.effect == Effect::Fixed { "read-only".to_owned() } else { update.to_owned() },
            synonyms: synonyms_of(synonyms)?,
            effect: row.effect,
            words: if row.words.is_empty() { sentence_of(sentence) } else { row.words },
        });
    }
    let unknown: Vec<&(String, String)> = effects.keys().collect();
    ensure!(unknown.is_empty(), "effects of configs that nobody has: {unknown:?}");
    configs.sort_by(|one, other| (&one.scope, &one.name).cmp(&(&other.scope, &other.name)));
    Ok(configs)
}

/// By scope and name.
fn effects_by_config(text: &str) -> anyhow::Result<BTreeMap<(String, String), Row>> {
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (left, words) = line.split_once('|').with_context(|| format!("no words: {line}"))?;
        let (left, valid) = match left.split_once("valid=") {
            Some((left, valid)) => (left, Some(valid.trim().to_owned())),
            None => (left, None),
        };
        let mut parts = left.split_whitespace();
        let mut next = || parts.next().with_context(|| format!("too short: {line}"));
        let (scope, name, effect) = (next()?.to_owned(), next()?.to_owned(), next()?);
        let effect = match effect {
            "effective" => Effect::Effective,
            "stored" => Effect::Stored,
            "fixed" => Effect::Fixed,
            other => bail!("no such effect: {other}"),
        };
        let default = parts.next().and_then(|part| part.strip_prefix("default=")).map(str::to_owned);
        let row = Row { effect, default, valid, words: words.trim().to_owned() };
        ensure!(rows.insert((scope, name), row).is_none(), "twice: {line}");
    }
    Ok(rows)
}

fn valid_of(text: &str) -> anyhow::Result<Valid> {
    let mut words = text.split(' ');
    let what = words.next().unwrap_or_default();
    let words: Vec<String> = words.map(str::to_owned).collect();
    Ok(match (what, &words[..]) {
        ("any", []) => Valid::Any,
        ("range", [min, max]) if max == "null" => Valid::AtLeast(min.clone()),
        ("range", [min, max]) => Valid::Between(min.clone(), max.clone()),
        ("range-or", [min, max, other]) => Valid::BetweenOr(min.clone(), max.clone(), other.clone()),
        ("one-of", _) => Valid::OneOf(words),
        ("one-of-any-case", _) => Valid::OneOfAnyCase(words),
        ("list", _) => Valid::List(words),
        ("list-not-empty", _) => Valid::ListNotEmpty(words),
        ("not-empty", []) => Valid::NotEmpty,
        ("offset-reset", []) => Valid::OffsetReset,
        ("throttled-replicas", []) => Valid::ThrottledReplicas,
        ("host-counts", []) => Valid::HostCounts,
        _ => bail!("no such valid values: {text}"),
    })
}

fn synonyms_of(text: &str) -> anyhow::Result<Vec<(String, i64)>> {
    text.split_whitespace()
        .map(|synonym| {
            let (name, factor) = synonym.split_once('*').with_context(|| format!("no factor: {synonym}"))?;
            Ok((name.to_owned(), factor.parse()?))
        })
        .collect()
}

fn sentence_of(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{}.", text.trim_end_matches(['.', ' '])) }
}
