//! The append bench runs, tiny, so that it cannot rot; its figures are looked at, not judged, but for the allocations.

#[path = "../examples/wal_append/main.rs"]
mod wal_append;

use std::time::Duration;

use seawall_wal_device::EngineChoice;
use wal_append::{Form, Options};

#[test]
fn the_append_bench_runs_and_appending_allocates_next_to_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for engine in [EngineChoice::Auto, EngineChoice::Pwrite] {
        for form in [Form::Slots, Form::Tasks] {
            let options = Options {
                appenders: vec![4],
                time: Duration::from_millis(200),
                warmup: Duration::from_millis(100),
                form,
                engine,
                ring_bytes: 64 << 20,
                ..Options::new(folder.path().join("wal"))
            };
            for measured in wal_append::measure(&options) {
                println!("{}", measured.json());
                assert!(measured.appends > 0, "{measured:?}");
                assert!(measured.device_bytes > measured.appends * 1024 && measured.depth > 0.0, "{measured:?}");
                assert!(measured.allocations_per_append < 0.5, "{measured:?}");
            }
        }
    }
}
