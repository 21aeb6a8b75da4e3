//! Every message at every version, against frames written straight from Kafka's definitions.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use bytes::Bytes;
use common::{Definitions, Shape, Source, entries};

#[test]
fn every_message_at_every_version_comes_back_byte_for_byte() {
    let definitions = Definitions::load();
    for entry in entries() {
        for version in entry.versions.clone() {
            for seed in 0..20 {
                let shape = if seed == 0 { Shape::Smallest } else { Shape::Random };
                let frame = Bytes::from(definitions.write(entry.name, version, shape, &mut Source::new(seed)));
                let again = (entry.recode)(frame.clone(), version);
                assert_eq!(again, frame, "{} v{version} seed {seed}", entry.name);
            }
        }
    }
}

#[test]
fn the_default_of_every_message_can_be_written_at_every_version() {
    for entry in entries() {
        for version in entry.versions.clone() {
            let bytes = (entry.default)(version);
            assert_eq!((entry.recode)(bytes.clone(), version), bytes, "{} v{version}", entry.name);
        }
    }
}

#[test]
fn no_frame_can_be_cut_short_or_made_longer() {
    let definitions = Definitions::load();
    for entry in entries() {
        for version in entry.versions.clone() {
            let frame = definitions.write(entry.name, version, Shape::Random, &mut Source::new(7));
            let frame = Bytes::from(frame);
            let step = (frame.len() / 40).max(1);
            for cut in (0..frame.len()).step_by(step) {
                assert!((entry.decode)(frame.slice(..cut), version).is_err(), "{} v{version} at {cut}", entry.name);
            }
            let longer = [&frame[..], &[0]].concat();
            assert!((entry.decode)(longer.into(), version).is_err(), "{} v{version}", entry.name);
        }
    }
}
