//! `cargo xtask docs`: docs/ is whole, and what it says is so.
//!
//! Every page is in the table of contents and every link and anchor leads somewhere; commands run (`commands.rs`), configurations are
//! valid, metrics exist, alerts fire and have their page. What is generated is compared with what is checked in; `--write` writes it anew.

mod alerts;
mod book;
mod commands;
mod fences;
mod keys;
mod links;
mod session;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::clients::broker::release_binary;
use crate::tools::{self, Tool};

pub const TOOLS: [Tool; 8] =
    [Tool::Promtool, Tool::Jq, Tool::Curl, Tool::Java, Tool::Maven, Tool::Kcat, Tool::Ip, Tool::Unshare];

#[derive(clap::Args)]
pub struct Args {
    /// What the commands run with, instead of a release build of this checkout
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Only the commands of this page, and nothing else
    #[arg(long, value_name = "PAGE")]
    page: Option<PathBuf>,
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
        keys::write()?;
        return Ok(true);
    }
    if tools::is_ci() {
        tools::install(&TOOLS)?;
    }
    let pages = pages()?;
    let binary = match &args.binary {
        Some(binary) => binary.canonicalize().with_context(|| binary.display().to_string())?,
        None => release_binary()?,
    };
    let mut found = Found::default();
    if let Some(page) = &args.page {
        commands::check(&pages, &binary, Some(page), &mut found)?;
    } else {
        book::check(&pages, &mut found)?;
        keys::check(&mut found)?;
        alerts::check(&pages, &mut found)?;
        commands::check(&pages, &binary, None, &mut found)?;
    }
    println!("test result: {}. {} passed; {} failed; 0 ignored", found.word(), found.fine, found.problems);
    Ok(found.problems == 0)
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

    fn word(&self) -> &'static str {
        if self.problems == 0 { "ok" } else { "FAILED" }
    }
}

fn folder() -> PathBuf {
    crate::root().join("docs")
}

/// All of docs/ in the order of their paths, and the README.
fn pages() -> anyhow::Result<Vec<Page>> {
    let mut files = vec![crate::root().join("README.md")];
    markdown_below(&folder(), &mut files)?;
    files.sort();
    let page = |file: PathBuf| {
        let text = fs::read_to_string(&file)?;
        Ok(Page { path: file.strip_prefix(crate::root())?.to_owned(), text })
    };
    files.into_iter().map(page).collect()
}

fn markdown_below(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            markdown_below(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    Ok(())
}
