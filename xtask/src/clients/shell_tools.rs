//! Every shell tool of Kafka that needs no security: its help, one success and one failure.
//!
//! The calls stand in `cases.rs`. The first tools make what the others use and run alone; then two at a time. What comes with
//! Kafka Connect is a part of its own.

mod cases;
mod jvm;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::session::{Row, Session};
use super::{java, jobs, wire};
use crate::process;
use cases::{CONNECT_TOOLS, Call, FIRST, NOTHING, Success, TOOLS, Tool};
use jvm::Jvm;

/// Longest that one call may take.
const CALL_MAX: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 2;

pub fn run(session: &mut Session<'_>) {
    let (first, others) = TOOLS.split_at(FIRST);
    run_tools(session, "shell-tools", |s| Ok(s.installed().classpath.clone()), first, others);
}

pub fn run_connect(session: &mut Session<'_>) {
    run_tools(session, "connect-tools", |_| java::apps_classpath(), CONNECT_TOOLS, &[]);
}

/// The first ones one after the other, then the others two at a time.
fn run_tools(
    session: &mut Session<'_>,
    name: &str,
    classpath: fn(&Session<'_>) -> anyhow::Result<String>,
    first: &[Tool],
    others: &[Tool],
) {
    let prepared = classpath(session).and_then(|classpath| Place::new(session, name, &classpath));
    let place = match prepared {
        Ok(place) => place,
        Err(error) => {
            session.check("Kafka's shell tools", "can be run", |_| Err(error));
            return;
        }
    };
    let mut rows = place.rows(first);
    let (odd, even): (Vec<_>, Vec<_>) = (0..others.len()).partition(|number| number % 2 == 1);
    let halves = jobs::run(vec![even, odd], AT_ONCE, |half| {
        let mut jvm = Jvm::new(place.java());
        half.into_iter().map(|number| (number, place.row(&others[number], &mut jvm))).collect::<Vec<_>>()
    });
    let mut halves: Vec<(usize, Row)> = halves.into_iter().flatten().collect();
    halves.sort_by_key(|(number, _)| *number);
    rows.extend(halves.into_iter().map(|(_, row)| row));
    for row in rows {
        session.keep(row);
    }
    let _ = fs::remove_dir_all(&place.folder);
}

/// Where the calls happen.
struct Place {
    bootstrap: String,
    /// With the files that the calls name.
    folder: PathBuf,
    program: PathBuf,
    classpath: String,
    /// The jar of the file connectors, if it is among these.
    connect_file: String,
}

impl Place {
    fn new(session: &Session<'_>, name: &str, classpath: &str) -> anyhow::Result<Self> {
        let installed = session.installed();
        let classes = java::compile(&installed.java, "shell-tools", &["tools"], &installed.classpath)?;
        let folder = std::env::temp_dir().join(format!("seawall-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let connect_file =
            java::apps_classpath()?.split(':').find(|jar| jar.contains("/connect-file-")).map(str::to_owned);
        let place = Self {
            bootstrap: session.broker().bootstrap().to_owned(),
            folder,
            program: installed.java.clone(),
            classpath: format!("{}:{classpath}", classes.display()),
            connect_file: connect_file.context("no jar of the file connectors")?,
        };
        for (name, text) in cases::FILES {
            fs::write(place.folder.join(name), place.fill_in(text))?;
        }
        Ok(place)
    }

    fn java(&self) -> impl Fn() -> Command + Send + use<> {
        let (program, classpath) = (self.program.clone(), self.classpath.clone());
        move || {
            let mut java = java::java(&program, &classpath);
            // These print their usage as a line of the log.
            java.arg("-Dorg.slf4j.simpleLogger.log.org.apache.kafka.connect.cli=info");
            java
        }
    }

    fn fill_in(&self, text: &str) -> String {
        text.replace("BOOTSTRAP", &self.bootstrap)
            .replace("FOLDER", &self.folder.display().to_string())
            .replace("CONNECT_FILE", &self.connect_file)
    }

    fn rows(&self, tools: &[Tool]) -> Vec<Row> {
        let mut jvm = Jvm::new(self.java());
        tools.iter().map(|tool| self.row(tool, &mut jvm)).collect()
    }

    fn row(&self, tool: &Tool, jvm: &mut Jvm) -> Row {
        let began = Instant::now();
        let outcome = self.check(tool, jvm).map_err(|error| format!("{error:#}"));
        let what = match tool.success {
            Success::Absent(_) => "help, a failure",
            _ => "help, a success, a failure",
        };
        Row { tool: tool.name, what: what.to_owned(), outcome, elapsed: began.elapsed() }
    }

    /// What the success and the failure said.
    fn check(&self, tool: &Tool, jvm: &mut Jvm) -> anyhow::Result<String> {
        self.call(tool, "help", &tool.help, jvm)?;
        let success = match &tool.success {
            Success::Call(call) => quoted(self.call(tool, "success", call, jvm)?),
            Success::Until { arguments, topic, records } => {
                self.until(tool, arguments, topic, *records)?;
                format!("{records} records in {topic}, ended on SIGTERM")
            }
            Success::Absent(why) => format!("no success: {why}"),
        };
        let failure = quoted(self.call(tool, "failure", &tool.failure, jvm)?);
        Ok([success, failure].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; "))
    }

    /// Which of the texts it said.
    fn call(&self, tool: &Tool, what: &str, call: &Call, jvm: &mut Jvm) -> anyhow::Result<&'static str> {
        let arguments: Vec<String> = call.arguments.iter().map(|text| self.fill_in(text)).collect();
        let ran = jvm.run(tool.class, &arguments, call.input, CALL_MAX);
        let ran = ran.map_err(|error| error.context(format!("{what} ({})", arguments.join(" "))))?;
        match call.says.iter().find(|text| if **text == NOTHING { ran.said_nothing() } else { ran.said(text) }) {
            Some(text) if call.status.contains(&ran.status) => Ok(text),
            _ => bail!(
                "{what} ({}) ended with {} and said, instead of one of {:?}: {} {}",
                arguments.join(" "),
                ran.status,
                call.says,
                ran.stdout.trim(),
                ran.stderr.trim()
            ),
        }
    }

    fn until(&self, tool: &Tool, arguments: &[&str], topic: &str, records: i64) -> anyhow::Result<()> {
        let log = self.folder.join(format!("{}.txt", tool.name));
        let file = fs::File::create(&log)?;
        let mut java = self.java()();
        java.arg(tool.class).args(arguments.iter().map(|text| self.fill_in(text))).current_dir(&self.folder);
        let mut child =
            java.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn().context("start java")?;
        let written = || wire::look(&self.bootstrap, topic, 0).is_ok_and(|look| look.high_watermark >= records);
        let end = Instant::now() + CALL_MAX;
        while !written() && Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(200));
        }
        let stopped = process::stop(&mut child, CALL_MAX);
        let said = fs::read_to_string(&log).unwrap_or_default();
        let said = || said.lines().rev().take(8).collect::<Vec<_>>().join("\n");
        ensure!(written(), "{records} records expected in {topic}: {}", said());
        stopped.with_context(said)
    }
}

fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", text.trim()) }
}
