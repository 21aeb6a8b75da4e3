//! The Fetch API.
