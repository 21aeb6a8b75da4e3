//! Stories in text, for the suites that tell them. A line that starts in the first column is a command; the indented
//! lines below it are what it must print. With `UPDATE_STORIES=1` what is printed now is written; read the diff.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use seawall::group::{GroupError, Now};

pub type Args<'a> = BTreeMap<&'a str, &'a str>;

/// `verb first key=value key=value`
pub struct Command<'a> {
    pub line: &'a str,
    pub verb: &'a str,
    pub first: &'a str,
    pub args: Args<'a>,
}

pub trait Teller {
    /// What the command prints.
    fn command(&mut self, command: &Command) -> Vec<String>;
}

/// Tells the stories of a folder of `tests`, each to a new teller.
pub fn every_story_goes_as_written<T: Teller>(folder: &str, teller: impl Fn() -> T) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let update = std::env::var_os("UPDATE_STORIES").is_some();
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no stories in {}", folder.display());
    for path in paths {
        let written = std::fs::read_to_string(&path).unwrap();
        let told = tell(&written, teller());
        if update {
            std::fs::write(&path, told).unwrap();
        } else {
            assert_eq!(told, written, "{} goes differently", path.display());
        }
    }
}

fn tell(story: &str, mut teller: impl Teller) -> String {
    let mut told = String::new();
    for line in story.lines().filter(|line| !line.starts_with(' ')) {
        writeln!(told, "{line}").unwrap();
        if !line.is_empty() && !line.starts_with('#') {
            for printed in teller.command(&parse(line)) {
                writeln!(told, "    {printed}").unwrap();
            }
        }
    }
    told
}

fn parse(line: &str) -> Command<'_> {
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap();
    let first = words.clone().next().unwrap_or_default();
    Command { line, verb, first, args: words.filter_map(|word| word.split_once('=')).collect() }
}

pub fn now(ms: u64) -> Now {
    Now { monotonic_ms: ms, wall_ms: 1_700_000_000_000 + ms as i64 }
}

pub fn text(args: &Args, key: &str) -> Option<String> {
    args.get(key).map(|value| (*value).to_owned())
}

pub fn verdict(result: Result<(), GroupError>) -> String {
    result.map_or_else(|error| format!("{error:?}"), |()| "ok".to_owned())
}

/// `3s` or `3ms`
pub fn milliseconds(text: &str) -> u64 {
    match text.strip_suffix("ms") {
        Some(ms) => ms.parse().unwrap(),
        None => text.strip_suffix('s').expect("3s or 3ms").parse::<u64>().unwrap() * 1_000,
    }
}

/// Of requests that take one.
pub fn timeout(args: &Args, key: &str, otherwise_ms: i32) -> i32 {
    args.get(key).map_or(otherwise_ms, |value| milliseconds(value) as i32)
}

pub fn seconds(ms: u64) -> String {
    format!("{}.{:03}s", ms / 1_000, ms % 1_000)
}
