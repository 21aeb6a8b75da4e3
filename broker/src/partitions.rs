//! All partitions that this broker leads, by topic id and by name.
