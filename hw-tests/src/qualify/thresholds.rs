//! The thresholds file: what each role must show. The one in the source is what holds without `--thresholds`, and its
//! comments are the documentation.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::findings::{Fact, Role};

/// The version of the file's shape that this program reads.
pub const VERSION: u32 = 1;

const DEFAULT: &str = include_str!("../../thresholds.toml");

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    pub version: u32,
    pub outliers: Outliers,
    pub host: RoleRules,
    pub wal_device: RoleRules,
    pub network: RoleRules,
    pub backend: RoleRules,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outliers {
    /// So many times worse than the rack's median is an outlier.
    pub factor: f64,
    /// With fewer that were measured a median says nothing.
    pub least: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleRules {
    /// What the verdict's line names.
    #[serde(default)]
    pub headline: Headline,
    /// By the name of a measure, a series or a fact.
    #[serde(default)]
    pub rules: BTreeMap<String, Rule>,
}

/// "qualified for {rate} at {latency}": names of measures.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headline {
    #[serde(rename = "for")]
    pub rate: Option<String>,
    #[serde(rename = "at")]
    pub latency: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What people call it; without it the name.
    pub title: Option<String>,
    pub fail_above: Option<f64>,
    pub warn_above: Option<f64>,
    pub fail_below: Option<f64>,
    pub warn_below: Option<f64>,
    pub fail_unless: Option<OneOf>,
    pub warn_unless: Option<OneOf>,
    /// What it means that a probe could not find it out.
    #[serde(default)]
    pub missing: Missing,
    /// Why it matters, and what to do.
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum OneOf {
    One(Fact),
    Any(Vec<Fact>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    Fail,
    #[default]
    Warn,
    Ignore,
}

#[derive(Debug, thiserror::Error)]
pub enum ThresholdsError {
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: {source}")]
    Parse { path: String, source: Box<toml::de::Error> },
    #[error("{path}: version {version} is not {VERSION}, which this program reads")]
    Version { path: String, version: u32 },
    #[error("{path}: [{role}] {name}: {reason}")]
    Rule { path: String, role: &'static str, name: String, reason: &'static str },
}

impl Thresholds {
    /// The file, or without one what the program brings along. A file holds everything: what is not in it is not asked.
    pub fn load(file: Option<&Path>) -> Result<Self, ThresholdsError> {
        let Some(file) = file else { return Self::parse(DEFAULT, "the built-in thresholds") };
        let path = file.display().to_string();
        match fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, &path),
            Err(source) => Err(ThresholdsError::Read { path, source }),
        }
    }

    /// The built-in file, with its comments.
    pub fn default_text() -> &'static str {
        DEFAULT
    }

    pub fn of(&self, role: Role) -> &RoleRules {
        match role {
            Role::Host => &self.host,
            Role::WalDevice => &self.wal_device,
            Role::Network => &self.network,
            Role::Backend => &self.backend,
        }
    }

    fn parse(text: &str, path: &str) -> Result<Self, ThresholdsError> {
        let path = path.to_owned();
        let thresholds: Self = match toml::from_str(text) {
            Ok(thresholds) => thresholds,
            Err(source) => return Err(ThresholdsError::Parse { path, source: Box::new(source) }),
        };
        if thresholds.version != VERSION {
            return Err(ThresholdsError::Version { path, version: thresholds.version });
        }
        for role in Role::ALL {
            for (name, rule) in &thresholds.of(role).rules {
                if let Err(reason) = rule.validate() {
                    return Err(ThresholdsError::Rule { path, role: role.title(), name: name.clone(), reason });
                }
            }
        }
        Ok(thresholds)
    }
}

impl Rule {
    /// Whether a larger value is the worse one; None for rules on facts, and for those that bound both sides.
    pub fn larger_is_worse(&self) -> Option<bool> {
        let above = self.fail_above.or(self.warn_above).is_some();
        let below = self.fail_below.or(self.warn_below).is_some();
        (above != below).then_some(above)
    }

    fn validate(&self) -> Result<(), &'static str> {
        let bounds = [self.fail_above, self.warn_above, self.fail_below, self.warn_below];
        let on_values = bounds.iter().any(Option::is_some);
        let on_facts = self.fail_unless.is_some() || self.warn_unless.is_some();
        if !on_values && !on_facts {
            return Err("asks nothing");
        }
        if on_values && on_facts {
            return Err("asks for a value and for a fact");
        }
        if bounds.iter().flatten().any(|bound| !bound.is_finite()) {
            return Err("a bound is no number");
        }
        let crossed = |warn: Option<f64>, fail: Option<f64>, ok: fn(f64, f64) -> bool| match (warn, fail) {
            (Some(warn), Some(fail)) => !ok(warn, fail),
            _ => false,
        };
        if crossed(self.warn_above, self.fail_above, |warn, fail| warn <= fail)
            || crossed(self.warn_below, self.fail_below, |warn, fail| warn >= fail)
        {
            return Err("fails before it warns");
        }
        Ok(())
    }
}

impl OneOf {
    pub fn holds(&self, fact: &Fact) -> bool {
        match self {
            Self::One(one) => one == fact,
            Self::Any(any) => any.contains(fact),
        }
    }
}

impl std::fmt::Display for OneOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(one) => write!(f, "{one}"),
            Self::Any(any) => f.write_str(&any.iter().map(Fact::to_string).collect::<Vec<_>>().join(" or ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_thresholds_are_read_and_each_rule_says_why() {
        let thresholds = Thresholds::load(None).unwrap();
        for role in Role::ALL {
            let rules = thresholds.of(role);
            assert!(!rules.rules.is_empty(), "{role} has no rule");
            assert!(rules.rules.values().all(|rule| rule.why.len() > 10), "{role}");
        }
    }

    #[test]
    fn a_file_that_cannot_mean_what_it_says_is_refused() {
        let good = Thresholds::default_text();
        let cases = [
            (good.replacen("version = 1", "version = 9", 1), "version 9"),
            (good.replacen("version = 1", "version = 1\nfloor = 2", 1), "floor"),
            (format!("{good}\n[host.rules.x]\nwhy = \"no bound at all\"\n"), "asks nothing"),
            (format!("{good}\n[host.rules.x]\nwhy = \"\"\nwarn_above = 2\nfail_above = 1\n"), "fails before it warns"),
            (
                format!("{good}\n[host.rules.x]\nwhy = \"\"\nwarn_above = 2\nfail_unless = true\n"),
                "value and for a fact",
            ),
        ];
        for (text, reason) in cases {
            let error = Thresholds::parse(&text, "t.toml").unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} does not say {reason:?}");
        }
    }
}
