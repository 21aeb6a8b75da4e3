//! A playbook that runs: its output as it comes, so that something can happen at a point of it, and its end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::recap::Played;
use crate::process;

/// On a virtual machine that shares a busy processor a play takes half an hour.
const PLAY_MAX: Duration = Duration::from_secs(3_600);

pub struct Play {
    name: String,
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    began: Instant,
}

impl Play {
    pub fn start(mut command: Command, name: String) -> Result<Self> {
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ansible-playbook")?;
        let output = Arc::new(Mutex::new(String::new()));
        let readers = [
            child.stdout.take().map(|pipe| collect(pipe, &output)),
            child.stderr.take().map(|pipe| collect(pipe, &output)),
        ];
        Ok(Self { name, child, output, readers: readers.into_iter().flatten().collect(), began })
    }

    /// Until its output has this text.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        while !self.output().contains(text) {
            if let Some(status) = self.child.try_wait()? {
                thread::sleep(Duration::from_millis(100));
                ensure!(
                    self.output().contains(text),
                    "{} ended, {status}, before {text:?}:\n{}",
                    self.name,
                    self.output()
                );
            }
            ensure!(self.began.elapsed() < PLAY_MAX, "{} does not come to {text:?}:\n{}", self.name, self.output());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// SIGKILL to Ansible and all that it runs on this side.
    pub fn kill(mut self) -> Result<()> {
        process::kill_tree(self.child.id());
        self.child.wait()?;
        println!("{}: killed after {:.1} s", self.name, self.began.elapsed().as_secs_f64());
        Ok(())
    }

    pub fn finish(mut self) -> Result<Played> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(self.began.elapsed() < PLAY_MAX, "{} does not end:\n{}", self.name, self.output());
            thread::sleep(Duration::from_millis(20));
        };
        // The masters of its SSH connections may outlive it and hold the pipes.
        let end = Instant::now() + Duration::from_secs(2);
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        let (name, output) = (self.name.clone(), self.output());
        Ok(Played { name, output, success: status.success(), elapsed: self.began.elapsed() })
    }

    fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn collect(pipe: impl std::io::Read + Send + 'static, into: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let mut output = into.lock().unwrap_or_else(PoisonError::into_inner);
            output.push_str(&String::from_utf8_lossy(&line));
            output.push('\n');
        }
    })
}

impl Drop for Play {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            process::kill_tree(self.child.id());
            let _ = self.child.wait();
        }
    }
}
