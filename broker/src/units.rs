//! Sizes and durations as people write them in the configuration: `"64MiB"`, `"250ms"`, `"10s"`.
//! A bare integer is bytes, or milliseconds. They print in the largest unit that holds them exactly.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// As a length in memory; a size beyond the address space is `usize::MAX`.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = largest_exact_unit(self.0, &SIZE_UNITS);
        write!(f, "{}{unit}", self.0 / scale)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_with_unit(text, &SIZE_UNITS, 1).map(Self).ok_or_else(|| {
            format!("`{text}` is not a size: write a number with B, KiB, MiB, GiB or TiB, as in \"64MiB\"")
        })
    }
}

/// A span of time with millisecond precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

impl Span {
    pub const fn millis(n: u64) -> Self {
        Self(n)
    }

    pub const fn seconds(n: u64) -> Self {
        Self(n * 1000)
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = largest_exact_unit(self.0, &SPAN_UNITS);
        write!(f, "{}{unit}", self.0 / scale)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_with_unit(text, &SPAN_UNITS, 1)
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a duration: write a number with ms, s, min, h or d, as in \"10s\""))
    }
}

fn largest_exact_unit(n: u64, units: &[(&'static str, u64)]) -> (&'static str, u64) {
    let last = units[units.len() - 1];
    if n == 0 { last } else { units.iter().copied().find(|(_, scale)| n.is_multiple_of(*scale)).unwrap_or(last) }
}

fn parse_with_unit(text: &str, units: &[(&str, u64)], bare_scale: u64) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let scale =
        if unit.is_empty() { bare_scale } else { units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1 };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

macro_rules! text_or_integer {
    ($type:ident, $expecting:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: de::Error>(self, n: i64) -> Result<$type, E> {
                        u64::try_from(n).map($type).map_err(|_| E::custom(format!("{n} is below zero")))
                    }

                    fn visit_u64<E: de::Error>(self, n: u64) -> Result<$type, E> {
                        Ok($type(n))
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

text_or_integer!(ByteSize, "a size such as \"64MiB\" or a number of bytes");
text_or_integer!(Span, "a duration such as \"10s\" or a number of milliseconds");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_print_as_they_are_written() {
        for text in ["0B", "1KiB", "1500B", "64MiB", "3GiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        for text in ["0ms", "250ms", "10s", "7d", "90s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("4096".parse::<ByteSize>().unwrap(), ByteSize::kib(4));
        assert_eq!("1500".parse::<Span>().unwrap(), Span::millis(1500));
    }

    #[test]
    fn what_is_not_a_size_is_an_error() {
        for text in ["", "MiB", "-1", "1.5GiB", "1 parsec", "99999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
