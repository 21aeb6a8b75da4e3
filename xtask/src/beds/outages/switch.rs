//! The other end of the test's switch: one connection, a line for each question, `ok` or `error` for each answer.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

pub struct Switch {
    listener: TcpListener,
}

impl Switch {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    pub fn address(&self) -> Result<String> {
        Ok(self.listener.local_addr()?.to_string())
    }

    /// Answers what comes while `run` runs.
    pub fn serve_while<T: Send>(
        &self,
        mut answer: impl FnMut(&str) -> Result<String>,
        run: impl FnOnce() -> T + Send,
    ) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                let done = run();
                over.store(true, Ordering::Release);
                done
            });
            while !over.load(Ordering::Acquire) && !running.is_finished() {
                let Ok((stream, _)) = self.listener.accept() else {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                };
                // One that breaks off is seen by its other end.
                let _ = stream.set_nonblocking(false);
                let mut lines = BufReader::new(stream);
                let mut line = String::new();
                while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                    let text = match answer(line.trim()) {
                        Ok(value) => format!("ok {value}\n"),
                        Err(error) => format!("error {}\n", format!("{error:#}").replace('\n', " ")),
                    };
                    line.clear();
                    if lines.get_mut().write_all(text.as_bytes()).is_err() {
                        break;
                    }
                }
            }
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn questions_are_answered_until_the_end_also_when_nobody_asks() {
        let switch = Switch::start().unwrap();
        let address = switch.address().unwrap();
        let ask = || {
            let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
            let mut answers = String::new();
            for question in ["begin\n", "nonsense\n"] {
                stream.get_mut().write_all(question.as_bytes()).unwrap();
                stream.read_line(&mut answers).unwrap();
            }
            answers
        };
        let answer = |line: &str| if line == "begin" { Ok("7".to_owned()) } else { anyhow::bail!("not\nunderstood") };
        assert_eq!(switch.serve_while(answer, ask), "ok 7\nerror not understood\n");
        assert_eq!(switch.serve_while(answer, || 5), 5);
    }
}
