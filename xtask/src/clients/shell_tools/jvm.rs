//! A JVM that runs Kafka's tools one after the other (xtask/clients/java/tools): what each does is what it does in a JVM of
//! its own, without the time that a start takes. A tool that ends the JVM itself, or does not end, costs the JVM: the first
//! is run again in its own, the second has failed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::process;

/// What a tool did.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn said(&self, text: &str) -> bool {
        self.stdout.contains(text) || self.stderr.contains(text)
    }

    pub fn said_nothing(&self) -> bool {
        self.stdout.trim().is_empty() && self.stderr.trim().is_empty()
    }
}

pub struct Jvm {
    /// Runs a main class that is given as its next arguments.
    command: Box<dyn Fn() -> Command + Send>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<Ran>,
}

impl Jvm {
    pub fn new(command: impl Fn() -> Command + Send + 'static) -> Self {
        Self { command: Box::new(command), running: None }
    }

    pub fn run(&mut self, class: &str, arguments: &[String], input: &str, time_max: Duration) -> anyhow::Result<Ran> {
        if ENDS_WITH_ITS_JVM.contains(&class) {
            return alone((self.command)(), class, arguments, input, time_max);
        }
        let running = match &mut self.running {
            Some(running) => running,
            None => self.running.insert(Running::start((self.command)())?),
        };
        let mut fields = vec![time_max.as_secs().to_string(), class.to_owned(), input.to_owned()];
        fields.extend_from_slice(arguments);
        let request = fields.join("\u{1f}").replace('\n', "\u{1e}") + "\n";
        let sent = running.stdin.write_all(request.as_bytes());
        let answer = running.answers.recv_timeout(time_max + Duration::from_secs(10));
        match answer {
            Ok(ran) if ran.status != TIMED_OUT => Ok(ran),
            Ok(ran) => {
                self.running = None;
                bail!("did not end within {time_max:?}: {} {}", ran.stdout.trim(), ran.stderr.trim())
            }
            Err(RecvTimeoutError::Timeout) => {
                self.running = None;
                bail!("did not end within {time_max:?}")
            }
            // It ended the JVM: the tools that read their arguments with another library do.
            Err(RecvTimeoutError::Disconnected) => {
                self.running = None;
                drop(sent);
                alone((self.command)(), class, arguments, input, time_max)
            }
        }
    }
}

/// What these have to say comes from a shutdown hook of the JVM itself.
const ENDS_WITH_ITS_JVM: &[&str] = &["org.apache.kafka.tools.VerifiableProducer"];

/// What the driver answers for a tool that did not end.
const TIMED_OUT: i32 = 124;

fn alone(
    mut command: Command,
    class: &str,
    arguments: &[String],
    input: &str,
    time_max: Duration,
) -> anyhow::Result<Ran> {
    command.arg(class).args(arguments);
    let finished = process::capture(&mut command, input.as_bytes().to_vec(), time_max)?;
    if finished.timed_out {
        bail!("did not end within {time_max:?}: {}", finished.tail());
    }
    // Kafka's tools end with 0 or 1.
    Ok(Ran { status: i32::from(!finished.success), stdout: finished.stdout, stderr: finished.stderr })
}

impl Running {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        command.arg("ShellTools").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("start java")?;
        let stdin = child.stdin.take().context("its standard input")?;
        let stdout = child.stdout.take().context("its standard output")?;
        // One answer at a time: the next request waits for it.
        let (sender, answers) = sync_channel(1);
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            while let Some(ran) = answer(&mut stdout) {
                if sender.send(ran).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, answers })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        process::kill_tree(self.child.id());
        let _ = self.child.wait();
    }
}

/// `status, bytes of standard output, bytes of standard error`, and then those.
fn answer(stdout: &mut impl BufRead) -> Option<Ran> {
    let mut head = String::new();
    stdout.read_line(&mut head).ok()?;
    let numbers: Vec<u32> = head.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [status, out, err] = numbers[..] else { return None };
    let mut text = |bytes: u32| {
        let mut text = vec![0; bytes as usize];
        stdout.read_exact(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    };
    Some(Ran { status: i32::try_from(status).ok()?, stdout: text(out)?, stderr: text(err)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_both_outputs() {
        let ran = answer(&mut &b"1 6 5\nhello\nworld1 "[..]).unwrap();
        assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (1, "hello\n", "world"));
        assert!(answer(&mut &b""[..]).is_none() && answer(&mut &b"1 6 5\nhel"[..]).is_none());
    }

    #[test]
    fn a_driver_that_ends_is_replaced_by_the_tool_itself_and_one_that_hangs_is_ended() {
        let shell = |script: &'static str| {
            move || {
                let mut shell = Command::new("sh");
                shell.args(["-c", script, "sh"]);
                shell
            }
        };
        let wait = Duration::from_secs(1);
        let mut ends = Jvm::new(shell("[ $1 = Tool ] && echo itself $2"));
        assert_eq!(ends.run("Tool", &["x".into()], "", wait).unwrap().stdout, "itself x\n");
        let mut fails = Jvm::new(shell("exit 1"));
        assert_eq!(fails.run("Tool", &[], "", wait).unwrap().status, 1);
        let mut says_so = Jvm::new(shell("read request; echo 124 0 0; sleep 3000"));
        assert!(says_so.run("Tool", &[], "", wait).is_err());
    }
}
