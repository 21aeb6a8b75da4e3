//! Cluster metadata: a pure state machine, the commands that change it, and the Raft group that orders them.
//!
//! Read `command.rs` (everything that can change), then `state.rs` (what is true), then `node.rs` (who drives it).
//! This crate knows topics, streams, offsets, objects, WALs and epochs; it knows neither Kafka's wire format nor
//! devices nor any object store.

pub mod backup;
pub mod command;
pub mod ids;
pub mod invariants;
pub mod lease;
pub mod log_store;
pub mod node;
pub mod raft_core;
pub mod restore;
pub mod snapshot;
pub mod state;

mod wire;

pub use command::{Command, Rejection, Response};
pub use ids::*;
pub use lease::{BootInstant, HostClock, LeaseView, MetadataClock};
pub use node::{
    LogSlice, MetadataConfig, MetadataHandle, MetadataSnapshot, OpenError, ProposeError, QuorumView, SteppedNode,
    StopReason,
};
pub use state::State;
