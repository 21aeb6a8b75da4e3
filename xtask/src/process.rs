//! Child processes with a time bound. Whatever a command left running is ended with it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

pub struct Finished {
    pub success: bool,
    /// None: a signal ended it.
    pub code: Option<i32>,
    pub timed_out: bool,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Finished {
    /// Standard output, or an error with the last lines of what the command said.
    pub fn stdout_if_success(self, what: &str) -> anyhow::Result<String> {
        if self.timed_out {
            bail!("{what} was ended after {:.0} s: {}", self.elapsed.as_secs_f64(), self.tail());
        }
        if !self.success {
            bail!("{what} failed: {}", self.tail());
        }
        Ok(self.stdout)
    }

    /// The last lines of both outputs.
    pub fn tail(&self) -> String {
        let last = |text: &str| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(8)..].join("\n")
        };
        format!("{}\n{}", last(&self.stdout), last(&self.stderr)).trim().to_owned()
    }
}

/// Runs silently; `input` goes to standard input.
pub fn capture(command: &mut Command, input: Vec<u8>, time_max: Duration) -> anyhow::Result<Finished> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends early closes its end; its exit status says the rest.
        thread::spawn(move || stdin.write_all(&input));
    }
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let (status, timed_out, elapsed) = wait(&mut child, time_max)?;
    Ok(Finished {
        success: status.success() && !timed_out,
        code: status.code(),
        timed_out,
        stdout: stdout.text(),
        stderr: stderr.text(),
        elapsed,
    })
}

/// Runs with its output shown as it comes; standard output is kept as well.
pub fn show(command: &mut Command, time_max: Duration) -> anyhow::Result<Finished> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let shown = Collected::default();
    let reader = child.stdout.take().map(|stdout| {
        let shown = shown.clone();
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                println!("{line}");
                shown.push(&line);
            }
        })
    });
    let (status, timed_out, elapsed) = wait(&mut child, time_max)?;
    if let Some(reader) = reader {
        join_soon(&reader);
    }
    Ok(Finished {
        success: status.success() && !timed_out,
        code: status.code(),
        timed_out,
        stdout: shown.text(),
        stderr: String::new(),
        elapsed,
    })
}

#[derive(Clone, Default)]
struct Collected(Arc<Mutex<String>>, Option<Arc<thread::JoinHandle<()>>>);

impl Collected {
    fn push(&self, line: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(line);
        text.push('\n');
    }

    fn text(&self) -> String {
        if let Some(reader) = &self.1 {
            join_soon(reader);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Collected {
    let mut collected = Collected::default();
    if let Some(pipe) = pipe {
        let into = collected.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                into.push(&String::from_utf8_lossy(&line));
            }
        });
        collected.1 = Some(Arc::new(reader));
    }
    collected
}

/// Waits for a reader, but not for ever: a grandchild may hold the pipe open.
fn join_soon(reader: &thread::JoinHandle<()>) {
    let end = Instant::now() + Duration::from_secs(5);
    while !reader.is_finished() && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
}

fn wait(child: &mut Child, time_max: Duration) -> anyhow::Result<(ExitStatus, bool, Duration)> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false, started.elapsed()));
        }
        if started.elapsed() > time_max {
            kill_tree(child.id());
            return Ok((child.wait()?, true, started.elapsed()));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// SIGTERM and a clean end, within the time; an error as well when it had ended before.
pub fn stop(child: &mut Child, time_max: Duration) -> anyhow::Result<()> {
    if let Some(status) = child.try_wait()? {
        bail!("it had ended by itself: {status}");
    }
    signal("TERM", &[child.id()]);
    let (status, timed_out, _) = wait(child, time_max)?;
    ensure!(!timed_out, "it did not end within {time_max:?} of SIGTERM");
    ensure!(is_clean_end(status), "it ended after SIGTERM with {status}");
    Ok(())
}

/// After SIGTERM: exit code 0, or what a JVM that runs its shutdown hooks ends with.
pub fn is_clean_end(status: ExitStatus) -> bool {
    const JVM_AFTER_SIGTERM: i32 = 128 + 15;
    status.success() || status.code() == Some(JVM_AFTER_SIGTERM)
}

/// SIGKILL to a process and all its descendants.
pub fn kill_tree(root: u32) {
    let mut doomed = vec![root];
    let parents = parents();
    let mut at = 0;
    while at < doomed.len() {
        let parent = doomed[at];
        doomed.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    signal("KILL", &doomed);
}

pub fn signal(name: &str, pids: &[u32]) {
    let _ = Command::new("kill")
        .arg(format!("-{name}"))
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status();
}

/// Below the ports that the system gives to outgoing connections: one of those could take it while a broker restarts.
pub fn free_port() -> anyhow::Result<u16> {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 16_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + base.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}

/// (process, its parent) for every process.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // "pid (name) state ppid ...", where the name may hold anything.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended_with_its_children() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo begun; sleep 3000 & echo $!; sleep 3000"]);
        let finished = capture(&mut shell, Vec::new(), Duration::from_millis(300)).unwrap();
        assert!(finished.timed_out && !finished.success);
        let sleeper = finished.stdout.lines().nth(1).unwrap().to_owned();
        let end = Instant::now() + Duration::from_secs(5);
        while fs::read_to_string(format!("/proc/{sleeper}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < end, "{sleeper} still runs");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn input_and_both_outputs_pass_through() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "cat; echo problem >&2; exit 3"]);
        let finished = capture(&mut shell, b"hello\n".to_vec(), Duration::from_secs(10)).unwrap();
        assert_eq!(
            (finished.success, finished.stdout.as_str(), finished.stderr.as_str()),
            (false, "hello\n", "problem\n")
        );
    }
}
