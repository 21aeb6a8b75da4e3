//! The broker as it is seen from outside: its metrics, and its memory several times a second.

use std::fs;
use std::io::{Error, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(10);

pub struct Metrics(String);

impl Metrics {
    pub fn read(admin: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&admin, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(Self(text))
    }

    /// The sum over all labels that contain `label`.
    pub fn labelled(&self, name: &str, label: &str) -> Result<f64> {
        let of = |line: &str| -> Option<f64> {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            (is_it && labels.contains(label)).then(|| value.parse().ok())?
        };
        let values: Vec<f64> = self.0.lines().filter_map(of).collect();
        if values.is_empty() && label.is_empty() {
            return Err(Error::other(format!("no metric {name}")));
        }
        Ok(values.iter().sum())
    }

    pub fn get(&self, name: &str) -> Result<f64> {
        self.labelled(name, "")
    }
}

/// Memory that a process has in RAM, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or_else(|| Error::other("no VmRSS"))?;
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(u64::MAX >> 10);
    Ok(kib << 10)
}

/// The most that a process has had, as often as somebody looks.
#[derive(Default)]
pub struct Peak {
    pub bytes: AtomicU64,
    pub over: AtomicBool,
}

impl Peak {
    pub fn follow(&self, pid: u32) {
        while !self.over.load(Ordering::Relaxed) {
            if let Ok(bytes) = resident_bytes(pid) {
                self.bytes.fetch_max(bytes, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
