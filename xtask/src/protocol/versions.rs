//! Ranges of message versions as Kafka writes them ("none", "3", "3-5", "3+"), and the Rust conditions they become.

use anyhow::Context;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Inclusive range; empty when `low > high`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    pub low: i16,
    pub high: i16,
}

/// Whether something holds at a version, as far as it is known before the version is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    Always,
    Never,
    When(String),
}

impl Versions {
    pub const NONE: Self = Self { low: 0, high: -1 };

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let number = |text: &str| text.trim().parse::<i16>().with_context(|| format!("version range {text:?}"));
        match text.trim() {
            "none" => Ok(Self::NONE),
            text => match (text.strip_suffix('+'), text.split_once('-')) {
                (Some(low), _) => Ok(Self { low: number(low)?, high: i16::MAX }),
                (None, Some((low, high))) => Ok(Self { low: number(low)?, high: number(high)? }),
                (None, None) => Ok(Self { low: number(text)?, high: number(text)? }),
            },
        }
    }

    pub fn is_empty(self) -> bool {
        self.low > self.high
    }

    pub fn intersect(self, other: Self) -> Self {
        let both = Self { low: self.low.max(other.low), high: self.high.min(other.high) };
        if both.is_empty() { Self::NONE } else { both }
    }

    /// True of `version in self`, given that the version lies in `within`.
    pub fn condition(self, within: Self) -> Condition {
        let both = self.intersect(within);
        if both.is_empty() {
            Condition::Never
        } else if both == within {
            Condition::Always
        } else if both.low == both.high {
            Condition::When(format!("version == {}", both.low))
        } else if both.high == within.high {
            Condition::When(format!("version >= {}", both.low))
        } else if both.low == within.low {
            Condition::When(format!("version <= {}", both.high))
        } else {
            Condition::When(format!("({}..={}).contains(&version)", both.low, both.high))
        }
    }
}

impl Condition {
    /// The opposite of a condition that [`Versions::condition`] made.
    pub fn negated(&self) -> Self {
        match self {
            Self::Always => Self::Never,
            Self::Never => Self::Always,
            Self::When(when) => Self::When(match when.split_once(' ') {
                Some(("version", comparison)) => match comparison.split_at(2) {
                    ("==", number) => format!("version !={number}"),
                    (">=", number) => format!("version <{number}"),
                    (_, number) => format!("version >{number}"),
                },
                _ => format!("!{when}"),
            }),
        }
    }
}

impl<'de> Deserialize<'de> for Versions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Versions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self { low, high } if low > high => serializer.serialize_str("none"),
            Self { low, high: i16::MAX } => serializer.serialize_str(&format!("{low}+")),
            Self { low, high } if low == high => serializer.serialize_str(&low.to_string()),
            Self { low, high } => serializer.serialize_str(&format!("{low}-{high}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_becomes_the_shortest_condition() {
        let within = Versions { low: 3, high: 13 };
        let condition = |text| Versions::parse(text).unwrap().condition(within);
        assert_eq!(condition("0+"), Condition::Always);
        assert_eq!(condition("0-2"), Condition::Never);
        assert_eq!(condition("none"), Condition::Never);
        assert_eq!(condition("9+"), Condition::When("version >= 9".into()));
        assert_eq!(condition("0-12"), Condition::When("version <= 12".into()));
        assert_eq!(condition("13+"), Condition::When("version == 13".into()));
        assert_eq!(condition("5-7"), Condition::When("(5..=7).contains(&version)".into()));
        assert_eq!(condition("9+").negated(), Condition::When("version < 9".into()));
        assert_eq!(condition("0-12").negated(), Condition::When("version > 12".into()));
        assert_eq!(condition("13+").negated(), Condition::When("version != 13".into()));
        assert_eq!(condition("5-7").negated(), Condition::When("!(5..=7).contains(&version)".into()));
    }
}
