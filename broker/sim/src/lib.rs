//! Seeded simulation of the broker's storage half; never shipped.
//!
//! The code is the broker's own: partitions, completions, recovery, uploads, the read path, the metadata node, the WAL
//! engine. The world around it is simulated: a disk that loses what was never flushed, a store that fails, clocks that
//! jump, processes that die at any await. All of it runs on one thread under paused time, and a seed decides.
//!
//! What was acked, seen and deleted is kept in a plain ledger (`ledger.rs`); whatever the broker says later is compared
//! with it, and the invariants of the metadata are checked after every step (`checks.rs`).
//! Read `scenario.rs` for what happens, `restores.rs` for what happens to a node that is lost, `life.rs` for how a broker is built,
//! `world.rs` for what survives it.

pub mod backups;
pub mod campaign;
pub mod checks;
pub mod clock;
pub mod crash_points;
pub mod ledger;
pub mod life;
pub mod meta_log;
pub mod panics;
pub mod restores;
pub mod scenario;
pub mod scrubs;
pub mod stats;
pub mod steps;
pub mod store;
pub mod trace;
pub mod workload;
pub mod world;

pub use scenario::{Failure, Fault, Report, run};
