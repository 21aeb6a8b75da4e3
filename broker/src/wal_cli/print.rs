//! What several of the commands print alike.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use seawall_wal_device::verify::{Progress, Span};
use serde_json::{Value, json};

use super::WalCliError;

/// A line of progress a second on standard error.
pub struct ProgressLine {
    what: &'static str,
    begun: Instant,
    told: Instant,
}

const TELL_EVERY: Duration = Duration::from_secs(1);

impl ProgressLine {
    pub fn new(what: &'static str) -> Self {
        let now = Instant::now();
        Self { what, begun: now, told: now }
    }

    pub fn tell(&mut self, progress: Progress) {
        if self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let Progress { done_bytes, total_bytes } = progress;
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = done_bytes as f64 / seconds;
        let left = (total_bytes.saturating_sub(done_bytes)) as f64 / rate.max(1.0);
        eprintln!(
            "{}: {:.0} % of {}, {}/s, {left:.0} s to go",
            self.what,
            done_bytes as f64 * 100.0 / total_bytes.max(1) as f64,
            bytes(total_bytes),
            bytes(rate as u64),
        );
    }
}

/// Three digits and a unit: for people; JSON has the exact number.
pub fn bytes(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >= 1 << shift) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

pub fn span(span: &Span) -> String {
    format!("{} to {} ({})", span.from, span.to, bytes(span.to.0 - span.from.0))
}

pub fn span_json(span: &Span) -> Value {
    json!({"from": span.from.0, "to": span.to.0})
}

pub fn json_line(out: &mut dyn Write, value: &Value) -> Result<(), WalCliError> {
    writeln!(out, "{value}").map_err(WalCliError::output)
}

/// One object, with line breaks.
pub fn json_document(value: &Value) -> Result<(), WalCliError> {
    text(&format!("{value:#}\n"))
}

pub fn text(text: &str) -> Result<(), WalCliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(WalCliError::output)
}

/// Name and value, one below the other.
#[derive(Default)]
pub struct Rows(String);

impl Rows {
    pub fn row(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        self.0 += &format!("{name:<20} {value}\n");
        self
    }

    pub fn print(&self) -> Result<(), WalCliError> {
        text(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(512), "512 bytes");
        assert_eq!(bytes(4096), "4.0 KiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
    }
}
