//! A client family: a program on one client library that runs the same checks as every other family, and how it is run.
//!
//! The program is started as `PROGRAM --bootstrap HOST:PORT --prefix P --records N`; names of its topics and groups begin
//! with P. For each check it prints one line on standard output: `check NAME ok`, `check NAME absent WHY` when its client
//! has no such thing, or `check NAME FAILED what was expected and what came`; other lines are its own affair. It ends with
//! exit code 0 even when a check failed. Within the check `restart` it prints `restart please`, goes on producing and
//! consuming, and reads `restarted` on standard input once the broker was killed with SIGKILL and started again. The check
//! `codec-C` leaves its records in the topic `P-codec-C`, where the runner looks for batches in that codec (`verify.rs`).
//!
//! A program that does less than its contract fails: by a check without a line (it hangs or ends early), by one that is
//! `absent` without being known to be (`Family::absent`), and by `restart` when it never asked for one.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::install::Installed;
use crate::process;
use crate::tools::Tool;

/// What every client library is checked for, in the order of the table.
pub const CHECKS: &[&str] = &[
    "create-topic",
    "codec-none",
    "codec-gzip",
    "codec-snappy",
    "codec-lz4",
    "codec-zstd",
    "group-of-three",
    "member-crash",
    "static-rejoin",
    "seek-offset",
    "seek-time",
    "pause-resume",
    "commit-sync",
    "commit-async",
    "admin",
    "restart",
];

pub struct Family {
    /// As `--family` takes it and the table's head shows it.
    pub name: &'static str,
    /// Of the client library.
    pub version: &'static str,
    /// What `prepare` and the program need on the machine.
    pub tools: &'static [Tool],
    /// What it checks: `CHECKS`, or for an application a list of its own.
    pub checks: &'static [&'static str],
    /// Those of them that the client cannot do by its nature.
    pub absent: &'static [&'static str],
    /// The protocol of its groups, `classic` or `consumer`, as the broker lists them. None for an application.
    pub protocol: Option<&'static str>,
    /// Most records per codec in the short form; the newest clients take as many as the run says.
    pub records_max: usize,
    /// Downloads and builds into the cache folder what is missing there. Gives the program with arguments of its own;
    /// those of the contract are added.
    pub prepare: fn(&Installed) -> anyhow::Result<Command>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With what the program had to add.
    Passed(String),
    /// The client has no such thing, and why.
    Absent(String),
    Failed(String),
}

#[derive(Debug, Clone)]
pub struct Check {
    pub name: String,
    pub outcome: Outcome,
    pub elapsed: Duration,
}

/// The check that cannot be passed without a restart.
const RESTART: &str = "restart";

/// Runs the program to its end. Gives each of `expected` once, in that order; then what else it reported, as failed.
/// `restart` kills the broker and starts it again; `seen` is told of each check as it comes.
pub fn run(
    mut program: Command,
    expected: &[&str],
    absent: &[&str],
    time_max: Duration,
    mut restart: impl FnMut() -> anyhow::Result<()>,
    mut seen: impl FnMut(&Check),
) -> Vec<Check> {
    let mut report = Report { expected, absent, restarts: 0, checks: Vec::new(), since: Instant::now() };
    let spawned = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return report.finish(&format!("{} did not start: {error}", program.get_program().display())),
    };
    let lines = lines_of(child.stdout.take());
    let said = LastWords::of(child.stderr.take());
    let mut stdin = child.stdin.take();
    let end = Instant::now() + time_max;
    let mut trouble = None;
    while let Some(line) = next_line(&lines, &mut child, end) {
        if line.trim() == "restart please" {
            let answer =
                restart().and_then(|()| Ok(stdin.as_mut().map_or(Ok(()), |pipe| pipe.write_all(b"restarted\n"))?));
            if let Err(error) = answer {
                trouble = Some(format!("the broker was not restarted: {error:#}"));
                break;
            }
            report.restarts += 1;
        } else if let Some(check) = report.line(&line) {
            seen(check);
        }
    }
    drop(stdin);
    let status =
        ended_within(&mut child, if trouble.is_some() { Duration::ZERO } else { end - end.min(Instant::now()) });
    let why = match (trouble, status) {
        (Some(trouble), _) => trouble,
        (None, None) => format!("it did not end within {} s", time_max.as_secs()),
        (None, Some(status)) => format!("it ended ({status})"),
    };
    if !status.is_some_and(|status| status.success()) {
        report.unexpected("end", format!("{why}: {}", said.text()));
    }
    report.finish(&format!("not reported: {why}"))
}

struct Report<'a> {
    expected: &'a [&'a str],
    absent: &'a [&'a str],
    restarts: usize,
    checks: Vec<Check>,
    since: Instant,
}

impl Report<'_> {
    /// The check that a line reports, if it is such a line.
    fn line(&mut self, line: &str) -> Option<&Check> {
        let (name, rest) = line.strip_prefix("check ")?.trim_end().split_once(' ')?;
        let (word, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let text = text.to_owned();
        let outcome = match word {
            _ if self.checks.iter().any(|check| check.name == name) => {
                Outcome::Failed(format!("a second time: {rest}"))
            }
            _ if !self.expected.contains(&name) => Outcome::Failed(format!("not a check of the contract: {rest}")),
            "ok" if name == RESTART && self.restarts == 0 => {
                Outcome::Failed(format!("no restart was asked for: {rest}"))
            }
            "ok" => Outcome::Passed(text),
            "absent" if !self.absent.contains(&name) => Outcome::Failed(format!("not known to be absent: {text}")),
            "absent" => Outcome::Absent(text),
            "FAILED" => Outcome::Failed(text),
            _ => Outcome::Failed(format!("neither ok nor FAILED nor absent: {rest}")),
        };
        let elapsed = self.since.elapsed();
        self.since = Instant::now();
        self.checks.push(Check { name: name.to_owned(), outcome, elapsed });
        self.checks.last()
    }

    fn unexpected(&mut self, name: &str, text: String) {
        self.checks.push(Check { name: name.to_owned(), outcome: Outcome::Failed(text), elapsed: Duration::ZERO });
    }

    fn finish(mut self, missing: &str) -> Vec<Check> {
        let mut ordered = Vec::new();
        for name in self.expected {
            let found = self.checks.iter().position(|check| check.name == *name);
            ordered.push(match found {
                Some(at) => self.checks.remove(at),
                None => Check {
                    name: (*name).to_owned(),
                    outcome: Outcome::Failed(missing.to_owned()),
                    elapsed: Duration::ZERO,
                },
            });
        }
        ordered.append(&mut self.checks);
        ordered
    }
}

/// A program that prints faster than it is read waits.
fn lines_of(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, lines) = mpsc::sync_channel(64);
    if let Some(pipe) = pipe {
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
    }
    lines
}

/// What a program said last.
struct LastWords {
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl LastWords {
    const LINES: usize = 8;

    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&lines);
        let reader = pipe.map(|pipe| {
            thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.push_back(String::from_utf8_lossy(&line).into_owned());
                    if kept.len() > Self::LINES {
                        kept.pop_front();
                    }
                }
            })
        });
        Self { lines, reader }
    }

    /// After its end; a child of it may still hold the pipe open.
    fn text(&self) -> String {
        let end = Instant::now() + Duration::from_secs(1);
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// None at the end of the output, at the end of the time, or when the program has ended and only a child of it holds the
/// pipe open.
fn next_line(lines: &Receiver<String>, child: &mut Child, end: Instant) -> Option<String> {
    while Instant::now() < end {
        let ended = !matches!(child.try_wait(), Ok(None));
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => return Some(line),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if ended => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    None
}

/// Its exit status; None when it had to be killed.
fn ended_within(child: &mut Child, time_max: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + time_max;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
            Ok(None) | Err(_) => {
                process::kill_tree(child.id());
                let _ = child.wait();
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &[&str] = &["one", "two", "three"];

    fn family(script: &str, seconds_max: u64) -> Vec<Check> {
        run(shell(script), EXPECTED, &[], Duration::from_secs(seconds_max), || Ok(()), |_| {})
    }

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    fn failures(checks: &[Check]) -> Vec<(&str, &str)> {
        let mut failures = Vec::new();
        for check in checks {
            if let Outcome::Failed(text) = &check.outcome {
                failures.push((check.name.as_str(), text.as_str()));
            }
        }
        failures
    }

    #[test]
    fn a_program_that_keeps_the_contract_passes_and_its_broker_is_restarted_once() {
        let program = shell(
            "echo hello; echo check two absent no such thing; echo check one ok 3 seen; echo restart please; read answer; echo check restart ok $answer",
        );
        let (mut restarts, mut told) = (0, Vec::new());
        let restart = || {
            restarts += 1;
            Ok(())
        };
        let told_of = |check: &Check| told.push(check.name.clone());
        let checks = run(program, &["one", "two", RESTART], &["two"], Duration::from_secs(20), restart, told_of);
        assert_eq!((restarts, told), (1, vec!["two".to_owned(), "one".to_owned(), "restart".to_owned()]));
        let outcomes: Vec<Outcome> = checks.iter().map(|check| check.outcome.clone()).collect();
        let expected = [
            Outcome::Passed("3 seen".into()),
            Outcome::Absent("no such thing".into()),
            Outcome::Passed("restarted".into()),
        ];
        assert_eq!(outcomes, expected);
    }

    #[test]
    fn a_failed_line_is_a_failed_check() {
        let checks = family("echo check one FAILED expected 3, came 2; echo check two ok; echo check three ok", 20);
        assert_eq!(failures(&checks), [("one", "expected 3, came 2")]);
    }

    #[test]
    fn a_restart_that_was_not_asked_for_is_not_passed() {
        let program = shell("echo check restart ok");
        let checks = run(program, &[RESTART], &[], Duration::from_secs(20), || Ok(()), |_| {});
        assert_eq!(failures(&checks), [(RESTART, "no restart was asked for: ok")]);
    }

    #[test]
    fn a_check_is_absent_only_where_that_is_known() {
        let script = "for check in one two three; do echo check $check absent too hard; done";
        let checks = run(shell(script), EXPECTED, &["two"], Duration::from_secs(20), || Ok(()), |_| {});
        let text = "not known to be absent: too hard";
        assert_eq!(failures(&checks), [("one", text), ("three", text)]);
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_fails_what_it_left_out() {
        let started = Instant::now();
        let checks = family("echo check one ok; echo check two ok; sleep 3000", 1);
        assert!(started.elapsed() < Duration::from_secs(30));
        let why = "it did not end within 1 s";
        assert_eq!(
            failures(&checks),
            [("three", format!("not reported: {why}").as_str()), ("end", &format!("{why}: "))]
        );
    }

    #[test]
    fn a_program_that_ends_early_fails_what_it_left_out() {
        let checks = family("echo check one ok", 20);
        assert_eq!(failures(&checks).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["two", "three"]);
        let checks = family("echo check one ok; echo out of memory >&2; exit 3", 20);
        let failures = failures(&checks);
        assert_eq!(failures.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["two", "three", "end"]);
        assert!(failures[2].1.contains("exit status: 3") && failures[2].1.contains("out of memory"), "{failures:?}");
    }

    #[test]
    fn an_exit_code_fails_even_when_each_check_passed() {
        let checks = family("for check in one two three; do echo check $check ok; done; exit 1", 20);
        assert_eq!(failures(&checks).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["end"]);
    }

    #[test]
    fn names_and_words_outside_the_contract_fail() {
        let checks = family(
            "echo check one ok; echo check one ok; echo check four ok; echo check two fine; echo check three ok",
            20,
        );
        assert_eq!(failures(&checks).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["two", "one", "four"]);
    }

    #[test]
    fn a_program_that_does_not_exist_fails_every_check() {
        let checks = run(Command::new("/no/such/program"), EXPECTED, &[], Duration::from_secs(1), || Ok(()), |_| {});
        assert_eq!(failures(&checks).len(), EXPECTED.len());
    }

    #[test]
    fn a_broker_that_does_not_come_back_ends_the_program() {
        let program = shell("echo check one ok; echo check two ok; echo restart please; sleep 3000");
        let checks = run(program, EXPECTED, &[], Duration::from_secs(60), || anyhow::bail!("no disk"), |_| {});
        assert_eq!(failures(&checks)[0], ("three", "not reported: the broker was not restarted: no disk"));
    }
}
