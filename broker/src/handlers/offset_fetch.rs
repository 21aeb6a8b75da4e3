//! The OffsetFetch API.
