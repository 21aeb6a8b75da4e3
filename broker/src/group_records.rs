//! Formats of the records in __consumer_offsets.
