//! Retention by time and size, and deletion of records, through the stream's start offset.
