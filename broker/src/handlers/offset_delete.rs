//! The OffsetDelete API.
