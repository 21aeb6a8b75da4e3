//! When brokers were away, by the journals of their hosts, which share one clock; and whether two were at a time.

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::lab::Lab;

const ASK_MAX: Duration = Duration::from_secs(60);
/// systemd's own ids of what it writes about a unit.
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
const STOPPING: &str = "de5b426a63be47a7b6ac3eaac82e2f6f";
const FAILED: &str = "be02cf6855d2428ba40df7e9d022f03d";
const EXITED: &str = "98e322203f7a4ed290d09fe03c09fe15";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Started,
    Ended,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE_ID", default)]
    id: String,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at_us: String,
}

/// A broker that served did not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    pub host: String,
    pub from_us: u64,
    /// None while it is.
    pub to_us: Option<u64>,
}

impl Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_us {
            Some(to) => write!(f, "{} for {:.1} s", self.host, to.saturating_sub(self.from_us) as f64 / 1e6),
            None => write!(f, "{} until now", self.host),
        }
    }
}

/// The moment for `since`.
#[allow(clippy::disallowed_methods, reason = "it is compared with what hosts write down")]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// On hosts that are up, and have been since then.
pub fn since(lab: &Lab, hosts: &[String], since: Duration) -> Result<Vec<Away>> {
    let script = format!(
        "journalctl --quiet --unit=seawall --since=@{:.6} --output=json --output-fields=MESSAGE_ID _PID=1",
        since.as_secs_f64()
    );
    let mut all = Vec::new();
    for host in hosts {
        let journal = lab.sh(host, &script, ASK_MAX)?;
        all.extend(away(host, &events(&journal).with_context(|| format!("the journal of {host}"))?));
    }
    all.sort_by_key(|away| away.from_us);
    Ok(all)
}

fn events(journal: &str) -> Result<Vec<(u64, Event)>> {
    let mut events = Vec::new();
    for line in journal.lines() {
        let entry: Entry = serde_json::from_str(line)?;
        let event = match entry.id.as_str() {
            STARTED => Event::Started,
            STOPPING | FAILED | EXITED => Event::Ended,
            _ => continue,
        };
        events.push((entry.at_us.parse()?, event));
    }
    Ok(events)
}

fn away(host: &str, events: &[(u64, Event)]) -> Vec<Away> {
    let mut all: Vec<Away> = Vec::new();
    for (at_us, event) in events {
        let open = all.last_mut().filter(|away| away.to_us.is_none());
        match (event, open) {
            (Event::Started, Some(away)) => away.to_us = Some(*at_us),
            (Event::Ended, None) => all.push(Away { host: host.to_owned(), from_us: *at_us, to_us: None }),
            // One that did not serve before, or an end in several steps.
            (Event::Started, None) | (Event::Ended, Some(_)) => {}
        }
    }
    all
}

/// Sorted by their beginnings.
pub fn never_two(all: &[Away]) -> Result<()> {
    for (n, one) in all.iter().enumerate() {
        for other in &all[n + 1..] {
            if other.host != one.host && one.to_us.is_none_or(|to| other.from_us < to) {
                bail!("two brokers were away at a time: {one}, and {other}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(host: &str, from_us: u64, to_us: Option<u64>) -> Away {
        Away { host: host.into(), from_us, to_us }
    }

    #[test]
    fn a_restart_is_from_the_stop_to_the_start_and_a_first_start_is_none() {
        let line = |id: &str, at: u64| {
            format!("{{\"MESSAGE_ID\":\"{id}\",\"__REALTIME_TIMESTAMP\":\"{at}\",\"_PID\":\"1\"}}\n")
        };
        let journal =
            line(STARTED, 5) + &line(STOPPING, 10) + &line("other", 11) + &line(EXITED, 12) + &line(STARTED, 30);
        assert_eq!(away("h1", &events(&journal).unwrap()), [one("h1", 10, Some(30))]);
        assert_eq!(away("h1", &events(&line(FAILED, 40)).unwrap()), [one("h1", 40, None)]);
        assert!(events("no json").is_err());
    }

    #[test]
    fn two_away_at_a_time_are_found_and_one_after_the_other_is_fine() {
        never_two(&[one("h1", 1, Some(5)), one("h2", 5, Some(9)), one("h1", 10, None)]).unwrap();
        assert!(never_two(&[one("h1", 1, Some(5)), one("h2", 4, Some(9))]).is_err());
        assert!(never_two(&[one("h1", 1, None), one("h2", 400, Some(900))]).is_err());
        assert!(never_two(&[one("h1", 1, Some(50)), one("h1", 60, Some(61)), one("h3", 49, None)]).is_err());
    }
}
