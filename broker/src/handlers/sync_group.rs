//! The SyncGroup API.
