//! One run against one broker: how tools are called, and the rows that the run gives.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::broker::Broker;
use super::install::{Installed, KAFKA_VERSION};
use crate::process;
use crate::tools;

/// Longest that one call of a tool may take.
const CALL_MAX: Duration = Duration::from_secs(120);

/// A line of the table.
pub struct Row {
    pub tool: &'static str,
    pub what: String,
    /// What was seen, with its figures, or what went wrong.
    pub outcome: Result<String, String>,
    pub elapsed: Duration,
}

pub struct Session<'a> {
    installed: &'a Installed,
    broker: Broker,
    records: usize,
    rows: Vec<Row>,
}

impl<'a> Session<'a> {
    pub fn new(installed: &'a Installed, broker: Broker, records: usize) -> Self {
        Self { installed, broker, records, rows: Vec::new() }
    }

    pub fn installed(&self) -> &'a Installed {
        self.installed
    }

    pub fn records(&self) -> usize {
        self.records
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    pub fn broker_mut(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// Runs one check and keeps its row. True when it passed.
    pub fn check(
        &mut self,
        tool: &'static str,
        what: impl Into<String>,
        check: impl FnOnce(&mut Self) -> anyhow::Result<String>,
    ) -> bool {
        let what = what.into();
        let started = Instant::now();
        let outcome = check(self).map_err(|error| format!("{error:#}"));
        let elapsed = started.elapsed();
        self.keep(Row { tool, what, outcome, elapsed })
    }

    /// Shows a row and keeps it. True when it passed.
    pub fn keep(&mut self, row: Row) -> bool {
        let Row { tool, what, outcome, elapsed } = &row;
        let (mark, text) = match &outcome {
            Ok(seen) => ("ok    ", seen),
            Err(error) => ("FAILED", error),
        };
        println!("{mark} {tool}: {what} ({:.1} s) {text}", elapsed.as_secs_f64());
        let passed = outcome.is_ok();
        self.rows.push(row);
        passed
    }

    /// Runs a Java tool with `--bootstrap-server` and gives its standard output.
    pub fn java(&self, class: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.java_with_input(class, arguments, Vec::new())
    }

    pub fn java_with_input(&self, class: &str, arguments: &[&str], input: Vec<u8>) -> anyhow::Result<String> {
        let mut command = self.java_command(class);
        command.args(["--bootstrap-server", self.broker.bootstrap()]).args(arguments);
        let finished = process::capture(&mut command, input, CALL_MAX)?;
        finished.stdout_if_success(short_name(class))
    }

    /// Runs a Java tool that takes no `--bootstrap-server`.
    pub fn java_bare(&self, class: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.java_command(class);
        command.args(arguments);
        process::capture(&mut command, Vec::new(), CALL_MAX)?.stdout_if_success(short_name(class))
    }

    pub fn kcat(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kcat_with_input(arguments, Vec::new())
    }

    pub fn kcat_with_input(&self, arguments: &[&str], input: Vec<u8>) -> anyhow::Result<String> {
        let mut command = Command::new(&self.installed.kcat);
        command.args(["-b", self.broker.bootstrap()]).args(arguments);
        process::capture(&mut command, input, CALL_MAX)?.stdout_if_success("kcat")
    }

    /// A Java tool that keeps running; its output goes to a file that is read as it grows.
    pub fn java_running(&self, class: &str, name: &str, arguments: &[&str]) -> anyhow::Result<Running> {
        let log = std::env::temp_dir().join(format!("seawall-clients-{}-{name}.txt", std::process::id()));
        let file = File::create(&log)?;
        let mut command = self.java_command(class);
        command.args(["--bootstrap-server", self.broker.bootstrap()]).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Running { name: name.to_owned(), child, log })
    }

    /// Tuned for short lives: no second compiler, no parallel collector.
    fn java_command(&self, class: &str) -> Command {
        let mut command = Command::new(&self.installed.java);
        command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"]);
        command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", &self.installed.classpath, class]);
        command
    }
}

pub fn versions(installed: &Installed) -> anyhow::Result<String> {
    let java = tools::first_line(Command::new(&installed.java).arg("-version"))?;
    let kcat = process::capture(Command::new(&installed.kcat).arg("-V"), Vec::new(), CALL_MAX)?;
    let kcat = kcat.stdout.lines().find(|line| line.starts_with("Version")).unwrap_or("kcat").trim().to_owned();
    Ok(format!("Kafka's tools {KAFKA_VERSION} ({java}); kcat: {kcat}"))
}

pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Whole lines of output so far.
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// SIGTERM and a clean end.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} had ended by itself ({status}): {}", self.name, self.tail());
        }
        process::signal("TERM", &[self.child.id()]);
        self.wait(Duration::from_secs(30)).map(|_| ())
    }

    /// Until it ends by itself.
    pub fn wait(&mut self, time_max: Duration) -> anyhow::Result<Vec<String>> {
        let end = Instant::now() + time_max;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > end {
                process::kill_tree(self.child.id());
                bail!("{} did not end within {time_max:?}: {}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(process::is_clean_end(status), "{} ended with {status}: {}", self.name, self.tail());
        Ok(self.lines())
    }

    pub fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            process::kill_tree(self.child.id());
            let _ = self.child.wait();
        }
        let _ = std::fs::remove_file(&self.log);
    }
}

/// Waits until `look` finds something.
pub fn wait_until<T>(what: &str, time_max: Duration, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let end = Instant::now() + time_max;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > end {
            return None.with_context(|| format!("{what}: not within {time_max:?}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn short_name(class: &str) -> &str {
    class.rsplit('.').next().unwrap_or(class)
}
