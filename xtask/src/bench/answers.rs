//! What the broker says of the memory of its answers while a load runs: the metrics of docs/adr/0010.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Of the answers that are not fetch responses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers {
    pub budget_bytes: f64,
    pub bytes_most: f64,
    pub waiting_most: f64,
    /// Connections closed for being slow while others waited, since the broker's start.
    pub closed: f64,
}

/// Looks until it is ended.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Answers>>,
}

impl Watch {
    pub fn begin(admin: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut answers = Answers::default();
            loop {
                let last = stopped.load(Ordering::Relaxed);
                answers.look(&metrics(admin)?);
                if last {
                    return Ok(answers);
                }
                std::thread::park_timeout(LOOK_EVERY);
            }
        });
        Self { stop, thread }
    }

    pub fn end(self) -> Result<Answers> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().ok().context("the watch panicked")?
    }
}

impl Answers {
    fn look(&mut self, metrics: &str) {
        let of = |name: &str| value(metrics, name).unwrap_or(0.0);
        self.budget_bytes = of("seawall_answer_budget_bytes{answer=\"other\"}");
        self.bytes_most = self.bytes_most.max(of("seawall_answer_bytes{answer=\"other\"}"));
        self.waiting_most = self.waiting_most.max(of("seawall_answers_waiting{answer=\"other\"}"));
        self.closed = of("seawall_network_connections_closed_total{reason=\"answer_memory\"}");
    }
}

pub fn metrics(admin: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Of all lines of this name, whatever their labels.
pub fn sum(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
    lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The value behind a name with its labels.
fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_kept_and_the_count_is_the_last_one() {
        let said = |bytes: u32, closed: u32| {
            format!(
                "seawall_answer_bytes{{answer=\"fetch\"}} 9\nseawall_answer_bytes{{answer=\"other\"}} {bytes}\n\
                 seawall_answer_budget_bytes{{answer=\"other\"}} 100\n\
                 seawall_network_connections_closed_total{{reason=\"answer_memory\"}} {closed}\n"
            )
        };
        let mut answers = Answers::default();
        answers.look(&said(80, 1));
        answers.look(&said(40, 3));
        assert_eq!((answers.bytes_most, answers.budget_bytes, answers.closed), (80.0, 100.0, 3.0));
        answers.look("");
        assert_eq!(answers.waiting_most, 0.0);
    }
}
