//! Every shell tool of Kafka that needs no security: its help, one success and one failure.
//!
//! The calls stand in `cases.rs`. The first tools make what the others use and run alone; then two at a time.

mod cases;
mod jvm;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::java;
use super::session::{Row, Session};
use cases::{Call, FIRST, TOOLS, Tool};
use jvm::Jvm;

/// Longest that one call may take.
const CALL_MAX: Duration = Duration::from_secs(40);
const AT_ONCE: usize = 2;

pub fn run(session: &mut Session) {
    let prepared = prepare(session);
    let (command, folder) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            session.check("Kafka's shell tools", "can be run", |_| Err(error));
            return;
        }
    };
    let bootstrap = session.broker().bootstrap().to_owned();
    let place = Place { bootstrap: &bootstrap, folder: &folder };
    let mut rows: Vec<(usize, Row)> = Vec::new();
    let mut jvm = Jvm::new(command.clone());
    for (number, tool) in TOOLS.iter().enumerate().take(FIRST) {
        rows.push((number, row(tool, &place, &mut jvm)));
    }
    drop(jvm);
    let waiting: Mutex<VecDeque<(usize, &Tool)>> = Mutex::new(TOOLS.iter().enumerate().skip(FIRST).collect());
    let done = Mutex::new(rows);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let mut jvm = Jvm::new(command.clone());
                let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                while let Some((number, tool)) = next() {
                    let row = row(tool, &place, &mut jvm);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, row));
                }
            });
        }
    });
    let mut rows = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(number, _)| *number);
    for (_, row) in rows {
        session.keep(row);
    }
    let _ = fs::remove_dir_all(&folder);
}

/// How to start the JVM, and a folder with the files that the calls name.
fn prepare(session: &Session) -> anyhow::Result<(impl Fn() -> Command + Clone + Send + Sync + 'static, PathBuf)> {
    let installed = session.installed();
    let classes = java::compile(&installed.java, "shell-tools", &["tools"], &installed.classpath)?;
    let (program, classpath) = (installed.java.clone(), format!("{}:{}", classes.display(), installed.classpath));
    let folder = std::env::temp_dir().join(format!("seawall-shell-tools-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    for (name, text) in cases::FILES {
        fs::write(folder.join(name), text)?;
    }
    Ok((move || java::java(&program, &classpath), folder))
}

/// Where the calls happen.
struct Place<'a> {
    bootstrap: &'a str,
    folder: &'a Path,
}

impl Place<'_> {
    fn fill_in(&self, text: &str) -> String {
        text.replace("BOOTSTRAP", self.bootstrap).replace("FOLDER", &self.folder.display().to_string())
    }
}

fn row(tool: &Tool, place: &Place<'_>, jvm: &mut Jvm) -> Row {
    let began = Instant::now();
    let outcome = check(tool, place, jvm).map_err(|error| format!("{error:#}"));
    let what = match tool.success {
        Some(_) => "help, a success, a failure",
        None => "help, a failure",
    };
    Row { tool: tool.name, what: what.to_owned(), outcome, elapsed: began.elapsed() }
}

/// What the success and the failure said.
fn check(tool: &Tool, place: &Place<'_>, jvm: &mut Jvm) -> anyhow::Result<String> {
    let mut call = |what: &str, call: &Call| -> anyhow::Result<&'static str> {
        let arguments: Vec<String> = call.arguments.iter().map(|text| place.fill_in(text)).collect();
        let ran = jvm.run(tool.class, &arguments, call.input, CALL_MAX);
        let ran = ran.map_err(|error| error.context(format!("{what} ({})", arguments.join(" "))))?;
        match call.says.iter().find(|text| ran.said(text)) {
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
    };
    call("help", &tool.help)?;
    let success = tool.success.as_ref().map(|success| call("success", success)).transpose()?;
    let failure = call("failure", &tool.failure)?;
    let said = [success, Some(failure)].into_iter().flatten().filter(|text| !text.is_empty());
    Ok(said.map(|text| format!("`{}`", text.trim())).collect::<Vec<_>>().join("; "))
}
