//! The Produce API.
