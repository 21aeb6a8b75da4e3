//! Blocks of objects in memory, shared by all consumers.
