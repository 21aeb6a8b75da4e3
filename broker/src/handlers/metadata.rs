//! The Metadata API.
