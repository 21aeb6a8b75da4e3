//! The OffsetCommit API.
