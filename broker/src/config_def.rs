//! What a Kafka config is: its name, type, default, valid values and documentation, and the check of a value.
//!
//! The words of a refusal are those of Kafka, since tools and their users know them. The tables are
//! `topic_config.rs` and `broker_settings.rs`.

/// Type of a config's value. The numbers are those of DescribeConfigs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
}

/// Which values of the type are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Valid {
    Any,
    AtLeast(i64),
    Between(i64, i64),
    /// Between the two, or the third.
    BetweenOr(i64, i64, i64),
    Fraction,
    OneOf(&'static [&'static str]),
    /// Each entry of a list is one of these; the list may be empty.
    EachOf(&'static [&'static str]),
    /// `*`, or a list of `partition:broker`.
    ThrottledReplicas,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfigDef {
    pub name: &'static str,
    pub kind: ConfigType,
    /// `None` is Kafka's null: there is no value unless one is set.
    pub default: Option<&'static str>,
    pub valid: Valid,
    pub doc: &'static str,
}

impl ConfigDef {
    /// Checks a value; the error is a sentence for the client.
    pub fn validate(&self, value: &str) -> Result<(), String> {
        let text = value.trim();
        let name = self.name;
        let invalid = |shown: &str, why: &str| Err(format!("Invalid value {shown} for configuration {name}: {why}"));
        match self.kind {
            ConfigType::Boolean => {
                if !text.eq_ignore_ascii_case("true") && !text.eq_ignore_ascii_case("false") {
                    return invalid(value, "Expected value to be either true or false");
                }
                Ok(())
            }
            ConfigType::Short => match text.parse::<i16>() {
                Ok(n) => self.validate_number(i64::from(n)),
                Err(_) => invalid(value, "Not a number of type SHORT"),
            },
            ConfigType::Int => match text.parse::<i32>() {
                Ok(n) => self.validate_number(i64::from(n)),
                Err(_) => invalid(value, "Not a number of type INT"),
            },
            ConfigType::Long => match text.parse::<i64>() {
                Ok(n) => self.validate_number(n),
                Err(_) => invalid(value, "Not a number of type LONG"),
            },
            ConfigType::Double => match text.parse::<f64>() {
                Ok(n) if self.valid == Valid::Fraction && n < 0.0 => {
                    invalid(&format!("{n:?}"), "Value must be at least 0")
                }
                Ok(n) if self.valid == Valid::Fraction && n > 1.0 => {
                    invalid(&format!("{n:?}"), "Value must be no more than 1")
                }
                Ok(n) if n.is_nan() => invalid(value, "Not a number of type DOUBLE"),
                Ok(_) => Ok(()),
                Err(_) => invalid(value, "Not a number of type DOUBLE"),
            },
            ConfigType::String => match self.valid {
                Valid::OneOf(names) if !names.contains(&text) => {
                    invalid(value, &format!("String must be one of: {}", names.join(", ")))
                }
                _ => Ok(()),
            },
            ConfigType::List => self.validate_list(text),
        }
    }

    fn validate_number(&self, n: i64) -> Result<(), String> {
        let why = match self.valid {
            Valid::AtLeast(min) | Valid::Between(min, _) if n < min => format!("Value must be at least {min}"),
            Valid::Between(_, max) if n > max => format!("Value must be no more than {max}"),
            Valid::BetweenOr(min, max, other) if n != other && !(min..=max).contains(&n) => {
                format!("Value must be between {min} and {max} or equal to {other}")
            }
            _ => return Ok(()),
        };
        Err(format!("Invalid value {n} for configuration {}: {why}", self.name))
    }

    fn validate_list(&self, text: &str) -> Result<(), String> {
        let name = self.name;
        let entries = list_entries(text);
        match self.valid {
            Valid::EachOf(_) if entries.iter().any(|entry| entry.is_empty()) => {
                Err(format!("Configuration '{name}' values must not be empty."))
            }
            Valid::EachOf(names) => match entries.iter().find(|entry| !names.contains(entry)) {
                Some(bad) => Err(format!(
                    "Invalid value {bad} for configuration {name}: String must be one of: {}",
                    names.join(", ")
                )),
                None => Ok(()),
            },
            Valid::ThrottledReplicas if text == "*" || entries.iter().all(|entry| is_partition_and_broker(entry)) => {
                Ok(())
            }
            Valid::ThrottledReplicas => Err(format!(
                "Invalid value [{}] for configuration {name}: {name} must be the literal '*' or a list of replicas in the \
                 following format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
                entries.join(", ")
            )),
            _ => Ok(()),
        }
    }
}

/// The entries of a list config; an empty value is an empty list.
pub fn list_entries(text: &str) -> Vec<&str> {
    let text = text.trim();
    if text.is_empty() { Vec::new() } else { text.split(',').map(str::trim).collect() }
}

fn is_partition_and_broker(entry: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    entry.split_once(':').is_some_and(|(partition, broker)| digits(partition) && digits(broker))
}

/// The name among `names` that a person most likely meant, if one is near enough.
pub fn nearest_name<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.len() / 3).max(2);
    names.into_iter().map(|name| (edit_distance(wrong, name), name)).filter(|(d, _)| *d <= limit).min().map(|(_, n)| n)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn def(kind: ConfigType, valid: Valid) -> ConfigDef {
        ConfigDef { name: "some.name", kind, default: None, valid, doc: "" }
    }

    #[test]
    fn refusals_read_as_kafkas_do() {
        let cases = [
            (def(ConfigType::Long, Valid::AtLeast(-1)), "foo", "Not a number of type LONG"),
            (def(ConfigType::Long, Valid::AtLeast(-1)), "-2", "Value must be at least -1"),
            (def(ConfigType::Int, Valid::AtLeast(0)), "99999999999", "Not a number of type INT"),
            (def(ConfigType::Int, Valid::Between(1, 17)), "18", "Value must be no more than 17"),
            (def(ConfigType::Int, Valid::BetweenOr(1, 9, -1)), "0", "Value must be between 1 and 9 or equal to -1"),
            (def(ConfigType::Boolean, Valid::Any), "maybe", "Expected value to be either true or false"),
            (def(ConfigType::String, Valid::OneOf(&["a", "b"])), "c", "String must be one of: a, b"),
            (def(ConfigType::List, Valid::EachOf(&["a", "b"])), "a,c", "String must be one of: a, b"),
        ];
        for (def, value, why) in cases {
            let shown = if value == "a,c" { "c" } else { value };
            assert_eq!(
                def.validate(value),
                Err(format!("Invalid value {shown} for configuration some.name: {why}")),
                "{value}"
            );
        }
        assert_eq!(
            def(ConfigType::Double, Valid::Fraction).validate("2"),
            Err("Invalid value 2.0 for configuration some.name: Value must be no more than 1".into())
        );
    }

    #[test]
    fn values_are_trimmed_and_lists_may_be_empty() {
        assert_eq!(def(ConfigType::Long, Valid::AtLeast(0)).validate(" 5 "), Ok(()));
        assert_eq!(def(ConfigType::List, Valid::EachOf(&["a"])).validate(""), Ok(()));
        assert_eq!(def(ConfigType::List, Valid::ThrottledReplicas).validate("0:1,1:2"), Ok(()));
        assert!(def(ConfigType::List, Valid::ThrottledReplicas).validate("0").is_err());
    }

    #[test]
    fn the_nearest_name_is_offered_when_it_is_near() {
        let names = ["num.partitions", "message.max.bytes", "log.retention.ms"];
        assert_eq!(nearest_name("num.partition", names), Some("num.partitions"));
        assert_eq!(nearest_name("log.retenton.ms", names), Some("log.retention.ms"));
        assert_eq!(nearest_name("completely.other", names), None);
    }
}
