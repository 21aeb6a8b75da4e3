//! A page while it is run: its blocks in their order, one place, and names.

use std::collections::VecDeque;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::super::Found;
use super::super::commands::judge;
use super::super::fences::{Block, How};
use super::super::session::Ended;
use super::names::Names;
use super::scenes::Scene;
use crate::process;

/// Of one block: a playbook takes minutes.
const BLOCK_MAX: Duration = Duration::from_secs(420);

/// Makes a command of a script of bash.
type Shell<'a> = Box<dyn Fn(&str) -> Result<Command> + 'a>;

pub struct Play<'a> {
    /// That are left.
    blocks: VecDeque<&'a Block>,
    all: &'a [Block],
    pub found: Found,
    pub names: Names,
    shell: Option<Shell<'a>>,
    pub run: usize,
}

impl<'a> Play<'a> {
    pub fn new(scene: &Scene, blocks: &'a [Block]) -> Self {
        let here = blocks.iter().filter(|block| block.on == Some(scene.place)).collect();
        Self { blocks: here, all: blocks, found: Found::default(), names: Names::new(), shell: None, run: 0 }
    }

    /// Where blocks are run from here on.
    pub fn at(&mut self, shell: impl Fn(&str) -> Result<Command> + 'a) {
        self.shell = Some(Box::new(shell));
    }

    /// The files that the page shows, as a reader has them here.
    pub fn files(&self) -> Result<Vec<(String, String)>> {
        let file = |block: &Block| match &block.how {
            How::File(name) => Some(self.names.placed(&block.text).map(|text| (name.clone(), text))),
            _ => None,
        };
        self.all.iter().filter_map(file).collect()
    }

    /// The first configuration of the page, of a reader here.
    pub fn config(&self) -> Result<String> {
        let config = self.all.iter().find(|block| block.how == How::Config).context("the page has no configuration")?;
        self.names.placed(&config.text)
    }

    /// Runs the next block, in which this text must stand; what it printed.
    pub fn next(&mut self, text: &str) -> Result<String> {
        let block = self
            .blocks
            .front()
            .with_context(|| format!("the page has no further block, where one with `{text}` should be"))?;
        ensure!(block.text.contains(text), "{} has no `{text}`", block.place());
        let block = self.blocks.pop_front().context("no block")?;
        let script = self.names.placed(&block.text)?;
        let shell = self.shell.as_ref().context("the scene has set no place")?;
        let began = Instant::now();
        let finished = process::capture(&mut shell(&script)?, Vec::new(), BLOCK_MAX)?;
        self.run += 1;
        ensure!(!finished.timed_out, "{} was ended after {BLOCK_MAX:?}: {}", block.place(), finished.tail());
        let ended = Ended { exit: finished.code, output: finished.stdout, errors: finished.stderr };
        if !judge(block, &ended, &mut self.found) {
            bail!("{} failed", block.place());
        }
        println!("  {} {:>6.1} s", block.place(), began.elapsed().as_secs_f64());
        Ok(ended.output)
    }

    pub fn rest(&mut self) -> Result<()> {
        while !self.blocks.is_empty() {
            self.next("")?;
        }
        Ok(())
    }

    pub fn left(&self) -> usize {
        self.blocks.len()
    }
}

/// One word of a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_one_word() {
        let script = "echo 'a b' \"$HOME\"\n";
        let echoed = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(script))]).output().unwrap();
        assert_eq!(String::from_utf8(echoed.stdout).unwrap(), script);
    }
}
