//! The OffsetForLeaderEpoch API.
