//! `seawall object inspect | verify`: what they print of good and of damaged objects, and their exit codes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::child::binary;
use seawall::log_cache::{BatchBytes, BatchEntry};
use seawall::object_format::ObjectBuilder;
use seawall::object_key::ObjectKeys;
use seawall_metadata::{ClusterId, Incarnation, ObjectId, StreamId};
use seawall_protocol::records::{BatchBuilder, BatchHeader, Compression};
use serde_json::Value;
use uuid::Uuid;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(2));
const OBJECT: ObjectId = ObjectId(2748);

fn object() -> Vec<u8> {
    let mut builder = ObjectBuilder::new(OBJECT, INCARNATION);
    for base in 0..10 {
        let mut batch = BatchBuilder::new(Compression::None).base_offset(base).leader_epoch(1);
        batch.add(None, Some(&[base as u8; 500]), 1_000 + base, &[]);
        let batch = batch.build();
        let header = BatchHeader::parse(&batch).unwrap();
        let entry = BatchEntry {
            base,
            last: base,
            leader_epoch: 1,
            max_timestamp: header.max_timestamp,
            record_count: 1,
            bytes: batch.len() as u32,
            producer: None,
        };
        builder.add_batch(StreamId(4), &entry, &BatchBytes::from(batch));
    }
    builder.finish().segments.concat()
}

/// Exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary()).arg("object").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A configuration whose store has the object, and its key.
fn store_with(dir: &Path, bytes: &[u8]) -> (PathBuf, String) {
    let file = dir.join("seawall.toml");
    let (data, objects) = (dir.join("data"), dir.join("objects"));
    let text = format!(
        "[node]\ndata_dir = \"{}\"\n[backend]\nkind = \"fs\"\npath = \"{}\"\nprefix = \"p\"\n",
        data.display(),
        objects.display()
    );
    fs::write(&file, text).unwrap();
    let key = ObjectKeys::new("p", CLUSTER).unwrap().key(INCARNATION, OBJECT).to_string();
    let place = objects.join(&key);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(place, bytes).unwrap();
    (file, key)
}

#[test]
fn a_file_is_shown_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("object");
    fs::write(&file, object()).unwrap();
    let name = file.to_str().unwrap();
    let (code, out, errors) = run(&["inspect", name]);
    assert_eq!(code, 0, "{errors}");
    for said in ["2748 (0000000000000abc)", "format version       1", "4: offsets 0 to 10, 1 blocks, 10 records"] {
        assert!(out.contains(said), "{said}: {out}");
    }
    let (code, out, _) = run(&["inspect", name, "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["footer"]["object"]), (0, &2748.into()));
    assert_eq!(shown["blocks"][0]["records"], 10);
    let (code, out, _) = run(&["verify", name]);
    assert!(code == 0 && out.contains("1 of 1 blocks, 10 batches, 10 records"), "{out}");
    let (code, out, _) = run(&["verify", name, "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["whole"]["batches"], &shown["damage"]["parts"]), (0, &10.into(), &0.into()));
}

#[test]
fn damage_is_10_a_newer_format_7_and_what_is_not_there_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("object");
    let name = file.to_str().unwrap();
    let good = object();
    let mut flipped = good.clone();
    flipped[300] ^= 1;
    fs::write(&file, &flipped).unwrap();
    let (code, out, errors) = run(&["verify", name]);
    assert!(code == 10 && out.contains("DAMAGE") && errors.contains("the object is damaged"), "{code} {out} {errors}");
    assert_eq!(run(&["inspect", name]).0, 0, "what is behind the data is whole");
    for bad in [&good[..good.len() - 9], b"somebody's diary"] {
        fs::write(&file, bad).unwrap();
        let (code, out, _) = run(&["inspect", name, "--json"]);
        let shown: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &shown["footer"]), (10, &Value::Null));
        assert_eq!(run(&["verify", name]).0, 10);
    }
    let mut newer = good.clone();
    let version = newer.len() - 14;
    newer[version] = 2;
    fs::write(&file, &newer).unwrap();
    let (code, _, errors) = run(&["verify", name]);
    assert!(code == 7 && errors.contains("object format 2"), "{code} {errors}");
    fs::remove_file(&file).unwrap();
    assert_eq!(run(&["verify", name]).0, 1);
}

#[test]
fn an_object_of_the_store_is_found_by_its_key_and_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let (config, key) = store_with(dir.path(), &object());
    let config = config.to_str().unwrap();
    assert_eq!(run(&["verify", &key, "--config", config]).0, 0);
    let (code, _, errors) = run(&["verify", "2748", "--config", config]);
    assert!(code == 5 && errors.contains("give the whole key"), "{code} {errors}");
    fs::create_dir_all(dir.path().join("data")).unwrap();
    let identity = format!("format = 1\nnode = 1\ncluster = \"{}\"\nincarnation = \"{}\"\n", CLUSTER.0, INCARNATION.0);
    fs::write(dir.path().join("data/seawall.toml"), identity).unwrap();
    for id in ["2748", "0000000000000abc"] {
        let (code, out, errors) = run(&["verify", id, "--config", config]);
        assert!(code == 0 && out.contains(&key), "{errors}");
    }
    let (code, _, errors) = run(&["inspect", "2749", "--config", config]);
    assert!(code == 1 && errors.contains("0000000000000abd"), "{code} {errors}");
    // Another object under this key.
    let other = key.replace("0abc", "0abd");
    fs::write(dir.path().join("objects").join(&other), object()).unwrap();
    assert_eq!(run(&["verify", &other, "--config", config]).0, 0, "no key of ours: nothing is known of it");
    let right = ObjectKeys::new("p", CLUSTER).unwrap().key(INCARNATION, ObjectId(2749)).to_string();
    fs::create_dir_all(dir.path().join("objects").join(&right).parent().unwrap()).unwrap();
    fs::write(dir.path().join("objects").join(&right), object()).unwrap();
    let (code, out, _) = run(&["verify", &right, "--config", config]);
    assert!(code == 10 && out.contains("another id"), "{code} {out}");
}
