//! `seawall backend ...` against the `fs` store: what it prints, its exit codes, and that it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::child::binary;
use serde_json::Value;

fn config_file(dir: &Path) -> PathBuf {
    let file = dir.join("seawall.toml");
    let text = format!(
        "[node]\ndata_dir = \"{}\"\n[backend]\nkind = \"fs\"\npath = \"{}\"\nprefix = \"a/b\"\n",
        dir.join("data").display(),
        dir.join("objects").display()
    );
    fs::write(&file, text).unwrap();
    file
}

/// Exit code, standard output, standard error.
fn backend(config: &Path, args: &[&str]) -> (i32, Vec<u8>, String) {
    let output = Command::new(binary()).arg("backend").args(args).arg("--config").arg(config).output().unwrap();
    (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .fold(0, |count, entry| count + if entry.file_type().unwrap().is_dir() { files(&entry.path()) } else { 1 })
}

#[test]
fn a_check_shows_every_case_and_the_load_and_leaves_no_object() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path());
    let (code, out, errors) = backend(&config, &["check", "--seconds", "1", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let report: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((&report["kind"], &report["usable"]), (&Value::from("fs"), &Value::from(true)));
    let cases = report["cases"].as_array().unwrap();
    assert!(cases.len() >= 19 && cases.iter().all(|case| case["error"].is_null()), "{cases:#?}");
    let load: Vec<_> =
        report["load"].as_array().unwrap().iter().map(|one| one["in_flight"].as_u64().unwrap()).collect();
    assert_eq!(load, [1, 1, 8, 8, 32, 32]);
    assert!(errors.contains("writing below a/b/seawall-check/") && errors.contains("ok      an object reads back"));
    assert_eq!(files(&dir.path().join("objects")), 0);
}

#[test]
fn a_check_ends_with_a_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path());
    let (code, out, _) = backend(&config, &["check", "--seconds", "0"]);
    let text = String::from_utf8(out).unwrap();
    assert!(code == 0 && text.contains("verdict: a broker can use this store\n"), "{text}");
    assert!(text.contains("one put takes up to ") && text.contains("objects in parts "), "{text}");
}

#[test]
fn a_check_removes_what_one_that_was_killed_has_left_once_that_is_a_day_old() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path());
    let parent = dir.path().join("objects/a/b/seawall-check");
    let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    for (age_h, id) in [(25, "00000000000000000000000000000001"), (23, "00000000000000000000000000000002")] {
        fs::create_dir_all(parent.join(format!("run-{id}/load"))).unwrap();
        fs::write(parent.join(format!("run-{id}/load/0001")), b"x").unwrap();
        fs::write(parent.join(format!("{:014}.{id}", now_ms - age_h * 3_600_000)), b"").unwrap();
    }
    let (code, _, errors) = backend(&config, &["check", "--seconds", "0"]);
    assert!(code == 0 && errors.contains("removed what 1 checks had left"), "{errors}");
    assert_eq!(files(&parent), 2, "the younger one is left alone");
}

#[test]
fn objects_are_listed_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path());
    let folder = dir.path().join("objects/a/b");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("first"), b"0123456789").unwrap();
    fs::write(folder.join("second"), b"").unwrap();
    let (code, out, _) = backend(&config, &["ls", "a/b"]);
    assert_eq!((code, &out[..]), (0, &b"            10  a/b/first\n             0  a/b/second\n"[..]));
    assert_eq!(backend(&config, &["stat", "a/b/first"]).1, b"a/b/first: 10 bytes\n");
    assert_eq!(backend(&config, &["cat", "a/b/first"]).1, b"0123456789");
    assert_eq!(backend(&config, &["cat", "a/b/first", "--range", "3-5"]).1, b"34");
    for (args, code) in [
        (&["stat", "a/b/third"][..], 1),
        (&["cat", "a/b/first", "--range", "5-3"], 2),
        (&["stat", "no//key"], 2),
        (&["cat", "a/b/first", "--range", "3-11"], 11),
    ] {
        let (seen, _, errors) = backend(&config, args);
        assert_eq!(seen, code, "{args:?}: {errors}");
    }
}

#[test]
fn a_store_that_cannot_be_opened_is_11_and_a_bad_configuration_3() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_file(dir.path());
    fs::write(dir.path().join("objects"), b"a file").unwrap();
    let (code, _, errors) = backend(&config, &["check"]);
    assert_eq!(code, 11, "{errors}");
    fs::write(&config, "[backend]\nkind = \"s4\"\n").unwrap();
    assert_eq!(backend(&config, &["ls"]).0, 3);
}
