//! Cluster metadata: a pure state machine driven by Raft.
