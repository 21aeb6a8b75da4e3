//! What pages tell a reader to type. Blocks run in the order of their page, against a broker of their own (`session.rs`); what is not
//! run says why in its first line. Commands of the broker that stand within a text (`seawall wal verify`) must exist, with their options.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::fences::{Block, How, blocks};
use super::session::Session;
use super::{Found, Page};
use crate::clients::install;

pub fn check(pages: &[Page], binary: &Path, only: Option<&Path>, found: &mut Found) -> anyhow::Result<()> {
    let kafka = install::install()?;
    let mut not_run: BTreeMap<String, usize> = BTreeMap::new();
    for page in pages.iter().filter(|page| only.is_none_or(|only| only == page.path)) {
        let blocks = match blocks(page) {
            Ok(blocks) => blocks,
            Err(problem) => {
                found.problem(&problem);
                continue;
            }
        };
        for block in &blocks {
            if let How::NotRun(reason) = &block.how {
                *not_run.entry(reason.clone()).or_default() += 1;
            }
        }
        let session = Session::new(binary, &kafka)?;
        for config in blocks.iter().filter(|block| block.how == How::Config) {
            match session.takes_config(&config.text)? {
                Ok(()) => found.fine(1),
                Err(said) => found.problem(&format!("{}: {said}", place(config))),
            }
        }
        run_page(&session, &blocks, found)?;
    }
    println!("commands that are not run here:");
    for (reason, count) in &not_run {
        println!("  {count:>3}  {reason}");
    }
    check_inline(pages, &Session::new(binary, &kafka)?, found)
}

fn run_page(session: &Session, blocks: &[Block], found: &mut Found) -> anyhow::Result<()> {
    let runs: Vec<&Block> =
        blocks.iter().filter(|block| matches!(block.how, How::Run { .. } | How::Background)).collect();
    if runs.is_empty() {
        return Ok(());
    }
    for (block, ended) in runs.iter().zip(session.run(&runs)?) {
        let wanted = if let How::Run { exit } = block.how { exit } else { 0 };
        match ended.exit {
            Some(exit) if exit == wanted => match &block.printed {
                Some(printed) if printed.trim_end() != ended.output.trim_end() => {
                    found.problem(&format!("{} printed something else:\n{}", place(block), ended.output));
                }
                _ => found.fine(1),
            },
            Some(exit) => {
                let said = format!("{}{}", ended.output, ended.errors);
                found.problem(&format!("{} ended with {exit}, not {wanted}:\n{said}", place(block)));
                break;
            }
            None => {
                found.problem(&format!("{} was not reached", place(block)));
                break;
            }
        }
    }
    println!("{}: {} commands run", runs[0].page.display(), runs.len());
    Ok(())
}

fn place(block: &Block) -> String {
    format!("{}:{}", block.page.display(), block.line)
}

/// The commands of the broker within texts, each once: the subcommand is there and has these options.
fn check_inline(pages: &[Page], session: &Session, found: &mut Found) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for page in pages {
        for command in inline(&page.text).filter(|command| seen.insert((*command).to_owned())) {
            let (words, options) = parts(command);
            match known(session, &words)? {
                None => found.problem(&format!("{}: `{command}` is no command", page.path.display())),
                Some(help) => {
                    let lacks = options.iter().find(|option| !help.contains(**option));
                    match lacks {
                        Some(option) => {
                            found.problem(&format!("{}: `{command}` has no {option}", page.path.display()));
                        }
                        None => found.fine(1),
                    }
                }
            }
        }
    }
    println!("{} commands within texts looked up", seen.len());
    Ok(())
}

/// The help of the longest beginning of these words that is a command; its arguments stand behind.
fn known(session: &Session, words: &[&str]) -> anyhow::Result<Option<String>> {
    let Some(first) = words.first() else { return session.help(&[]) };
    let Some(help) = session.help(&[first])? else { return Ok(None) };
    match words.get(1) {
        // With commands of its own: the next word must be one of them.
        Some(second) if help.contains("\nCommands:\n") => session.help(&[first, second]),
        _ => Ok(Some(help)),
    }
}

fn inline(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    let lines = text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    // Every second piece between backticks is code.
    lines.flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|code| code.starts_with("seawall "))
}

/// The words before the first argument or option, and the options.
fn parts(command: &str) -> (Vec<&str>, Vec<&str>) {
    let words = command.split_whitespace().skip(1);
    let path = words.clone().take_while(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
    let path = path.take_while(|word| !word.starts_with('-')).collect();
    let options = words.filter(|word| word.starts_with("--")).map(|word| word.split('=').next().unwrap_or(word));
    (path, options.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_within_a_text_is_its_words_and_its_options() {
        let text = "Use `seawall wal verify DEVICE --json` or `other`.\n```text\n`seawall no`\n```\n";
        let all: Vec<&str> = inline(text).collect();
        assert_eq!(all, ["seawall wal verify DEVICE --json"]);
        assert_eq!(parts(all[0]), (vec!["wal", "verify"], vec!["--json"]));
        assert_eq!(
            parts("seawall restore --declare-only --config FILE"),
            (vec!["restore"], vec!["--declare-only", "--config"])
        );
    }
}
