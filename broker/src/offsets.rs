//! Committed offsets of the groups.
