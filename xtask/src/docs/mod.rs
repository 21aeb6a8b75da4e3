//! `cargo xtask docs`: docs/ is whole, and what it says is so.
//!
//! Every page is in the table of contents, mdBook builds the book, every link and anchor leads somewhere; commands run (`commands.rs`),
//! configurations are valid, metrics exist, alerts fire and have their page. Generated pages are compared by the tests of what they are
//! made of; `--write` writes the one of configuration keys.

mod alerts;
mod arguments;
mod book;
mod built;
mod commands;
mod fences;
mod hosts;
mod keys;
mod links;
mod session;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::clients::broker::release_binary;
use crate::tools::{self, Tool};

pub const TOOLS: [Tool; 10] = [
    Tool::Mdbook,
    Tool::Promtool,
    Tool::Jq,
    Tool::Curl,
    Tool::Java,
    Tool::Maven,
    Tool::Kcat,
    Tool::Ip,
    Tool::Unshare,
    Tool::Cmake,
];

#[derive(clap::Args)]
pub struct Args {
    /// What the commands run with, instead of a release build of this checkout
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Only the commands of this page, and nothing else
    #[arg(long, value_name = "PAGE")]
    page: Option<PathBuf>,
    /// Only the book: its table of contents, that mdBook builds it, links and anchors. Seconds, without a broker
    #[arg(long)]
    book: bool,
    /// Only the commands for servers, drives and stores (`sh on: host` and so on), on those of a lab. Minutes. Needs root
    #[arg(long, conflicts_with_all = ["book", "binary"])]
    hosts: bool,
    /// With --hosts: a package that is at hand, in place of a build
    #[arg(long, value_name = "FILE", requires = "hosts")]
    package: Option<PathBuf>,
    /// Only write docs/config-keys.md anew
    #[arg(long)]
    write: bool,
}

/// A page of the book, or the README.
pub struct Page {
    /// From the checkout, as `docs/wal.md`.
    pub path: PathBuf,
    pub text: String,
}

/// True when nothing was found.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    if args.write {
        return keys::write();
    }
    let pages = pages()?;
    let mut found = Found::default();
    if args.hosts {
        let choice = hosts::Choice { page: args.page.clone(), package: args.package.clone() };
        hosts::check(&pages, &choice, &mut found)?;
        return Ok(found.end());
    }
    if args.page.is_none() {
        tools::require(&[Tool::Mdbook])?;
        book::check(&pages, &mut found)?;
        built::check(&mut found)?;
    }
    if !args.book {
        check_commands(args, &pages, &mut found)?;
    }
    Ok(found.end())
}

/// And what stands beside them: configurations, metrics, alerts.
fn check_commands(args: &Args, pages: &[Page], found: &mut Found) -> anyhow::Result<()> {
    if tools::is_ci() {
        tools::install(&TOOLS)?;
    }
    let binary = match &args.binary {
        Some(binary) => binary.canonicalize().with_context(|| binary.display().to_string())?,
        None => release_binary()?,
    };
    if args.page.is_none() {
        alerts::check(pages, found)?;
    }
    commands::check(pages, &binary, args.page.as_deref(), found)
}

/// What was looked at, and what of it is wrong.
#[derive(Default)]
pub struct Found {
    fine: usize,
    problems: usize,
}

impl Found {
    fn fine(&mut self, count: usize) {
        self.fine += count;
    }

    fn problem(&mut self, what: &str) {
        println!("{what}");
        self.problems += 1;
    }

    fn add(&mut self, other: &Self) {
        self.fine += other.fine;
        self.problems += other.problems;
    }

    /// True when nothing was found.
    fn end(&self) -> bool {
        let verdict = if self.problems == 0 { "ok" } else { "FAILED" };
        println!("test result: {verdict}. {} passed; {} failed; 0 ignored", self.fine, self.problems);
        self.problems == 0
    }
}

fn folder() -> PathBuf {
    crate::root().join("docs")
}

/// All of docs/ in the order of their paths, and the README.
fn pages() -> anyhow::Result<Vec<Page>> {
    let mut files = vec![crate::root().join("README.md")];
    files_below(&folder(), "md", &mut files)?;
    files.sort();
    let page = |file: PathBuf| {
        let text = fs::read_to_string(&file)?;
        Ok(Page { path: file.strip_prefix(crate::root())?.to_owned(), text })
    };
    files.into_iter().map(page).collect()
}

/// Those with that extension.
fn files_below(folder: &Path, wanted: &str, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, wanted, files)?;
        } else if path.extension().is_some_and(|extension| extension == wanted) {
            files.push(path);
        }
    }
    Ok(())
}
