//! The Heartbeat API.
