//! The JoinGroup API.
