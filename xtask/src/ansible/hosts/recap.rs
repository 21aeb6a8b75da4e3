//! What a play did: its recap, and whether that is what was to be seen. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

/// Of one host, as Ansible counts at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub ok: u32,
    pub changed: u32,
    pub unreachable: u32,
    pub failed: u32,
}

pub struct Played {
    pub name: String,
    pub output: String,
    /// Ansible's exit code.
    pub success: bool,
    pub elapsed: Duration,
}

impl Played {
    pub fn recap(&self) -> BTreeMap<String, Counts> {
        let lines = self.output.lines().skip_while(|line| !line.starts_with("PLAY RECAP")).skip(1);
        lines.filter_map(counts_of).collect()
    }

    pub fn succeeded(&self) -> Result<()> {
        let recap = self.recap();
        let is_well = recap.values().all(|counts| counts.failed == 0 && counts.unreachable == 0);
        ensure!(self.success && is_well && !recap.is_empty(), "{self} did not succeed:\n{}", self.tail());
        Ok(())
    }

    /// It succeeded on all these hosts and found nothing to do.
    pub fn changed_nothing(&self, hosts: &[String]) -> Result<()> {
        self.succeeded()?;
        let recap = self.recap();
        for host in hosts {
            match recap.get(host) {
                Some(counts) if counts.changed == 0 => {}
                Some(_) => bail!("{self}: something was changed on {host}:\n{}", self.changes()),
                None => bail!("{self} did not come to {host}"),
            }
        }
        Ok(())
    }

    /// It failed, and its messages have all these words.
    pub fn stopped_saying(&self, words: &[&str]) -> Result<()> {
        ensure!(!self.success, "{self} should have stopped:\n{}", self.tail());
        // Ansible breaks lines where it likes to.
        let said = self.output.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in words {
            ensure!(said.contains(words), "{self} stopped, and does not say {words:?}:\n{}", self.tail());
        }
        Ok(())
    }

    /// Names of the tasks that changed something.
    fn changes(&self) -> String {
        let mut task = "";
        let mut changes = Vec::new();
        for line in self.output.lines() {
            if line.starts_with("TASK [") {
                task = line.trim_end_matches('*');
            } else if line.starts_with("changed: ") {
                changes.push(format!("{task}{line}"));
            }
        }
        changes.join("\n")
    }

    fn tail(&self) -> String {
        let lines: Vec<&str> = self.output.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Display for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {:.1} s:", self.name, self.elapsed.as_secs_f64())?;
        for (host, Counts { ok, changed, unreachable, failed }) in self.recap() {
            write!(f, "  {host} ok={ok} changed={changed}")?;
            if unreachable + failed > 0 {
                write!(f, " unreachable={unreachable} failed={failed}")?;
            }
        }
        Ok(())
    }
}

/// `h1 : ok=50 changed=0 unreachable=0 failed=0 ...`
fn counts_of(line: &str) -> Option<(String, Counts)> {
    let (host, rest) = line.split_once(':')?;
    let mut counts = Counts::default();
    for word in rest.split_whitespace() {
        let (name, count) = word.split_once('=')?;
        let count = count.parse().ok()?;
        match name {
            "ok" => counts.ok = count,
            "changed" => counts.changed = count,
            "unreachable" => counts.unreachable = count,
            "failed" => counts.failed = count,
            _ => {}
        }
    }
    Some((host.trim().to_owned(), counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(recap: &str, success: bool) -> Played {
        let output = format!(
            "TASK [seawall.cluster.host : Limits] ****\nchanged: [h2]\nfatal: [h2]: FAILED! => put the old\nserial number back\n\
             PLAY RECAP *****\n{recap}"
        );
        Played { name: "site".into(), output, success, elapsed: Duration::from_secs(3) }
    }

    const STILL: &str = "h1   : ok=50   changed=0    unreachable=0    failed=0    skipped=9    rescued=0    ignored=0\n\
                         h2   : ok=50   changed=0    unreachable=0    failed=0    skipped=9    rescued=0    ignored=0\n";

    fn hosts() -> Vec<String> {
        vec!["h1".into(), "h2".into()]
    }

    #[test]
    fn a_play_that_changed_nothing_says_so_of_every_host() {
        played(STILL, true).changed_nothing(&hosts()).unwrap();
        assert!(played(STILL, true).to_string().contains("h2 ok=50 changed=0"));
    }

    #[test]
    fn a_change_a_failure_and_a_host_left_out_are_found() {
        let changed = played(&STILL.replacen("changed=0", "changed=1", 1), true);
        let error = changed.changed_nothing(&hosts()).unwrap_err().to_string();
        assert!(error.contains("TASK [seawall.cluster.host : Limits] changed: [h2]"), "{error}");
        assert!(played(&STILL.replacen("failed=0", "failed=1", 1), true).changed_nothing(&hosts()).is_err());
        assert!(played(&STILL.replacen("unreachable=0", "unreachable=1", 1), true).succeeded().is_err());
        assert!(played(STILL, false).succeeded().is_err());
        assert!(played("", true).succeeded().is_err());
        let left_out = [hosts(), vec!["h3".into()]].concat();
        assert!(played(STILL, true).changed_nothing(&left_out).is_err());
    }

    #[test]
    fn the_words_of_a_failure_are_found_over_line_breaks_and_missed_where_they_are_not() {
        played(STILL, false).stopped_saying(&["put the old serial number back"]).unwrap();
        assert!(played(STILL, false).stopped_saying(&["erase it by hand"]).is_err());
        assert!(played(STILL, true).stopped_saying(&["put the old serial number back"]).is_err());
    }
}
