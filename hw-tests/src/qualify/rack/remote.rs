//! This program on another host, over ssh.
//!
//! Promise: when this side goes away, however it does, the other side's probe is asked to stop and cleans up: a shell there waits
//! for the end of its standard input, which ends with the connection.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::super::output::parse;
use super::super::report::Report;
use super::super::stop::{Stop, Stopped};
use super::Args;
use super::inventory::Host;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the other side may take to clean up.
const CLEAN_MAX: Duration = Duration::from_secs(20);
const SERVES_AFTER_MAX: Duration = Duration::from_secs(60);
/// Of what a host may print: a report of it is far smaller.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;

pub struct Remote<'a> {
    args: &'a Args,
    host: &'a Host,
}

/// What is running there; dropping it stops it.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stderr: Option<JoinHandle<String>>,
}

impl<'a> Remote<'a> {
    pub fn new(args: &'a Args, host: &'a Host) -> Self {
        Self { args, host }
    }

    /// Runs a probe to its end; what it found and what failed, whatever the verdict of that side. Once it is to stop none begins.
    pub fn probe(&self, words: &[&str], time_max: Duration, stop: &Stop) -> Result<Report> {
        stop.check()?;
        let mut words = words.to_vec();
        words.push("--json");
        let mut running = self.start(&words)?;
        let stdout = running.child.stdout.take().context("no standard output")?;
        let reader = thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.take(OUTPUT_BYTES_MAX).read_to_string(&mut text);
            read.map(|_| text)
        });
        let started = Instant::now();
        let status = loop {
            if let Some(status) = running.child.try_wait()? {
                break status;
            }
            if stop.is_asked() {
                return Err(Stopped.into());
            }
            if started.elapsed() > time_max {
                bail!("given up after {} s", time_max.as_secs());
            }
            thread::sleep(LOOK_EVERY);
        };
        let text = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        match status.code() {
            Some(0 | 1) => match parse(text.trim()) {
                Ok(report) if report.findings.is_empty() && report.failures.is_empty() => bail!("an empty report"),
                Ok(report) => Ok(report),
                // Not the program ended so, but what should have started it: sudo, a shell.
                Err(_) if text.trim().is_empty() => bail!("{}", running.complaint("the host answered nothing")),
                Err(error) => {
                    let complaint = running.complaint("nothing more");
                    Err(error.context(format!("the host answered something else, and said {complaint:?}")))
                }
            },
            _ => bail!("{}", running.complaint(&format!("{status}"))),
        }
    }

    /// Starts what says that it is listening, and goes on.
    pub fn serve(&self, words: &[&str], stop: &Stop) -> Result<Running> {
        stop.check()?;
        let mut running = self.start(words)?;
        let stdout = running.child.stdout.take().context("no standard output")?;
        let (told, lines): (_, Receiver<String>) = mpsc::sync_channel(16);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        let started = Instant::now();
        loop {
            match lines.recv_timeout(LOOK_EVERY) {
                Ok(line) if line.starts_with("listening on ") => return Ok(running),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if stop.is_asked() => return Err(Stopped.into()),
                Err(RecvTimeoutError::Timeout) if started.elapsed() < SERVES_AFTER_MAX => {}
                Err(RecvTimeoutError::Timeout) => bail!("does not listen after {} s", SERVES_AFTER_MAX.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("{}", running.complaint("it ended")),
            }
        }
    }

    fn start(&self, words: &[&str]) -> Result<Running> {
        let brought = self.args.bring.then(open_this_program).transpose()?;
        let mut ssh = Command::new(&self.args.ssh);
        ssh.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]);
        ssh.args(["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4"]);
        if let Some(port) = self.host.ssh_port {
            ssh.args(["-p", &port.to_string()]);
        }
        if let Some(key) = &self.host.ssh_key {
            ssh.args(["-i", key]);
        }
        ssh.arg(&self.host.ssh).arg(script(self.args, words, brought.as_ref().map(|(_, bytes)| *bytes)));
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program: PathBuf = self.args.ssh.clone();
        let mut child = ssh.spawn().with_context(|| format!("cannot run {}", program.display()))?;
        let stderr = child.stderr.take().map(|stderr| {
            thread::spawn(move || {
                // The end of it says why; the beginning is a progress bar or a banner.
                let mut last = String::new();
                for line in BufReader::new(stderr.take(OUTPUT_BYTES_MAX)).lines().map_while(Result::ok) {
                    if !line.trim().is_empty() {
                        last = line.chars().take(500).collect();
                    }
                }
                last
            })
        });
        let mut running = Running { stdin: child.stdin.take(), child, stderr };
        if let (Some(stdin), Some((program, bytes))) = (running.stdin.as_mut(), brought) {
            let sent = io::copy(&mut program.take(bytes), stdin).and_then(|_| stdin.flush());
            if sent.is_err() {
                bail!("{}", running.complaint("the program could not be brought"));
            }
        }
        Ok(running)
    }
}

impl Running {
    /// What it said last.
    fn complaint(&mut self, otherwise: &str) -> String {
        self.end();
        let said = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        if said.is_empty() { otherwise.to_owned() } else { said }
    }

    fn end(&mut self) {
        // The other side sees the end of its input, stops and cleans up; then ssh ends by itself.
        drop(self.stdin.take());
        let asked = Instant::now();
        while asked.elapsed() < CLEAN_MAX {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn open_this_program() -> Result<(File, u64)> {
    let program = env::current_exe().context("where is this program")?;
    let file = File::open(&program).with_context(|| format!("cannot open {}", program.display()))?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// For a POSIX shell. The second process waits for the end of the input and then asks the probe to stop.
fn script(args: &Args, words: &[&str], brought_bytes: Option<u64>) -> String {
    let mut program = quote(&args.program);
    let mut bring = String::new();
    if let Some(bytes) = brought_bytes {
        program = "\"$d/seawall-qualify\"".to_owned();
        bring = format!(
            "d=$(mktemp -d) || exit 2; trap 'rm -rf \"$d\"' EXIT; trap 'exit 130' HUP INT TERM; \
             head -c {bytes} > {program} && chmod 700 {program} || exit 2; "
        );
    }
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    let script = format!(
        "{bring}exec 3<&0; {program} {} </dev/null 3<&- & p=$!; \
         {{ cat <&3; kill -TERM $p; }} >/dev/null 2>&1 & w=$!; \
         wait $p; r=$?; kill $w 2>/dev/null; exit $r",
        words.join(" ")
    );
    // All of it: who is not root cannot ask root's probe to stop.
    let shell = if args.sudo { "sudo -n sh" } else { "sh" };
    format!("{shell} -c {}", quote(&script))
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        assert_eq!(quote("/dev/disk/by-id/nvme-x_1"), "/dev/disk/by-id/nvme-x_1");
        assert_eq!(quote("a b; rm $x"), "'a b; rm $x'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
