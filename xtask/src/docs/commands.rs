//! What pages tell a reader to type. Blocks run in the order of their page, against a broker of their own (`session.rs`), several pages at a time;
//! what is not run says why in its first line, and is looked up (`arguments.rs`) where the program is ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::anyhow;

use super::arguments::{self, Programs};
use super::fences::{Block, How, blocks};
use super::session::{Ended, Session};
use super::{Found, Page};
use crate::clients::install::{self, Installed};

/// Pages that run side by side. Half of their time they wait: for a scrub, which gives way, or for a check of the store.
const SIDE_BY_SIDE: usize = 4;

pub fn check(pages: &[Page], binary: &Path, only: Option<&Path>, found: &mut Found) -> anyhow::Result<()> {
    let kafka = install::install()?;
    let programs = Programs::new(binary)?;
    let mut not_run: BTreeMap<String, usize> = BTreeMap::new();
    let mut looked_up = 0;
    let mut to_run = Vec::new();
    for page in pages.iter().filter(|page| only.is_none_or(|only| only == page.path)) {
        let blocks = match blocks(page) {
            Ok(blocks) => blocks,
            Err(problem) => {
                found.problem(&problem);
                continue;
            }
        };
        for block in &blocks {
            let reason = match &block.how {
                How::NotRun(reason) => reason,
                How::OnlyOn { .. } => "by `cargo xtask docs --hosts`",
                _ => continue,
            };
            *not_run.entry(reason.to_owned()).or_default() += 1;
            looked_up += arguments::check_block(block, &programs, found)?;
        }
        if blocks.iter().any(|block| matches!(block.how, How::Run { .. } | How::Background | How::Config)) {
            to_run.push(blocks);
        }
    }
    let run = run_pages(to_run, binary, &programs, &kafka, found)?;
    println!("{run} blocks of commands run; {looked_up} commands of blocks that are not run here looked up. Not run:");
    for (reason, count) in &not_run {
        println!("  {count:>3}  {reason}");
    }
    arguments::check_inline(pages, &programs, found)
}

/// How many blocks ran.
fn run_pages(
    pages: Vec<Vec<Block>>,
    binary: &Path,
    programs: &Programs,
    kafka: &Installed,
    found: &mut Found,
) -> anyhow::Result<usize> {
    // From its end.
    let waiting = Mutex::new(pages.into_iter().rev().collect::<Vec<_>>());
    let next = || waiting.lock().ok()?.pop();
    let run = || {
        let (mut here, mut run) = (Found::default(), 0);
        while let Some(blocks) = next() {
            let session = Session::new(binary, programs.qualify(), kafka)?;
            run += run_page(&session, &blocks, &mut here)?;
        }
        anyhow::Ok((here, run))
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(run)).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a page panicked"))).collect()
    });
    let mut total = 0;
    for worker in ended {
        let (here, run) = worker??;
        found.add(&here);
        total += run;
    }
    Ok(total)
}

/// Configurations, then commands. How many blocks there were to run.
fn run_page(session: &Session, blocks: &[Block], found: &mut Found) -> anyhow::Result<usize> {
    let began = Instant::now();
    for config in blocks.iter().filter(|block| block.how == How::Config) {
        match session.takes_config(&config.text)? {
            Ok(()) => found.fine(1),
            Err(said) => found.problem(&format!("{}: {said}", config.place())),
        }
    }
    let runs: Vec<&Block> =
        blocks.iter().filter(|block| matches!(block.how, How::Run { .. } | How::Background)).collect();
    if runs.is_empty() {
        return Ok(0);
    }
    for (block, ended) in runs.iter().zip(session.run(&runs)?) {
        if !judge(block, &ended, found) {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{}: {} blocks of commands in {seconds:.1} s", runs[0].page.display(), runs.len());
    Ok(runs.len())
}

/// Whether what comes after it can be run: it ended as it should.
pub fn judge(block: &Block, ended: &Ended, found: &mut Found) -> bool {
    let (place, wanted) = (block.place(), block.exit());
    match ended.exit {
        Some(exit) if exit == wanted => match &block.printed {
            Some(printed) if printed.trim_end() != ended.output.trim_end() => {
                found.problem(&format!("{place} printed something else:\n{}", ended.output));
            }
            _ => found.fine(1),
        },
        Some(exit) => {
            let said = format!("{}{}", ended.output, ended.errors);
            found.problem(&format!("{place} ended with {exit}, not {wanted}:\n{said}"));
        }
        None => found.problem(&format!("{place} was not reached")),
    }
    ended.exit == Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_ends_or_prints_otherwise_is_a_problem() {
        let block = |printed: Option<&str>| Block {
            page: "docs/a.md".into(),
            line: 1,
            text: "ls\n".into(),
            how: How::Run { exit: 3 },
            on: None,
            printed: printed.map(str::to_owned),
        };
        let problems = |block: &Block, exit: Option<i32>, output: &str| {
            let mut found = Found::default();
            let goes_on = judge(block, &Ended { exit, output: output.into(), errors: String::new() }, &mut found);
            (goes_on, found.fine, found.problems)
        };
        assert_eq!(problems(&block(None), Some(3), "a"), (true, 1, 0));
        assert_eq!(problems(&block(Some("a\n")), Some(3), "a"), (true, 1, 0));
        assert_eq!(problems(&block(Some("a\n")), Some(3), "b"), (true, 0, 1));
        assert_eq!(problems(&block(None), Some(0), "a"), (false, 0, 1));
        assert_eq!(problems(&block(None), None, ""), (false, 0, 1));
    }
}
