//! Plays the stories of `tests/apply/*.txt`: one command a line, and what it answers after the arrow.
//!
//! After each line the invariants hold, nothing moved backwards, a rejected command changed nothing, and the snapshot of the
//! state decodes to the same state. At the end the log is replayed: same commands, same bytes.
//! `REWRITE_STORIES=1` writes the answers as they are now: read the diff before it is committed.
#![allow(clippy::unwrap_used)]

mod story;

use std::fs;
use std::path::PathBuf;

use seawall_metadata::{State, snapshot};

use story::Story;

#[test]
fn every_story_is_as_told() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/apply");
    let mut paths: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "stories are missing");
    let rewrite = std::env::var_os("REWRITE_STORIES").is_some();
    let mut differences = Vec::new();
    for path in paths {
        let told = fs::read_to_string(&path).unwrap();
        let played = play(&told, &path.display().to_string());
        if told != played && rewrite {
            fs::write(&path, &played).unwrap();
        } else if told != played {
            for (told, played) in told.lines().zip(played.lines()).filter(|(told, played)| told != played) {
                differences.push(format!("{}\n  told:   {told}\n  played: {played}", path.display()));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The story with the answers that its commands really have.
fn play(told: &str, name: &str) -> String {
    let mut story = Story::default();
    let mut out = String::new();
    for (number, line) in told.lines().enumerate() {
        let text = line.split(" -> ").next().unwrap().trim_end();
        if text.trim().is_empty() || text.starts_with('#') {
            out.push_str(line);
        } else {
            let answer = story.line(text).unwrap_or_else(|error| panic!("{name}:{}: {error}", number + 1));
            out.push_str(&format!("{text:<56} -> {answer}"));
        }
        out.push('\n');
    }
    let mut replayed = State::default();
    for (index, command) in story.log {
        let _ = replayed.apply(index, command);
    }
    assert_eq!(snapshot::encode(&replayed), snapshot::encode(&story.state), "{name}: a replay differs");
    out
}
