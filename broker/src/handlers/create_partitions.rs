//! The CreatePartitions API.
