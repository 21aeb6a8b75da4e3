//! The ListOffsets API.
