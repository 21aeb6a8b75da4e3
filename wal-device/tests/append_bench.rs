//! The append bench runs, tiny, so that it cannot rot; its figures are looked at, not judged, but for the allocations.

#[path = "../examples/wal_append.rs"]
mod wal_append;

use std::time::Duration;

use seawall_wal_device::EngineChoice;

#[test]
fn the_append_bench_runs_and_appending_allocates_next_to_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for engine in [EngineChoice::Auto, EngineChoice::Pwrite] {
        let options = wal_append::Options {
            path: folder.path().join("wal"),
            appenders: vec![4],
            bytes: 1024,
            time: Duration::from_millis(400),
            engine,
            ring_bytes: 64 << 20,
            frames_in_flight_max: None,
            pipeline_bytes: None,
        };
        for measured in wal_append::measure(&options) {
            println!("{measured:?}");
            assert!(measured.appends > 0);
            assert!(measured.allocations_per_append < 0.5, "{measured:?}");
        }
    }
}
