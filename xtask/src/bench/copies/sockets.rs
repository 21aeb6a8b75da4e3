//! Bytes on TCP connections, by the port of their server, as the kernel counts them per socket. Payload only; both sides
//! are on this machine, so each connection is looked at once, at its server.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// What a connection carried at the end is lost if it is closed within so long.
const EVERY: Duration = Duration::from_millis(100);

/// (server, client) of a connection, and the bytes of both directions.
type Seen = BTreeMap<(String, String), u64>;

/// Looks until it is dropped.
pub struct Sockets {
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
    looking: Option<JoinHandle<()>>,
}

impl Sockets {
    pub fn watch() -> Result<Self> {
        let seen = Arc::new(Mutex::new(look()?));
        let over = Arc::new(AtomicBool::new(false));
        let (all, end) = (Arc::clone(&seen), Arc::clone(&over));
        let looking = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                if let Ok(now) = look() {
                    let mut all = lock(&all);
                    for (connection, bytes) in now {
                        let most = all.entry(connection).or_default();
                        *most = bytes.max(*most);
                    }
                }
                thread::sleep(EVERY);
            }
        });
        Ok(Self { seen, over, looking: Some(looking) })
    }

    /// Bytes so far on connections to servers on these ports.
    pub fn bytes(&self, ports: &[u16]) -> u64 {
        lock(&self.seen)
            .iter()
            .filter(|((server, _), _)| port(server).is_some_and(|p| ports.contains(&p)))
            .map(|(_, bytes)| bytes)
            .sum()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(looking) = self.looking.take() {
            let _ = looking.join();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

fn look() -> Result<Seen> {
    // One line for each socket, both directions in it.
    let mut ss = Command::new("ss");
    ss.args(["-tinHO", "state", "connected"]);
    let text = process::capture(&mut ss, Vec::new(), Duration::from_secs(10))?.stdout_if_success("ss")?;
    Ok(text.lines().filter_map(socket).collect())
}

fn socket(line: &str) -> Option<((String, String), u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let count = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or(0);
    let bytes = count("bytes_received:") + count("bytes_acked:");
    let addresses: Vec<&&str> =
        words.iter().filter(|word| word.contains(':') && port(word).is_some()).take(2).collect();
    let [own, peer] = addresses[..] else { return None };
    Some((((*own).to_owned(), (*peer).to_owned()), bytes))
}

/// Ports on which a process listens.
pub fn listening(pid: u32) -> Result<Vec<u16>> {
    let mut ss = Command::new("ss");
    ss.args(["-tlnpHO"]);
    let text = process::capture(&mut ss, Vec::new(), Duration::from_secs(10))?.stdout_if_success("ss")?;
    let mark = format!("pid={pid},");
    let lines = text.lines().filter(|line| line.contains(&mark));
    lines.map(|line| line.split_whitespace().nth(3).and_then(port).context("a line of ss")).collect()
}

/// Bytes that went over loopback, headers included, whoever sent them.
pub fn loopback_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/sys/class/net/lo/statistics/rx_bytes")?;
    Ok(text.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ss_names_both_ends_and_what_went_each_way() {
        let line = "ESTAB 0 0 127.0.0.1:12000 127.0.0.1:49810 cubic wscale:7,7 rto:201 mss:65483 bytes_sent:900 \
                    bytes_acked:900 bytes_received:5000 segs_out:10";
        let ((own, peer), bytes) = socket(line).unwrap();
        assert_eq!((own.as_str(), peer.as_str(), bytes), ("127.0.0.1:12000", "127.0.0.1:49810", 5_900));
        assert_eq!(socket("State Recv-Q"), None);
    }
}
