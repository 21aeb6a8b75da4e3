//! A second opinion on what a family reports, from the broker that it ran against: a client that quietly falls back to no
//! codec or to the other group protocol would pass its own checks.

use anyhow::{Context, ensure};

use super::family::{Check, Family, Outcome};
use super::wire;

/// Partitions of a `codec-C` topic that are looked at.
const PARTITIONS: i32 = 3;
/// The check that fails when the groups are of another protocol.
const GROUPS: &str = "group-of-three";

/// Turns checks that passed into failed ones where the broker disagrees.
pub fn against_broker(family: &Family, bootstrap: &str, checks: &mut [Check]) {
    let Some(protocol) = family.protocol else { return };
    for check in checks {
        let Outcome::Passed(_) = check.outcome else { continue };
        let seen = match check.name.strip_prefix("codec-") {
            Some(codec) => {
                let topic = format!("{}-{}", family.name, check.name);
                wire::expect_codec(bootstrap, &topic, PARTITIONS, codec)
            }
            None if check.name == GROUPS => wire::groups(bootstrap).and_then(|groups| {
                let own = format!("{}-", family.name);
                all_of(protocol, groups.iter().filter(|(group, _)| group.starts_with(&own)))
            }),
            None => continue,
        };
        if let Err(error) = seen.context("the broker disagrees") {
            println!("FAILED {} {}: {} {error:#}", family.name, family.version, check.name);
            check.outcome = Outcome::Failed(format!("{error:#}"));
        }
    }
}

fn all_of<'a>(protocol: &str, groups: impl Iterator<Item = &'a (String, String)>) -> anyhow::Result<()> {
    let mut count = 0;
    for (group, of) in groups {
        ensure!(of == protocol, "group {group} is of the {of} protocol, not {protocol}");
        count += 1;
    }
    ensure!(count > 0, "it lists no group of this family");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_another_protocol_and_no_groups_at_all_are_noticed() {
        let groups = [("a".to_owned(), "consumer".to_owned()), ("b".to_owned(), "classic".to_owned())];
        assert!(all_of("consumer", groups[..1].iter()).is_ok());
        assert!(all_of("consumer", groups.iter()).is_err());
        assert!(all_of("classic", groups[..0].iter()).is_err());
    }
}
